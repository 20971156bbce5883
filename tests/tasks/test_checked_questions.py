"""Detailed and multiple-choice questions that an LLM writes: what is found wrong with them, what is kept."""

import json
from dataclasses import replace

import pytest

from lalm.cli.app import run
from lalm.corpus.catalogue import classes
from lalm.data.readers import read_manifest
from lalm.data.sample import ask, message_text, write_manifest
from lalm.synthesis.completions import Completion
from lalm.synthesis.resumable_rows import RowsError
from lalm.tasks.checked_questions import write_checked_questions
from lalm.tasks.question_checks import (
    Facts,
    fault_of_answer,
    fault_of_options,
    fault_of_order,
    fault_of_question,
    plain_option,
    wrong_options,
)

TEXT = "A dog barks twice, then a door closes."
EVENTS = tuple(
    {"label": label, "caption": caption, "onset_s": at, "offset_s": at + 1.0}
    for label, caption, at in [
        ("animal/dog", "a dog barks", 0.0),
        ("animal/dog", "a dog barks", 2.0),
        ("door/metal", "a door closes", 4.0),
    ]
)
CHOICE = {
    "Question": "Which animal is heard before the end?",
    "Answer": "a dog",
    "Wrong": ["a cat", "A duck.", "the horse"],
}


def sample(name="clip", text=TEXT, events=EVENTS):
    made = ask(["a.wav"], "").with_target(text)
    return replace(made, id=name, task="caption", events=events, references=(text,))


class Scripted:
    """Writes what it is told to, and answers what it wrote: rightly with the text, by ``blind`` without.

    ``wrote``: replies to requests for a question, in turn, the last for ever; ``reads``: what it answers when
    it is shown the text (None: the right option).
    """

    name, template = "scripted", "none"

    def __init__(self, *wrote, right="Dog", reads=None, blind="I cannot tell.", contradicts="No."):
        self.wrote = [text if isinstance(text, str) else json.dumps(text) for text in wrote]
        self.right, self.reads, self.blind, self.contradicts = right, reads, blind, contradicts
        self.asked: list[str] = []

    def complete(self, chats, seeds, sampling):
        return [Completion(self._reply(chat[-1]["content"]), truncated=False) for chat in chats]

    def _reply(self, content):
        self.asked.append(content)
        if "Reply with one line of JSON" in content:
            return self.wrote.pop(0) if len(self.wrote) > 1 else self.wrote[0]
        if "cannot be true" in content:
            return self.contradicts
        if "cannot hear" in content:
            return self.blind
        lines = [line for line in content.splitlines() if line[1:].startswith(f") {self.right}")]
        return self.reads or lines[0][0]


def made(tmp_path, writer, form="choice", rows=None, **options):
    write_manifest(tmp_path / "captions.jsonl", rows or [sample()])
    out = tmp_path / "out.jsonl"
    counts, faults = write_checked_questions(tmp_path / "captions.jsonl", out, writer, form, **options)
    return list(read_manifest(out)) if out.is_file() else [], counts, faults


def test_a_choice_is_asked_with_its_options_and_answered_by_letter(tmp_path):
    writer = Scripted(CHOICE)
    rows, counts, faults = made(tmp_path, writer, rows=[sample(f"clip{i}") for i in range(24)])
    assert counts.written == 24 and not faults
    for row in rows:
        right = "Dog barking" if row.origin["aspect"] in ("events", "objects") else "Dog"
        if right == "Dog":
            assert set(row.choices) == {"Dog", "Cat", "Duck", "Horse"}
        assert len(set(row.choices)) == 4 and row.references == (right,) and row.task == "audio_qa"
        assert row.target == f"{'ABCD'[row.choices.index(right)]}) {right}"
        question = message_text(row.messages[0]).splitlines()
        assert question[0] == CHOICE["Question"] and question[1:] == [
            f"{'ABCD'[i]}) {option}" for i, option in enumerate(row.choices)
        ]
        assert row.origin["form"] == "choice" and row.origin["text"] == TEXT
    places = [row.choices.index(*row.references) for row in rows]
    assert set(places) == {0, 1, 2, 3} and max(map(places.count, places)) < 14
    assert len({row.origin["aspect"] for row in rows}) == 6
    again, _, _ = made(tmp_path / "again", Scripted(CHOICE), rows=[sample(f"clip{i}") for i in range(24)])
    assert [row.choices for row in again] == [row.choices for row in rows]


