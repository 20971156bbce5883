"""What a caller asks of a source, what is found out about it while it is decoded, and how it is refused."""

from dataclasses import dataclass, field

from lalm.audio.account import Hole
from lalm.errors import LalmError

RATES_HZ = (1_000, 768_000)  # source rates that can be resampled
MAX_CHANNELS = 64
MOST_TRACKS = 16  # that are listened to for one with sound
_MOST_HOLES = 1_000  # that are listed
ROUNDING_S = 1e-3  # a resampled clip may be a sample longer than its source says
TOLERANCE_S = 0.06  # a codec's block or two: how far a stated length may be off without a loss


class AudioError(LalmError, ValueError):
    """A source that cannot be used as audio; the text is one sentence naming it."""


@dataclass
class Findings:
    """What decoders note down on the way; the account is made of it."""

    container: str = ""
    codec: str = ""
    bits: int = 0  # of integer samples; 0 where samples are floats, or compressed
    scale: int = 1  # of integers that turned out to hold narrow values
    declared_s: float | None = None
    track: int = 0
    silent_tracks: tuple[int, ...] = ()  # tried before, and without sound
    num_tracks: int = 1
    starts_s: float = 0.0
    holes: list[Hole] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, sentence: str) -> None:
        """Keep a remark, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def cut_short(self, at_s: float, inside: str = "inside a frame") -> None:
        """Note a stream that states no length and ends in the midst of a frame: what is provably missing is
        shorter than any rounding, and what else may be missing nobody can know."""
        if not any(note.startswith("it breaks off") for note in self.notes):
            self.note(f"it breaks off {inside} after {shown_s(at_s)} s, and may have been longer")

    def gap(self, at_s: float, lost_s: float) -> None:
        """Keep a place where time stamps jump, which recorders do that pause, and lost pieces too."""
        self.holes.append(Hole(at_s, lost_s, "time stamps jump"))
        self.note(f"its time stamps jump by {shown_s(lost_s)} s after {shown_s(at_s)} s of sound")


@dataclass(frozen=True)
class Asked:
    """Which part of which source the caller wants, and the checks that a known length allows.

    ``lenient``: what is damaged is heard as far as it can be, its holes in ``found``, instead of refused.
    ``start_s`` is where this recording begins in a file of several; only messages count from there.
    """

    place: str
    offset_s: float = 0.0
    duration_s: float | None = None
    max_s: float | None = None
    channel: int | None = None
    track: int | None = None
    lenient: bool = False
    start_s: float = 0.0
    found: Findings = field(default_factory=Findings)

    def check(self) -> None:
        """Refuse numbers that select nothing."""
        if not 0 <= self.offset_s < float("inf"):
            raise AudioError(f"offset_s of {self.place} must be 0 or more, not {self.offset_s}")
        if self.duration_s is not None and not 0 < self.duration_s < float("inf"):
            raise AudioError(f"duration_s of {self.place} must be more than 0, not {self.duration_s}")
        for name, number in (("channel", self.channel), ("track", self.track)):
            if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 0):
                raise AudioError(f"{name} of {self.place} must be a whole number from 0 on, not {number!r}")

    def check_length(self, total_s: float) -> None:
        """Refuse, before decoding, an offset past the end or a part over the limit."""
        if self.offset_s and self.offset_s >= total_s:
            raise AudioError(
                f"the offset {shown_s(self.offset_s)} s is past the end of {self.place}, "
                f"which is {shown_s(total_s)} s long"
            )
        part_s = min(total_s - self.offset_s, total_s if self.duration_s is None else self.duration_s)
        if self.max_s is not None and part_s > self.max_s + ROUNDING_S:
            raise self.too_long(shown_s(part_s))

    def check_stream(self, rate: int, channels: int) -> None:
        """Refuse rates and channel counts that cannot be read, and a channel or track that is not there."""
        if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
            low, high = RATES_HZ
            raise AudioError(
                f"{self.place} has a rate of {rate} Hz; rates from {low} to {high} Hz can be read"
            )
        if not 1 <= channels <= MAX_CHANNELS:
            raise AudioError(f"{self.place} has {channels} channels; 1 to {MAX_CHANNELS} can be read")
        if self.channel is not None and self.channel >= channels:
            have = "1 channel" if channels == 1 else f"{channels} channels"
            raise AudioError(f"{self.place} has {have}, counted from 0: there is no channel {self.channel}")
        self.check_track(self.found.num_tracks)

    def has_more_tracks(self) -> bool:
        """Whether another track may be heard in place of this one, should it be silent."""
        return self.track is None and self.found.num_tracks > 1

    def check_track(self, count: int) -> None:
        """Refuse a track that is not there."""
        if self.track is not None and self.track >= count:
            have = "1 audio track" if count == 1 else f"{count} audio tracks"
            raise AudioError(f"{self.place} has {have}, counted from 0: there is no track {self.track}")

    @property
    def is_all(self) -> bool:
        """Whether the whole recording is asked for."""
        return not self.offset_s and self.duration_s is None

    @property
    def end_s(self) -> float:
        """Where the asked part ends, in seconds of the source."""
        return float("inf") if self.duration_s is None else self.offset_s + self.duration_s

    def num_frames(self, rate: int) -> float:
        """Frames to read at ``rate`` after the offset (infinite when the rest is wanted)."""
        return float("inf") if self.duration_s is None else max(1, round(self.duration_s * rate))

    def too_long(self, length: str) -> AudioError:
        """The refusal of a source of ``length`` seconds."""
        assert self.max_s is not None
        return AudioError(f"{self.place} is {length} s long; the limit is {shown_s(self.max_s)} s")

    def hole(self, at_s: float, lost_s: float | None, what: str, refusal: str) -> None:
        """Damage at ``at_s``: refused with ``refusal``, or kept as a hole when lenient.

        Damage outside the asked part is none of the caller's business.
        """
        if at_s >= self.end_s or (lost_s is not None and at_s + lost_s <= self.offset_s):
            return
        if not self.lenient:
            raise AudioError(f"{self.place} {refusal}; lenient (--lenient) hears what is there")
        hole = Hole(self.start_s + at_s, lost_s, what)
        if hole not in self.found.holes and len(self.found.holes) < _MOST_HOLES:
            self.found.holes.append(hole)

    def truncated(self, heard_s: float, promised_s: float) -> None:
        """A source that ends before it should: a hole at its end."""
        promised, heard = told_apart(promised_s, heard_s)
        self.hole(
            *(heard_s, max(0.0, promised_s - heard_s), "the end is missing"),
            f"is truncated: it promises {promised} s of audio but ends after {heard} s",
        )

    def broken_off(self, heard_s: float) -> None:
        """A source that ends in the midst of something, and does not say how long it was."""
        self.hole(
            *(heard_s, None, "the end is missing"),
            f"is truncated: it breaks off after {shown_s(self.start_s + heard_s)} s of audio",
        )

    def damaged(self, heard_s: float) -> None:
        """A source whose decoding fails on the way."""
        self.hole(
            *(heard_s, None, "cannot be decoded"),
            f"is damaged or truncated: it cannot be decoded past {shown_s(self.start_s + heard_s)} s",
        )

    def compare(self, there_s: float, declared_s: float, tolerance_s: float = TOLERANCE_S) -> None:
        """Hold a stated length against what is there; only what is more than rounding is told."""
        self.found.declared_s = declared_s
        if there_s < declared_s - tolerance_s:
            self.truncated(there_s, declared_s)
        elif there_s > declared_s + tolerance_s:
            stated, there = told_apart(declared_s, there_s)
            self.found.note(f"its header promises {stated} s, but {there} s are there and are heard")


def passed_over(silent: int, heard: int) -> str:
    """What is noted where another track is heard than the one that players take."""
    return f"track {silent} is silent, so track {heard} is heard; track (--track) chooses another"


def shown_s(value: float) -> str:
    """Seconds as text: at most two decimals and no trailing zeros."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def told_apart(first_s: float, second_s: float) -> tuple[str, str]:
    """Two lengths as text, with as many decimals as it takes to see that they differ."""
    for decimals in (2, 3, 4, 5):
        first, second = (f"{v:.{decimals}f}".rstrip("0").rstrip(".") for v in (first_s, second_s))
        if first != second:
            break
    return first, second
