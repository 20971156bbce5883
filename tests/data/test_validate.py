"""lalm data and lalm cache, as a newcomer runs them: bad lines, bad files, bad options."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny_parts import noise, whisper_folder

from lalm.cli.app import run
from lalm.data import frame_cache
from lalm.data.frame_cache import FrameCache
from lalm.data.validate import histogram, validate_manifest
from lalm.encoders import load_encoder


def row(audio: str, answer: str = "A hum.", **part: Any) -> dict[str, Any]:
    heard = {"type": "audio", "audio": audio, **part}
    turns = [{"role": "user", "content": [heard]}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "task": "caption", "origin": {"language": "en"}}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Forty good lines, and one of each kind of bad one."""
    noise(tmp_path / "a.wav", 2.0)
    (tmp_path / "broken.flac").write_bytes(b"fLaC" + bytes(50))
    soundfile.write(tmp_path / "blink.wav", np.ones(100), 16_000)
    bad = [
        row("none.wav"),
        row("broken.flac"),
        row("blink.wav"),
        row("a.wav", offset_s=1.5, duration_s=3.0),
        row("a.wav", "  "),
        {"messages": [{"role": "user", "content": "hi"}]},
    ]
    lines = [json.dumps(r) for r in [*[row("a.wav", duration_s=1.0)] * 40, *bad]]
    (tmp_path / "m.jsonl").write_text("\n".join([*lines, "{not json"]) + "\n")
    return tmp_path / "m.jsonl"


@pytest.mark.parametrize("workers", [1, 2])
def test_every_bad_line_is_named_in_order(manifest: Path, workers: int) -> None:
    seen = []
    found = validate_manifest(
        manifest, decode=True, workers=workers, progress=lambda *counts: seen.append(counts)
    )
    assert found.good == list(range(40)) and found.seconds == [1.0] * 40
    places = [fault.split(" ")[0] for fault in found.faults]
    assert places == [f"m.jsonl:{n}:" for n in range(41, 48)]
    expected = [
        "no file",
        "broken",
        "too short",
        "3 s asked for, but only 0.50 s",
        "answer is empty",
        "no answer",
    ]
    assert all(word in fault for word, fault in zip(expected, found.faults, strict=False))
    assert "not JSON" in found.faults[-1]
    assert seen[-1] == (47, 47)
    assert len(validate_manifest(manifest, decode=False, workers=1).faults) == 3  # what needs no decoding