def test_an_event_stands_by_its_name_among_others_of_its_group(tmp_path):
    """Two of the LLM's wrong answers are true, one is the answer again: other animals take their places."""
    short = CHOICE | {"Wrong": ["a door closing", "a barking dog", "a dog", "a cow"]}
    rows, _, _ = made(tmp_path, Scripted(short), rows=[sample(f"clip{i}") for i in range(2)])
    for row in rows:  # the aspects are events and objects
        names = {plain_option(sound.name) for sound in classes().values() if sound.group == "animal"}
        wrong = [option for option in row.choices if option != "Dog barking"]
        assert len(wrong) == 3 and len({*wrong} & names) >= 2 and {*wrong} <= {*names, "Cow"}
        assert not any("bark" in option.lower() for option in wrong)
    copied = CHOICE | {"Wrong": ["a train whistling", "a bird singing", "a phone ringing"]}  # the example's
    rows, _, _ = made(tmp_path / "copied", Scripted(copied), rows=[sample(f"clip{i}") for i in range(3)])
    assert [row.origin["aspect"] for row in rows] == ["events", "objects"]
    assert all({*row.choices} <= names | {"Dog barking"} for row in rows)
    bare = sample(events=())  # nothing is known of groups: the reply is not enough
    rows, counts, faults = made(tmp_path / "bare", Scripted(short), rows=[bare], tries=2)
    assert not rows and counts.dropped == 1 and faults == {"too few wrong options that are surely wrong": 2}


@pytest.mark.parametrize(
    ("writer", "fault"),
    [
        (Scripted("A dog."), "not the JSON asked for"),
        (Scripted({"Question": "Which animal is it?", "Answer": "a dog"}), "not the JSON asked for"),
        (Scripted(CHOICE | {"Question": "Which animal."}), "not a question of usual length"),
        (Scripted(CHOICE | {"Question": "What is heard before the laugh?"}), "it copies the example"),
        (Scripted(CHOICE | {"Question": "What does the caption say?"}), "it asks about the text"),
        (Scripted(CHOICE | {"Question": "What animal is the dog here?"}), "the question holds its answer"),
        (Scripted(CHOICE | {"Answer": "a sheep"}), "a sound that is not there"),
        (Scripted(CHOICE | {"Answer": "five of them"}), "a number that is not known"),
        (Scripted(CHOICE | {"Answer": "somebody"}), "nothing of the text is in the answer"),
        (
            Scripted(CHOICE | {"Answer": "a dog that barks first and then there is a door that closes"}),
            "the length tells the right option",
        ),
        (Scripted(CHOICE, reads="C"), "the LLM answers otherwise when it reads the text"),
        (Scripted(CHOICE, blind="Dog barking."), "the LLM finds the answer without the text"),
    ],
)
def test_what_is_wrong_is_said_asked_for_again_and_dropped(writer, fault, tmp_path):
    rows, counts, faults = made(tmp_path, writer, tries=2)
    assert not rows and (counts.dropped, counts.retried) == (1, 1) and faults == {fault: 2}
    assert (tmp_path / "out.jsonl.dropped").read_text() == "audio_qa-choice-clip\n"


def test_a_place_that_the_llm_prefers_proves_nothing(tmp_path):
    """It says A whatever is asked: once in a while that is right, in both orders it never is."""
    rows, _, faults = made(
        tmp_path, Scripted(CHOICE, reads="A", blind="A"), rows=[sample(f"{i}") for i in range(12)], tries=1
    )
    assert not rows and faults == {"the LLM answers otherwise when it reads the text": 12}
    kept, _, _ = made(
        tmp_path / "blind", Scripted(CHOICE, blind="A"), rows=[sample(f"{i}") for i in range(12)]
    )
    assert len(kept) == 12


