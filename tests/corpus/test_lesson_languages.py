"""Lessons in Spanish, French and German: every class has a name, and answers are true and in the language."""

import re
from collections import Counter

import pytest
from test_lessons import labels, turns

from lalm.corpus.catalogue import classes
from lalm.corpus.checkable_instructions import INSTRUCTIONS
from lalm.corpus.lesson_languages import names, tongues
from lalm.data.sample import Sample

LANGUAGES = {"spanish": "es", "french": "fr", "german": "de"}
ENGLISH = {"the", "is", "hear", "sound", "barking", "speaking", "there", "it", "of"}


@pytest.mark.parametrize("code", LANGUAGES.values())
def test_every_class_has_a_name_of_its_own_in_every_language(code: str) -> None:
    assert list(names()[code]) == list(classes())
    kinds = {label: label if not label.startswith("speech/") else "speech" for label in classes()}
    of = {name.text: kinds[label] for label, name in names()[code].items()}
    assert len(of) == len(set(kinds.values())), "two classes have one name"
    for label, name in names()[code].items():
        assert name.text == name.text.strip() and not name.text.endswith("."), label
        assert not ENGLISH & set(name.text.split()), label
        assert name.text != classes()[label].name or " " not in name.text
    assert 30 < sum(name.plural for name in names()[code].values()) < 100


def test_plural_names_have_no_singular_article() -> None:
    for code, article in {"es": r"una? ", "fr": r"une? |d[ue] l|du ", "de": r"eine? "}.items():
        assert not [n.text for n in names()[code].values() if n.plural and re.match(article, n.text)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_answers_are_in_the_language_and_true(lessons: list[Sample], language: str) -> None:
    known, own = names()[LANGUAGES[language]], tongues()[language]
    asked_in_english = 0
    for sample, question, answer in turns(lessons, language):
        assert not ENGLISH & set(re.findall(r"[^\W\d_]+", answer)) - {"es"}, (question, answer)
        assert answer[0] == answer[0].upper() and answer.endswith("."), answer
        assert "{" not in question + answer and "[" not in question + answer, (question, answer)
        asked_in_english += own["name"] in question
        named = mentioned(answer, known)
        allowed = {known[label].text for label in labels(sample)}
        assert named <= allowed, (question, answer, named - allowed)
        whole = question.removesuffix("?") in {w.strip("¿?").strip() for w in own["what"]}
        if whole and sample.origin["kind"] == "sequence":
            order = [known[event["label"]].text for event in sample.events]
            spoken = [o for o in order if o in named]  # a speaker may be named with the language
            at = [answer.lower().index(o.lower()) for o in spoken]
            assert len(spoken) >= len(order) - 1 and at == sorted(at), (answer, order)
        if sample.origin["kind"] in ("silence", "noise"):
            told = {*own["silence"], *own["noise"], *own["never"], *own["denied"]}
            assert answer.removeprefix(own["neither"]) in told, (question, answer)
    assert 0.3 < asked_in_english / len(turns(lessons, language)) < 0.75


def mentioned(answer: str, known: dict) -> set[str]:
    """The names in an answer, without those within longer ones."""
    left, found = answer.lower(), set()
    for name in sorted({n.text for n in known.values()}, key=len, reverse=True):
        if re.search(rf"(?<!\w){re.escape(name.lower())}(?!\w)", left):
            left = left.replace(name.lower(), "#")
            found.add(name)
    return found


@pytest.mark.parametrize("language", LANGUAGES)
def test_yes_and_counts_are_those_of_the_events(lessons: list[Sample], language: str) -> None:
    own, known = tongues()[language], names()[LANGUAGES[language]]
    yes, no = own["affirmed"][0], own["denied"][0]
    answers = Counter()
    for sample, question, answer in turns(lessons, language):
        asked = mentioned(question, known)
        if answer in (yes, no) and len(asked) == 1:
            there = asked <= {known[label].text for label in labels(sample)}
            assert (answer == yes) == there, (question, answer)
            answers[answer] += 1
        if answer.rstrip(".").lower() in own["times"]:
            assert own["times"].index(answer.rstrip(".").lower()) == len(sample.events) - 1
            answers["times"] += 1
    assert min(answers[yes], answers[no], answers["times"]) >= 2, answers


def test_languages_have_their_share_and_no_opening_wins(lessons: list[Sample]) -> None:
    kinds = Counter(kind for sample in lessons for kind in sample.task.split("+"))
    share = sum(kinds[language] for language in LANGUAGES) / kinds.total()
    assert 0.05 < share < 0.085, share
    for language in LANGUAGES:
        openings = Counter(" ".join(a.split()[:2]) for _, _, a in turns(lessons, language) if " " in a)
        assert max(openings.values()) < 0.2 * openings.total(), openings


def test_the_held_out_instructions_are_not_asked(lessons: list[Sample]) -> None:
    asked = {question for language in LANGUAGES for _, question, _ in turns(lessons, language)}
    assert len(asked) > 200 and not asked & set(INSTRUCTIONS.values())
    assert not any(re.search(r"describe the audio", question.lower()) for question in asked)
