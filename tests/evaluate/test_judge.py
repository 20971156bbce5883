"""Judges: what they are asked, how replies are read, the cache that replays them, and their agreement."""

import json
import sqlite3

import numpy as np
import pytest

from lalm.cli.app import run
from lalm.data.sample import Sample, ask
from lalm.evaluate.agreement import agreement, kappa, read_judgments, spearman
from lalm.evaluate.judge import (
    Judge,
    JudgeError,
    read_pair,
    read_points,
    read_rating,
    read_verdict,
    read_yes_no,
)
from lalm.evaluate.metrics import Answer, Resources
from lalm.evaluate.metrics.intervals import interval
from lalm.evaluate.scores import numbers, score
from lalm.evaluate.task import Task, known_tasks
from lalm.synthesis.completions import Completion


class Replies:
    """A judge's model with a list of replies; notes the prompts."""

    name, template = "replies", "none"

    def __init__(self, *replies: str) -> None:
        self.left, self.prompts = list(replies), []

    def complete(self, chats, seeds, sampling):
        assert sampling.temperature == 0
        self.prompts += [chat[-1]["content"] for chat in chats]
        return [Completion(self.left.pop(0), truncated=False) for _ in chats]


def answers(*texts: str) -> list[Answer]:
    asked = ask([], "What is it?").messages
    return [
        Answer(Sample(asked, id=str(i), references=("a dog",), origin={"caption": "a dog barks"}), text, text)
        for i, text in enumerate(texts)
    ]


def task(judge: str) -> Task:
    return Task(name="t", about="x", metrics=("judge",), judge=judge)


@pytest.mark.parametrize(
    ("reply", "points"),
    [
        *[("Points: 4", 0.8), ("**Points:** 5", 1.0), ("3", 0.6), ("Points: 0\nIt is wrong.", 0.0)],
        *[("Points: 7", None), ("Points: 4.5", None), ("good", None), ("", None)],
    ],
)
def test_points_are_read_or_not(reply, points):
    assert read_points(reply) == points


@pytest.mark.parametrize(
    ("reply", "rating"),
    [  # the shapes of replies in AudioBench's published logs of Llama-3-70B as judge
        ("Explanation: The reference is longer. I think it fits.\n\nRating: 3", 0.6),
        ("Explanation: 5 of 7 points are there.\nRating: 2", 0.4),
        ("Explanation: As it should be.\n\nRating: 3\n\nThe answer lacks detail in 2 aspects.", 0.6),
        *[("**Rating:** 5", 1.0), ("Explanation: Right.\nRating: 4/5", 0.8), ("It is wrong: 0", 0.0)],
        *[("Explanation: it goes on and on", None), ("Rating: 7", None), ("Rating: 10", None), ("", None)],
    ],
)
def test_ratings_after_an_explanation_are_read_or_not(reply, rating):
    assert read_rating(reply) == rating


def test_the_explained_form_asks_for_an_explanation_and_has_room_for_it(tmp_path):
    model = Replies("Explanation: It is another animal.\nRating: 1")
    asked: list[int] = []
    complete = model.complete
    model.complete = lambda chats, seeds, sampling: (
        asked.append(sampling.max_new_tokens),
        complete(chats, seeds, sampling),
    )[1]
    judge = Judge("m", lambda: model, tmp_path / "j.sqlite")
    (judged,) = judge.judged(task("quality_explained"), answers("a cat"))
    assert judged.judged == 0.2 and asked == [512]
    assert "Reference: a dog\nAnswer: a cat\nQuestion: What is it?" in model.prompts[0]
    assert "Explanation: ..." in model.prompts[0] and "5: says what the reference says" in model.prompts[0]


def test_pairs_and_verdicts_are_read_or_not():
    assert read_pair("First: 7, Second: 10") == (0.7, 1.0) and read_pair("8 3") == (0.8, 0.3)
    assert read_pair("First: 7") is None and read_pair("0 5") is None and read_pair("1 2 3") is None
    assert read_verdict("**Same.**") == 1 and read_verdict(" different") == 0 and read_verdict("Yes") is None


