"""Encoded audio -> blocks of float32 samples at the file's own rate, by soundfile or, failing that, PyAV.

The second half of :mod:`lalm.audio.load`: what is asked of a source, the decoders, and how damage is noticed.
No buffer is sized by what a file header claims.
"""

import io
import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import av
import numpy as np
import soundfile

from lalm.errors import LalmError

RATES_HZ = (1_000, 768_000)  # source rates that can be resampled
MAX_CHANNELS = 64
BLOCK_FRAMES = 1 << 16

Array: TypeAlias = np.ndarray[Any, Any]
Blocks: TypeAlias = Generator[tuple[int, Array], None, None]  # rate in Hz, (n, C) float32

# Containers ffmpeg may open: media only, so that a playlist can never make it open other files or sites.
_CONTAINERS = "mov,matroska,aac,mp3,ogg,flac,wav,w64,aiff,au,asf,avi,flv,mpegts,mpeg,ac3,eac3,amr,wv,tta,ape"
_STATED_LENGTH = ("mov", "matroska")  # containers whose stated length and time stamps can be trusted
_ROUNDING_S = 1e-3  # a resampled clip may be a sample longer than its source says
_LENGTH_SLACK_S = 0.25  # codec delay that a stated length may include
_UNKNOWN_FRAMES = 1 << 40  # libsndfile reports lengths beyond this when a stream does not state one
_STREAMED_SIZE = 0x7FFF_0000  # data sizes above are what programs write to a pipe: length not known yet


class AudioError(LalmError, ValueError):
    """A source that cannot be used as audio; the text is one sentence naming it."""


@dataclass(frozen=True)
class Asked:
    """Which part of which source the caller wants, and the checks that a known length allows."""

    place: str
    offset_s: float
    duration_s: float | None
    max_s: float | None

    def check(self) -> None:
        """Refuse numbers that select nothing."""
        if not 0 <= self.offset_s < float("inf"):
            raise AudioError(f"offset_s of {self.place} must be 0 or more, not {self.offset_s}")
        if self.duration_s is not None and not 0 < self.duration_s < float("inf"):
            raise AudioError(f"duration_s of {self.place} must be more than 0, not {self.duration_s}")

    def check_length(self, total_s: float) -> None:
        """Refuse, before decoding, an offset past the end or a part over the limit."""
        if self.offset_s and self.offset_s >= total_s:
            raise AudioError(
                f"the offset {shown_s(self.offset_s)} s is past the end of {self.place}, "
                f"which is {shown_s(total_s)} s long"
            )
        part_s = min(total_s - self.offset_s, total_s if self.duration_s is None else self.duration_s)
        if self.max_s is not None and part_s > self.max_s + _ROUNDING_S:
            raise self.too_long(shown_s(part_s))

    def too_long(self, length: str) -> AudioError:
        """The refusal of a source of ``length`` seconds."""
        assert self.max_s is not None
        return AudioError(f"{self.place} is {length} s long; the limit is {shown_s(self.max_s)} s")

    def truncated(self, heard_s: float, promised_s: float) -> AudioError:
        """The refusal of a source that ends before it should."""
        return AudioError(
            f"{self.place} is truncated: it promises {shown_s(promised_s)} s of audio but ends "
            f"after {shown_s(heard_s)} s"
        )

    def damaged(self, heard_s: float) -> AudioError:
        """The refusal of a source whose decoding fails on the way."""
        return AudioError(
            f"{self.place} is damaged or truncated: it cannot be decoded past {shown_s(heard_s)} s"
        )

    def num_frames(self, rate: int) -> float:
        """Frames to read at ``rate`` after the offset (infinite when the rest is wanted)."""
        return float("inf") if self.duration_s is None else max(1, round(self.duration_s * rate))

    def check_stream(self, rate: int, channels: int) -> None:
        """Refuse rates and channel counts that cannot be read."""
        if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
            low, high = RATES_HZ
            raise AudioError(
                f"{self.place} has a rate of {rate} Hz; rates from {low} to {high} Hz can be read"
            )
        if not 1 <= channels <= MAX_CHANNELS:
            raise AudioError(f"{self.place} has {channels} channels; 1 to {MAX_CHANNELS} can be read")


def file_blocks(file: BinaryIO, asked: Asked) -> Blocks:
    """(rate, (n, C) float32) blocks of the asked part of an encoded file."""
    try:
        # A descriptor, not a name: soundfile then judges by content alone, whatever the extension says.
        handle = file if isinstance(file, io.BytesIO) else file.fileno()
        sound = soundfile.SoundFile(handle, closefd=False)
    except soundfile.LibsndfileError:
        sound = None
    if sound is not None:
        with sound:
            if _length_is_known(sound, file):
                yield from _soundfile_blocks(sound, asked)
                if sound.format == "OGG" and sound.tell() >= sound.frames:
                    _check_last_page(file, asked, sound.tell() / sound.samplerate)
                return
    file.seek(0)
    yield from _ffmpeg_blocks(file, asked)


def _length_is_known(sound: soundfile.SoundFile, file: BinaryIO) -> bool:
    """Whether ``sound.frames`` is the recording's true length: libsndfile reads no further than that.

    It is not in a FLAC written to a pipe, an MP3 without the Xing frame that counts its frames (an
    estimate from the bit rate), or an Ogg of several streams one after the other (the first one's).
    """
    if sound.frames >= _UNKNOWN_FRAMES:
        return False
    at = file.tell()
    if sound.format == "MP3":
        file.seek(0)
        tag = file.read(10)
        size = sum((byte & 127) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=False))
        file.seek(10 + size if tag[:3] == b"ID3" else 0)
        head = file.read(8192)
        file.seek(at)
        return b"Xing" in head or b"Info" in head
    if sound.format == "OGG":
        file.seek(0)
        first = file.read(18)
        last = _last_page(file)
        file.seek(at)
        return first[14:] == last[14:18] or len(last) < 18  # the stream's serial number
    return True


