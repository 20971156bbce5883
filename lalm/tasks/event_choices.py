"""Choices about an event of a recording: the LLM words the question, the events tell all of its options.

A small LLM writes neither wrong answers that are surely wrong nor a question of a form that it was not shown.
So where a manifest's ``events`` have labels of the corpus' catalogue, one of them is told to it as the
answer, with an example of how that event stands to another: before it, after it, at the same time, or alone.
The wrong options are kinds that are surely not heard, first such of the right one's group, and of those first
such as other recordings of the manifest hold: an option that is never right tells itself.
"""

import re
from collections.abc import Sequence

import numpy as np

from lalm.corpus.catalogue import SoundClass, classes
from lalm.corpus.questions import close
from lalm.data.english import stem, stems
from lalm.tasks.question_checks import THINGS, Facts, plain_option, wrong_options

# How an event stands to another -> a recording, an event of it that is the answer, the question to it.
EXAMPLES = {
    "alone": ("A kettle whistles twice.", "a kettle whistles", "Which sound can be heard here?"),
    "before": (
        "A kettle whistles, then a woman laughs.",
        "a kettle whistles",
        "What is heard before the laughter?",
    ),
    "after": (
        "A kettle whistles, then a woman laughs.",
        "a woman laughs",
        "What is heard after the whistling?",
    ),
    "during": (
        "A kettle whistles while rain falls.",
        "a kettle whistles",
        "What can be heard while it is raining?",
    ),
}
COPIED = "kettle whistling laughter laugh raining"
PROMPT = """You write questions about recordings that others will hear, without giving the answer away. \
For the recording "{sample}" and the answer "{answer}" you would write:
{{"Question": "{question}", "Answer": "{answer}"}}
Write one such line of JSON and nothing else. The question must not name the answer.
The recording: {text}
The answer: {told}"""
_RELATION = re.compile(r"\b(before|after|while|during|when|as)\b", re.I)
_FIRST = re.compile(r"\b(?:first|begin(?:s|ning)?|start(?:s|ing)?)\b", re.I)
_LAST = re.compile(r"\b(?:last|finally|end(?:s|ing)?)\b", re.I)
_ASKS = re.compile(r"\b(?:what|which|who)\b", re.I)
PREFIX = 4  # letters that two words share to be akin
HARD = 2  # of the wrong options, of the right one's group


def told_event(facts: Facts, turn: int) -> SoundClass:
    """The kind of event that a question is asked for; ``turn``: those that there are take turns."""
    return facts.sounds[turn % len(facts.sounds)]


def question_request(facts: Facts, turn: int) -> str:
    """What the LLM is asked for."""
    sound = told_event(facts, turn)
    sample, answer, question = EXAMPLES[relation_of(facts, sound)]
    told = next(e["caption"] for e in facts.sample.events if e["label"] == sound.label)
    return PROMPT.format(sample=sample, answer=answer, question=question, text=facts.text, told=told)


def relation_of(facts: Facts, sound: SoundClass) -> str:
    """How a kind of event stands to another of the recording: "before", "after", "during" or "alone"."""
    others = [other for other in facts.sounds if other != sound]
    for relation in ("before", "after", "during"):
        if any(stands(facts, sound, relation, other) for other in others):
            return relation
    return "alone"


def stands(facts: Facts, sound: SoundClass, relation: str, other: SoundClass) -> bool:
    """Whether a kind's events all end before another begins, begin after it ends, or overlap with it."""
    own, theirs = ([e for e in facts.sample.events if e["label"] == s.label] for s in (sound, other))
    if relation == "before":
        return max(e["offset_s"] for e in own) <= min(e["onset_s"] for e in theirs)
    if relation == "after":
        return min(e["onset_s"] for e in own) >= max(e["offset_s"] for e in theirs)
    return any(a["onset_s"] < b["offset_s"] and b["onset_s"] < a["offset_s"] for a in own for b in theirs)


def fault_of_asking(question: str, sound: SoundClass, facts: Facts) -> str:
    """Why an event is no answer to a question; empty when it is one, as far as the events tell."""
    asked = stems(question)
    if not _ASKS.search(question):
        return "it does not ask what is heard"
    groups = {group for group in THINGS if stem(group) in asked}
    if groups and sound.group not in groups:
        return "it asks for another kind of thing"
    if named := facts.named(question):
        hit = _RELATION.search(question)
        others = [other for other in named if other != sound]
        if hit is None or len(others) != 1 or facts.named(question[hit.end() :]) != others:
            return "it names a sound, and does not relate the answer to it"
        relation = hit[1].lower() if hit[1].lower() in ("before", "after") else "during"
        return "" if stands(facts, sound, relation, others[0]) else "the events come in another order"
    if _RELATION.search(question):
        return "it relates the answer to no sound that is known"
    onsets = {other: min(facts.onsets(other)) for other in facts.sounds}
    for pattern, place in ((_FIRST, min), (_LAST, max)):
        if pattern.search(question) and onsets[sound] != place(onsets.values()):
            return "the events come in another order"
    return ""


def options_of(
    sound: SoundClass, facts: Facts, held: Sequence[str], draws: np.random.Generator
) -> tuple[str, list[str]]:
    """The right option and wrong ones, the hard ones first; ``held``: labels of events of the manifest."""
    near = [kind for kind in facts.near if kind.group == sound.group and not _general(kind)]
    others = [kind for kind in classes().values() if _far(kind, facts)]
    ranked = []
    for kinds in (near, others):
        drawn = [kinds[i] for i in draws.permutation(len(kinds)) if not _akin(kinds[i], facts)]
        ranked.append(sorted(drawn, key=lambda kind: kind.label not in held))
    hard, easy = ([plain_option(kind.name) for kind in kinds] for kinds in ranked)
    right = plain_option(sound.name)
    return right, wrong_options(right, [*hard[:HARD], *easy[:HARD], *hard[HARD:], *easy[HARD:]], facts)


def _far(kind: SoundClass, facts: Facts) -> bool:
    """Whether nothing of a kind's group is heard, nor anything that could be taken for it."""
    return not any(close(kind.group, own.group) for own in facts.sounds) and not facts.holds(kind.name)


def _general(kind: SoundClass) -> bool:
    """Whether a kind's own noun is a word of other kinds of its group ("note"): they may be heard as it."""
    last = kind.name.split()[-1]
    nouns = [*kind.label.split("/")[1].split(), *([] if last.endswith("ing") else [last])]
    own = {stem(word) for word in nouns}
    others = [other for other in classes().values() if other.group == kind.group and other != kind]
    return any(own & {stem(word) for word in other.words} for other in others)


def _akin(kind: SoundClass, facts: Facts) -> bool:
    """Whether a word of a kind begins as one that is known of the recording ("synthesiser", "synth")."""
    return any(
        min(len(one), len(other)) >= PREFIX and (one.startswith(other) or other.startswith(one))
        for one in stems(kind.name)
        for other in facts.stems
    )
