"""Readers of existing data: JSONL, Kaldi, Lhotse, WebDataset and Hugging Face folders.

``open_samples`` looks at the path and its rows, never at an option. A reader is a sequence whose rows are
read when asked for, so a manifest of a million lines costs twelve bytes a line.
"""

from pathlib import Path

from lalm.data.readers.json_lines import JsonLines, JsonList, is_json_list
from lalm.data.readers.kaldi import Kaldi
from lalm.data.readers.row_groups import REMOTE
from lalm.data.readers.samples import ReaderError, Samples
from lalm.data.readers.shar import Shar
from lalm.data.readers.tables import Table
from lalm.data.readers.tars import Tars

__all__ = ["ReaderError", "Samples", "open_samples"]

TABLE_FILES = ("dataset_info.json", "state.json", "dataset_dict.json")


def open_samples(path: str | Path) -> Samples:
    """The samples at a path: a manifest, a tar, or a folder of Kaldi, Lhotse Shar, tars or a HF data set.

    ``hf://datasets/...`` is streamed from the Hub. Raises ReaderError when there is nothing, or nothing that
    is known. Bad rows are found when read.
    """
    if str(path).startswith(REMOTE):
        return Table(path)
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise ReaderError(f"there is no manifest '{path}'")
    if path.suffix == ".tar":
        return Tars([path])
    if path.suffix in (".parquet", ".arrow"):
        return Table(path)
    return JsonList(path) if is_json_list(path) else JsonLines(path)


def _folder(path: Path) -> Samples:
    if (path / "wav.scp").is_file():
        return Kaldi(path)
    if any(path.glob("cuts.*.jsonl*")):
        return Shar(path)
    if any((path / name).is_file() for name in TABLE_FILES) or any(path.glob("*.parquet")):
        return Table(path)
    if tars := sorted(path.glob("*.tar")):
        return Tars(tars)
    raise ReaderError(
        f"'{path}' is a folder with none of wav.scp (Kaldi), cuts.*.jsonl.gz (Lhotse Shar), *.tar "
        "(WebDataset), dataset_info.json or *.parquet (Hugging Face): name the manifest file"
    )
