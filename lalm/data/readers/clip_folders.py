"""Reads folders of recordings: each with a text file beside it, or bare.

The text of ``dog.wav`` is that of ``dog.txt`` (``.lab``, ``.caption``, or an object in ``dog.json``) beside
it, or elsewhere below the folder, as VCTK has its texts. A bare folder gives samples without answers, to ask
about; ``answer=folder`` in the columns takes the name of the folder that a clip lies in, ``answer=name`` its
own.
"""

import json
from pathlib import Path
from typing import Any

from lalm.audio.load import AUDIO_SUFFIXES
from lalm.data.readers.columns import ColumnMap, Reading
from lalm.data.readers.samples import ReaderError, Samples

TEXTS = (".txt", ".lab", ".caption", ".normalized.txt")


class ClipFolder(Samples):
    """The recordings below a folder, in the order of their names."""

    def __init__(self, folder: Path, reading: Reading) -> None:
        self.folder = folder
        self._clips = clips_below(folder)
        if not self._clips:
            raise ReaderError(f"the folder '{folder}' holds no recordings ({', '.join(AUDIO_SUFFIXES)})")
        first = self._clips[0]
        beside = [suffix for suffix in (*TEXTS, ".json") if _beside(first, suffix).is_file()]
        self._suffix = beside[0] if beside else ""
        self._apart = {} if beside else _texts_by_name(folder)
        if first.stem in self._apart:
            self._suffix = self._apart[first.stem].suffix
        if not self._suffix and any(
            _beside(clip, s).is_file() for clip in self._clips for s in (*TEXTS, ".json")
        ):
            raise ReaderError(f"'{first}' has no text file beside it ({', '.join(TEXTS)} or .json)")
        self.has_texts = bool(self._suffix)
        row = self.row(0)
        given = {"audio": "audio", **reading.columns}
        self.columns = ColumnMap(list(row), [row], given, f"'{folder}'", folder)
        if self._suffix == ".json":
            self.told = self.columns.told
        elif "answer" not in self.columns.columns:
            self.told = (
                f"the clips in '{folder}' have no texts; --columns answer=folder learns the names of their "
                "folders"
            )

    def __len__(self) -> int:
        return len(self._clips)

    def place(self, number: int) -> str:
        return str(self._clips[number].relative_to(self.folder))

    def row(self, number: int) -> Any:
        clip = self._clips[number]
        name = self.place(number)
        known = {
            "audio": name,
            "id": str(Path(name).with_suffix("")),
            "name": clip.stem.replace("_", " "),
            "folder": clip.parent.name.replace("_", " "),
        }
        if not self._suffix:
            return known
        file = self._apart.get(clip.stem) or _beside(clip, self._suffix)
        try:
            text = file.read_text(encoding="utf-8-sig").strip()
        except FileNotFoundError:
            raise ReaderError(f"{name}: there is no {file.name} beside it") from None
        except UnicodeDecodeError:
            raise ReaderError(f"{file.name} is not UTF-8 text: save it as such") from None
        if self._suffix != ".json":
            return {**known, "text": text}
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ReaderError(f"{file.name}: not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise ReaderError(f"{file.name} must be a JSON object")
        return {**known, **fields, "audio": name}


def clips_below(folder: Path) -> list[Path]:
    """The recordings below a folder by name, but for what systems hide there."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())
    return sorted(path for path in found if not path.name.startswith("."))


def _texts_by_name(folder: Path) -> dict[str, Path]:
    """stem -> the text file of that name below a folder, but for names of which there are several."""
    found: dict[str, list[Path]] = {}
    for path in folder.rglob("*"):
        if path.suffix in TEXTS and path.is_file():
            found.setdefault(path.stem, []).append(path)
    return {stem: paths[0] for stem, paths in found.items() if len(paths) == 1}


def _beside(clip: Path, suffix: str) -> Path:
    return clip.with_name(clip.stem + suffix)
