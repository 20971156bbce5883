"""Reads Lhotse's recordings and supervisions, without Lhotse: a sample for each supervision.

They lie beside one another as its recipes write them: ``librispeech_recordings_dev-clean.jsonl.gz`` and
``librispeech_supervisions_dev-clean.jsonl.gz``, or ``recordings.jsonl`` and ``supervisions.jsonl``.
"""

from pathlib import Path
from typing import Any

from lalm.data.readers.json_lines import json_rows
from lalm.data.readers.samples import ReaderError, Samples

RECORDINGS, SUPERVISIONS = "recordings", "supervisions"


class LhotsePair(Samples):
    """Supervisions, each with the stretch of its recording."""

    def __init__(self, supervisions: Path) -> None:
        self.folder = supervisions.parent
        recordings = supervisions.with_name(supervisions.name.replace(SUPERVISIONS, RECORDINGS))
        if recordings == supervisions or not recordings.is_file():
            wanted = f"{RECORDINGS}.jsonl.gz" if recordings == supervisions else recordings.name
            raise ReaderError(
                f"{supervisions.name} holds Lhotse's supervisions, and their recordings are not beside it: "
                f"put them there as {wanted}"
            )
        self._said, self._recordings = json_rows(supervisions), json_rows(recordings)
        self._numbers: dict[str, int] = {}
        for number in range(len(self._recordings)):
            recording = self._recordings.row(number)
            if not isinstance(recording, dict) or "id" not in recording:
                raise ReaderError(f"{self._recordings.place(number)}: not a Lhotse recording: it has no id")
            self._numbers[str(recording["id"])] = number

    def __len__(self) -> int:
        return len(self._said)

    def place(self, number: int) -> str:
        return self._said.place(number)

    def row(self, number: int) -> Any:
        said = self._said.row(number)
        if not isinstance(said, dict) or not {"recording_id", "start", "duration"} <= said.keys():
            raise ReaderError(
                f"{self.place(number)}: not a Lhotse supervision: it needs recording_id, start and duration"
            )
        name = str(said["recording_id"])
        if name not in self._numbers:
            raise ReaderError(f"{self.place(number)}: there is no recording '{name}'")
        channel = said.get("channel", 0)
        return {
            "id": said.get("id", name),
            "start": said["start"],
            "duration": said["duration"],
            "channel": channel[0] if isinstance(channel, list) and channel else channel,
            "supervisions": [{**said, "start": 0.0}],
            "recording": self._recordings.row(self._numbers[name]),
            "type": "MonoCut",
        }


def pairs_in(folder: Path) -> list[Path]:
    """The files of supervisions in a folder whose recordings are beside them."""
    found = sorted(folder.glob(f"*{SUPERVISIONS}*.json*"))
    return [path for path in found if path.with_name(path.name.replace(SUPERVISIONS, RECORDINGS)).is_file()]
