"""Reads fairseq's and wav2vec's manifests: a folder on the first line, then PATH and SAMPLES on each.

The texts stand line by line in a file of the same name: ``train.wrd`` (words), ``train.txt`` or ``train.ltr``
(letters, with a bar between words). Without one the clips have no answers.
"""

from pathlib import Path
from typing import Any

from lalm.data.readers.lines import Lines
from lalm.data.readers.samples import ReaderError, spoken

TEXTS = (".wrd", ".txt", ".ltr")


class Fairseq(Lines):
    """The clips of a manifest, each with its line of the texts."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._clips = Path(self.record(0).strip())
        beside = next((file for s in TEXTS if (file := path.with_suffix(s)).is_file()), None)
        self._texts = None if beside is None else Lines(beside)
        self._letters = beside is not None and beside.suffix == ".ltr"
        if beside is not None and self._texts is not None and len(self._texts) != len(self):
            raise ReaderError(
                f"{beside.name} has {len(self._texts)} lines and {path.name} {len(self)} clips: they must "
                "belong together"
            )

    def __len__(self) -> int:
        return super().__len__() - 1  # the folder's line

    def place(self, number: int) -> str:
        return super().place(number + 1)

    def row(self, number: int) -> Any:
        name, _, _ = self.record(number + 1).strip("\r\n").partition("\t")
        text = None if self._texts is None else self._texts.record(number).strip()
        if text is not None and self._letters:
            text = text.replace(" ", "").replace("|", " ").strip()
        return spoken({"audio": str(self._clips / name)}, text, id=str(Path(name).with_suffix("")))


def is_fairseq(path: Path) -> bool:
    """Whether a ``.tsv`` begins with a line of one field and goes on with PATH and SAMPLES."""
    with path.open("rb") as file:
        first, second = file.readline(4096), file.readline(4096)
    name, _, samples = second.strip(b"\r\n").partition(b"\t")
    return bool(first.strip()) and b"\t" not in first and bool(name) and samples.isdigit()