def test_both_orders_are_asked_and_the_answers_own_grade_counts(tmp_path):
    model = Replies("First: 10, Second: 4", "First: 6, Second: 9")
    (judged,) = Judge("m", lambda: model, tmp_path / "j.sqlite").judged(task("chat"), answers("a cat"))
    assert judged.judged == pytest.approx((0.4 + 0.6) / 2)
    assert "First answer: a dog\nSecond answer: a cat" in model.prompts[0]
    assert "First answer: a cat\nSecond answer: a dog" in model.prompts[1]
    assert all("a dog barks" in prompt for prompt in model.prompts)


def test_judgments_replay_without_the_judge_and_unreadable_ones_are_counted(tmp_path):
    said = answers("a dog", "a cat", "", "a dog")
    first = Judge("m", lambda: Replies("Points: 5", "Points: 0", "hm"), tmp_path / "j.sqlite")
    judged = first.judged(task("quality"), said)
    assert [a.judged for a in judged] == [1.0, 0.0, None, 1.0]  # the last is the first one's judgment
    assert (
        "(nothing)"
        in sqlite3.connect(tmp_path / "j.sqlite")
        .execute("SELECT prompt FROM judgments WHERE reply = 'hm'")
        .fetchone()[0]
    )

    def nobody():
        raise AssertionError("the judge was asked again")

    assert Judge("m", nobody, tmp_path / "j.sqlite").judged(task("quality"), said) == judged
    found = numbers(score(task("quality"), judged, Resources(), judged=True))
    assert found["metrics"]["judge"]["mean"] == pytest.approx(0.5)
    without = score(task("quality"), said, Resources(), judged=False)
    assert not without.measured and without.skipped == {"judge": "no judge was given (--judge)"}
    (tmp_path / "odd").write_text("this is no database at all, only text")
    with pytest.raises(JudgeError, match="cannot hold judgments"):
        Judge("m", nobody, tmp_path / "odd")


def test_the_judges_weights_are_known_again_from_the_cache(tmp_path):
    said, place = answers("a dog"), tmp_path / "j.sqlite"
    first = Judge("m", lambda: Replies("Points: 5"), place, weights="abc")
    assert "weights abc" in first.name and first.judged(task("quality"), said)[0].judged == 1.0
    again = Judge("m", lambda: Replies(), place)
    assert again.name == first.name and again.judged(task("quality"), said)[0].judged == 1.0
    other = Judge("m", lambda: Replies("Points: 0"), place, weights="xyz")
    assert other.judged(task("quality"), said)[0].judged == 0.0  # other weights, another judgment
    assert "weights unknown" in Judge("n", lambda: Replies(), place).name


def test_kappa_by_hand_and_spearman_as_scipy_has_it():
    a, b = np.array([0, 0, 1, 1, 1.0]), np.array([0, 1, 1, 1, 0.0])
    assert kappa(a, b).value == pytest.approx((3 / 5 - 13 / 25) / (1 - 13 / 25))
    three = np.array([0, 0.5, 1.0, 1.0])
    assert kappa(three, three[::-1], weighted=True).value < 0 < kappa(three, three).value
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 30) / 5, rng.integers(0, 5, 30) / 5
    from scipy.stats import spearmanr

    assert spearman(x, y).value == pytest.approx(spearmanr(x, y).statistic)
    found = interval(spearman(x, x), [str(i) for i in range(30)])
    assert found.mean == pytest.approx(1)


