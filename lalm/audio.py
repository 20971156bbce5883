"""Audio in: any common file, bytes, data URL, pipe or array -> mono float32 at 16 kHz.

Decoding is soundfile's, and PyAV's for what libsndfile cannot read (m4a, webm, mp4, ...). A source is
read, mixed down and resampled block by block, so a long recording never exists at its own rate, and no
buffer is sized by what a file header claims. Every unusable input raises :class:`AudioError`, whose
text is one sentence naming the source; nothing is cut short or replaced by silence on the way.
"""

import base64
import binascii
import io
import re
import stat
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import unquote_to_bytes

import av
import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16_000  # Hz, of everything load_audio returns
RATES_HZ = (1_000, 768_000)  # source rates that can be resampled
MAX_CHANNELS = 64
MAX_PIPED_BYTES = 8 << 30  # standard input is spooled to disk up to here
BLOCK_FRAMES = 1 << 16

AudioSource: TypeAlias = str | Path | bytes | np.ndarray[Any, Any]
Array: TypeAlias = np.ndarray[Any, Any]

# Containers ffmpeg may open: media only, so that a playlist can never make it open other files or sites.
_CONTAINERS = (
    "mov,matroska,aac,mp3,ogg,flac,wav,w64,aiff,au,caf,asf,avi,flv,mpegts,mpeg,ac3,eac3,amr,wv,tta,ape"
)
_STATED_LENGTH = ("mov", "matroska")  # containers whose stated length and time stamps can be trusted
_LENGTH_SLACK_S = 0.25  # codec delay that a stated length may include
_UNKNOWN_FRAMES = 1 << 40  # libsndfile reports lengths beyond this when a stream does not state one
_STREAMED_SIZE = 0x7FFF_0000  # data sizes above are what programs write to a pipe: length not known yet


class AudioError(ValueError):
    """A source that cannot be used as audio; the text is one sentence naming it."""


def load_audio(
    source: AudioSource,
    *,
    rate: int | None = None,
    offset_s: float = 0.0,
    duration_s: float | None = None,
    max_s: float | None = None,
) -> Array:
    """Read ``source`` as (N,) float32 mono 16 kHz, values as decoded (normally in [-1, 1]).

    ``source`` is a path, ``-`` (standard input), a ``data:`` URL, encoded bytes, or an array of shape
    (N,) or (N, C): floats are taken as they are, integers scaled by their full range. ``rate`` in Hz is
    the array's (16 000 when absent) and only for arrays. ``offset_s`` and ``duration_s`` select a part,
    which may end earlier than asked if the recording does. ``max_s`` refuses what is longer than this
    many seconds after selection. Example: ``load_audio("samples/rooster.ogg", max_s=30)``.
    """
    asked = _Asked(_place(source), offset_s, duration_s, max_s)
    asked.check()
    if isinstance(source, np.ndarray):
        return _collect(_array_blocks(source, SAMPLE_RATE if rate is None else rate, asked), asked)
    if rate is not None:
        raise AudioError(f"rate is for arrays, and {asked.place} states its own")
    with _open(source, asked.place) as file:
        if file.seek(0, io.SEEK_END) == 0:
            raise AudioError(f"{asked.place} is empty (0 bytes)")
        file.seek(0)
        with closing(_file_blocks(file, asked)) as blocks:
            return _collect(blocks, asked)


def audio_name(source: AudioSource) -> str:
    """Short name of ``source`` for messages and JSON: file name, stdin, data URL, bytes or array."""
    if isinstance(source, np.ndarray):
        return "array"
    if isinstance(source, Path):
        return source.name
    if isinstance(source, str):
        return "stdin" if source == "-" else "data URL" if _is_data_url(source) else Path(source).name
    return "bytes"


def seconds(audio: Array) -> float:
    """Length in seconds of ``audio``, (N,) samples at 16 kHz."""
    return len(audio) / SAMPLE_RATE


