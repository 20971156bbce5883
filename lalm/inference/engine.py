"""The engine: generates answers for the command line, the server and the evaluation.

It decodes the audio, batches samples of like length, generates, and tells for every answer how many
seconds of each clip were given and heard, and how long it took.
"""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import Any, Literal, TypeAlias, TypeVar, overload

import torch
from transformers import BatchFeature, StoppingCriteriaList

from lalm.audio.load import Recording
from lalm.data.audio_inputs import Clip
from lalm.data.messages import AudioPart, part_recording
from lalm.data.sample import Sample
from lalm.errors import LalmError
from lalm.inference.answer import Answer
from lalm.inference.decoding_ahead import ahead
from lalm.inference.device import Precision, pick_device, pick_precision
from lalm.inference.encoding_ahead import one_ahead, with_frames
from lalm.inference.generation import Progress, processors_of, settings_of
from lalm.inference.openmp import give_back_helpers
from lalm.inference.options import FinishReason
from lalm.inference.options import Options as Options
from lalm.inference.protocols import Hearing
from lalm.inference.question import Clock, Question, batches
from lalm.inference.reply import Heard as Heard
from lalm.inference.reply import Reply as Reply
from lalm.inference.reply import Stream
from lalm.inference.speech.clip_transcripts import ClipTranscripts
from lalm.inference.speech.recogniser import WhenSpoken
from lalm.inference.threads import Threads, products_of
from lalm.models import SMALL
from lalm.models.answer_end import answer_ends
from lalm.models.int8 import wait_for_packing
from lalm.models.load import load_model, model_name
from lalm.models.lora import set_lora_scale
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.opening_memory import release_free_memory
from lalm.models.packed_half import pack_half
from lalm.models.prefill import PrefixCache, content_ids
from lalm.models.processing import AudioLMProcessor

BATCH_SIZE = 32
BATCH_SECONDS = 600.0  # of padded audio: bounds the memory of a batch of long clips
POOL_SIZE = 128  # samples decoded at a time, and sorted by length within; as many are decoded ahead

T = TypeVar("T")
Numbered: TypeAlias = Sequence[tuple[int, T]]  # each with its sample's number


class TooLongError(LalmError, ValueError):
    """A prompt and its answer do not fit into the model's window."""


