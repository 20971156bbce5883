"""Detailed and multiple-choice questions that an LLM writes: what is found wrong with them, what is kept."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lalm.cli.app import run
from lalm.corpus.catalogue import classes
from lalm.data.readers import read_manifest
from lalm.data.sample import ask, message_text, write_manifest
from lalm.synthesis.completions import Completion
from lalm.synthesis.resumable_rows import RowsError
from lalm.tasks.checked_questions import write_checked_questions
from lalm.tasks.event_choices import fault_of_asking, options_of, question_request, relation_of
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
    "Question": "Which animal is heard before the door closes?",
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
        if content.startswith("You write questions"):
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
        assert right == "Dog" or not {"Cat", "Duck", "Horse"} & set(row.choices)
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


def test_an_event_stands_by_its_name_among_kinds_that_are_surely_not_heard(tmp_path):
    """The LLM writes no wrong answers; of the dog's group those come first that other recordings hold."""
    bare = {name: CHOICE[name] for name in ("Question", "Answer")}
    clock = ({"label": "animal/cat", "caption": "a cat meows", "onset_s": 0.0, "offset_s": 1.0},)
    others = [sample(f"clip{i}", "A cat meows.", clock) for i in (1, 4)]
    rows = [sample("clip0"), others[0], sample("clip2"), sample("clip3"), others[1], sample("clip5")]
    writer = Scripted(bare, right="Dog")
    found, _, _ = made(tmp_path, writer, rows=rows, verify=False, tries=2)
    assert [row.id[-5:] for row in found] == ["clip0", "clip2", "clip3", "clip5"]  # a cat is no dog
    animals = {plain_option(sound.name) for sound in classes().values() if sound.group == "animal"}
    for row in found:
        assert (
            row.references == ("Dog barking",) and row.origin["aspect"] == "events"
        )  # clips 0, 3; 2, 5 again
        wrong = [option for option in row.choices if option != "Dog barking"]
        assert len(wrong) == 3 and len({*wrong} & animals) >= 2 and "Cat meowing" in wrong
        assert not any("bark" in option.lower() or "door" in option.lower() for option in wrong)
    # What was asked in vain about how a sound is (no wrong answers) is asked again about an event.
    assert sum("how one of the sounds is" in text for text in writer.asked) == 2
    bare_rows, counts, faults = made(
        tmp_path / "bare", Scripted(CHOICE | {"Wrong": ["a dog"]}), rows=[sample(events=())], tries=2
    )  # nothing is known of kinds: the reply is not enough
    assert not bare_rows and counts.dropped == 1
    assert faults == {"too few wrong options that are surely wrong": 2}


def test_the_example_is_of_how_the_event_stands_to_others():
    after = Facts(TEXT, sample())
    dog, door = after.sounds
    assert relation_of(after, dog) == "before" and relation_of(after, door) == "after"
    during = tuple({**event, "onset_s": 0.0, "offset_s": 6.0} for event in EVENTS)
    assert relation_of(Facts(TEXT, sample(events=during)), dog) == "during"
    assert relation_of(Facts(TEXT, sample(events=EVENTS[:2])), dog) == "alone"
    told = question_request(after, 1)
    assert told.endswith("The answer: a door closes") and "What is heard after the whistling?" in told


def test_a_question_must_be_one_that_the_event_answers():
    facts = Facts(TEXT, sample())
    dog, door = facts.sounds
    order = "the events come in another order"
    for question, sound, expected in [
        ("Which sound can be heard?", dog, ""),
        ("What is heard before the door closes?", dog, ""),
        ("What is heard after the door closes?", dog, order),
        ("What is heard while the door closes?", dog, order),
        ("What is heard after the dog?", door, ""),
        ("What is heard first?", dog, ""),
        ("What is heard at the end?", dog, order),
        ("What comes last?", door, ""),
        ("Is it loud?", dog, "it does not ask what is heard"),
        ("Which animal is heard?", door, "it asks for another kind of thing"),
        ("What is heard before the song?", dog, "it relates the answer to no sound that is known"),
        ("What does the door do?", dog, "it names a sound, and does not relate the answer to it"),
        (
            "What is heard before the dog barks?",
            dog,
            "it names a sound, and does not relate the answer to it",
        ),
    ]:
        assert fault_of_asking(question, sound, facts) == expected, question


def test_kinds_that_may_be_heard_as_one_another_are_no_options():
    note = {
        "label": "instrument/agogo",
        "caption": "an agogo bell is struck",
        "onset_s": 0.0,
        "offset_s": 1.0,
    }
    facts = Facts("An agogo bell is struck.", sample(text="An agogo bell is struck.", events=(note,)))
    options = options_of(facts.sounds[0], facts, [], np.random.default_rng(0))[1]
    assert len(options) > 20 and "Tuba" in options
    assert not {"Single musical note", "Kick drum", "Bell ringing"} & {*options}


@pytest.mark.parametrize(
    ("writer", "fault"),
    [
        (Scripted("A dog."), "not the JSON asked for"),
        (Scripted({"Question": "Which animal is it?"}), "not the JSON asked for"),
        (Scripted(CHOICE | {"Question": "Which animal."}), "not a question of usual length"),
        (Scripted(CHOICE | {"Question": "What is heard before the laugh?"}), "it copies the example"),
        (Scripted(CHOICE | {"Question": "What does the caption say?"}), "it asks about the text"),
        (Scripted(CHOICE | {"Question": "What animal is the dog here?"}), "the question holds its answer"),
        (Scripted(CHOICE | {"Answer": "a sheep"}), "a sound that is not there"),
        (Scripted(CHOICE | {"Answer": "five of them"}), "a number that is not known"),
        (Scripted(CHOICE | {"Answer": "somebody"}), "nothing of the text is in the answer"),
        (Scripted(CHOICE | {"Answer": "a dog and a door"}), "the answer is not one of the sounds"),
        (
            Scripted(CHOICE | {"Question": "Is a dog heard?", "Answer": "it barks"}),
            "it does not ask what is heard",
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
    long = "Dog that barks first and then a door"
    assert fault_of_options("What is it?", long, ["Cat", "Cow"]) == "the length tells the right option"


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
