"""What can be given as a recording: paths, members of tar files, pipes, data URLs, bytes."""

import io
import re
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

from lalm.audio import archives
from lalm.audio.asked import AudioError
from lalm.audio.data_url import decode_data_url

MAX_PIPED_BYTES = 8 << 30  # standard input is spooled to disk up to here


def opened(source: str | Path | bytes, place: str) -> BinaryIO:
    """Binary file of encoded audio, at its start; seekable and, unless in memory, unbuffered."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    if source == "-":
        if sys.stdin.isatty():
            raise AudioError("standard input is a terminal: pipe a recording into it")
        return _spool(sys.stdin.buffer, place)
    if isinstance(source, str) and is_data_url(source):
        return io.BytesIO(_data_url_bytes(source))
    if isinstance(source, str) and re.match(r"file:/", source, re.IGNORECASE):
        raise AudioError(f"{place} is a file: address: give the path itself, without file://")
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
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            with path.open("rb") as pipe:
                return _spool(pipe, place)
        if not stat.S_ISREG(mode):
            raise AudioError(f"{place} is a device, not an audio file")
        file = path.open("rb", buffering=0)
        if path.stat().st_size == 0 and file.read(1):  # as files under /proc are
            file.close()
            raise AudioError(f"{place} is made up by the system as it is read: it is no recording")
        return file
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


def is_data_url(source: str) -> bool:
    """Whether ``source`` is a data: URL."""
    return source[:5].lower() == "data:"


def _data_url_bytes(url: str) -> bytes:
    head, comma, payload = url[5:].partition(",")
    if not comma:
        raise AudioError("the data URL has no comma between its type and its data")
    kind = head.split(";")[0].strip().lower()
    if kind and not kind.startswith(("audio/", "video/", "application/")):
        raise AudioError(f"the data URL holds {shortened(kind)}, not audio")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(payload)
    try:
        return decode_data_url(url)
    except ValueError:
        raise AudioError("the data URL is not valid base64") from None


def shortened(text: str) -> str:
    """``text`` fit for a message: no control characters, at most 200 characters."""
    text = re.sub(r"[\x00-\x1f\x7f]", "?", text)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-60:]}"
