"""Audio inside tar files: ``shard.tar/clip.flac`` names a member, read in place without unpacking."""

import os
import re
import tarfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from lalm.audio.asked import AudioError

MAX_MEMBER_BYTES = 4 << 30
_INSIDE = re.compile(r"^(.*?\.tar)[/\\](.+)$", re.DOTALL)


def split(path: str | Path) -> tuple[Path, str] | None:
    """("shard.tar", "clip.flac") of a path into a tar file; None for any other path."""
    found = _INSIDE.match(str(path))
    if found and Path(found[1]).is_dir():  # a folder may be called x.tar
        return None
    return (Path(found[1]), found[2].replace("\\", "/")) if found else None


def members(archive: Path) -> Mapping[str, tuple[int, int]]:
    """Where each file of a tar lies: name -> (first byte, size). Raises AudioError for a damaged tar."""
    try:
        stat = archive.stat()
    except OSError as error:
        raise AudioError(f"{archive}: {error.strerror}") from None
    return _members(str(archive), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _members(archive: str, size: int, modified_ns: int) -> Mapping[str, tuple[int, int]]:
    found = {}
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if member.isfile():
                    found[member.name.removeprefix("./")] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise AudioError(f"{archive} is not a whole tar file ({error}): fetch or pack it again") from None
    return found


def read(archive: Path, name: str) -> bytes:
    """One member's bytes. Raises AudioError when it is not there or cut short."""
    places = members(archive)
    if name not in places:
        raise AudioError(f"{archive} has no member {name}")
    start, size = places[name]
    if start + size > archive.stat().st_size or size > MAX_MEMBER_BYTES:
        raise AudioError(f"{archive}/{name} is cut short or too large")
    with archive.open("rb") as file:
        file.seek(start, os.SEEK_SET)
        return file.read(size)
