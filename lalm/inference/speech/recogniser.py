"""Whisper through faster-whisper: recordings of any length -> transcripts with the times of words.

The weights are the pinned part ``faster-whisper-base`` unless another folder in CTranslate2's format is
given. Nothing is transcribed where ``lalm.inference.speech.speech_windows`` finds no speech, so silence
gives no words.
"""

import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from lalm.audio.load import SAMPLE_RATE
from lalm.audio.vad import Array
from lalm.errors import LalmError
from lalm.inference.speech.speech_windows import Cutting, Window, speech_windows
from lalm.inference.speech.subtitles import Segment, Transcript, Word
from lalm.weights.fetch import fetch

NAME = "whisper-base"  # what requests call it
PART = "faster-whisper-base"
BEAMS = 5  # faster-whisper's own
SURE = 0.5  # a language this likely in one window is taken for the whole recording
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
    """

    language: str = ""
    task: Literal["transcribe", "translate"] = "transcribe"
    prompt: str = ""
    beams: int = BEAMS
    words: bool = True
    temperature: float | None = None  # None: 0, and higher ones where the text repeats itself
    sure: bool = False


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

    def window(self, window: Window, wish: Wish) -> tuple[list[Segment], str, float]:
        """The segments of one window, its language, and how likely that is.

        Raises SpeechError for a language that this Whisper does not know.
        """
        if wish.language and wish.language not in self.model.supported_languages:
            raise SpeechError(
                f"this Whisper does not know the language '{wish.language}': say a code such as en, fr or zh"
            )
        temperature = 0.0 if wish.sure else wish.temperature
        with self._lock:
            _seed()
            found, info = self.model.transcribe(
                window.audio,
                language=wish.language or ("en" if wish.sure else None),
                multilingual=wish.sure and not wish.language,  # each segment is asked for its own
                task=wish.task,
                beam_size=wish.beams,
                initial_prompt=wish.prompt or None,
                word_timestamps=wish.words,
                condition_on_previous_text=True,
                **({} if temperature is None else {"temperature": temperature}),
            )
            segments = [_segment(one).later(window.start_s) for one in found]
        end_s = window.end_s
        kept = [one.within(end_s) for one in segments if one.text and one.start_s < end_s]
        if not wish.sure:
            return kept, str(info.language), float(info.language_probability)
        return [one for one in kept if _is_sure(one)], wish.language, 0.0


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

    def window(self, window: Window, wish: Wish) -> tuple[list[Segment], str, float]:
        """The segments of one window, its language, and how likely that is."""
        return shared().window(window, wish)


class Listening(Iterable[Segment]):
    """The segments of a recording as they are found; ``language`` and ``heard_s`` tell how far it is.

    ``blocks`` are (N,) float32 at 16 kHz. The language is found out in the first window where it is likely
    enough, and kept. Example: ``for segment in Listening(whisper, blocks): print(segment.text)``.
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
        known = self.wish.language
        for window in speech_windows(self._counted(), self.cutting):
            segments, language, likely = self.whisper.window(window, replace(self.wish, language=known))
            if segments:
                self.language = language
            if not known and segments and likely >= SURE:
                known = language
            yield from segments

    def _counted(self) -> Iterator[Array]:
        for block in self._blocks:
            self.heard_s += len(block) / SAMPLE_RATE
            yield block


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