def test_agreement_with_people(tmp_path):
    run, people = tmp_path / "run.jsonl", tmp_path / "people.jsonl"
    run.write_text("".join(f'{{"task": "t", "id": "{i}", "judged": {i % 2}}}\n' for i in range(6)))
    people.write_text("".join(f'{{"id": "{i}", "judged": {i % 2}}}\n' for i in range(1, 8)))
    found = agreement(read_judgments(run), read_judgments(people))
    assert found.kappa.mean == 1 and found.spearman.mean == pytest.approx(1) and found.only_one == 3
    people.write_text('{"id": "1", "judged": 5}\n')
    with pytest.raises(ValueError, match=r"people\.jsonl:1: 'judged' must be a number from 0 to 1, not 5"):
        read_judgments(people)
    people.write_text('{"id": "1"}\n')
    with pytest.raises(ValueError, match="holds no judgments"):
        read_judgments(people)


def spoken(text: str, *references: str, **origin: str) -> Answer:
    asked = ask([], "Answer the speaker.").messages
    return Answer(Sample(asked, id="s", task="sac", references=references, origin=origin), text, text)


def test_yes_and_no_are_read_also_from_the_papers_dictionary():
    assert read_yes_no("Yes.") == 1 and read_yes_no('{"Response": "No", "Reason": "x"}') == 0
    assert read_yes_no("{'Correct': True}") == 1 and read_yes_no("Maybe yes") is None


def test_a_spoken_question_is_judged_with_what_was_asked(tmp_path):
    model = Replies("Yes")
    item = spoken("In 1953.", "1953", transcript="when was it founded")
    (judged,) = Judge("m", lambda: model, tmp_path / "j.sqlite").judged(task("spoken_question"), [item])
    assert judged.judged == 1.0 and judged.tried is None
    assert "Question: when was it founded\nReference answer: 1953\nAnswer: In 1953." in model.prompts[0]


def test_co_reasoning_has_two_verdicts_and_needs_no_reference(tmp_path):
    """SALMONN's appendix E: a caption in place of an answer does not follow, whatever its word errors are."""
    asked = {"transcript": "what should I bring outside", "caption": "rain and thunder"}
    items = [spoken("Take an umbrella.", **asked), spoken("Rain falls and thunder rolls.", **asked)]
    model = Replies("Yes", "Yes", "No", "No")
    judged = Judge("m", lambda: model, tmp_path / "j.sqlite").judged(task("co_reasoning"), items)
    assert [(a.tried, a.judged) for a in judged] == [(1.0, 1.0), (0.0, 0.0)]
    for prompt in model.prompts:
        assert "Question: what should I bring outside\nBackground sounds: rain and thunder" in prompt
        assert "Reference" not in prompt
    own = known_tasks()["sac"]
    found = numbers(score(own, judged, Resources(), judged=True))
    assert {name: metric["mean"] for name, metric in found["metrics"].items()} == {
        "judge": pytest.approx(0.5),
        "judge_following": pytest.approx(0.5),
    }
    assert not score(own, judged, Resources(), judged=False).measured


def test_what_is_not_known_is_unknown_and_never_right(tmp_path):
    unheard = spoken("Take an umbrella.", transcript="what should I bring")
    judge = Judge("m", lambda: Replies(), tmp_path / "j.sqlite")
    (judged,) = judge.judged(task("co_reasoning"), [unheard])
    assert judged.judged is None and judged.tried is None
    scored = score(known_tasks()["sqqa"], [spoken("In 1953.", "1953")], Resources(), judged=False)
    wanted = "following needs the words that are spoken, and 's' has no origin.transcript"
    assert scored.skipped["following"] == wanted


def test_the_agreement_of_judges_that_never_vary_is_undefined(tmp_path, capsys):
    for name, scores in (("a", [1, 1, 1]), ("b", [1, 1, 1]), ("c", [1, 0, 1])):
        rows = [json.dumps({"id": str(i), "judged": score}) for i, score in enumerate(scores)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    assert run(["agree", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]) == 0
    assert capsys.readouterr().out.count("undefined: a judge gives all answers the same score") == 3
    assert run(["agree", str(tmp_path / "a.jsonl"), str(tmp_path / "c.jsonl"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["spearman"] is None and found["kappa"]["mean"] == 0
