"""The scheduler: one thread owns the model and moves jobs from a bounded queue into the running batch.

Jobs are served in order of arrival. Nothing else may use the engine meanwhile. Every job gets its events
from this thread; a job that fails harms no other, and a decoding step that fails ends the jobs in it.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from typing import Any

import torch
from torch import Tensor

from lalm.data.audio_inputs import Clip
from lalm.inference.answer import Answer
from lalm.inference.engine import Engine
from lalm.inference.openmp import give_back_helpers
from lalm.models.lora import set_lora_scale
from lalm.models.prefill import content_ids
from lalm.models.processing import pad_audio
from lalm.models.sampling import TokenRules
from lalm.serve.encoder_cache import EncoderCache
from lalm.serve.jobs import AnswerTimeout, Busy, End, Job, Piece, ServerStopped
from lalm.serve.prompts import prompt_of
from lalm.serve.running_batch import BatchRow, RunningBatch

ENCODER_CACHE_BYTES = 256 << 20  # of encoder outputs
MAX_BATCH_POSITIONS = 1 << 15  # rows times the longest row: bounds the batch's keys and values
MAX_PREFILL_POSITIONS = 1 << 12  # of prompts prefilled between two decoding steps

log = logging.getLogger("lalm.serve")


class Scheduler:
    """Answers jobs with one engine. ``start`` it, ``submit`` jobs from any thread, ``close`` it."""

    def __init__(self, engine: Engine, *, max_rows: int = 16, max_waiting: int = 64) -> None:
        self.engine = engine
        self.max_rows = max_rows
        self.max_waiting = max_waiting
        self.encoder_cache = EncoderCache(engine.model, ENCODER_CACHE_BYTES)
        self.batch = RunningBatch(engine)
        self.waiting: deque[Job] = deque()
        self.new_tokens = 0  # of all answers so far
        self._encoding: deque[tuple[list[Clip], Future[list[Tensor]]]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._scale: float | None = None
        self._thread = threading.Thread(target=self._run, name="lalm-scheduler", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        give_back_helpers()  # of the thread that opened the model
        self._thread.start()

    def check_place(self, jobs: int) -> None:
        """Raise Busy where that many jobs cannot be queued now: their prompts need not be read."""
        if len(self.waiting) + jobs > self.max_waiting:
            raise Busy(f"{len(self.waiting)} requests are waiting already: try again later")

    def submit(self, *jobs: Job) -> None:
        """Queue jobs, all or none. Raises Busy when the queue is full."""
        with self._changed:
            if self._closing:
                raise Busy("the server is shutting down")
            self.check_place(len(jobs))
            self.waiting.extend(jobs)
            self._changed.notify()

    def encode(self, clips: list[Clip]) -> "Future[list[Tensor]]":
        """The encoder's frames (T, W) of each clip, as soon as the thread comes to it. Raises Busy."""
        frames: Future[list[Tensor]] = Future()
        with self._changed:
            if self._closing or len(self._encoding) >= self.max_waiting:
                raise Busy("too many recordings wait to be encoded: try again later")
            self._encoding.append((clips, frames))
            self._changed.notify()
        return frames

    def _encode(self) -> None:
        """Encode what waits for it: one recording, so that answers are not held up for long."""
        with self._changed:
            if not self._encoding:
                return
            clips, frames = self._encoding.popleft()
        try:
            frames.set_result([one.frames for one in self.encoder_cache.frames(clips)])
        except Exception as error:
            frames.set_exception(error)

    def close(self, patience_s: float = 30.0) -> None:
        """Accept no more jobs, wait for those there are, and fail the rest after ``patience_s`` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is None:
            return
        self._thread.join(patience_s)
        for job in [*self.waiting, *(row.job for row in self.batch.rows)]:
            job.cancelled = True
            job.notify(ServerStopped("the server shut down before the answer was complete"))
        self._thread.join(5.0)

    @property
    def alive(self) -> bool:
        """Whether the thread runs, so that jobs are answered."""
        return self._thread.is_alive() and not self._closing

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self.waiting or self.batch.rows or self._encoding)

    def _run(self) -> None:
        try:
            self._serve()
        finally:  # whatever ended the thread, nobody shall wait for it
            with self._changed:
                self._closing = True
                jobs = [*self.waiting, *(row.job for row in self.batch.rows)]
                self.waiting.clear()
            for job in jobs:
                with suppress(RuntimeError):  # the event loop is closed
                    job.notify(ServerStopped("the server shut down before the answer was complete"))

    def _serve(self) -> None:
        threads = self.engine.threads
        with torch.inference_mode():
            while self._has_work():
                with threads.set() if threads else nullcontext():  # measured anew after every pause
                    while self.busy:
                        admitted: list[BatchRow] = []
                        try:
                            self._step(admitted)
                        except Exception as error:  # its jobs get the error, the server goes on
                            log.exception("the batch failed")
                            self._fail([row.job for row in [*self.batch.rows, *admitted]], error)

    def _has_work(self) -> bool:
        """Wait for work; False: the server is closing and there is none left."""
        with self._changed:
            while not self.busy and not self._closing:
                self._changed.wait()
            return self.busy

    def _step(self, admitted: list[BatchRow]) -> None:
        """Admit jobs (into ``admitted``), decode one token of every row, remove finished rows."""
        self._drop_finished()
        self._encode()
        admitted.extend(self._admit())
        if admitted:
            self.batch.add(admitted)
        if self.batch.rows:
            began = time.monotonic()
            self.batch.step()
            if self.engine.threads:
                self.engine.threads.step(time.monotonic() - began, len(self.batch.rows))
        self.new_tokens += len(self.batch.rows)
        self.batch.remove([i for i, row in enumerate(self.batch.rows) if self._emit(row)])

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        """Fail ``jobs``; if there are none, fail the waiting ones, which would only fail again."""
        self.batch.clear()
        if not jobs:
            with self._changed:
                jobs = [*self.waiting]
                self.waiting.clear()
        for job in dict.fromkeys(jobs):
            if job.prefix_cache is not None:
                job.prefix_cache.clear()  # its prefix cache may be inconsistent
            with suppress(RuntimeError):  # the event loop is closed
                job.notify(error)

    def _drop_finished(self) -> None:
        """Remove jobs that were cancelled or have timed out."""
        with self._changed:
            gone = [job for job in self.waiting if job.cancelled or job.timed_out]
            for job in gone:
                self.waiting.remove(job)
        over = [i for i, row in enumerate(self.batch.rows) if row.job.cancelled or row.job.timed_out]
        late = [job for job in gone + [self.batch.rows[i].job for i in over] if not job.cancelled]
        if over:
            self.batch.remove(over)
        for job in late:
            job.notify(AnswerTimeout(f"the answer was not complete within {job.timeout_s:.0f} s"))

    def _admit(self) -> Iterator[BatchRow]:
        """Rows of the jobs that fit now; the first that does not keeps all behind it waiting."""
        running, read = list(self.batch.rows), 0
        while read < MAX_PREFILL_POSITIONS and (job := self._next_job(running)) is not None:
            try:
                row = self._make_row(job, fresh=not running)
            except Exception as error:  # only this job fails
                if not isinstance(error, ValueError):
                    log.exception("a prompt could not be read")
                job.notify(error)
                continue
            if (
                running
                and (len(running) + 1) * max(r.max_positions for r in [*running, row]) > MAX_BATCH_POSITIONS
            ):
                with self._changed:
                    self.waiting.appendleft(job)
                return
            running.append(row)
            read += len(row.embeds)
            yield row

    def _next_job(self, running: list[BatchRow]) -> Job | None:
        """The first job in the queue if it can run beside ``running``."""
        with self._changed:
            if not self.waiting or len(running) >= self.max_rows:
                return None
            if running and (
                not self.batch.supports_batching or self.waiting[0].options.lora_scale != self._scale
            ):
                return None
            return self.waiting.popleft()

    def _make_row(self, job: Job, *, fresh: bool) -> BatchRow:
        """A row for the job, with its prompt as embeddings."""
        model = self.engine.model
        if fresh:
            set_lora_scale(model, job.options.lora_scale)
            self._scale = job.options.lora_scale
        began = time.monotonic()
        made = job.prompt or prompt_of(self.engine, job.sample, job.clips, job.options)
        frames = self.encoder_cache.frames(job.clips)
        inputs: dict[str, Any] = {
            name: tensor.to(model.device) for name, tensor in {**made, **pad_audio(frames)}.items()
        }
        ids: Tensor = inputs["input_ids"]  # (1, L)
        audio_tokens = int((ids == model.config.audio_token_id).sum())
        prompt = ids[0]
        if not self.batch.supports_batching:
            job.prefix_cache = None
        if job.prefix_cache is not None:
            tokens = [model.config.num_tokens(len(clip.frames)) for clip in frames]
            prompt = content_ids(
                inputs, model.config.audio_token_id, [clip.audio for clip in job.clips], tokens
            )
            inputs = job.prefix_cache.reuse(inputs, prompt, tokens, job.options.lora_scale)
            known = inputs.pop("past_key_values").get_seq_length()
            inputs["input_ids"] = ids[:, known:]
        inputs.pop("attention_mask")
        embeds = model.model.embed(**inputs)[0]  # (L - known, D)
        log.debug("read %d positions in %.3f s", len(embeds), time.monotonic() - began)
        answer = Answer(job.options, self.engine.ends(), self.engine.processor.tokenizer)
        rules = TokenRules(ids[0], model.config.text_config.vocab_size, self.engine.ends(), job.options)
        return BatchRow(job, prompt, embeds, audio_tokens, answer, rules)

    def _emit(self, row: BatchRow) -> bool:
        """Send the text that the row's last token made certain; whether the row is finished."""
        job, answer = row.job, row.answer
        if row.failure is not None:
            job.notify(row.failure)
            return True
        if answer.ended_by_token and row.scores:
            row.scores.pop()  # the end token is not part of the text
        if answer.fresh or (answer.reason is not None and row.scores):  # the last ones may have no text
            job.notify(Piece(answer.fresh, tuple(row.scores)))
            row.scores.clear()
        if answer.reason is not None:
            tokens = row.prompt_tokens, row.audio_tokens, len(row.tokens), row.cached_tokens
            job.notify(End(answer.reason, *tokens))
        return answer.reason is not None