def test_detailed_answers_are_judged_against_the_text(tmp_path):
    good = {"Question": "What happens at the end?", "Answer": "A door closes after the dog has barked twice."}
    writer = Scripted(good)
    rows, _, _ = made(tmp_path, writer, "detailed")
    assert rows[0].target == good["Answer"] and good["Question"] in message_text(rows[0].messages[0])
    assert not rows[0].choices and rows[0].id == "audio_qa-detailed-clip"
    assert any("cannot be true" in text and TEXT in text and good["Answer"] in text for text in writer.asked)
    rows, _, faults = made(tmp_path / "no", Scripted(good, contradicts="Yes."), "detailed", tries=1)
    assert not rows and faults == {"the LLM answers otherwise when it reads the text": 1}
    other = good | {"Answer": "A cow moos because the dog barks."}
    rows, _, faults = made(tmp_path / "cow", Scripted(other), "detailed", tries=1)
    assert not rows and faults == {"a sound that is not there": 1}
    denied = good | {"Answer": "A door closes; it is not a cow."}
    rows, _, _ = made(tmp_path / "denied", Scripted(denied), "detailed")
    assert len(rows) == 1


def test_without_verifying_only_what_can_be_looked_up_is_asked_about(tmp_path):
    writer = Scripted(CHOICE, reads="C", blind="The dog.")
    rows, _, _ = made(tmp_path, writer, rows=[sample(f"{i}") for i in range(6)], verify=False, each=2)
    assert len(rows) == 12 and {row.origin["aspect"] for row in rows} == {"events", "objects", "properties"}
    assert len(writer.asked) == 12 and {row.id for row in rows} >= {
        "audio_qa-choice-0-1",
        "audio_qa-choice-0-2",
    }


def test_a_killed_run_goes_on_and_other_settings_are_refused(tmp_path):
    rows = [sample(f"{i}") for i in range(4)]
    made(tmp_path, Scripted(CHOICE), rows=rows[:2])
    writer = Scripted(CHOICE)
    found, counts, _ = made(tmp_path, writer, rows=rows)
    assert (counts.written, counts.existing) == (2, 2) and len(found) == 4 and len(writer.asked) == 2 * 5
    with pytest.raises(RowsError, match="was begun with form='choice', not 'detailed'"):
        made(tmp_path, writer, "detailed", rows=rows)


def test_facts_know_counts_names_and_near_kinds():
    facts = Facts(TEXT, sample())
    assert facts.holds("a barking dog") and not facts.holds("a barking cat")
    assert facts.numbers >= {1, 2, 3}
    near = {sound.label for sound in facts.near}
    assert near and all(label.split("/")[0] in ("animal", "door") for label in near)
    assert not near & {"animal/dog", "door/metal"}
    assert fault_of_answer("How often does it bark?", "Three times.", facts, inferred=False) == ""
    assert fault_of_answer("How often does it bark?", "Four times.", facts, inferred=False)
    assert fault_of_answer("Where is this?", "In a garden.", facts, inferred=True) == ""
    assert wrong_options("Dog", ["None of the above", "Cat", "Black cat", "A dog", "Barks"], facts) == ["Cat"]
    assert fault_of_question("What is loud here?") == ""
    assert fault_of_options("Which of the loud ones is it?", "Loud dog", ["Cat", "Cow", "Hen"])


def test_events_tell_the_order():
    facts = Facts(TEXT, sample())
    fault = "the events come in another order"
    for question, answer, expected in [
        ("What is heard before the door?", "a dog", ""),
        ("What is heard after the door closes?", "a dog", fault),
        ("What is heard after the dog?", "a door", ""),
        ("In which order?", "A dog barks before a door closes.", ""),
        ("In which order?", "It is short. The door closes before the dog barks.", fault),
        ("In which order?", "The door closes after the dog barks.", ""),
        ("In which order?", "A dog barks before it barks again.", ""),
        ("Who barks before the car comes?", "a dog", ""),
    ]:
        assert fault_of_order(question, answer, facts) == expected, question


def test_the_command_tells_the_faults(tmp_path, monkeypatch, capsys):
    write_manifest(tmp_path / "captions.jsonl", [sample()])
    monkeypatch.setattr("lalm.cli.opening.open_writer", lambda llm, url: Scripted("no", CHOICE))
    out = tmp_path / "out.jsonl"
    words = ["build", "qa", str(tmp_path / "captions.jsonl"), "--out", str(out), "--form", "choice"]
    assert run(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith(
        "1 questions written, 0 were there already, 1 replies with a fault asked for again, 0 rows dropped"
    )
    assert said[1].split() == ["1", "replies:", "not", "the", "JSON", "asked", "for"]
    assert run([*words, "--long"]) == 2
    assert "--long is for --form short" in capsys.readouterr().err
    assert run([*words[:-1], "short", "--each", "2"]) == 2
    assert "--each and --no-verify are for" in capsys.readouterr().err
