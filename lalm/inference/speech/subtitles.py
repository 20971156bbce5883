"""A transcript: segments and words with their times in seconds; written as text, SRT, WebVTT or JSON."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

Form: TypeAlias = Literal["txt", "srt", "vtt", "json"]

LINE = 42  # characters of a line of subtitles, as broadcasters have it
LINES = 2
SHORTEST_S = 0.02  # Whisper's own step, for a segment without a time


@dataclass(frozen=True)
class Word:
    """A word as it is written, with the space or mark before it; ``probability`` from 0 to 1."""

    start_s: float
    end_s: float
    text: str
    probability: float


@dataclass(frozen=True)
class Segment:
    """A stretch of speech; the numbers from ``temperature`` on are Whisper's own.

    ``words`` is empty where the times of words were not asked for.
    """

    start_s: float
    end_s: float
    text: str
    words: tuple[Word, ...] = ()
    tokens: tuple[int, ...] = ()
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0
    no_speech_prob: float = 0.0

    @property
    def spoken_until_s(self) -> float:
        """Where its last word ends."""
        return self.words[-1].end_s if self.words else self.end_s

    def later(self, by_s: float) -> "Segment":
        """The same, so many seconds later."""
        words = (replace(w, start_s=w.start_s + by_s, end_s=w.end_s + by_s) for w in self.words)
        return replace(self, start_s=self.start_s + by_s, end_s=self.end_s + by_s, words=tuple(words))

    def within(self, end_s: float) -> "Segment":
        """The same, with nothing behind ``end_s``: Whisper hears silence there, and may speak of it."""
        words = (replace(w, start_s=min(w.start_s, end_s), end_s=min(w.end_s, end_s)) for w in self.words)
        return replace(self, end_s=min(self.end_s, end_s), words=tuple(words))

    def to_json(self) -> dict[str, Any]:
        """A JSON object; seconds to the millisecond."""
        words = [
            {"start": round(w.start_s, 3), "end": round(w.end_s, 3), "word": w.text.strip()}
            | {"probability": round(w.probability, 3)}
            for w in self.words
        ]
        told = {"start": round(self.start_s, 3), "end": round(self.end_s, 3), "text": self.text}
        return {**told, "words": words, "no_speech_prob": round(self.no_speech_prob, 3)}


@dataclass(frozen=True)
class Transcript:
    """What is said in a recording of ``seconds``; ``language`` is a code ("en"), "" where nobody speaks."""

    segments: tuple[Segment, ...]
    language: str
    seconds: float

    @property
    def text(self) -> str:
        """The whole text in one line; empty where nobody speaks."""
        return " ".join(segment.text for segment in self.segments)

    def to_json(self, name: str = "") -> dict[str, Any]:
        """A JSON object, with the recording's name if it is given."""
        told: dict[str, Any] = {"audio": name} if name else {}
        told |= {"language": self.language, "seconds": round(self.seconds, 3), "text": self.text}
        return {**told, "segments": [segment.to_json() for segment in self.segments]}


def subtitles(segments: Sequence[Segment], form: Literal["srt", "vtt"], *, by_word: bool = False) -> str:
    """Segments as a whole file of subtitles; ``by_word`` gives each word a cue of its own."""
    if form == "vtt":
        return "WEBVTT\n\n" + "".join(cue for cue in cues(segments, "vtt", by_word=by_word))
    return "".join(cues(segments, "srt", by_word=by_word))


def cues(segments: Iterable[Segment], form: Literal["srt", "vtt"], *, by_word: bool = False) -> Iterator[str]:
    """The cues of subtitles one after the other, each with the blank line that ends it."""
    number = 0
    for segment in segments:
        for start_s, end_s, text in _lasting(_words(segment) if by_word else _captions(segment)):
            number += 1
            lines = _escaped(text) if form == "vtt" else text
            times = f"{clock(start_s, form)} --> {clock(end_s, form)}\n{lines}\n\n"
            yield f"{number}\n{times}" if form == "srt" else times


def clock(seconds: float, form: Literal["srt", "vtt"]) -> str:
    """Seconds as 00:00:00,000 (SRT) or 00:00:00.000 (WebVTT)."""
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{',' if form == 'srt' else '.'}{rest % 1000:03d}"


def _lasting(shown: Iterable[tuple[float, float, str]]) -> Iterator[tuple[float, float, str]]:
    """Cues that last: Whisper gives some words no time, which no player shows; they join a neighbour."""
    ready: tuple[float, float, str] | None = None
    start_s, held = 0.0, ""
    for begins_s, end_s, text in shown:
        start_s, held = (start_s, f"{held} {text}") if held else (begins_s, text)
        if round(1000 * end_s) > round(1000 * start_s):
            if ready:
                yield ready
            ready, held = (start_s, end_s, held), ""
    if held and ready:
        yield ready[0], ready[1], f"{ready[2]} {held}"
    elif held:
        yield start_s, start_s + SHORTEST_S, held
    elif ready:
        yield ready


def _words(segment: Segment) -> Iterator[tuple[float, float, str]]:
    for word in segment.words:
        yield word.start_s, word.end_s, word.text.strip()


def _captions(segment: Segment) -> Iterator[tuple[float, float, str]]:
    """A segment as captions of two lines at most; where its words have no times it is one caption."""
    if not segment.words:
        yield segment.start_s, segment.end_s, " ".join(segment.text.split())
        return
    held: list[Word] = []
    for word in segment.words:
        if held and len(_lines([*held, word])) > LINES:
            yield held[0].start_s, held[-1].end_s, "\n".join(_lines(held))
            held = []
        held.append(word)
    yield held[0].start_s, held[-1].end_s, "\n".join(_lines(held))


def _lines(words: Sequence[Word]) -> list[str]:
    """Words as lines of at most ``LINE`` characters; a longer word stands by itself."""
    lines = [""]
    for word in words:
        longer = lines[-1] + word.text
        if lines[-1] and len(longer.strip()) > LINE:
            lines.append(word.text.strip())
        else:
            lines[-1] = longer.strip() if not lines[-1] else longer
    return [line for line in lines if line] or [""]


def _escaped(text: str) -> str:
    """WebVTT reads & < > as marks."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