def test_validate_writes_the_good_lines(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = manifest.parent / "below" / "good.jsonl"
    assert run(["data", "validate", str(manifest), "--out", str(out), "--workers", "1"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("m.jsonl:41: ") and re.search(r"40 good lines, \d+ s, 7 bad", said[-1])
    assert run(["data", "validate", str(out), "--workers", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.pop("audio") == {"recordings": 40, "seconds": 40.0, "noted": 0, "damaged": 0, "silent": 0}
    assert told == {"good": 40, "bad": [], "hours": 0.0111, "remarks": []}
    assert run(["data", "validate", str(manifest), "--out", str(manifest)]) == 2
    assert "is the manifest itself" in capsys.readouterr().err


def test_odd_recordings_are_told_and_their_accounts_written(tmp_path: Path, capsys) -> None:
    soundfile.write(tmp_path / "still.wav", np.zeros(16_000), 16_000)
    whole = noise(tmp_path / "whole.wav", 1.0).read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    lines = [row("whole.wav"), row("still.wav"), row("cut.wav", lenient=True), row("cut.wav")]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    accounts = tmp_path / "accounts.jsonl"
    given = ["data", "validate", str(tmp_path / "m.jsonl"), "--accounts", str(accounts), "--workers", "1"]
    assert run(given) == 1
    err = capsys.readouterr().err
    assert "m.jsonl:2: still.wav: it holds nothing but digital silence" in err
    assert "m.jsonl:3: cut.wav: the end is missing" in err and "whole.wav" not in err
    written = [json.loads(line) for line in accounts.read_text().splitlines()]
    assert [one["place"] for one in written] == [f"m.jsonl:{n}" for n in (1, 2, 3, 4)]
    assert written[1]["silent_fraction"] == 1 and written[2]["holes"][0]["what"] == "the end is missing"
    assert "is truncated" in written[3]["error"]
    assert run([*given, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["audio"] == {"recordings": 3, "seconds": 2.5, "noted": 2, "damaged": 1, "silent": 1}
    assert len(told["remarks"]) == 2


def test_stats_and_their_picture(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    svg = manifest.parent / "d.svg"
    assert run(["data", "stats", str(manifest), "--picture", str(svg), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "44 samples" in said and "3 bad lines" in said
    assert "task: caption 44" in said and "language: en 44" in said
    assert svg.read_text().count("<rect") == 21
    assert run(["data", "stats", str(manifest), "--workers", "1", "--json"]) == 0
    assert sum(json.loads(capsys.readouterr().out)["histogram"]["counts"]) == 44
    assert run(["data", "stats", str(manifest), "--picture", "x.png"]) == 2
    assert run(["data", "stats", str(manifest.parent / "none.jsonl")]) == 2
    assert "there is no manifest" in capsys.readouterr().err.splitlines()[-1]


def test_the_histogram_counts_everything() -> None:
    counts, edges = histogram([0.5, 1.0, 29.9, 500.0])
    assert counts.sum() == 4 and len(edges) == 21 and edges[-1] >= 29.9
    assert histogram([])[0].sum() == 1


@pytest.mark.real
def test_preview_marks_the_loss(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "preview", str(manifest), "--rows", "2"]) == 0
    said = capsys.readouterr().out
    assert said.count("[[A hum.<|im_end|>]]") == 2 and "m.jsonl:2 " in said and "<audio x" in said
    assert run(["data", "preview", str(manifest), "--model", "nowhere"]) == 2


def test_the_frame_cache_is_shown_and_pruned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = load_encoder(whisper_folder(tmp_path / "encoder"))
    folder = tmp_path / "frames"
    parts: list[Any] = [
        {"type": "audio", "audio": str(noise(tmp_path / f"{i}.wav", 0.5, seed=i))} for i in range(3)
    ]
    frames = FrameCache(folder, encoder)
    assert frames.fill(parts) == 3
    assert run(["cache", "info", str(folder), "--json"]) == 0
    (shelf,) = json.loads(capsys.readouterr().out)
    assert shelf["clips"] == 3 and shelf["bytes"] > 0 and shelf["identity"] == frames.folder.name
    assert run(["cache", "prune", str(folder), "--keep", "1GB"]) == 0
    assert len(FrameCache(folder, encoder)) == 3
    assert run(["cache", "prune", str(folder), "--keep", "0"]) == 0
    assert "1 shards deleted" in capsys.readouterr().out
    assert len(FrameCache(folder, encoder)) == 0
    for words, said in (
        (["prune", str(folder), "--keep", "much"], "is a size such as 20GB"),
        (["info", str(tmp_path)], "is not a frame cache"),
        (["info", str(tmp_path / "none")], "there is no cache folder"),
    ):
        assert run(["cache", *words]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("often", [0.0, 1e9])
def test_frames_stay_where_encoding_is_stopped(
    often: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every batch by itself, and all of them as it stops."""
    monkeypatch.setattr(frame_cache, "SHARD_S", often)
    encoder = load_encoder(whisper_folder(tmp_path / "encoder"))
    parts: list[Any] = [
        {"type": "audio", "audio": str(noise(tmp_path / f"{i}.wav", 0.5, seed=i))} for i in range(3)
    ]
    frames = FrameCache(tmp_path / "frames", encoder)

    def stop(done: int, seen: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        frames.fill(parts, batch_s=0.5, progress=stop)
    assert len(FrameCache(tmp_path / "frames", encoder)) == 2
    assert len(list(frames.folder.glob("*.safetensors"))) == (2 if often == 0 else 1)
    assert frames.fill(parts) == 1
