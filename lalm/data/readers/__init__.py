"""Readers of existing data: manifests, tables, Kaldi, NeMo, Lhotse, WebDataset, Hugging Face, bare folders.

``open_samples`` is what every command opens a SOURCE with. It looks at the path and its rows; a ``Reading``
says what they do not. A reader is a sequence whose rows are read when asked for, so a manifest of a million
lines costs some twenty bytes a line.
"""

import codecs
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lalm.audio.load import AUDIO_SUFFIXES, is_named_like_recording
from lalm.data.formats import known_form
from lalm.data.readers.clip_folders import ClipFolder, clips_below
from lalm.data.readers.columns import SEEN_ROWS, ColumnMap, Reading
from lalm.data.readers.delimited import Delimited
from lalm.data.readers.fairseq import Fairseq, is_fairseq
from lalm.data.readers.json_lines import JsonLines, JsonList, json_rows
from lalm.data.readers.kaldi import Kaldi
from lalm.data.readers.lhotse_pairs import LhotsePair, pairs_in
from lalm.data.readers.nemo_tars import NemoTars, is_of_tars, manifests_in
from lalm.data.readers.row_groups import REMOTE
from lalm.data.readers.samples import ReaderError, Samples
from lalm.data.readers.several import Several, fitting, is_pattern
from lalm.data.readers.shar import Shar
from lalm.data.readers.tables import Table
from lalm.data.readers.tars import Tars
from lalm.data.sample import Sample

__all__ = ["ReaderError", "Reading", "Samples", "is_source", "open_samples", "read_manifest"]

DATA_SET_FILES = ("dataset_info.json", "state.json", "dataset_dict.json")  # of save_to_disk
KALDI_FILES = ("wav.scp", "segments", "text", "utt2spk", "utt2lang")
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
TABLE_SUFFIXES = (".csv", ".tsv", ".psv")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # of an audiofolder
SPLIT_TABLES = ["train", "dev", "test", "valid", "validation", "validated", "eval", "other", "invalidated"]

_TOLD: set[str] = set()  # what was guessed and said already
logger = logging.getLogger("lalm.data.readers")

# suffix -> how such a file becomes one that is read.
CONVERTED = {
    (".xlsx", ".xls", ".ods"): "save it as CSV",
    (".zip",): "unzip it and name the folder or table in it",
    (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"): (
        "unpack it (tar -xf {name}) and name the folder or table in it"
    ),
    (".pkl", ".pickle", ".pt", ".npy", ".npz"): (
        "it may run code when opened, so lalm does not: write its rows with pandas' to_json(orient='records')"
    ),
    (".yaml", ".yml", ".toml", ".xml"): "write a JSON object a line, with the keys audio and answer",
    (".h5", ".hdf5", ".tfrecord", ".db", ".sqlite", ".feather", ".orc", ".avro"): (
        "write its rows to parquet or CSV, with the columns audio and answer"
    ),
    (".ark", ".scp", ".stm", ".rttm", ".ctm", ".textgrid", ".srt", ".vtt"): (
        "write a table with the columns audio, offset, duration and answer"
    ),
    (".zst", ".bz2", ".xz"): "unpack it first, or pack it with gzip",
}


def open_samples(path: str | Path, reading: Reading | None = None) -> Samples:
    """The samples of a SOURCE: whatever file or folder of data the user names.

    ``hf://datasets/...`` is streamed from the Hub. What was guessed about it is in ``told``. Raises
    ReaderError, one sentence with the way out, when there is nothing, or nothing that is known; bad rows are
    found when read.
    Example: ``open_samples("clips.csv", Reading({"audio": "path", "answer": "caption"}))``.
    """
    reading = reading or Reading()
    address = re.sub("^hf:/+", REMOTE, str(path))  # a Path has dropped one of the slashes
    remote = address.startswith(REMOTE)
    samples = Table(address, reading) if remote else _opened(Path(path), reading)
    samples.prompts, samples.seed = reading.prompts, reading.seed
    unmapped = samples.columns is None
    if reading.columns and unmapped:
        raise ReaderError(f"columns: '{path}' holds whole samples, not a table, so its columns have no names")
    if reading.audio is not None and not isinstance(samples, Tars | Shar | NemoTars):
        samples.folder = reading.audio
    if samples.told and samples.told not in _TOLD:
        _TOLD.add(samples.told)
        logger.warning("%s", samples.told)
    return samples


