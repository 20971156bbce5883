"""Benchmarks' own layouts that no table with named columns has: nested JSON, calls in chunks."""

import json

import numpy as np
import pytest
import soundfile

from lalm.cli.app import run as cli
from lalm.evaluate.items import open_task, put, question_of
from lalm.evaluate.metrics import METRICS, Answer, Resources
from lalm.evaluate.scores import score
from lalm.evaluate.summary import parts
from lalm.evaluate.task import TaskError
from lalm.tasks.sources import SourceError


def noise(path, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, int(16_000 * seconds)), 16_000)


OPTIONS = ["doctor", "nurse", "unclear"]


def parade(folder):
    """Two voices, two subsets, as HELM's scenario reads them."""
    rows = {}
    for voice in ("onyx", "nova"):
        rows[voice] = {}
        for subset in ("occupation", "status"):
            path = f"{voice}/{subset}_1.mp3"
            noise((folder / "audio_files" / path).with_suffix(".wav"), 0.3)
            row = {"path": path, "question": "Who speaks?", "options": OPTIONS, "label": "unclear"}
            rows[voice][subset] = {"pair 1": {"0": row, "1": {**row, "label": "nurse"}}}
    (folder / "audio_result_path_mapping_v2.json").write_text(json.dumps(rows))


def test_parade_is_read_below_its_names(tmp_path):
    parade(tmp_path / "PARADE_audio")
    [opened] = open_task("ahelm_parade", tmp_path)
    assert [s.id for s in opened.samples][:2] == ["onyx/occupation/pair 1/0", "onyx/occupation/pair 1/1"]
    assert len(opened.samples) == 8 and opened.samples[1].references == ("nurse",)
    assert "A. doctor\nB. nurse\nC. unclear\nAnswer:" in question_of(put(opened.task, opened.samples[0]))
    said = [" C\n", "nurse", "C", "(C)", "C", "b", "C", "B"]
    answers = [Answer(s, text, None) for s, text in zip(opened.samples, said, strict=True)]
    scored = score(opened.task, answers, Resources(), judged=False)
    assert scored.measured["helm_letter"].value == 5 / 8  # the bare letter of the right option, nothing else
    entry = parts(scored)
    assert set(entry["category"]) == {"occupation", "status"} and set(entry["group"]) == {"onyx", "nova"}


def test_json_that_is_not_nested_so_deep_is_named(tmp_path, capsys):
    folder = tmp_path / "PARADE_audio"
    folder.mkdir()
    (folder / "audio_result_path_mapping_v2.json").write_text('{"onyx": {"occupation": ["a"]}}')
    assert cli(["eval", "--task", "ahelm_parade", "--data", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert "mapping_v2.json: onyx: occupation: not an object" in capsys.readouterr().err


def chunked(folder, chunks=((0, "a"), (1, "b"))):
    """A call in chunks, and its parent set."""
    rows = []
    for at, name in chunks:
        noise(folder / "Earnings22-Cleaned-AA-chunked" / "audio" / f"{name}.wav", 0.3)
        rows.append({"file_name": f"{name}.wav", "parent_id": "4469669", "chunk_index": at})
    text = "\n".join(json.dumps(row) for row in reversed(rows))
    (folder / "Earnings22-Cleaned-AA-chunked" / "metadata.jsonl").write_text(text)
    parent = folder / "Earnings22-Cleaned-AA"
    parent.mkdir()
    call = {"id": "4469669", "text": "good morning and welcome to the call"}
    (parent / "metadata.jsonl").write_text(json.dumps(call))


def test_a_call_in_chunks_is_scored_as_a_whole(tmp_path):
    chunked(tmp_path)
    [opened] = open_task("open_asr_earnings22_chunked", tmp_path)
    assert [s.id for s in opened.samples] == ["4469669-0", "4469669-1"]
    said = ["Good morning, and", "welcome to a call."]
    answers = [Answer(s, text, text) for s, text in zip(opened.samples, said, strict=True)]
    for order in (answers, answers[::-1]):
        measured = METRICS["wer"].measure(order, Resources())
        assert measured.value == pytest.approx(1 / 7) and measured.num_items == 2
    alone = METRICS["wer"].measure(answers[:1], Resources())
    assert alone.value == pytest.approx(4 / 7)  # a chunk that is not there is missing from its call


def test_a_call_without_its_transcript_is_named(tmp_path):
    chunked(tmp_path)
    parent = tmp_path / "Earnings22-Cleaned-AA"
    (parent / "metadata.jsonl").write_text(json.dumps({"id": "other", "text": "x"}))
    with pytest.raises(SourceError, match=r"the call '4469669' .* has no transcript"):
        open_task("open_asr_earnings22_chunked", tmp_path)
    (parent / "metadata.jsonl").unlink()
    with pytest.raises(SourceError, match="has no table with the columns id"):
        open_task("open_asr_earnings22_chunked", tmp_path)
    parent.rmdir()
    with pytest.raises(SourceError, match="needs the transcripts of its calls"):
        open_task("open_asr_earnings22_chunked", tmp_path)
    with pytest.raises(TaskError, match="there is no"):
        open_task("open_asr_earnings22_chunked", parent)
