"""What an LLM reads where rules read nothing; judges of VoiceBench's, AudioBench's and MMAR's kinds."""

import json
from pathlib import Path

import pytest

from lalm.data.sample import Sample, ask, write_manifest
from lalm.evaluate.extraction import Extracted, extracted
from lalm.evaluate.items import open_task
from lalm.evaluate.judge import Judge, read_rubric
from lalm.evaluate.metrics import Answer
from lalm.evaluate.run import Job, run
from lalm.evaluate.said import Said
from lalm.evaluate.task import Task
from lalm.synthesis.completions import Completion

BELL = str(Path(__file__).parents[2] / "samples" / "bell.flac")


class Replies:
    """An LLM with a list of replies; notes what it was asked."""

    name, template = "replies", "none"

    def __init__(self, *replies: str) -> None:
        self.left, self.prompts = list(replies), []

    def complete(self, chats, seeds, sampling):
        self.prompts += [chat[-1]["content"] for chat in chats]
        return [Completion(self.left.pop(0), truncated=False) for _ in chats]


def judge(folder: Path, *replies: str) -> tuple[Judge, Replies]:
    llm = Replies(*replies)
    return Judge("llm", lambda: llm, folder / "j.sqlite"), llm


def sample(name: str = "1", **more) -> Sample:
    fields = {"references": ("a dog",), "choices": ("a cat", "a dog"), **more}
    return Sample(ask([BELL], "What barks?").messages, id=name, **fields)


def test_only_what_rules_cannot_read_is_read_by_the_llm(tmp_path):
    task = Task(name="t", about="x", parser="choice", metrics=("accuracy",))
    texts = ("a dog", "the one with the wet nose", "no idea", "")
    answers = [Answer(sample(str(i)), t, "a dog" if not i else None) for i, t in enumerate(texts)]
    llm, asked = judge(tmp_path, "B", "None of them.")
    found, count = extracted(task, answers, llm)
    assert [answer.read for answer in found] == ["a dog", "a dog", None, None]
    assert count == Extracted(unread=3, read=1) and len(asked.prompts) == 2
    assert "A. a cat\nB. a dog" in asked.prompts[0] and "wet nose" in asked.prompts[0]
    open_ended = Task(name="t", about="x", metrics=("names",))
    assert extracted(open_ended, answers, judge(tmp_path / "o")[0])[1] == Extracted(3, 0)


def test_a_run_shows_how_much_it_owes_to_the_llm(tmp_path):
    (tmp_path / "t.yaml").write_text("t: {about: x, parser: yes_no, metrics: [accuracy]}")
    rows = [sample(str(i), references=("yes",), choices=()) for i in range(3)]
    write_manifest(tmp_path / "rows.jsonl", rows)

    class Vague:
        name = "vague"

        def answer(self, keys, samples, decoding):
            return [Said("Yes." if key.id == "0" else "As one would expect of a dog.") for key in keys]

    opened = open_task(f"{tmp_path / 't.yaml'}={tmp_path / 'rows.jsonl'}", tmp_path)
    plain = run(Job(opened, tmp_path / "plain"), Vague()).card["tasks"]["t"]
    assert plain["metrics"]["accuracy"]["mean"] == pytest.approx(1 / 3) and "extracted" not in plain
    llm, _ = judge(tmp_path, "A")  # both prompts are alike, so it is asked once
    entry = run(Job(opened, tmp_path / "read", extract=True), Vague(), judge=llm).card["tasks"]["t"]
    assert entry["metrics"]["accuracy"]["mean"] == 1.0 and entry["unreadable"]["mean"] == 0.0
    assert (entry["extracted"]["unread"], entry["extracted"]["read"]) == (2, 2)
    assert "2 of 2 answers that rules could not read" in (tmp_path / "read" / "report.html").read_text()


RUBRIC = [{"name": n, "scoring_point": f"names the {n}", "choices": [0, 1]} for n in ("bark", "growl")]


def test_a_rubric_is_judged_five_times_and_the_middle_three_count(tmp_path):
    task = Task(name="t", about="x", parser="choice", metrics=("judge",), judge="rubrics")
    item = sample(origin={"rubric": json.dumps(RUBRIC), "thinking": "It barks."})
    right = Answer(item, "a dog", "a dog", raw="<think>I hear a bark.</think>a dog")
    wrong = Answer(item, "a cat", "a cat")
    points = ("Points: 1 1", "Points: 0 0", "Points: 1 0", "Points: 1 0", "Points: 1 1")
    llm, asked = judge(tmp_path, *points)
    first, second = llm.judged(task, [right, wrong])
    assert first.judged == pytest.approx((0.5 + 0.5 + 1) / 3) and second.judged == 0.0
    assert len(asked.prompts) == 5 and "I hear a bark." in asked.prompts[0] and "2. growl" in asked.prompts[0]
    assert read_rubric("Points: 1 0", [1, 1]) == 0.5
    assert (
        read_rubric("Points: 1", [1, 1]) is read_rubric("Points: 2 0", [1, 1]) is read_rubric("", [1]) is None
    )


def test_right_or_wrong_and_one_to_five(tmp_path):
    binary = Task(name="t", about="x", metrics=("judge",), judge="binary")
    llm, _ = judge(tmp_path, "Yes")
    assert llm.judged(binary, [Answer(sample(), "a dog", None)])[0].judged == 1.0
    helpful = Task(name="t", about="x", metrics=("judge",), judge="helpful")
    spoken = Sample((), "1", origin={"transcript": "How do I boil an egg?"})
    llm, asked = judge(tmp_path, "Points: 4", "Points: 0")
    found = llm.judged(helpful, [Answer(spoken, "Eight minutes.", None), Answer(spoken, "Egg.", None)])
    assert [answer.judged for answer in found] == [0.8, None]
    assert "How do I boil an egg?" in asked.prompts[0]