def _soundfile_blocks(sound: soundfile.SoundFile, asked: Asked) -> Blocks:
    rate = sound.samplerate
    asked.check_stream(rate, sound.channels)
    promised = sound.frames * _promised_fraction(sound.extra_info)
    if promised > sound.frames:
        raise asked.truncated(sound.frames / rate, promised / rate)
    if sound.frames:
        asked.check_length(sound.frames / rate)
    first = round(asked.offset_s * rate)
    last = min(sound.frames, first + asked.num_frames(rate))
    at = sound.seek(first) if first else 0
    while at < last:
        try:
            block = sound.read(int(min(BLOCK_FRAMES, last - at)), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            raise asked.damaged(at / rate) from None
        if not len(block):
            break
        at += len(block)
        yield rate, block
    holes = re.search(r"reports a hole|Corrupted bitstream", sound.extra_info)
    if sound.format == "OGG" and holes and not first:  # a seek leaves the same words in the log
        raise AudioError(f"{asked.place} is damaged: parts of it cannot be decoded")
    if at < last:
        raise asked.truncated(at / rate, sound.frames / rate)


def _promised_fraction(log: str) -> float:
    """How many times the data present a header promises, from libsndfile's log; 1 when all is there."""
    worst = 1.0
    for promised, real in re.findall(
        r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", log, re.MULTILINE
    ):
        if int(real) < int(promised) < _STREAMED_SIZE:
            worst = max(worst, int(promised) / max(1, int(real)))
    return worst


def _check_last_page(file: BinaryIO, asked: Asked, heard_s: float) -> None:
    """An Ogg file whose last page is incomplete was cut off (its header states no length to compare)."""
    page = _last_page(file)
    table = page[27 : 27 + page[26]] if len(page) > 26 else b""
    if len(page) <= 26 or len(page) < 27 + page[26] + sum(table):
        raise AudioError(f"{asked.place} is truncated: it breaks off after {shown_s(heard_s)} s of audio")


def _last_page(file: BinaryIO) -> bytes:
    """The last page of an Ogg file, with whatever follows it."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 2 * 65_307))  # 65 307 bytes is the largest page
    tail = file.read()
    return tail[max(0, tail.rfind(b"OggS")) :]


def _ffmpeg_blocks(file: BinaryIO, asked: Asked) -> Blocks:
    head = file.read(12)
    file.seek(0)
    try:
        container = av.open(
            file,
            options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"},
            metadata_errors="replace",
        )
    except av.error.FFmpegError:
        if head[4:8] == b"ftyp":
            raise AudioError(
                f"{asked.place} is truncated: the index of its MP4 container is missing"
            ) from None
        raise AudioError(f"{asked.place} is not audio, or in a format that cannot be read") from None
    with container:
        if not container.streams.audio:
            raise AudioError(f"{asked.place} holds no audio track")
        yield from _track_blocks(container, container.streams.audio[0], asked)


def _track_blocks(container: Any, track: Any, asked: Asked) -> Blocks:
    trusted = container.format.name.startswith(_STATED_LENGTH)
    promised_s = _stated_length_s(container, track) if trusted else None
    if promised_s:
        asked.check_length(promised_s)
    start_s = float((track.start_time or 0) * track.time_base)
    seeking = trusted and asked.offset_s > 1
    at_s, wanted, heard = 0.0, float("inf"), 0
    try:
        if seeking:  # one second early, for decoders that need a run-up
            container.seek(int((start_s + asked.offset_s - 1) / track.time_base), stream=track)
        for frame in container.decode(track):
            rate = frame.sample_rate
            if seeking and frame.time is not None:
                at_s, seeking = frame.time - start_s, False
            asked.check_stream(rate, frame.layout.nb_channels)
            block = _frame_array(frame)
            skip = max(0, round((asked.offset_s - at_s) * rate))
            at_s += len(block) / rate
            wanted = asked.num_frames(rate) - heard
            block = block[skip:][: int(min(len(block), wanted))]
            heard += len(block)
            if len(block):
                yield rate, block
            if len(block) >= wanted:
                return
    except av.error.FFmpegError:
        raise asked.damaged(at_s) from None
    if promised_s and at_s < promised_s - _LENGTH_SLACK_S:
        raise asked.truncated(at_s, promised_s)
    if asked.offset_s and not heard:
        asked.check_length(at_s)


def _stated_length_s(container: Any, track: Any) -> float | None:
    """Length in seconds that a container states for one track, if it does."""
    if track.duration:
        return float(track.duration * track.time_base)
    if stated := re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", track.metadata.get("DURATION", "")):
        return int(stated[1]) * 3600 + int(stated[2]) * 60 + float(stated[3])
    if container.duration and len(container.streams) == 1:
        return float(container.duration / av.time_base)
    return None


def _frame_array(frame: Any) -> Array:
    """(n, C) float32 samples of one decoded frame, planar or packed."""
    values = frame.to_ndarray()
    return as_float(values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels))


def as_float(values: Array) -> Array:
    """float32 copy of ``values``: floats unchanged, integers scaled by their full range to [-1, 1)."""
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return values.astype(np.float32)
    half = float(2 ** (8 * values.dtype.itemsize - 1))
    middle = half if values.dtype.kind == "u" else 0.0
    return ((values.astype(np.float64) - middle) / half).astype(np.float32)


def shown_s(value: float) -> str:
    """Seconds as text: at most two decimals and no trailing zeros."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
