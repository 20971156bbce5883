"""A file that is still being written, or a pipe, as blocks of mono float32 at 16 kHz, as they come.

WAV and bare 16-bit PCM are read as they are; what else FFmpeg reads from a stream (mp3, ogg, opus, webm, aac,
flac) through PyAV.
"""

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from lalm.audio.asked import AudioError
from lalm.audio.load import SAMPLE_RATE
from lalm.audio.vad import Array, pcm_blocks

POLL_S = 0.05
COMPRESSED = (
    b"OggS",
    b"fLaC",
    b"ID3",
    b"\x1a\x45\xdf\xa3",
    b"\xff\xfb",
    b"\xff\xf3",
    b"\xff\xf1",
    b"\xff\xf9",
    b"FORM",  # AIFF
    b"caff",
    b".snd",
    b"RF64",
    b"#!AMR",
    b"0&\xb2u",  # WMA
    b"FLV",
)
BARE = ("", ".pcm", ".raw", ".s16", ".s16le", ".sw", ".sln")  # suffixes of files of bare 16-bit PCM


class Growing(io.RawIOBase):
    """A file's bytes, waiting for more at its end until none came for ``idle_s`` seconds (None: for ever).

    It also ends where it was ``stopped``.
    """

    def __init__(self, path: Path, idle_s: float | None, stopped: threading.Event | None = None) -> None:
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise AudioError(f"{path} cannot be opened: {error.strerror}") from None
        self._idle_s, self._stopped = idle_s, stopped or threading.Event()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, as soon as there are some; none where the file does not grow any more."""
        waited = 0.0
        while True:
            if data := self._file.read(size):
                return data
            if self._stopped.is_set() or (self._idle_s is not None and waited >= self._idle_s):
                return b""
            time.sleep(POLL_S)
            waited += POLL_S


def incoming_blocks(stream: BinaryIO, place: str, *, bare: bool = True) -> Iterator[Array]:
    """Blocks (N,) float32 at 16 kHz of a stream that cannot be wound back.

    ``place`` names it in errors. What begins like nothing known is 16-bit PCM if it may be ``bare``. Raises
    AudioError for what is no audio.
    """
    start = _exactly(stream, 12)
    if not start:
        raise AudioError(f"{place} is empty: nothing came in")
    if start[4:8] == b"ftyp":
        raise AudioError(
            f"{place} is an MP4, whose index comes last, so it cannot be read as it comes: when it is whole, "
            "lalm transcribe reads it"
        )
    if start.startswith(b"RIFF") or (bare and not start.startswith(COMPRESSED)):
        yield from pcm_blocks(cast(BinaryIO, _Joined(start, stream, exact=True)))
        return
    joined = _Joined(start, stream, exact=False)
    import av

    try:
        with av.open(joined, "r", options={"probesize": "65536", "analyzeduration": "500000"}) as container:
            resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE)
            for frame in container.decode(audio=0):
                for part in resampler.resample(frame):
                    yield np.ascontiguousarray(part.to_ndarray()[0], np.float32)
    except (av.InvalidDataError, IndexError):  # IndexError: a picture, or a video without sound
        raise AudioError(f"{place} is not audio that can be read as it comes") from None
    except av.FFmpegError as error:
        raise AudioError(f"{place} cannot be read as it comes: {error.strerror}") from None


class _Joined:
    """Bytes that were read already, and the stream that follows; ``exact`` waits for all that is asked."""

    def __init__(self, start: bytes, stream: BinaryIO, *, exact: bool) -> None:
        self._start, self._stream, self._exact = start, stream, exact

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; none at the end."""
        data, self._start = self._start[:size], self._start[size:]
        if data and not self._exact:
            return data
        left = size - len(data)
        more = _exactly(self._stream, left) if self._exact else self._stream.read(left)
        return data + more


def _exactly(stream: BinaryIO, size: int) -> bytes:
    """The next ``size`` bytes; fewer at the end."""
    data = b""
    while len(data) < size and (more := stream.read(size - len(data))):
        data += more
    return data
