"""Reads NeMo's tarred manifests: rows of a JSONL whose audio lies in ``audio_SHARD.tar``.

They lie as NeMo's convert_to_tarred_audio_dataset.py writes them and its LazyNeMoTarredIterator reads them::

    audio_0.tar, audio_1.tar, ...                 the recordings, under names without folders
    tarred_audio_manifest.json                    a row a recording, each with its shard_id
    sharded_manifests/manifest_0.json, ...        the same rows, a file for each tar

Rows about stretches of one recording are called ``name-sub1.wav``, ``name-sub2.wav``; the tar has
``name.wav``. A tar that was written in another codec has another suffix than its rows say.
"""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from lalm.audio import archives
from lalm.audio.asked import AudioError
from lalm.data.readers.columns import SEEN_ROWS, ColumnMap, Reading
from lalm.data.readers.json_lines import JsonLines, JsonList
from lalm.data.readers.samples import ReaderError, Samples

WHOLE = "tarred_audio_manifest*.json"
SHARDS = "sharded_manifests"
OF_MANIFEST = re.compile(r"manifest[^/]*_(\d+)[^/]*\.json")
OF_TAR = re.compile(r"audio[^/]*_(\d+)[^/]*\.tar$")
STRETCH = re.compile(r"-sub\d+$")


class NemoTars(Samples):
    """The rows of one manifest, whose recordings are read in place."""

    def __init__(self, rows: JsonLines | JsonList, reading: Reading) -> None:
        self._rows = rows
        self._named = OF_MANIFEST.search(rows.path.name)
        beside = rows.path.parent
        folders = [reading.audio] if reading.audio else [beside, beside.parent]
        self._tars: dict[int, Path] = {}
        for folder in reversed(folders):
            self._tars |= {
                int(found[1]): tar for tar in folder.glob("*.tar") if (found := OF_TAR.search(tar.name))
            }
        self.folder = beside
        if not self._tars:
            shown = " or ".join(f"'{folder}'" for folder in folders)
            raise ReaderError(
                f"{rows.path.name} is a tarred manifest of NeMo's, and no audio_0.tar lies in {shown}"
            )
        seen = self._seen()
        names = list(dict.fromkeys(name for row in seen for name in row))
        self.columns = ColumnMap(names, seen, reading.columns, rows.path.name, None)
        self.told = self.columns.told

    def __len__(self) -> int:
        return len(self._rows)

    def place(self, number: int) -> str:
        return self._rows.place(number)

    def row(self, number: int) -> Any:
        row = self._rows.row(number)
        if not isinstance(row, dict) or not isinstance(row.get("audio_filepath"), str):
            raise ReaderError(f"{self.place(number)}: 'audio_filepath' names no audio")
        shard = row.get("shard_id", self._named and int(self._named[1]))
        tar = self._tars.get(shard) if isinstance(shard, int) else None
        if tar is None:
            raise ReaderError(f"{self.place(number)}: there is no audio_{shard}.tar for its shard_id")
        try:
            member = _member(row["audio_filepath"], archives.members(tar))
        except AudioError as error:
            raise ReaderError(f"{self.place(number)}: {error}") from None
        if member is None:
            raise ReaderError(f"{self.place(number)}: {tar.name} has no '{row['audio_filepath']}'")
        return {**row, "audio_filepath": str(tar.resolve() / member)}

    def _seen(self) -> list[dict[str, Any]]:
        """The first rows, but for those that cannot be read."""
        rows = []
        for number in range(min(len(self), SEEN_ROWS)):
            try:
                rows.append(self.row(number))
            except ReaderError:
                continue
        if not rows and len(self):
            self.row(0)
        return rows


def manifests_in(folder: Path) -> list[Path]:
    """The manifests of a folder of NeMo's tars: the whole one, else those of the shards in their order.

    Of a folder of its buckets (``bucket1``, ``bucket2``, ...), those of each.
    """
    if buckets := [bucket for bucket in folder.glob("bucket*") if bucket.name[6:].isdecimal()]:
        return [path for b in sorted(buckets, key=lambda b: int(b.name[6:])) for path in manifests_in(b)]
    if not any(OF_TAR.search(tar.name) for tar in folder.glob("audio*.tar")):
        return []
    if whole := sorted(folder.glob(WHOLE)):
        return whole[-1:]  # of several versions the last has the rows of all
    shards = [
        (int(found[1]), p) for p in (folder / SHARDS).glob("*.json*") if (found := OF_MANIFEST.search(p.name))
    ]
    return [path for _, path in sorted(shards)]


def _numbered(paths: Iterable[Path], name: re.Pattern[str]) -> dict[int, Path]:
    """The files that are called so, by the number in their names."""
    return {int(found[1]): path for path in paths if (found := name.search(path.name))}


def is_of_tars(row: object) -> bool:
    """Whether a manifest's row is one of NeMo's tarred ones."""
    return isinstance(row, dict) and {"audio_filepath", "shard_id"} <= row.keys()


def _member(name: str, inside: Any) -> str | None:
    """The tar's name of a recording: the same, without "-sub1", or with another codec's suffix."""
    path = PurePosixPath(name)
    stems = (path.stem, STRETCH.sub("", path.stem))
    for stem in stems:
        if str(path.with_name(stem + path.suffix)) in inside:
            return str(path.with_name(stem + path.suffix))
    for other in inside:
        if PurePosixPath(other).stem in stems and PurePosixPath(other).parent == path.parent:
            return str(other)
    return None
