"""Audio reliance: what answers owe to the recording, to the text, and to where an option stands."""

import json
from pathlib import Path

import numpy as np
import pytest

from lalm.data.sample import Sample, ask, write_manifest
from lalm.evaluate.controls import CONTROLS, RELIANCE, Impossible, asked, expanded
from lalm.evaluate.items import Asked, open_task
from lalm.evaluate.page import shown_number
from lalm.evaluate.reliance import label_of, lines, sentences, shown_p
from lalm.evaluate.run import Job, read_card, run
from lalm.evaluate.said import Said
from lalm.evaluate.task import read_tasks

SAMPLES = Path(__file__).parents[2] / "samples"
NAMES = ("applause", "bird", "chainsaw", "horse", "train", "water", "bird", "horse")


def opened(folder: Path, *, choices=("a bird", "a horse", "a train"), count=8) -> list[Asked]:
    """Which sound of three? Every item's right option is its first."""
    (folder / "which.yaml").write_text(
        'which: {about: x, prompts: ["{question}\\n{options}"], parser: choice, metrics: [accuracy]}'
    )
    rows = [
        Sample(
            ask([str(SAMPLES / f"{NAMES[n % 8]}.ogg")], "Which?").messages,
            id=str(n),
            references=(choices[0],),
            choices=choices,
            origin={"recording": f"r{n}", "caption": f"item {n}"},
        )
        for n in range(count)
    ]
    write_manifest(folder / "rows.jsonl", rows)
    return open_task(f"{folder / 'which.yaml'}={folder / 'rows.jsonl'}", folder)


class Model:
    """Knows items 0 and 1 from the text, 2 to 4 when their recording is heard; says A of the rest."""

    name = "model"

    def answer(self, keys, samples, decoding):
        found = []
        for key, sample in zip(keys, samples, strict=True):
            heard = any(
                isinstance(part["audio"], str) and part["audio"].endswith(".ogg") for part in sample.audios
            )
            knows = int(key.id) < 2 or (int(key.id) < 5 and heard and key.control != "shuffled")
            found.append(Said("a bird" if knows else "A", (1.0,)))
        return found


def test_one_table_tells_what_is_owed_to_the_audio(tmp_path):
    result = run(Job(opened(tmp_path), tmp_path / "out", RELIANCE), Model())
    found = read_card(tmp_path / "out")["tasks"]["which"]["reliance"]
    assert found == result.card["tasks"]["which"]["reliance"]
    rows = {row["condition"]: row for row in found["rows"]}
    assert list(rows)[:5] == ["audio", "silent", "noise", "shuffled", "text_only"]
    assert {"first_half", "second_half", "cascade", "reordered", "reordered_2"} <= set(rows)
    # "A" is right as long as the right option stands first, so silence costs nothing there ...
    assert rows["audio"]["mean"] == rows["silent"]["mean"] == 1.0
    # ... and moved on, what is left is what the model knows.
    assert rows["reordered"]["mean"] == rows["reordered_2"]["mean"] == pytest.approx(5 / 8)
    assert rows["reordered"]["minus"]["mean"] == pytest.approx(3 / 8)
    assert found["positions"]["orders"] == 3 and found["positions"]["always_right"]["mean"] == pytest.approx(
        5 / 8
    )
    place = found["most_chosen_place"]
    assert place["place"] == "A" and place["answers"] == 24 and place["share"] > 0.5
    assert found["chance"] == pytest.approx(1 / 3)
    told = " ".join(sentences(found, shown_number))
    assert "place A is chosen most" in told and "guessing scores 33.3" in told
    assert lines(found, shown_number)[4][0] == "no slot at all (text only)"
    assert "Audio reliance" in (tmp_path / "out" / "report.html").read_text()


class Listener(Model):
    """The same, but what it does not know it says "I cannot tell" of."""

    def answer(self, keys, samples, decoding):
        said = super().answer(keys, samples, decoding)
        return [Said("I cannot tell") if own.text == "A" else own for own in said]