@dataclass(frozen=True)
class _Asked:
    """Which part of which source the caller wants, and the checks that a known length allows."""

    place: str
    offset_s: float
    duration_s: float | None
    max_s: float | None

    def check(self) -> None:
        if not 0 <= self.offset_s < float("inf"):
            raise AudioError(f"offset_s of {self.place} must be 0 or more, not {self.offset_s}")
        if self.duration_s is not None and not 0 < self.duration_s < float("inf"):
            raise AudioError(f"duration_s of {self.place} must be more than 0, not {self.duration_s}")

    def check_length(self, total_s: float) -> None:
        """Refuse, before decoding, an offset past the end or a part over the limit."""
        if self.offset_s and self.offset_s >= total_s:
            raise AudioError(
                f"the offset {_shown_s(self.offset_s)} s is past the end of {self.place}, "
                f"which is {_shown_s(total_s)} s long"
            )
        part_s = min(total_s - self.offset_s, total_s if self.duration_s is None else self.duration_s)
        if self.max_s is not None and part_s > self.max_s + 1 / SAMPLE_RATE:
            raise self.too_long(_shown_s(part_s))

    def too_long(self, length: str) -> AudioError:
        assert self.max_s is not None
        return AudioError(f"{self.place} is {length} s long; the limit is {_shown_s(self.max_s)} s")

    def truncated(self, heard_s: float, promised_s: float) -> AudioError:
        return AudioError(
            f"{self.place} is truncated: it promises {_shown_s(promised_s)} s of audio but ends "
            f"after {_shown_s(heard_s)} s"
        )

    def damaged(self, heard_s: float) -> AudioError:
        return AudioError(
            f"{self.place} is damaged or truncated: it cannot be decoded past {_shown_s(heard_s)} s"
        )

    def num_frames(self, rate: int) -> float:
        """Frames to read at ``rate`` after the offset (infinite when the rest is wanted)."""
        return float("inf") if self.duration_s is None else max(1, round(self.duration_s * rate))

    def check_stream(self, rate: int, channels: int) -> None:
        if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
            low, high = RATES_HZ
            raise AudioError(
                f"{self.place} has a rate of {rate} Hz; rates from {low} to {high} Hz can be read"
            )
        if not 1 <= channels <= MAX_CHANNELS:
            raise AudioError(f"{self.place} has {channels} channels; 1 to {MAX_CHANNELS} can be read")


def _collect(blocks: Iterator[tuple[int, Array]], asked: _Asked) -> Array:
    """Mix down and resample (rate, (n, C) float32) blocks into one (N,) float32 array at 16 kHz."""
    samples = bytearray()  # grows in place; the result is a view of it, so nothing is held twice
    resampler: soxr.ResampleStream | None = None
    rate, decoded, limit = 0, 0, None
    if asked.max_s is not None:
        limit = int(asked.max_s * SAMPLE_RATE) + 2  # rounding of the resampled length

    def add(part: Array) -> None:
        if not np.isfinite(part).all():
            raise AudioError(f"{asked.place} holds values too large to resample")
        samples.extend(part.tobytes())
        if limit is not None and len(samples) > 4 * limit:
            raise asked.too_long(f"more than {_shown_s(limit // SAMPLE_RATE)}")

    def flush() -> None:
        if resampler is not None:
            add(resampler.resample_chunk(np.zeros(0, np.float32), last=True))

    for block_rate, block in blocks:
        if block_rate != rate:
            flush()
            asked.check_stream(block_rate, block.shape[1])
            same = block_rate == SAMPLE_RATE
            resampler = None if same else soxr.ResampleStream(block_rate, SAMPLE_RATE, 1, dtype="float32")
            rate = block_rate
        mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
        finite = np.isfinite(mono)
        if not finite.all():
            at_s = asked.offset_s + (decoded + int(finite.argmin())) / rate
            raise AudioError(f"{asked.place} holds NaN or infinite values, first at {_shown_s(at_s)} s")
        decoded += len(mono)
        add(mono if resampler is None else resampler.resample_chunk(np.ascontiguousarray(mono)))
    flush()
    if not samples:
        raise AudioError(f"{asked.place} holds no audio (0 samples)")
    return np.frombuffer(samples, np.float32)


