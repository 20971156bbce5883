"""Where the recordings that a table names lie: beside it, elsewhere below, or under another path's end.

Tables are written on other machines, name clips without a folder or a suffix, or lie in a folder beside the
audio. From the first rows it is found out once what has to stand before and behind a cell, or be cut off
it; where the clips are spread over folders they are looked up by name. What is there as named stays.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from lalm.audio import archives
from lalm.audio.load import AUDIO_SUFFIXES, RECORDING_SUFFIXES, is_named_like_recording

FOLDERS = ("", "clips/", "audio/", "wavs/", "wav/", "audios/", "sounds/")  # beside a table
ABOVE = ("../", *(f"../{folder}" for folder in FOLDERS[1:]))  # or beside the folder that it lies in
OF_TABLES = re.compile(  # how folders are called in which tables lie and no audio
    r"meta(data)?|.*ground_?truth|filelists?|labels|annotations?|splits?|transcripts?|texts?|csv|tables?"
)
MOST_FILES = 1_000_000  # are looked at
FEW = 3  # cells are tried without their first folders


class Placing:
    """``path(cell)`` is where the recording of a cell lies, for cells like those it was made with.

    ``told`` says in a few words what was found out; ``lost`` is a cell whose recording is nowhere when that
    is so for all of them, else "".
    """

    def __init__(self, folder: Path | None, stem: str, cells: Sequence[str]) -> None:
        """``folder``: what relative paths start from, None where the audio lies in the rows themselves."""
        self._cut = self._before = self._after = self.told = self.lost = ""
        self._names: dict[str, str] = {}  # name, and name without suffix -> path; "" for several
        local = [cell for cell in map(plain, cells) if cell and "://" not in cell and cell[:5] != "data:"]
        if folder is None or not local:
            return
        for cut in range(max(cell.count("/") for cell in local) + 1):
            if any(self._fits(folder, stem, cell, cut) for cell in (local[:FEW] if cut else local)):
                return
        self._names = named_below(folder)
        if not self._names and OF_TABLES.fullmatch(folder.resolve().name.lower()):
            self._names = {name: path and f"../{path}" for name, path in named_below(folder.parent).items()}
        if any(self._by_name(cell) for cell in local):
            self.told = "looked up by name in the folders below"
        else:
            self._names, self.lost = {}, local[0]

    def path(self, cell: str) -> str:
        """The path of a cell's recording, from the folder."""
        cell = plain(cell)
        if "://" in cell:
            return cell
        if self._names:
            return self._by_name(cell) or cell
        return f"{self._before}{cell.removeprefix(self._cut)}{self._after}"

    def _fits(self, folder: Path, stem: str, cell: str, cut: int) -> bool:
        """Try what may stand around a cell without its first ``cut`` folders; keep what makes it a file."""
        rest = cell.split("/", cut)[cut] if cell.count("/") >= cut else ""
        afters = ("",) if is_named_like_recording(cell) else ("", *AUDIO_SUFFIXES)
        for before in (*FOLDERS, f"{stem}/", f"audio/{stem}/", *ABOVE) if rest else ():
            for after in afters:
                if _exists(folder / f"{before}{rest}{after}"):
                    self._cut, self._before, self._after = cell[: len(cell) - len(rest)], before, after
                    around = [f"as {before}...{after}"] if before or after else []
                    self.told = ", ".join([*around, *([f"without {self._cut}"] if self._cut else [])])
                    return True
        return False

    def _by_name(self, cell: str) -> str:
        """The one file of that name; AudioSet's ids may have a Y before them."""
        name = cell.rpartition("/")[2]
        return next((path for key in (name, f"Y{name}") if (path := self._names.get(key, ""))), "")


def plain(cell: str) -> str:
    """A path with slashes, also one that Windows wrote, and that of a ``file://`` address."""
    cell = cell.strip()
    if cell.lower().startswith("file:///"):
        return unquote(cell[len("file://") :])
    return cell.replace("\\", "/") if "/" not in cell else cell


def named_below(folder: Path) -> dict[str, str]:
    """name, and name without suffix -> path from the folder of each recording below it; "" for several.

    {} in a folder of more files than ``MOST_FILES``.
    """
    found: dict[str, str] = {}
    count = 0
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        count += len(names)
        if count > MOST_FILES:
            return {}
        for name in sorted(names):
            if name.lower().endswith(RECORDING_SUFFIXES):
                path = os.path.relpath(os.path.join(place, name), folder).replace(os.sep, "/")  # noqa: PTH118
                for key in {name, os.path.splitext(name)[0]}:  # noqa: PTH122
                    found[key] = "" if key in found else path
    return found


def _exists(path: Path) -> bool:
    inside = archives.split(path)
    try:
        return (inside[0] if inside else path).is_file()
    except OSError:  # a text of the table, longer than a name may be
        return False