def test_items_that_need_the_audio_are_a_subset_with_intervals(tmp_path):
    entry = run(Job(opened(tmp_path), tmp_path / "out", RELIANCE), Listener()).card["tasks"]["which"]
    found = entry["reliance"]
    only, need = found["right_only_when_heard"], found["items_that_need_the_audio"]
    assert (only["mean"], only["num_items"]) == (pytest.approx(3 / 8), 8)
    assert (need["mean"], need["num_items"]) == (pytest.approx(3 / 6), 6)
    assert 0 < need["low"] < need["mean"] < need["high"] < 1
    rows = {row["condition"]: row["mean"] for row in found["rows"]}
    assert rows["text_only"] == rows["noise"] == rows["silent"] == rows["shuffled"] == pytest.approx(2 / 8)


def test_controls_may_be_asked_of_fewer_items_and_are_paired_on_those(tmp_path):
    job = Job(opened(tmp_path), tmp_path / "out", RELIANCE, control_items=4, seed=1)
    entry = run(job, Listener()).card["tasks"]["which"]
    assert entry["metrics"]["accuracy"]["num_items"] == 8
    row = next(row for row in entry["reliance"]["rows"] if row["condition"] == "silent")
    assert row["num_items"] == row["minus"]["num_items"] == 4
    assert row["minus"]["mean"] == pytest.approx(row["heard"] - row["mean"])
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert sum(row["control"] == "silent" for row in rows) == 4


class Heard:
    """Transcripts: a word, of silence none."""

    def of(self, audio):
        return "a word" if audio.any() else ""


def test_what_controls_do_to_a_recording(tmp_path, monkeypatch):
    (one,) = opened(tmp_path, count=1)
    item = one.samples[0]
    (noise,) = asked(one.task, [item], "noise")
    (halves, second) = (asked(one.task, [item], name)[0] for name in ("first_half", "second_half"))
    (silent,) = asked(one.task, [item], "silent")
    whole = silent.audios[0]["audio"]
    assert not whole.any() and len(noise.audios[0]["audio"]) == len(whole)
    assert len(halves.audios[0]["audio"]) + len(second.audios[0]["audio"]) == len(whole)
    heard = np.concatenate([halves.audios[0]["audio"], second.audios[0]["audio"]])
    levels = [float(np.sqrt(np.mean(np.square(a)))) for a in (heard, noise.audios[0]["audio"])]
    assert levels[1] == pytest.approx(levels[0], rel=0.1)
    (bare,) = asked(one.task, [item], "text_only")
    assert not bare.audios and [part["type"] for part in bare.messages[-1]["content"]] == ["text"]
    monkeypatch.setattr("lalm.evaluate.controls._transcripts", lambda: Heard())
    (text,) = asked(one.task, [item], "recognised")
    assert not text.audios and text.messages[-1]["content"][0] == {"type": "caption", "text": "a word"}
    (text,) = asked(one.task, [silent], "recognised")
    assert text.messages[-1]["content"][0]["text"] == "(nobody speaks)"
    assert label_of("recognised") == "Whisper's transcript as text"
    assert expanded(CONTROLS, one).count("reordered_2") == 1 and "reordered_3" not in expanded(CONTROLS, one)


def test_questions_that_are_only_spoken_cannot_be_asked_without_their_recording(tmp_path):
    (tmp_path / "spoken.yaml").write_text("spoken: {about: x, metrics: [names]}")
    (task,) = read_tasks(tmp_path / "spoken.yaml").values()
    with pytest.raises(Impossible, match="ask nothing in writing"):
        asked(task, [Sample(ask([str(SAMPLES / "bird.ogg")], "").messages, "1")], "text_only")


def test_a_task_whose_answers_are_judged_or_not_compared_is_not_asked_twice_unless_told(tmp_path):
    (one,) = opened(tmp_path, count=2)
    judged = Asked(one.task.model_copy(update={"metrics": ("judge",)}), one.samples, "")
    free = Asked(one.task.model_copy(update={"metrics": ("one_word",)}), one.samples, "")
    job = Job([one], tmp_path, RELIANCE, cheap=True)
    spoken = Asked(one.task.model_copy(update={"metrics": ("wer",)}), one.samples, "")
    assert job.controls_of(one) and not any(map(job.controls_of, (judged, free, spoken)))
    assert Job([one], tmp_path, RELIANCE).controls_of(judged)


def test_a_p_value_is_never_shown_as_nought():
    assert [shown_p(value) for value in (None, 1e-9, 0.00049, 0.0005, 0.0312, 1.0)] == [
        *("-", "<.001", "<.001", "0.001", "0.031", "1.000")
    ]