def _array_blocks(array: Array, rate: int, asked: _Asked) -> Iterator[tuple[int, Array]]:
    if array.dtype.kind not in "fiu":
        raise AudioError(f"the array holds {array.dtype} values; audio must be real numbers")
    if array.ndim not in (1, 2) or (array.ndim == 2 and not 1 <= array.shape[1] <= MAX_CHANNELS):
        raise AudioError(
            f"the array has shape {array.shape}; audio must be (N,) or (N, C), C at most {MAX_CHANNELS}"
        )
    table = array[:, None] if array.ndim == 1 else array
    asked.check_stream(rate, table.shape[1])
    asked.check_length(len(table) / rate)
    start = round(asked.offset_s * rate)
    stop = int(min(len(table), start + asked.num_frames(rate)))
    for at in range(start, stop, BLOCK_FRAMES):
        yield rate, _as_float(table[at : min(at + BLOCK_FRAMES, stop)])


def _file_blocks(file: BinaryIO, asked: _Asked) -> Generator[tuple[int, Array], None, None]:
    """(rate, (n, C) float32) blocks of the asked part of an encoded file."""
    try:
        # A descriptor, not a name: soundfile then judges by content alone, whatever the extension says.
        handle = file if isinstance(file, io.BytesIO) else file.fileno()
        sound = soundfile.SoundFile(handle, closefd=False)
    except soundfile.LibsndfileError:
        file.seek(0)
        yield from _ffmpeg_blocks(file, asked)
        return
    with sound:
        yield from _soundfile_blocks(sound, asked)
        reached_end = sound.frames >= _UNKNOWN_FRAMES or sound.tell() >= sound.frames
        if reached_end and sound.format == "OGG":
            _check_last_page(file, asked, sound.tell() / sound.samplerate)


def _soundfile_blocks(sound: soundfile.SoundFile, asked: _Asked) -> Iterator[tuple[int, Array]]:
    rate, known = sound.samplerate, sound.frames < _UNKNOWN_FRAMES
    asked.check_stream(rate, sound.channels)
    if known:
        promised = sound.frames * _promised_fraction(sound.extra_info)
        if promised > sound.frames:
            raise asked.truncated(sound.frames / rate, promised / rate)
        if sound.frames:
            asked.check_length(sound.frames / rate)
    first = round(asked.offset_s * rate)
    last = first + asked.num_frames(rate)
    at = sound.seek(first) if known and first else 0
    while at < last:
        try:
            block = sound.read(int(min(BLOCK_FRAMES, last - at)), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            raise asked.damaged(at / rate) from None
        if not len(block):
            break
        at += len(block)
        if at > first:
            yield rate, block[max(0, len(block) - (at - first)) :]
    if known and at < min(last, sound.frames):
        raise asked.truncated(at / rate, sound.frames / rate)
    if not known and at <= first and first:
        asked.check_length(at / rate)
    if (
        sound.format == "OGG"
        and not first
        and re.search(r"reports a hole|Corrupted bitstream", sound.extra_info)
    ):
        raise AudioError(f"{asked.place} is damaged: parts of it cannot be decoded")


def _promised_fraction(log: str) -> float:
    """How many times the data present a header promises, from libsndfile's log; 1 when all is there."""
    worst = 1.0
    for promised, real in re.findall(
        r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", log, re.MULTILINE
    ):
        if int(real) < int(promised) < _STREAMED_SIZE:
            worst = max(worst, int(promised) / max(1, int(real)))
    return worst


def _check_last_page(file: BinaryIO, asked: _Asked, heard_s: float) -> None:
    """An Ogg file whose last page is incomplete was cut off (its header states no length to compare)."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 2 * 65_307))  # 65 307 bytes is the largest page
    tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    table = page[27 : 27 + page[26]] if len(page) > 26 else b""
    if len(page) <= 26 or len(page) < 27 + page[26] + sum(table):
        raise AudioError(f"{asked.place} is truncated: it breaks off after {_shown_s(heard_s)} s of audio")


def _ffmpeg_blocks(file: BinaryIO, asked: _Asked) -> Iterator[tuple[int, Array]]:
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


def _track_blocks(container: Any, track: Any, asked: _Asked) -> Iterator[tuple[int, Array]]:
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
    return _as_float(values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels))


def _as_float(values: Array) -> Array:
    """float32 copy of ``values``: floats unchanged, integers scaled by their full range to [-1, 1)."""
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return values.astype(np.float32)
    half = float(2 ** (8 * values.dtype.itemsize - 1))
    middle = half if values.dtype.kind == "u" else 0.0
    return ((values.astype(np.float64) - middle) / half).astype(np.float32)


def _open(source: str | Path | bytes, place: str) -> BinaryIO:
    """Binary file of encoded audio, at its start; seekable and, unless in memory, unbuffered."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    if source == "-":
        if sys.stdin.isatty():
            raise AudioError("standard input is a terminal: pipe a recording into it")
        return _spool(sys.stdin.buffer, place)
    if isinstance(source, str) and _is_data_url(source):
        return io.BytesIO(_data_url_bytes(source))
    if isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source):
        raise AudioError(
            f"{place} is a web address, and those are not fetched: download it and give the file"
        )
    if not isinstance(source, str | Path):
        raise AudioError(f"audio must be a path, data URL, bytes or array, not {type(source).__name__}")
    return _open_path(Path(source), place)