def read_manifest(path: str | Path, reading: Reading | None = None) -> Iterator[Sample]:
    """The samples of a SOURCE (a manifest, table, folder: docs/data.md) one after the other.

    ``reading`` says which column holds what, and what is asked where a row has no question. Raises
    ReaderError where nothing known lies there, and SampleError or ReaderError, with file and line, at a bad
    row.
    Example: ``list(read_manifest("clips.csv"))``; with its length and places: ``open_samples``.
    """
    return iter(open_samples(path, reading))


def is_source(path: Path) -> bool:
    """Whether a path is data in a form of its own, rather than a corpus as it is distributed."""
    name = path.name.lower().removesuffix(".gz")
    if is_pattern(path) and not path.exists():
        return True
    if path.is_dir():
        return _mark(path) != ""
    return name.endswith((".jsonl", ".ndjson", ".parquet", ".arrow", ".tar")) or _of_kaldi(path)


def _opened(path: Path, reading: Reading) -> Samples:
    if path.is_dir():
        return _folder(path, reading)
    if "*" in path.name and path.suffix == ".parquet":
        return Table(path, reading)
    if not path.is_file():
        if is_pattern(path):
            files = fitting(path)
            return Tars(files, reading) if _all_tars(files) else Several([_opened(f, reading) for f in files])
        raise ReaderError(f"there is no manifest '{path}'")
    name = path.name.lower()
    plain = name.removesuffix(".gz")
    if _of_kaldi(path):
        return Kaldi(path.parent)
    if plain.endswith(".tar") and plain == name:
        return Tars([path], reading)
    if name.endswith((".parquet", ".arrow")):
        return Table(path, reading)
    for suffixes, way in CONVERTED.items():
        if name.endswith(suffixes):
            raise ReaderError(f"'{path}' is of a kind that lalm does not read: {way.format(name=path.name)}")
    if name.endswith(".tsv") and is_fairseq(path):
        return Fairseq(path)
    if plain.endswith(TABLE_SUFFIXES):
        return Delimited(path, reading)
    if not plain.endswith(JSON_SUFFIXES):
        return _unnamed(path, reading)
    return _json(path, reading)


def _json(path: Path, reading: Reading) -> Samples:
    rows = json_rows(path)
    first = next(iter(_first_rows(rows)), None)
    if is_of_tars(first):
        return NemoTars(rows, reading)
    if not isinstance(first, dict) or known_form(first):
        return rows
    if "recording_id" in first and "start" in first:
        return LhotsePair(path)
    if "sources" in first and "sampling_rate" in first:
        raise ReaderError(f"{path.name} holds Lhotse's recordings: name their supervisions, or the folder")
    seen = [row for row in _first_rows(rows) if isinstance(row, dict)]
    names = list(dict.fromkeys(name for row in seen for name in row))
    rows.folder = reading.audio or path.parent
    rows.columns = ColumnMap(names, seen, reading.columns, path.name, rows.folder)
    rows.told = rows.columns.told
    return rows


def _first_rows(rows: JsonLines | JsonList) -> Iterator[object]:
    """The first rows but for those that are not JSON, which are named when they are read."""
    for number in range(min(len(rows), SEEN_ROWS)):
        with suppress(ReaderError):
            yield rows.row(number)


def _unnamed(path: Path, reading: Reading) -> Samples:
    """A file whose name says nothing, by how it begins."""
    if is_named_like_recording(path.name):
        raise ReaderError(
            f"'{path}' is a recording by its name, not a list of them: name the folder that it lies in, or a "
            "table with the columns audio and answer"
        )
    with path.open("rb") as file:
        begin = file.read(4096)
    if begin.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        return _json(path, reading)
    if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return Delimited(path, reading)
    line = begin.split(b"\n")[0]
    if b"\x00" not in begin and any(mark in line for mark in (b"\t", b"|", b",", b";")):
        return Delimited(path, reading)
    name = line.strip().decode("utf-8", "replace")
    if name.lower().endswith(".tar"):  # a list of shards
        with path.open(encoding="utf-8-sig") as lines:
            tars = [path.parent / text.strip() for text in lines if text.strip()]
        return Tars(tars, reading)
    if is_named_like_recording(name):
        return Delimited(path, reading)
    raise ReaderError(
        f"'{path}' is of no kind that lalm reads: write a table (CSV, JSONL or parquet) with the columns "
        "audio and answer"
    )


