"""Training questions: true of the recording, balanced, and not in the held-out questions' words."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lalm.corpus.catalogue import classes
from lalm.corpus.empty import SAYS_SO, empty_questions
from lalm.corpus.lesson_questions import wordings
from lalm.corpus.lessons import write_lessons
from lalm.corpus.questions import PRESENCE
from lalm.data.english import words
from lalm.data.readers import open_samples
from lalm.data.sample import Event, Sample, ask, message_text, write_manifest
from lalm.inference.counting import read_number

LABELS = ["animal/dog", "animal/cow", "vehicle/train", "instrument/piano", "water/splash", "weather/rain"]
LABELS += ["impact/glass", "speech/english", "fire/crackle", "footsteps/grass", "object/bell", "tool/saw"]


def rows() -> list[Sample]:
    def row(name: str, kind: str, labels: list[str]) -> Sample:
        events: list[Event] = [
            {
                "label": label,
                "caption": f"{label.split('/')[1]} sounds",
                "onset_s": float(i),
                "offset_s": i + 0.5,
            }
            for i, label in enumerate(labels)
        ]
        return Sample(
            ask([f"{name}.flac"], "").messages, id=name, events=tuple(events), origin={"kind": kind}
        )

    found = [row(f"single{i}", "single", [label]) for i, label in enumerate(LABELS)]
    for i, label in enumerate(LABELS):
        found.append(row(f"repetition{i}", "repetition", [label] * (1 + i % 4)))
        found.append(row(f"sequence{i}", "sequence", [label, LABELS[(i + 3) % 12], LABELS[(i + 7) % 12]]))
        others = [x for x in (label, LABELS[(i + 1) % 12]) if x != "weather/rain"]
        found.append(row(f"bed{i}", "bed", ["weather/rain", *others]))
    return found


def turns(lessons: list[Sample], kind: str) -> list[tuple[Sample, str, str]]:
    found = []
    for sample in lessons:
        for number, own in enumerate(sample.task.split("+")):
            if own == kind:
                question, answer = sample.messages[2 * number : 2 * number + 2]
                found.append((sample, message_text(question), message_text(answer)))
    assert len(found) > 20, kind
    return found


def labels(sample: Sample) -> set[str]:
    return {event["label"] for event in sample.events}


def worded(question: str, kind: str) -> bool:
    """Whether a question has one of the wordings of a kind."""
    forms = (re.escape(w).replace(r"\{x\}", ".+").replace(r"\{y\}", ".+") for w in wordings()[kind])
    return any(re.match(form, question) for form in forms)


def names(sample: Sample) -> set[str]:
    return {classes()[event["label"]].name for event in sample.events}


def test_presence_is_true_and_balanced(lessons: list[Sample]) -> None:
    answers = Counter()
    for sample, question, answer in turns(lessons, "presence"):
        asked = next(
            c.name
            for c in classes().values()
            if re.search(rf"\b{re.escape(c.name)}\b", question)
            and (c.name in names(sample) or c.label in LABELS)
        )
        negated = worded(question, "absent")
        assert (answer == "Yes.") == ((asked in names(sample)) != negated), (question, answer, names(sample))
        answers[answer] += 1
    assert 0.42 < answers["Yes."] / answers.total() < 0.58


def test_the_right_choice_is_offered_once_and_everywhere_equally(lessons: list[Sample]) -> None:
    places = Counter()
    for sample, question, answer in turns(lessons, "choice"):
        lines = [line for line in question.splitlines()[1:] if line[1:2] in ").:"]
        if not lines:
            continue
        options = [line[3:] for line in lines]
        assert len(set(options)) == len(options), question
        if not sample.events and "none of these" not in options:
            assert answer.startswith("None of these. "), (question, answer)
            continue
        true = [o for o in options if o in names(sample)] or ["none of these"]
        assert len(true) == 1, question
        assert "ABCDE".index(answer[0]) == options.index(true[0]), (question, answer)
        if true != ["none of these"]:
            places[answer[0]] += 1
    assert min(places[letter] for letter in "ABC") > 0.55 * max(places[letter] for letter in "ABC")


def test_counts_are_even_and_asked_before_an_answer_that_tells(lessons: list[Sample]) -> None:
    counts = Counter(read_number(answer) for _, _, answer in turns(lessons, "count"))
    asked = [counts[str(number)] for number in (1, 2, 3, 4)]
    assert min(asked) > 0.6 * max(asked), counts
    for sample, _, _ in turns(lessons, "count"):
        kinds = sample.task.split("+")
        assert not {"describe", "list"} & set(kinds[: kinds.index("count")]), sample.task


def test_counts_and_orders_are_those_of_the_events(lessons: list[Sample]) -> None:
    none = 0
    for sample, question, answer in turns(lessons, "count"):
        about_it = question in wordings()["count_it"]
        asked = [e for e in sample.events if classes()[e["label"]].name in question or about_it]
        if sample.origin["kind"] in ("repetition", "sequence") and asked:
            assert read_number(answer) == str(len(asked)), (question, answer)
        elif not asked:
            forms = (re.escape(w).replace(r"\{x\}", ".+") for w in wordings()["not_there"])
            assert any(re.fullmatch(form, answer) for form in forms), (question, answer)
            none += 1
    assert 0.01 < none / len(turns(lessons, "count")) < 0.2
    for sample, question, answer in turns(lessons, "order"):
        order = [classes()[e["label"]].name for e in sample.events]
        both = sorted((n for n in set(order) if n in question), key=order.index)
        later = worded(question, "second")
        assert answer.rstrip(".").lower() == both[1 if later else 0].lower(), (question, answer)


def test_json_is_json_and_silence_is_told(lessons: list[Sample]) -> None:
    for sample, _, answer in turns(lessons, "json"):
        read = json.loads(answer)
        assert set(read["sounds"] if isinstance(read, dict) else read) == names(sample)
    empty = [s for s in lessons if s.origin["kind"] in ("silence", "noise")]
    assert 0.02 < len(empty) / len(lessons) < 0.08
    for sample, _, answer in turns(empty, "what"):
        assert set(words(answer)) & set(SAYS_SO[sample.origin["kind"]]), answer


def test_what_is_said_is_the_transcript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lalm.corpus.lessons.EMPTY_FILES", 4)
    spoken = replace(rows()[7], origin={"kind": "single", "transcript": "The train is late."})
    write_manifest(tmp_path / "train.jsonl", [spoken, *rows()])
    write_lessons(tmp_path / "train.jsonl", tmp_path / "lessons.jsonl", 1500, said=True)
    made = list(open_samples(tmp_path / "lessons.jsonl"))
    for sample, _, answer in turns(made, "said"):
        told = sample.audios[0].get("transcript")
        assert ("The train is late." in answer) == bool(told)
        assert told or answer in wordings()["nobody" if "speech/english" not in labels(sample) else "unheard"]
    for _, question, answer in turns(made, "word"):
        assert (answer == "Yes.") == (question.split('"')[1] in "The train is late.")


def test_the_held_out_wordings_are_not_trained_on() -> None:
    trained = {w if isinstance(w, str) else w[0] for kind in wordings().values() for w in kind}
    assert not trained & {form.format("{x}") for form in PRESENCE}
    assert not trained & {"What makes the sound?", "Does anyone speak in the audio?"}
    assert not any(w.startswith(("Which comes first", "Which do you hear:")) for w in trained)


def test_empty_questions_are_silent_or_noise(tmp_path: Path) -> None:
    import soundfile

    items = list(empty_questions(tmp_path / "empty", np.random.default_rng(0)))
    assert Counter(item.origin["kind"] for item in items) == {"silence": 40, "noise": 40}
    for item in items[::7]:
        audio, rate = soundfile.read(str(item.audios[0]["audio"]))
        level = 20 * np.log10(np.sqrt(np.mean(audio**2)) + 1e-9)
        assert rate == 16_000 and (level < -55 if item.origin["kind"] == "silence" else level > -62)
    with pytest.raises(ValueError, match="has no recordings with events"):
        write_manifest(tmp_path / "x.jsonl", [Sample(ask(["a.flac"], "").messages)])
        write_lessons(tmp_path / "x.jsonl", tmp_path / "y.jsonl", 1)
