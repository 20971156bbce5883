"""Files that are made once and kept in the cache: whole or not at all, by one process at a time.

What cannot be kept, or is kept and cannot be read, is told in one line by the logger "lalm.cache" (standard
error, unless a program says otherwise); answers are the same.
"""

import errno
import glob
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from lalm.weights.checkpoint import writing

log = logging.getLogger("lalm.cache")

FOLDERS = ("int8", "int4", "gguf", "onnxruntime")  # of the cache, in which files are made from weights


@dataclass(frozen=True)
class Kept:
    """A file that was made from weights: its size in bytes, and when it was made (ISO 8601, UTC)."""

    path: Path
    size: int
    made: str


def kept_files(cache: Path) -> list[Kept]:
    """All that were made from weights and are kept in that cache, largest first; not what is being made."""
    files = [file for name in FOLDERS for file in (cache / name).glob("[!.]*") if file.is_file()]
    found = [(file, file.stat()) for file in files if file.suffix != ".lock"]
    rows = [Kept(file, s.st_size, datetime.fromtimestamp(s.st_mtime, UTC).isoformat()) for file, s in found]
    return sorted(rows, key=lambda kept: (-kept.size, kept.path))


@dataclass(frozen=True)
class Making:
    """A file of the cache, or a folder, while it is made: what it is called in a sentence, what is done where
    it cannot be kept, and why it cannot, if that is known already."""

    path: Path
    what: str
    instead: str
    fault: OSError | None = None

    def write(self, write: Callable[[Path], object]) -> None:
        """Have ``write`` make a draft beside the file, of the same suffix, and rename it. A file of the same
        name and another suffix that is written beside the draft gets its name before.

        Raises OSError, and nothing is left then; a full disk is told as ``checkpoint.writing`` tells it.
        """
        if self.fault:
            raise self.fault
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}{self.path.suffix}")
        with writing(draft, self.path):
            write(draft)
        for beside in draft.parent.glob(f"{glob.escape(draft.stem)}.*"):
            if beside != draft:
                beside.rename(self.path.with_suffix(beside.suffix))
        draft.rename(self.path)

    def keep(self, write: Callable[[Path], object]) -> bool:
        """The same; where the file cannot be kept a line says so, and this is False."""
        try:
            self.write(write)
        except OSError as error:
            tell = "%s cannot be kept in '%s' (%s): %s at every start"
            log.warning(tell, self.what, self.path.parent, _reason(error), self.instead)
            return False
        return True


@contextmanager
def made_alone(path: Path, what: str, instead: str) -> Iterator[Making]:
    """Around the making of a file or folder of the cache; ``what`` and ``instead`` as ``Making`` has them.

    Others who make it wait until this is over: look whether it is there by now. What they had half written
    when they were killed is deleted.
    """
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:  # no right; a file system without locks
        known = error if isinstance(error, OSError) else OSError(errno.ENOLCK, str(error))
        yield Making(path, what, instead, known)
        return
    try:
        _remove_drafts(path)
        yield Making(path, what, instead)
    finally:
        _remove_drafts(path)
        lock.release()


def _remove_drafts(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def tell_damaged(path: Path, because: Exception) -> None:
    """Say that what is kept under ``path`` is made anew."""
    said = _reason(because)
    said = said if str(path) in said else f"'{path}' cannot be read ({said})"
    log.warning("%s: it is made anew", said)


def _reason(because: Exception) -> str:
    """An error in a few words, on one line."""
    said = because.strerror if isinstance(because, OSError) else None
    return " ".join((said or str(because)).split()) or type(because).__name__