def _all_tars(files: list[Path]) -> bool:
    return all(file.name.lower().endswith(".tar") for file in files)


def _of_kaldi(path: Path) -> bool:
    return path.name in KALDI_FILES and (path.parent / "wav.scp").is_file()


def _folder(path: Path, reading: Reading) -> Samples:
    if (found := _marked(path, reading)) is not None:
        return found
    if splits := sorted({file.parent.name for name in METADATA for file in path.glob(f"*/{name}")}):
        if len(splits) == 1:
            return _folder(path / splits[0], reading)
        one = path / splits[0]
        raise ReaderError(f"'{path}' holds the splits {', '.join(splits)}: name one, such as {one}")
    clips = clips_below(path)
    beside = {clip.stem for clip in clips if clip.parent == path}
    tables = [table for table in _tables(path) if table.name.split(".")[0] not in beside]
    if len(tables) == 1:
        return _opened(tables[0], reading)
    of_splits = [table for table in tables if table.stem in SPLIT_TABLES]
    if of_splits or (tables and not clips):
        shown = ", ".join(table.name for table in (of_splits or tables)[:8])
        raise ReaderError(f"'{path}' holds the tables {shown}: name one, such as {(of_splits or tables)[0]}")
    if next(path.rglob("*.trans.txt"), None) is not None:
        raise ReaderError(f"'{path}' is laid out like LibriSpeech: lalm build asr {path} --out asr.jsonl")
    if clips:
        made = ClipFolder(path, reading)
        deeper = [] if made.has_texts or reading.columns else _split_tables(path)
        if deeper:
            raise ReaderError(f"'{path}' holds tables further down: name one, such as {deeper[0]}")
        return made
    raise ReaderError(
        f"'{path}' is a folder with none of wav.scp (Kaldi), cuts.*.jsonl.gz (Lhotse Shar), *.tar "
        "(WebDataset), dataset_info.json or *.parquet (Hugging Face), metadata.csv (audiofolder), and no "
        f"recordings ({', '.join(AUDIO_SUFFIXES)}): name the manifest file"
    )


def _tables(folder: Path) -> list[Path]:
    """The tables and JSON files in a folder, by name."""
    suffixes = (*TABLE_SUFFIXES, *JSON_SUFFIXES)
    return [p for p in sorted(folder.iterdir()) if p.name.lower().removesuffix(".gz").endswith(suffixes)]


def _split_tables(folder: Path) -> list[Path]:
    """Tables anywhere below a folder that are called as splits are, by name."""
    found = (file for suffix in TABLE_SUFFIXES for file in folder.rglob(f"*{suffix}"))
    return sorted(file for file in found if file.stem in SPLIT_TABLES)


def _marked(path: Path, reading: Reading) -> Samples | None:
    """A folder that has the marks of a toolkit's; None for any other."""
    match _mark(path):
        case "kaldi":
            return Kaldi(path)
        case "shar":
            return Shar(path)
        case "lhotse":
            pairs = pairs_in(path)
            if len(pairs) > 1:
                shown = ", ".join(pair.name for pair in pairs[:8])
                raise ReaderError(f"'{path}' holds the supervisions {shown}: name one, such as {pairs[0]}")
            return LhotsePair(pairs[0])
        case "audiofolder":
            return _opened(next(path / name for name in METADATA if (path / name).is_file()), reading)
        case "data set":
            return Table(path, reading)
        case "nemo":
            manifests = [_opened(manifest, reading) for manifest in manifests_in(path)]
            return manifests[0] if len(manifests) == 1 else Several(manifests)
        case "tars":
            return Tars(sorted(path.glob("*.tar")), reading)
    return None


def _mark(path: Path) -> str:
    """What kind of folder it is by the names in it; "" for one without the marks of a toolkit."""
    if (path / "wav.scp").is_file():
        return "kaldi"
    if any(path.glob("cuts.*.jsonl*")) and not (path / "cuts.jsonl.gz").is_file():
        return "shar"
    if pairs_in(path):
        return "lhotse"
    if any((path / name).is_file() for name in METADATA):
        return "audiofolder"
    if any((path / name).is_file() for name in DATA_SET_FILES):
        return "data set"
    if any(path.glob("*.parquet")) or any(path.glob("data/*.parquet")):
        return "data set"
    if manifests_in(path):
        return "nemo"
    return "tars" if any(path.glob("*.tar")) else ""
