"""Loading audio: any common file, bytes, data URL, pipe or array -> mono float32 at 16 kHz.

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
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import unquote_to_bytes

import numpy as np
import soxr

from lalm.audio import archives
from lalm.audio.decoding import (
    BLOCK_FRAMES,
    MAX_CHANNELS,
    Array,
    Asked,
    AudioError,
    Blocks,
    as_float,
    file_blocks,
    shown_s,
)

__all__ = [
    "AUDIO_SUFFIXES",
    "SAMPLE_RATE",
    "AudioError",
    "AudioSource",
    "audio_name",
    "is_recording",
    "load_audio",
    "seconds",
]

SAMPLE_RATE = 16_000  # Hz, of everything load_audio returns
AUDIO_SUFFIXES = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".m4a")  # what is looked for in a folder
_NAMED_LIKE_RECORDINGS = (
    *AUDIO_SUFFIXES,
    *(".aac", ".ac3", ".aif", ".aiff", ".amr", ".au", ".caf", ".m4b", ".mka", ".mp2", ".mp4", ".mkv", ".mov"),
    *(".oga", ".sph", ".w64", ".wave", ".webm", ".wma"),
)
MAX_PIPED_BYTES = 8 << 30  # standard input is spooled to disk up to here

AudioSource: TypeAlias = str | Path | bytes | Array


def load_audio(
    source: AudioSource,
    *,
    rate: int | None = None,
    offset_s: float = 0.0,
    duration_s: float | None = None,
    max_s: float | None = None,
) -> Array:
    """Read ``source`` as (N,) float32 mono 16 kHz, values as decoded (normally in [-1, 1]).

    ``source`` is a path (``x.tar/a.flac`` is inside a tar), ``-`` (standard input), a ``data:`` URL,
    encoded bytes, or an array of shape
    (N,) or (N, C): floats are taken as they are, integers scaled by their full range. ``rate`` in Hz is
    the array's (16 000 when absent) and only for arrays. ``offset_s`` and ``duration_s`` select a part,
    which may end earlier than asked if the recording does. ``max_s`` refuses what is longer than this
    many seconds after selection. Example: ``load_audio("samples/horse.ogg", max_s=30)``.
    """
    asked = Asked(_place(source), offset_s, duration_s, max_s)
    asked.check()
    if isinstance(source, np.ndarray):
        return _collect(_array_blocks(source, SAMPLE_RATE if rate is None else rate, asked), asked)
    if rate is not None:
        raise AudioError(f"rate is for arrays, and {asked.place} states its own")
    with _open(source, asked.place) as file:
        if file.seek(0, io.SEEK_END) == 0:
            raise AudioError(f"{asked.place} is empty (0 bytes)")
        file.seek(0)
        with closing(file_blocks(file, asked)) as blocks:
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


def is_recording(word: str) -> bool:
    """Does a word among recordings and texts stand for a recording, whether it can be read or not?

    Standard input (-), a data URL, what exists as a file or folder, and what is written like a path or named
    like an audio file; a text that only ends like one ("Is it louder than in a.wav") has spaces.
    """
    if word == "-" or _is_data_url(word):
        return True
    try:
        if Path(word).exists():
            return bool(word)
    except (OSError, ValueError):  # longer than a file name may be, or not one at all
        return False
    if any(character.isspace() for character in word):
        return False
    named = word.lower().endswith(_NAMED_LIKE_RECORDINGS)
    return named or word.startswith(("/", "./", "../", "~/"))


def seconds(audio: Array) -> float:
    """Length in seconds of ``audio``, (N,) samples at 16 kHz."""
    return len(audio) / SAMPLE_RATE


def _collect(blocks: Blocks, asked: Asked) -> Array:
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
            raise asked.too_long(f"more than {shown_s((limit - 2) / SAMPLE_RATE)}")

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
            raise AudioError(f"{asked.place} holds NaN or infinite values, first at {shown_s(at_s)} s")
        decoded += len(mono)
        add(mono if resampler is None else resampler.resample_chunk(np.ascontiguousarray(mono)))
    flush()
    if not samples:
        raise AudioError(f"{asked.place} holds no audio (0 samples)")
    return np.frombuffer(samples, np.float32)


def _array_blocks(array: Array, rate: int, asked: Asked) -> Blocks:
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
        yield rate, as_float(table[at : min(at + BLOCK_FRAMES, stop)])


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
    if inside := archives.split(path):
        return io.BytesIO(archives.read(*inside))
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
    return {"stdin": "stdin", "bytes": "the audio data"}.get(name, f"the {name}")


def _shortened(text: str) -> str:
    text = re.sub(r"[\x00-\x1f\x7f]", "?", text)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-60:]}"
