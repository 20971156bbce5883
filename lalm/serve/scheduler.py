"""One thread that has the model: it takes jobs from a bounded queue into the running batch, first come first.

Nothing else may use the engine meanwhile. Every job gets its events from this thread; a failing job harms
no other, and a failing step ends those that were in it.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal

import torch
from torch import Tensor

from lalm.inference.engine import Engine
from lalm.models.lora import set_lora_scale
from lalm.models.prefill import named
from lalm.serve.detokenizer import Words
from lalm.serve.encoder_cache import HeardClips
from lalm.serve.jobs import Busy, End, Job, Piece, TooSlow, Unfinished
from lalm.serve.running_batch import Row, Rows

FRAME_BYTES = 256 << 20  # encoder outputs kept
BATCH_POSITIONS = 1 << 15  # rows times the longest row: bounds the batch's keys and values
READ_POSITIONS = 1 << 12  # prompts read between two tokens of the rows that run already

log = logging.getLogger("lalm.serve")


class Scheduler:
    """Answers jobs with one engine. ``start`` it, ``submit`` jobs from any thread, ``close`` it."""

    def __init__(self, engine: Engine, *, max_rows: int = 16, max_waiting: int = 64) -> None:
        self.engine = engine
        self.max_rows = max_rows
        self.max_waiting = max_waiting
        self.heard = HeardClips(engine.model, FRAME_BYTES)
        self.rows = Rows(engine)
        self.waiting: deque[Job] = deque()
        self.new_tokens = 0  # of all answers so far
        self._changed = threading.Condition()
        self._closing = False
        self._scale: float | None = None
        self._thread = threading.Thread(target=self._work, name="lalm-scheduler", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def submit(self, *jobs: Job) -> None:
        """Queue jobs, all or none. Raises Busy when there is no place for them."""
        with self._changed:
            if self._closing:
                raise Busy("the server is going down")
            if len(self.waiting) + len(jobs) > self.max_waiting:
                raise Busy(f"{len(self.waiting)} requests are waiting already: try again later")
            self.waiting.extend(jobs)
            self._changed.notify()

    def close(self, patience_s: float = 30.0) -> None:
        """Take no more jobs, finish what is there, and fail what is not done after ``patience_s`` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is None:
            return
        self._thread.join(patience_s)
        for job in [*self.waiting, *(row.job for row in self.rows.rows)]:
            job.cancelled = True
            job.notify(Unfinished("the server went down before the answer was there"))
        self._thread.join(5.0)

    def _work(self) -> None:
        with torch.inference_mode():
            while True:
                with self._changed:
                    while not self.waiting and not self.rows.rows and not self._closing:
                        self._changed.wait()
                    if self._closing and not self.waiting and not self.rows.rows:
                        return
                entering: list[Row] = []
                try:
                    self._turn(entering)
                except Exception as error:  # those in the batch hear of it, the server goes on
                    log.exception("the batch failed")
                    self._fail([row.job for row in [*self.rows.rows, *entering]], error)

    def _turn(self, entering: list[Row]) -> None:
        """Let jobs in, by way of ``entering``, say one token of each, let those that are over out."""
        self._drop()
        entering.extend(self._entering())
        if entering:
            self.rows.join(entering)
        if self.rows.rows:
            self.rows.step()
        self.new_tokens += len(self.rows.rows)
        self.rows.leave([i for i, row in enumerate(self.rows.rows) if self._told(row)])

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        """End ``jobs`` or, where it was none of them, those that wait, which would only fail again."""
        self.rows.clear()
        if not jobs:
            with self._changed:
                jobs = [*self.waiting]
                self.waiting.clear()
        for job in dict.fromkeys(jobs):
            if job.memory is not None:
                job.memory.forget()  # what was read of its conversation is in no known state
            with suppress(RuntimeError):  # nobody listens any more
                job.notify(error)

    def _drop(self) -> None:
        """Let go of jobs whose client has left or whose time is up."""
        with self._changed:
            gone = [job for job in self.waiting if job.cancelled or job.late]
            for job in gone:
                self.waiting.remove(job)
        over = [i for i, row in enumerate(self.rows.rows) if row.job.cancelled or row.job.late]
        late = [job for job in gone + [self.rows.rows[i].job for i in over] if not job.cancelled]
        if over:
            self.rows.leave(over)
        for job in late:
            job.notify(TooSlow(f"there was no whole answer within {job.timeout_s:.0f} s"))

    def _entering(self) -> Iterator[Row]:
        """Jobs that may join now, as rows; the first that may not keeps all behind it waiting."""
        running, read = list(self.rows.rows), 0
        while read < READ_POSITIONS and (job := self._admitted(running)) is not None:
            try:
                row = self._row(job, fresh=not running)
            except Exception as error:  # this job's fault or misfortune alone
                if not isinstance(error, ValueError):
                    log.exception("a prompt could not be read")
                job.notify(error)
                continue
            if running and (len(running) + 1) * max(r.longest for r in [*running, row]) > BATCH_POSITIONS:
                with self._changed:
                    self.waiting.appendleft(job)
                return
            running.append(row)
            read += len(row.embeds)
            yield row

    def _admitted(self, running: list[Row]) -> Job | None:
        """The first job in the queue if there is place for it beside ``running``."""
        with self._changed:
            if not self.waiting or len(running) >= self.max_rows:
                return None
            if running and (not self.rows.joinable or self.waiting[0].options.lora_scale != self._scale):
                return None
            return self.waiting.popleft()

    def _row(self, job: Job, *, fresh: bool) -> Row:
        """The job with its prompt as embeddings."""
        model = self.engine.model
        if fresh:
            set_lora_scale(model, job.options.lora_scale)
            self._scale = job.options.lora_scale
        began = time.monotonic()
        frames = self.heard.frames(job.clips)
        batch = self.engine.processor.batch([job.sample], audios=[frames]).to(model.device)
        ids: Tensor = batch["input_ids"]  # (1, L)
        self.engine.check_length(job.clips, ids.shape[1], job.options)
        audio_tokens = int((ids == model.config.audio_token_id).sum())
        inputs = dict(batch)
        prompt = ids[0]
        if not self.rows.joinable:
            job.memory = None
        if job.memory is not None:
            tokens = [model.config.num_tokens(len(clip.frames)) for clip in frames]
            prompt = named(inputs, model.config.audio_token_id, [clip.audio for clip in job.clips], tokens)
            inputs = job.memory.unread(inputs, prompt, tokens, job.options.lora_scale)
            known = inputs.pop("past_key_values").get_seq_length()
            inputs["input_ids"] = ids[:, known:]
        inputs.pop("attention_mask")
        embeds = model.model.embed(**inputs)[0]  # (L - known, D)
        log.debug("read %d positions in %.3f s", len(embeds), time.monotonic() - began)
        return Row(job, prompt, embeds, audio_tokens, Words(self.engine.processor.tokenizer, job.stop))

    def _told(self, row: Row) -> bool:
        """Send what the row's last token made certain; whether the row is over."""
        job, token = row.job, row.tokens[-1]
        ended = token in self.engine.ends()
        full = len(row.tokens) >= job.options.max_new_tokens
        text = "" if ended else row.words.add(token)
        over = ended or full or row.words.stopped
        if over:
            text += row.words.end()
        if ended and row.scores:
            row.scores.pop()  # the end is no part of the text
        if text:
            job.notify(Piece(text, tuple(row.scores)))
            row.scores.clear()
        if over:
            reason: Literal["stop", "length"] = "stop" if ended or row.words.stopped else "length"
            tokens = row.prompt_tokens, row.audio_tokens, len(row.tokens), row.cached_tokens
            job.notify(End(reason, *tokens))
        return over
