"""Crash-safe checkpoint folders: sealed with checksums, renamed into place, verified when opened.

A folder is written under ``OUT/.writing``, sealed (every file's size and sha256 in ``checksums.json``,
everything synced to disk) and renamed to ``OUT/checkpoint-STEP``. Whatever carries that name was complete.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

KEEP = 2
CHECKSUMS = "checksums.json"
# How safetensors (the system's error number) and torch.save say that a file could not be written.
DISK_FULL = ("os error 28", "os error 122", "file write failed", "unexpected pos")


def staging(out: Path) -> Path:
    """Where checkpoints of the run in ``out`` are written before they are complete."""
    return out / ".writing"


def step_of(folder: Path) -> int:
    """1500 for ``checkpoint-1500``."""
    return int(folder.name.removeprefix("checkpoint-"))


def checkpoints(out: Path) -> list[Path]:
    """The run's checkpoint folders, newest first, good or not."""
    found = [
        f for f in out.glob("checkpoint-*") if f.is_dir() and f.name.removeprefix("checkpoint-").isdigit()
    ]
    return sorted(found, key=step_of, reverse=True)


def publish(draft: Path, final: Path) -> None:
    """Seal a finished draft folder and rename it to its final name, replacing an older one."""
    sums = {file.name: [file.stat().st_size, _sha256(file)] for file in sorted(draft.iterdir())}
    (draft / CHECKSUMS).write_text(json.dumps(sums, indent=1) + "\n")
    for file in draft.iterdir():
        _sync(file)
    _sync(draft)
    if final.exists():
        shutil.rmtree(final)
    draft.rename(final)
    _sync(final.parent)


@contextmanager
def writing(draft: Path, final: Path) -> Iterator[None]:
    """Around whatever writes ``draft``: a full disk becomes one OSError that names ``final``.

    safetensors and torch.save say it in words of their own; what was half written is deleted, so that the
    checkpoints that are there keep their room.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and not any(sign in str(error) for sign in DISK_FULL):
            raise
        shutil.rmtree(draft, ignore_errors=True)
        raise OSError(errno.ENOSPC, "the disk is full", str(final)) from error


@contextmanager
def filled_whole(out: Path) -> Iterator[Path]:
    """A folder inside ``out`` to write into: all of its files come to ``out`` once the last is written, and
    none where one could not be. A full disk is told as ``writing`` tells it."""
    draft, new = staging(out), not out.exists()
    shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
    draft.mkdir(parents=True)
    try:
        with writing(draft, out):
            yield draft
        for file in sorted(draft.iterdir()):
            file.rename(out / file.name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if new:
            with suppress(OSError):  # where there is something in it
                out.rmdir()


def fault(folder: Path) -> str:
    """What is wrong with a checkpoint folder, or "" when it is as it was written."""
    try:
        sums = json.loads((folder / CHECKSUMS).read_text())
        rows = [(name, int(size), str(digest)) for name, (size, digest) in sums.items()]
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return f"{CHECKSUMS} is missing or damaged"
    for name, size, digest in rows:
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
        if _sha256(file) != digest:
            return f"the checksum of {name} differs"
    return ""


def newest_good(out: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, and one sentence for each newer one that is not."""
    remarks: list[str] = []
    for folder in checkpoints(out):
        problem = fault(folder)
        if not problem:
            return folder, remarks
        remarks.append(f"{folder} is broken ({problem}) and is not used.")
    return None, remarks


def prune(out: Path, newest: int, last: int = KEEP) -> None:
    """Delete all but the ``last`` checkpoints up to step ``newest``; any beyond it were broken."""
    good = [folder for folder in checkpoints(out) if step_of(folder) <= newest]
    for folder in set(checkpoints(out)) - set(good[:last]):
        shutil.rmtree(folder)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk.

    Windows opens no folder, and syncs no handle that cannot write.
    """
    windows = sys.platform == "win32"
    if windows and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
