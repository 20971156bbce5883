"""One question about many files: errors are rows, and a second run asks only what is left."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lalm.audio.load import AudioError, read_recording
from lalm.cli.ask_many import ask_many, check_out, parts_of, recordings
from lalm.inference.engine import Heard, Options, Reply

CASES = Path(__file__).parents[1] / "fixtures" / "audio_cases"
NAMES = ("vorbis.ogg", "wav_truncated.wav", "zeros.wav")


@dataclass
class Fake:
    """Decodes as the engine does, and answers with the file's name."""

    asked: list[str] = field(default_factory=list)

    def reply(self, samples: Any, options: Any, errors: str) -> list[Any]:
        assert errors == "return"
        return [self._one(sample.audios[0]) for sample in samples]

    def _one(self, part: Any) -> Any:
        self.asked.append(Path(part["audio"]).name)
        try:
            recording = read_recording(part["audio"], lenient=part.get("lenient", False))
        except AudioError as error:
            return error
        heard = Heard(recording.account.name, 1.0, 1.0, recording.account)
        return Reply(recording.account.name, (heard,), 0.0, 0.0, 0.0, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name in NAMES:
        (tmp_path / "in" / name).write_bytes((CASES / name).read_bytes())
    return tmp_path / "in"


def read(out: Path) -> dict[str, dict[str, Any]]:
    with out.open(newline="") as file:
        rows = csv.DictReader(file) if out.suffix == ".csv" else map(json.loads, file)
        return {Path(row["audio"]).name: row for row in rows}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_row_for_each_file_and_only_errors_again(kind: str, folder: Path, tmp_path: Path) -> None:
    out, engine = tmp_path / f"out.{kind}", Fake()
    files = parts_of([str(folder)])
    assert ask_many(engine, files, "What?", Options(), out, {}) == 2  # type: ignore[arg-type]
    rows = read(out)
    assert rows["vorbis.ogg"]["answer"] == "vorbis.ogg" and float(rows["vorbis.ogg"]["decoded_s"]) == 1
    assert "truncated" in rows["wav_truncated.wav"]["error"]
    assert "is not audio" in rows["zeros.wav"]["error"]
    engine.asked.clear()
    assert ask_many(engine, files, "What?", Options(), out, {"lenient": True}) == 1  # type: ignore[arg-type]
    assert engine.asked == ["wav_truncated.wav", "zeros.wav"]
    assert read(out)["wav_truncated.wav"]["answer"] and "the end is missing" in str(read(out))


def test_what_cannot_be_meant_is_refused(folder: Path, tmp_path: Path) -> None:
    assert recordings([str(folder / "*.wav")]) == [str(folder / n) for n in NAMES[1:]]
    with pytest.raises(ValueError, match="no file fits"):
        recordings([str(folder / "*.xyz")])
    with pytest.raises(ValueError, match="holds no recordings"):
        recordings([str(tmp_path.joinpath("empty").mkdir() or tmp_path / "empty")])
    with pytest.raises(ValueError, match=r"writes .csv or .jsonl"):
        check_out(tmp_path / "out.txt")