def _open_path(path: Path, place: str) -> BinaryIO:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise AudioError(f"{place} is a folder, not an audio file")
        if stat.S_ISFIFO(mode):
            with path.open("rb") as pipe:
                return _spool(pipe, place)
        if not stat.S_ISREG(mode):
            raise AudioError(f"{place} is a device, not an audio file")
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        raise AudioError(f"there is no file {place}") from None
    except OSError as error:
        raise AudioError(f"{place} cannot be opened: {error.strerror}") from None
    except ValueError as error:
        if isinstance(error, AudioError):
            raise
        raise AudioError(f"{place} is not a path: it holds a null character") from None


def _spool(pipe: BinaryIO, place: str) -> BinaryIO:
    """Copy a pipe to an unnamed file on disk: decoders need to seek, and it may not fit in memory."""
    file: Any = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (returned to the caller, who closes it)
    size = 0
    while chunk := pipe.read(1 << 20):
        size += len(chunk)
        if size > MAX_PIPED_BYTES:
            file.close()
            raise AudioError(f"{place} is more than {MAX_PIPED_BYTES >> 30} GiB")
        file.write(chunk)
    return file


def _is_data_url(source: str) -> bool:
    return source[:5].lower() == "data:"


def _data_url_bytes(url: str) -> bytes:
    head, comma, payload = url[5:].partition(",")
    if not comma:
        raise AudioError("the data URL has no comma between its type and its data")
    kind = head.split(";")[0].strip().lower()
    if kind and not kind.startswith(("audio/", "video/", "application/")):
        raise AudioError(f"the data URL holds {_shortened(kind)}, not audio")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(payload)
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError):
        raise AudioError("the data URL is not valid base64") from None


def _place(source: AudioSource) -> str:
    """How error messages call a source: the path as given, or what kind of thing it is."""
    if isinstance(source, Path) or (isinstance(source, str) and source != "-" and not _is_data_url(source)):
        return _shortened(str(source))
    name = audio_name(source)
    return name if name == "stdin" else f"the {name}"


def _shortened(text: str) -> str:
    text = re.sub(r"[\x00-\x1f\x7f]", "?", text)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-60:]}"


def _shown_s(value: float) -> str:
    """Seconds as text: at most two decimals and no trailing zeros."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
