"""Reads Lhotse Shar folders: ``cuts.000000.jsonl.gz`` beside ``recording.000000.tar``, without Lhotse."""

import bisect
from pathlib import Path
from typing import Any

from lalm.audio import archives
from lalm.data.readers.json_lines import JsonLines
from lalm.data.readers.samples import ReaderError, Samples

AUDIO_FIELDS = ("recording", "audio")


class Shar(Samples):
    """Cuts of all shards, with their audio inside the tars."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards = [JsonLines(path) for path in sorted(folder.glob("cuts.*.jsonl*"))]
        self._firsts = [0]
        for shard in self._shards:
            self._firsts.append(self._firsts[-1] + len(shard))

    def __len__(self) -> int:
        return self._firsts[-1]

    def _at(self, number: int) -> tuple[JsonLines, int]:
        shard = bisect.bisect_right(self._firsts, number) - 1
        return self._shards[shard], number - self._firsts[shard]

    def place(self, number: int) -> str:
        shard, line = self._at(number)
        return shard.place(line)

    def row(self, number: int) -> Any:
        shard, line = self._at(number)
        cut = shard.row(line)
        name = cut.get("id") if isinstance(cut, dict) else None
        if not isinstance(name, str):
            raise ReaderError(f"{self.place(number)}: not a Lhotse cut: it has no id")
        if not isinstance(cut.get("recording"), dict):
            raise ReaderError(f"{self.place(number)}: the cut {name} has no recording")
        part = shard.path.name.split(".")[1]
        tars = [t for field in AUDIO_FIELDS if (t := self.folder / f"{field}.{part}.tar").is_file()]
        if not tars:
            raise ReaderError(f"{self.place(number)}: there is no recording.{part}.tar beside it")
        inside = archives.members(tars[0])
        member = next((m for m in _candidates(name) if m in inside), None)
        if member is None:
            raise ReaderError(f"{self.place(number)}: {tars[0].name} has no audio called {name}")
        source = {"type": "file", "channels": [cut.get("channel", 0)], "source": f"{tars[0].name}/{member}"}
        recording = {**cut["recording"], "sources": [source]}
        return {**cut, "recording": recording, "start": 0.0}  # a shard holds just the cut's own audio


def _candidates(name: str) -> list[str]:
    return [f"{name}.{suffix}" for suffix in ("flac", "wav", "mp3", "opus", "ogg", "sph")]
