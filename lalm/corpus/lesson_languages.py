"""Lessons in Spanish, French and German: questions in the language, or in English that ask for it.

Answers are put together from ``names.tsv`` (a name of each class in each language, and in which of them it is
plural) by the wordings of ``lesson_languages.yaml``.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from lalm.corpus.catalogue import classes
from lalm.corpus.lesson_questions import Heard, Turn, one_of, pick, wordings

ODDS = {
    "what": 5.0,
    "present": 1.3,
    "count": 1.5,
    "first": 0.8,
    "last": 0.8,
    "either": 0.8,
    "background": 0.5,
    "speech": 0.5,
    "language": 0.8,
}
IN_ENGLISH = {"what": 0.6}  # how often the question is English and asks for the language
IN_ENGLISH_ELSE = 0.35
NAMED = 0.4  # of the answers about one sound say what it is, not that it is heard
ENGLISH_NAMES = {"first": "opening", "last": "closing", "speech": "speaking"}


class Name(NamedTuple):
    """A sound's name in a language: "ein bellender Hund"."""

    text: str
    plural: bool


@cache
def names() -> Mapping[str, Mapping[str, Name]]:
    """The name of each label, by the language's code and the label."""
    text = (resources.files("lalm.corpus") / "names.tsv").read_text("utf-8")
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    return {
        code: {row["label"]: Name(row[code], code in row["plural"].split()) for row in rows}
        for code in ("es", "fr", "de")
    }


def tongues() -> dict[str, Any]:
    """The wordings of each language, by its English name, and those of English questions that ask for it."""
    return wordings("lesson_languages.yaml")


def spanish(heard: Heard) -> Turn:
    """A question and its answer in Spanish."""
    return _Told(heard, "spanish").turn()


def french(heard: Heard) -> Turn:
    """A question and its answer in French."""
    return _Told(heard, "french").turn()


def german(heard: Heard) -> Turn:
    """A question and its answer in German."""
    return _Told(heard, "german").turn()


class _Told:
    """What one can ask about a recording in one language."""

    def __init__(self, heard: Heard, language: str) -> None:
        self.heard, self.rng, self.own = heard, heard.rng, tongues()[language]
        self.names = names()[self.own["code"]]
        self.front = [self._name(event["label"]) for event in heard.front]

    def turn(self) -> Turn:
        """A question of any kind that the recording allows."""
        kinds = [kind for kind in ODDS if self._can(kind)]
        odds = [ODDS[kind] for kind in kinds]
        kind = str(self.rng.choice(kinds, p=[o / sum(odds) for o in odds]))
        asked, answer = self._turn(kind)
        if self.rng.random() >= IN_ENGLISH.get(kind, IN_ENGLISH_ELSE):
            return self._typed(self._say(kind, *(self.names[label] for label in asked))), answer
        if kind == "what" and self.rng.random() < 0.5:
            return self._asking("told_in"), answer
        english = ENGLISH_NAMES.get(kind, kind)
        if kind == "what" and len(self.heard.names) != 1:
            english = "describe"
        x, y = [*(classes()[label].name for label in asked), "", ""][:2]
        question = one_of(self.rng, english).format(x=x, y=y)
        return self._asking("asked_for", question[0].upper() + question[1:]), answer

    def _name(self, label: str) -> Name:
        """A sound's name; of speech often with its language."""
        group, kind = label.split("/")
        if group != "speech" or self.rng.random() < 0.5:
            return self.names[label]
        return Name(self.own["speaker"].format(l=self.own["languages"][kind]), plural=False)

    def _can(self, kind: str) -> bool:
        if kind in ("what", "present", "either"):
            return True
        if kind in ("first", "last"):
            return self.heard.can("order") and bool(self.front)
        if kind == "speech":
            groups = {sound.group for sound in self.heard.sounds}
            return "speech" in groups or not groups & {"human", "ambience", "music"}
        return self.heard.can(kind)

    def _turn(self, kind: str) -> tuple[Sequence[str], str]:
        """The labels that the question names, and the answer."""
        label = self.heard.events[0]["label"] if self.heard.events else ""
        absent = self.heard.absent().label
        if kind == "present":
            there = bool(label) and self.rng.random() < 0.5
            asked = pick(self.rng, *(e["label"] for e in self.heard.events)) if there else absent
            return [asked], self._say("affirmed" if there else "denied", self.names[asked])
        if kind == "speech":
            spoken = any(sound.group == "speech" for sound in self.heard.sounds)
            return [], self.own["affirmed" if spoken else "denied"][0]
        if kind == "either":
            both = [label or self.heard.absent([classes()[absent].name]).label, absent]
            self.rng.shuffle(both)
            return both, self._sound(self.names[label]) if label else self.own["neither"] + self._nothing()
        if not label:
            return [absent], pick(self.rng, *self.own["never"]) if kind == "count" else self._nothing()
        if kind == "count":
            if self.rng.random() < 0.08:
                return [absent], pick(self.rng, *self.own["never"])
            number = len(self.front) - 1
            times, figure = self.own["times"][number], self.own["numbers"][number]
            return [label], _capital(pick(self.rng, times, times, figure, str(number + 1))) + "."
        if kind == "language":
            return [], _capital(self.own["languages"][self.heard.spoken.lower()]) + "."
        if kind == "background":
            return [], self._sound(self.names[label])
        if kind in ("first", "last"):
            return [], self._sound(self.front[0 if kind == "first" else -1])
        return [], self._scene()

    def _scene(self) -> str:
        """All that is heard, in its order, in a sentence."""
        alone = self.front[0]
        if len(self.front) == 1 and self.heard.kind != "bed":
            return self._sound(alone)
        if self.heard.kind == "repetition":
            times = self.own["times"][len(self.front) - 1]
            text = pick(self.rng, *self.own["repeated"]).format(x=alone.text, n=times)
        elif len(self.front) == 1:
            text = alone.text
        else:
            order = pick(self.rng, *self.own["order"][len(self.front) - 2])
            text = order.format(*(name.text for name in self.front))
        if self.heard.kind == "bed":
            bed = self.names[self.heard.events[0]["label"]]
            text = pick(self.rng, *self.own["over"]).format(x=text, y=bed.text)
        return self._say("told", Name(text, alone.plural))

    def _sound(self, name: Name) -> str:
        """A sentence, or a bare name, that answers what one sound is."""
        if self.rng.random() < NAMED:
            return self._say("named", name)
        return self._say("told", name)

    def _nothing(self) -> str:
        return str(pick(self.rng, *self.own["silence" if self.heard.kind == "silence" else "noise"]))

    def _say(self, kind: str, *of: Name) -> str:
        """One of the wordings of a kind, about these names."""
        form = pick(self.rng, *self.own[kind])
        which = 2 if of and of[0].plural else 1
        form = re.sub(r"\[([^/\]]+)/([^\]]+)\]", lambda found: str(found[which]), form)
        x, y = [*(name.text for name in of), "", ""][:2]
        text = form.format(x=x, y=y)
        for pattern, mended in self.own["mend"]:
            text = re.sub(pattern, mended, text)
        return _capital(text)

    def _asking(self, kind: str, question: str = "") -> str:
        return str(pick(self.rng, *tongues()[kind])).format(q=question, l=self.own["name"])

    def _typed(self, question: str) -> str:
        """A question as people type it: now and then without its opening mark, or its space."""
        if self.rng.random() < 0.3:
            question = question.replace("¿", "").replace(" ?", "?")
        return _capital(question)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
