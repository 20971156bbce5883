"""Tables of evaluation: a benchmark's own, those of the terminal; and what is said of missing recordings."""

import json

import pytest
from tiny_parts import noise

from lalm.cli.app import run as cli
from lalm.cli.tables import grouped
from lalm.data.sample import Sample, ask
from lalm.evaluate.items import open_task
from lalm.evaluate.metrics import Answer, Resources
from lalm.evaluate.page import table_rows
from lalm.evaluate.scores import paper_table, plain, score
from lalm.evaluate.task import TaskError, known_tasks


def asked(name, category):
    return Sample(ask([], "?").messages, id=name, references=("x",), origin={"category": category})


def test_airbenchs_chat_is_reported_as_the_paper_does():
    """Speech, sound, music; mixed as the mean of its two parts whatever their sizes; and the average."""
    points = {
        "speech_QA": [0.8, 0.6],
        "speech_dialogue_QA": [0.1],
        "sound_QA": [0.5],
        "sound_generation_QA": [0.7],
        "music_QA": [0.9, 0.7],
        "music_generation_analysis_QA": [0.2],
        "speech_and_sound_QA": [0.4, 0.4, 0.4],
        "speech_and_music_QA": [0.8],
    }
    rows = [(name, i, own) for name, scores in points.items() for i, own in enumerate(scores)]
    answers = [Answer(asked(f"{name}{i}", name), "y", "y", own) for name, i, own in rows]
    chat = known_tasks()["airbench_chat"]
    table = paper_table(score(chat, answers, Resources(), judged=True))
    means = {name: limits.mean for name, limits in table}
    assert means == pytest.approx({"speech": 0.5, "sound": 0.6, "music": 0.6, "mixed": 0.6, "average": 0.575})
    assert all(limits.low <= limits.mean <= limits.high for _, limits in table)
    entry = {"table": {"metric": "judge", "times": 10, "found": {n: plain(i) for n, i in table}}}
    first, *_ = table_rows(entry)
    assert (first["metric"], first["value"]) == ("judge, speech", "5.00")
    assert not paper_table(
        score(chat, answers[:-1], Resources(), judged=True)
    )  # without a part it is no such table
    assert not paper_table(score(known_tasks()["mmau"], answers, Resources(), judged=True))


def test_a_video_that_is_missing_is_named(tmp_path):
    rows = [
        {"id": 1, "video_name": "v_30", "question_text": "What?", "multi_choice": ["a", "b"], "answer": 0}
    ]
    (tmp_path / "val_qa.json").write_text(json.dumps(rows))
    noise(tmp_path / "v_30.wav", 0.5)
    with pytest.raises(TaskError, match=r"whose recordings are there: the video '.*v_30\.mp4' is missing"):
        open_task(f"avqa_video={tmp_path / 'val_qa.json'}", tmp_path)


def test_tables_fit_eighty_columns_with_every_name_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert set(known_tasks()) <= {line.split()[0] for line in lines if line.strip()}
    assert cli(["tasks", "acdc_aqa"]) == 0
    told = capsys.readouterr().out
    assert "AudioBench/clotho_aqa_test, layout columns" in told and ". Question: {question}," in told
    assert cli(["tasks", "acdc_aqq"]) == 2
    name, metric = "qwen2_audio_librispeech_test_clean", "wer_qwen2_audio"
    row = [metric, "100.0", "100.0", "-100.0", "-100.0 to -100.0", "0.001"]
    table = grouped(
        ["task, metric", "A", "B", "A minus B", "95 % interval", "p"], {name: [row], "mmau": [row]}
    )
    assert max(map(len, table.splitlines())) <= 80 and name in table.splitlines()
    assert len({line.index("100.0") for line in table.splitlines() if metric in line}) == 1