class Engine:
    """A loaded model that answers samples.

    Example: ``Engine.load().reply([ask(["samples/horse.ogg"], "What do you hear?")])[0].text``.
    """

    def __init__(
        self, model: AudioLMForConditionalGeneration, processor: AudioLMProcessor, name: str
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.hearing = Hearing()  # what of a recording is heard: all, unless a protocol says otherwise
        self.autocast: torch.dtype | None = None  # the number format that a protocol computes in
        self.transcripts = ClipTranscripts(WhenSpoken)
        self.threads = Threads(products_of(model)) if model.device.type == "cpu" else None
        self.encodes_ahead: int | None = None  # in so many threads; None: where there is room, 0: never
        self._lock = threading.Lock()
        self._packed = True  # a model that is given stays as it is
        template = str(processor.chat_template)
        self._ends = answer_ends(processor.tokenizer, template, model.generation_config)

    @classmethod
    def load(
        cls,
        model: str | None = None,
        device: str | None = None,
        dtype: Precision | None = None,
        transcript: str | None = None,
        told: Callable[[str], None] | None = None,
    ) -> "Engine":
        """Open a folder or Hub id, or the embedded default (None), on ``device`` (a GPU if there is one).

        ``dtype`` is that of the weights, a name or torch's (None: "auto", see ``pick_precision``). "int8":
        the LLM's in 8 bits, on a CPU (``lalm.models.int8``); ``told`` gets a sentence where they are rounded
        for the first time. ``transcript`` ("none", "given", "whisper") takes the place of the model's own
        setting (``lalm.models.transcript``).

        Raises ValueError in one sentence if there is no such model or device.
        """
        given = model if model is not None else SMALL
        place = pick_device(device)
        options = {} if transcript is None else {"transcript": transcript}
        precision = pick_precision(given, place, dtype)
        opened, processor = load_model(given, dtype=precision, device=place, options=options, told=told)
        engine = cls(opened, processor, model_name(given))
        engine._packed = False
        give_back_helpers()  # another thread may answer
        return engine

    @overload
    def reply(self, samples: Sequence[Sample], options: Options | None = None) -> list[Reply]: ...
    @overload
    def reply(
        self,
        samples: Sequence[Sample],
        options: Options | None = None,
        *,
        errors: Literal["return"],
        arrived: Callable[[int, Reply | ValueError], None] | None = None,
    ) -> list[Reply | ValueError]: ...
    def reply(
        self,
        samples: Sequence[Sample],
        options: Options | None = None,
        *,
        errors: Literal["raise", "return"] = "raise",
        arrived: Callable[[int, Reply | ValueError], None] | None = None,
    ) -> Any:
        """Answer every sample, in the given order; audio is decoded and batched by length.

        Raises AudioError for audio that cannot be used and ValueError for a question that is longer than
        the model's window, or a LoRA scale for a model without LoRA. With ``errors="return"`` the error
        stands in the place of that sample's reply, and the others are answered. ``arrived`` gets each reply
        or error with its sample's number as soon as its batch is done.
        """
        options, kept, stopped = options or Options(), errors == "return", threading.Event()
        replies: dict[int, Reply | ValueError] = {}

        def done(found: dict[int, Reply | ValueError]) -> None:
            replies.update(found)
            for number, reply in found.items():
                if arrived:
                    arrived(number, reply)

        def following() -> Iterator[tuple[Numbered[ValueError], Numbered[Question]]]:
            """What cannot be read, and the next batch."""
            first = min(BATCH_SIZE, POOL_SIZE)  # so that answers begin soon
            for found in ahead(lambda i: self._prepare(samples[i]), len(samples), first, POOL_SIZE, stopped):
                yield [(i, error) for i, error in found if isinstance(error, ValueError)], []
                pool = [(i, question) for i, question in found if isinstance(question, Question)]
                pool.sort(key=lambda item: item[1].seconds, reverse=True)
                # Beams that are drawn share one generator, so each sample has them to itself.
                alone = options.beams > 1 and options.temperature > 0
                for batch in ([item] for item in pool) if alone else batches(pool, BATCH_SIZE, BATCH_SECONDS):
                    yield [], batch

        with closing(one_ahead(following(), lambda item: self._ahead(item[1]), stopped)) as coming:
            for (failed, batch), inputs in coming:
                done({i: _kept(error, kept) for i, error in failed})
                if batch:
                    done(self._answer_or_fail(batch, options, kept, inputs))
        return [replies[i] for i in range(len(samples))]

    def _ahead(self, batch: Numbered[Question]) -> BatchFeature | None:
        """A batch as the model takes it, its recordings encoded, where there is room for that beside the LLM;
        else None, and whatever is wrong is left to be found when it is answered."""
        room = self.encodes_ahead if self.encodes_ahead is not None else self._room()
        if not room or not batch:
            return None
        try:
            with self._computing():
                if self.model.device.type == "cpu":
                    torch.set_num_threads(room)  # of this thread
                return with_frames(self.model, self._inputs([question for _, question in batch]))
        except ValueError:
            return None

    def _room(self) -> int:
        """In how many threads the encoder may work beside the LLM; on other devices than a CPU in one."""
        return self.threads.spare if self.threads else int(self.model.device.type != "cpu")

    def _inputs(self, questions: Sequence[Question]) -> BatchFeature:
        return self.processor.batch([q.sample for q in questions], audios=[q.clips for q in questions])

    def _answer_or_fail(
        self,
        batch: Numbered[Question],
        options: Options,
        kept: bool,
        inputs: BatchFeature | None = None,
    ) -> dict[int, Reply | ValueError]:
        """Replies by number; where one question spoils the batch and errors are kept, each by itself."""
        try:
            answers = self._answer([question for _, question in batch], options, inputs)
            return dict(zip([i for i, _ in batch], answers, strict=True))
        except ValueError as error:
            if not kept or len(batch) == 1:
                return {i: _kept(error, kept) for i, _ in batch}
        return {i: r for item in batch for i, r in self._answer_or_fail([item], options, kept).items()}

    def pack(self) -> None:
        """Lay half precision's weights out for answering, before the first answer; what reads them as they
        are (a doctor, a protocol with another number format, models that share them) comes before. Of int8,
        wait until all are packed: products of those that are not would keep their file in memory."""
        if not self._packed:
            self._packed = True
            wait_for_packing(self.model)
            pack_half(self.model)
            release_free_memory()

    def stream(
        self, sample: Sample, options: Options | None = None, prefix_cache: PrefixCache | None = None
    ) -> Stream:
        """The answer as pieces of text, as they come; joined they are ``reply``'s text.

        With beams the answer comes as one piece, because no token is certain before the last.
        ``prefix_cache`` holds what the LLM read of this conversation in earlier calls (see
        ``lalm.inference.conversation``). Raises what ``reply`` raises, at the first piece.
        Example: ``for piece in engine.stream(ask(["a.wav"], "What is it?")): print(piece, end="")``.
        """
        return Stream(self._pieces(sample, options or Options(), prefix_cache))

    def _pieces(
        self, sample: Sample, options: Options, prefix_cache: PrefixCache | None
    ) -> Generator[str, None, FinishReason]:
        question = self._prepare(sample)
        if prefix_cache is not None and options.beams > 1:
            raise ValueError("a conversation that is remembered is answered without beams: leave them out")
        if options.beams > 1:
            (reply,) = self._answer([question], options)
            yield reply.text
            return reply.finish_reason
        clock, coming = self._clock(), queue.SimpleQueue[str | None]()
        answers, failures = list[Answer](), list[BaseException]()

        def work() -> None:
            try:
                answers.extend(self._generate([question], options, clock, coming.put, prefix_cache))
            except BaseException as error:  # re-raised where the pieces are read
                failures.append(error)
            coming.put(None)

        thread = threading.Thread(target=work, daemon=True)
        give_back_helpers()  # of this thread, which only waits now
        thread.start()
        try:
            while (piece := coming.get()) is not None:
                yield piece
        finally:
            clock.stopped = True
            thread.join()
        if failures:
            raise failures[0]
        return answers[0].reason or "stop"

    def heard(self, sample: Sample) -> tuple[Heard, ...]:
        """Seconds given and heard of each clip of ``sample``, without answering it.

        Raises AudioError for audio that cannot be used.
        """
        return self.heard_of(self.clips(sample))

    def clips(self, sample: Sample) -> list[Clip]:
        """The sample's recordings as far as they are heard, with transcripts where the model takes them.

        Raises AudioError naming the clip, and what Whisper raises.
        """
        return self.with_transcripts(self._clips(sample))

    def with_transcripts(self, clips: Sequence[Clip]) -> list[Clip]:
        """The clips as the model takes them: with transcripts that are given or made now, or without any."""
        mode = self.model.config.transcript
        if mode == "none":
            return [replace(clip, transcript=None) if clip.transcript is not None else clip for clip in clips]
        if mode == "given":
            return list(clips)
        return [
            clip if clip.transcript is not None else replace(clip, transcript=self.transcripts.of(clip.audio))
            for clip in clips
        ]

    def heard_of(self, clips: Sequence[Clip]) -> tuple[Heard, ...]:
        """The same of clips that are decoded already."""
        found = []
        for clip in clips:
            heard_s = self.processor.seconds_heard(len(clip.audio))
            account = replace(clip.account, heard_s=heard_s) if clip.account else None
            found.append(Heard(clip.name, clip.seconds, heard_s, account, clip.transcript))
        return tuple(found)

    def _prepare(self, sample: Sample) -> Question:
        began = time.perf_counter()
        prompt = sample.prompt()
        clips = self.clips(prompt)
        return Question(prompt, clips, time.perf_counter() - began)

    def _clips(self, sample: Sample) -> list[Clip]:
        """The sample's recordings, as far as they are heard."""
        channel, longest_s = self.hearing.channel, self.hearing.longest_s
        parts: list[AudioPart] = [
            part
            if channel is None or "channel" in part or isinstance(part["audio"], Recording)  # chosen already
            else {**part, "channel": channel}
            for part in sample.audios
        ]
        clips = [Clip.of(part_recording(part), part.get("transcript")) for part in parts]
        return clips if longest_s is None else [clip.beginning(longest_s) for clip in clips]

    def _answer(
        self, questions: Sequence[Question], options: Options, inputs: BatchFeature | None = None
    ) -> list[Reply]:
        clock = self._clock()
        answers = self._generate(questions, options, clock, inputs=inputs)
        decoding_s = sum(question.decoding_s for question in questions)
        first_s, total_s = decoding_s + clock.first_s, decoding_s + clock.now()
        replies = []
        for question, answer in zip(questions, answers, strict=True):
            count, heard = len(answer.tokens), self.heard_of(question.clips)
            rate = (count - 1) / (total_s - first_s) if count > 1 else count / total_s
            reason = answer.reason or "stop"
            text, cut = answer.text(self.processor.tokenizer), answer.thinking_cut
            replies.append(Reply(text, heard, first_s, total_s, rate, count, reason, cut))
        return replies

    def _generate(
        self,
        questions: Sequence[Question],
        options: Options,
        clock: Clock,
        hear: Callable[[str], None] | None = None,
        prefix_cache: PrefixCache | None = None,
        inputs: BatchFeature | None = None,
    ) -> list[Answer]:
        """One answer a question; ``hear`` gets the text of a single one as it comes. ``inputs``: the batch
        of the questions where it is made already."""
        batch = inputs if inputs is not None else self._inputs(questions)
        lengths = batch["attention_mask"].sum(1).tolist()
        for question, length in zip(questions, lengths, strict=True):
            self.check_length(question.clips, length, options)
        progress = Progress(len(questions), options, self.ends(), self.processor.tokenizer, hear)
        self.pack()
        with self._lock, torch.random.fork_rng(self._gpus()), self._computing(), self._threaded():
            set_lora_scale(self.model, options.lora_scale)
            torch.manual_seed(options.seed)
            given: dict[str, Any] = dict(batch.to(self.model.device))
            prompts = [row[-length:] for row, length in zip(given["input_ids"], lengths, strict=True)]
            vocabulary = int(self.model.config.text_config.vocab_size)
            if prefix_cache is not None:
                config, sounds = self.model.config, [clip.audio for clip in questions[0].clips]
                tokens = [config.num_audio_tokens(len(sound)) for sound in sounds]
                prompt = content_ids(given, config.audio_token_id, sounds, tokens)
                given = prefix_cache.reuse(given, prompt, tokens, options.lora_scale)
            ids = self.model.generate(
                **given,
                generation_config=settings_of(options, self.ends(), self.processor.tokenizer.pad_token_id),
                logits_processor=processors_of(prompts, vocabulary, self.ends(), options, progress),
                stopping_criteria=StoppingCriteriaList([clock, progress]),
            )
            if prefix_cache is not None:
                prefix_cache.store(prompt, ids[0])
            return progress.read(ids)

    def check_length(self, clips: Sequence[Clip], length: int, options: Options) -> None:
        """Raise TooLongError where a prompt of ``length`` tokens and its answer do not fit into the model."""
        window = self.model.config.context_length
        if length + options.most_tokens > window:
            names = ", ".join(clip.name for clip in clips) or "the question"
            seconds = sum(clip.seconds for clip in clips)
            raise TooLongError(
                f"{names}: {seconds:.0f} s of audio and the text make {length} tokens, and with "
                f"{options.most_tokens} for the answer that is more than the model's {window}: "
                "give shorter recordings or less text, or lower max_new_tokens"
            )

    def _computing(self) -> Any:
        device, on = self.model.device.type, self.autocast is not None
        return torch.autocast(device, dtype=self.autocast, enabled=on)

    def _threaded(self) -> Any:
        return self.threads.set() if self.threads else nullcontext()

    def _clock(self) -> Clock:
        return Clock(self.threads.step if self.threads else None)

    def ends(self) -> set[int]:
        """Tokens that end an answer: the chat template's, and the LLM's own."""
        return self._ends

    def _gpus(self) -> list[int]:
        return [self.model.device.index or 0] if self.model.device.type == "cuda" else []


def _kept(error: ValueError, kept: bool) -> ValueError:
    """The error itself where errors are kept; else it is raised."""
    if not kept:
        raise error
    return error
