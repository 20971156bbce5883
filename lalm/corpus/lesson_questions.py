"""Questions about one recording, with their answers. What else one may ask, and how often each kind is drawn:
``lesson_kinds.py``."""

import json
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
import yaml

from lalm.corpus.catalogue import SoundClass, classes
from lalm.corpus.lesson_balance import FUZZY, HARD, alike, is_far, is_near
from lalm.corpus.questions import NUMBERS
from lalm.corpus.wording import does, in_order, over, repeated, sentence
from lalm.data.sample import Sample

EMPTY = [
    "what",
    "describe",
    "presence",
    "count",
    "unknowable",
    "speech",
    "choice",
    "said",
    "either",
    "music",
    "which_instrument",
    "group",
    "spanish",
    "french",
    "german",
]
ABSENT_COUNTS = 0.05  # of the counts of what is there ask about a sound that is not
Rng = np.random.Generator
Turn = tuple[str, str]  # question and answer


class Offers(NamedTuple):
    """Odds of each label as what is not there, beside sounds anywhere and beside one alone."""

    heard: dict[str, float]
    alone: dict[str, float]


class Heard:
    """What one recording lets one ask. Each method draws a question and its answer.

    What is not there is drawn by ``offers``, so that no sound is right more often than another where it is
    offered.
    """

    def __init__(self, row: Sample, offers: Offers, rng: Rng, *, said: bool = False) -> None:
        self.asks_what_is_said, self.transcript = said, transcript_of(row)
        self.kind, self.events, self.rng = kind_of(row), row.events, rng
        self.sounds = [classes()[event["label"]] for event in row.events]
        self.names = list(dict.fromkeys(sound.name for sound in self.sounds))
        self.spoken = _language(self.sounds)
        self.offers = offers
        self.others = [classes()[label] for label in offers.heard if classes()[label].name not in self.names]
        self.end_s = max((event["offset_s"] for event in row.events), default=0.0)
        self.front = self.events[1:] if self.kind == "bed" else self.events

    def can(self, kind: str) -> bool:
        """Whether a question of this kind makes sense here."""
        if self.kind in ("silence", "noise"):
            return kind in EMPTY
        groups = {sound.group for sound in self.sounds}
        unclear = groups & {*FUZZY, "human"}
        several = len({e["label"] for e in self.front}) == len(self.front) >= 2
        return {
            "list": len(self.names) > 1,
            "describe": True,
            "what": len(self.names) == 1,
            "one_word": len(self.names) == 1,
            "count": self.kind == "repetition",  # elsewhere every sound comes once: the answer would be known
            "order": several,
            "neighbours": several,
            "times": self.kind in ("sequence", "bed"),
            "background": self.kind == "bed",
            "language": bool(self.spoken),
            "said": self.asks_what_is_said == bool(self.transcript) if "speech" in groups else not unclear,
            "word": self.asks_what_is_said and bool(self.transcript),
            "choice": len(self.names) == 1,
            "exact": len(self.names) < 4,
            "before": several,
            "sequence": several and self.kind == "sequence",
            "longer": several and self.lasting() is not None,
            "different": self.kind in ("sequence", "repetition"),
            "music": "music" in groups or not groups & {"instrument", "ambience", "human", "alarm"},
            "which_music": groups == {"music"},
            "which_instrument": groups == {"instrument"} or not unclear | (groups & {"instrument", "alarm"}),
            "group": True,
        }.get(kind, True)

    def what(self) -> Turn:
        """The one sound, in a few words."""
        if not self.sounds:
            return one_of(self.rng, "what"), self.emptiness()
        name, caption = self.names[0], self.events[0]["caption"]
        return one_of(self.rng, "what"), pick(
            self.rng, sentence(name), f"I hear {name}.", sentence(caption), f"It is {name}."
        )

    def describe(self) -> Turn:
        """All of it, in a sentence."""
        if not self.sounds:
            return one_of(self.rng, "describe"), self.emptiness()
        captions = [e["caption"] for e in self.front]
        names = [classes()[e["label"]].name for e in self.front]
        if self.kind == "repetition":
            text = repeated(captions[0], len(captions), self.rng)
        else:
            text = in_order(captions, names, self.rng)
        if self.kind == "bed":
            text = over(self.events[0]["caption"], self.sounds[0].name, text, self.rng)
        return one_of(self.rng, "describe"), sentence(text)

    def listed(self) -> Turn:
        """The names, separated by commas."""
        return one_of(self.rng, "list"), sentence(", ".join(self.names))

    def as_json(self) -> Turn:
        """The names as JSON."""
        question = one_of(self.rng, "json")
        return question, json.dumps({"sounds": self.names} if "key" in question else self.names)

    def one_word(self) -> Turn:
        """The sound's kind."""
        group, label = self.events[0]["label"].split("/")
        word = group if group == "speech" else label.replace("_", " ").split()[-1]
        return one_of(self.rng, "one_word"), word.capitalize() + "."

    def presence(self) -> Turn:
        """Is it there? Yes and no equally often, of both wordings."""
        there = bool(self.names) and self.rng.random() < 0.5
        name = self.own() if there else self.absent().name
        negated = self.rng.random() < 0.1
        question = one_of(self.rng, "absent" if negated else "present").format(x=name) + one_of(
            self.rng, "yes_no"
        )
        return question, "Yes." if there != negated else "No."

    def either(self) -> Turn:
        """One of two."""
        own, other = self.own(), self.absent().name
        x, y = (own, other) if self.rng.random() < 0.5 else (other, own)
        answer = sentence(own) if self.sounds else self.emptiness("Neither. ")
        return one_of(self.rng, "either").format(x=x, y=y), answer

    def emptiness(self, before: str = "") -> str:
        """What one hears where there is only silence or noise."""
        return before + one_of(self.rng, "nothing" if self.kind == "silence" else "noise")

    def lasting(self) -> tuple[str, str] | None:
        """Two sounds of which the first lasts at least half as long again as the second, if there are any."""
        known = sorted((e["offset_s"] - e["onset_s"], classes()[e["label"]].name) for e in self.front)
        (short, brief), (long, lengthy) = known[0], known[-1]
        return (lengthy, brief) if long >= 1.5 * short else None

    def choice(self) -> Turn:
        """One of three to five, sometimes with letters, sometimes with none of them right."""
        own = self.names[0] if self.names else None
        size = int(pick(self.rng, 3, 4, 4, 4, 5))
        names = [own] if own else []
        while len(names) < size:
            name = self.absent(alone=True).name
            if name not in names:
                names.append(name)
        self.rng.shuffle(names)
        right = own or "none of these"
        if own is None and self.rng.random() < 0.6:  # nothing is right, and nothing is offered that says so
            return self._choice_text(names, None)
        if own is None or self.rng.random() < 0.12:  # an option of its own, right or wrong
            if own and self.rng.random() < 0.5:
                names[names.index(own)], right = self.absent(names, alone=True).name, "none of these"
            names = [*names[: size - 1], "none of these"] if right not in names[-1:] else names
            if right not in names:
                names[0] = right
        return self._choice_text(names, right)

    def _choice_text(self, names: Sequence[str], right: str | None) -> Turn:
        question, form = one_of(self.rng, "choice"), self.rng.random()
        letters = "ABCDE"
        at = list(names).index(right) if right else 0
        if form < 0.35:
            answer = sentence(right) if right else self.emptiness("None of these. ")
            return f"{question} {', '.join(names[:-1])} or {names[-1]}{pick(self.rng, '', '?')}", answer
        marks = ") ", ". ", ": "
        mark = pick(self.rng, *marks)
        lines = "\n".join(f"{letters[i]}{mark}{name}" for i, name in enumerate(names))
        if not right:
            return f"{question}\n{lines}", self.emptiness("None of these. ")
        if form < 0.6:
            return f"{question}\n{lines}\nAnswer with the letter.", letters[at]
        return f"{question}\n{lines}", f"{letters[at]}{mark}{right}"

    def count(self) -> Turn:
        """How often; 0 where it is not there."""
        question = one_of(self.rng, "count")
        if not self.front or self.rng.random() < ABSENT_COUNTS:
            name = self.absent().name
            answer = one_of(self.rng, "not_there").format(x=name)
            return question.format(x=name), answer[0].upper() + answer[1:]
        label = self.front[int(self.rng.integers(len(self.front)))]["label"]
        times = sum(e["label"] == label for e in self.front)
        answer = {1: "Once", 2: "Twice"}.get(times, f"{NUMBERS[times].capitalize()} times")
        answer = pick(self.rng, answer, NUMBERS[times].capitalize(), str(times)) + "."
        caption = self.front[0]["caption"]
        if len(self.names) == 1 and (asked := does(caption)) and self.rng.random() < 0.3:
            return one_of(self.rng, "count_verb").format(verb=asked, said=caption), answer
        if len(self.names) == 1 and self.rng.random() < 0.2:
            return one_of(self.rng, "count_it"), answer
        return question.format(x=classes()[label].name), answer

    def order(self) -> Turn:
        """Which of two is first, or later."""
        at = int(self.rng.integers(len(self.front) - 1))
        first, later = (classes()[e["label"]].name for e in self.front[at : at + 2])
        x, y = (first, later) if self.rng.random() < 0.5 else (later, first)
        if self.rng.random() < 0.7:
            return one_of(self.rng, "first").format(x=x, y=y), sentence(first)
        return one_of(self.rng, "second").format(x=x, y=y), sentence(later)

    def neighbours(self) -> Turn:
        """What comes first, last, before or after a sound."""
        names = [classes()[e["label"]].name for e in self.front]
        at = int(self.rng.integers(len(names) - 1))
        question, answer = pick(
            self.rng,
            (one_of(self.rng, "opening"), names[0]),
            (one_of(self.rng, "closing"), names[-1]),
            (one_of(self.rng, "after").format(x=names[at]), names[at + 1]),
            (one_of(self.rng, "before").format(x=names[at + 1]), names[at]),
        )
        return question, sentence(answer)

    def background(self) -> Turn:
        """The sound that lasts from start to end."""
        return one_of(self.rng, "background"), sentence(self.sounds[0].name)

    def speech(self) -> Turn:
        """Does somebody speak?"""
        groups = {sound.group for sound in self.sounds}
        question = one_of(self.rng, "speaking") + one_of(self.rng, "yes_no")
        if groups & {"human", "ambience", "music"} and "speech" not in groups:
            return self.presence()  # voices that may or may not be speech
        return question, "Yes." if "speech" in groups else "No."

    def language(self) -> Turn:
        """The language that is spoken."""
        return one_of(self.rng, "language"), f"{self.spoken}."

    def said(self) -> Turn:
        """The words; that nobody speaks, where nobody does; that one has not their text."""
        if "speech" in {sound.group for sound in self.sounds} and not self.transcript:
            return one_of(self.rng, "said"), one_of(self.rng, "unheard")
        if not self.transcript:
            return one_of(self.rng, "said"), one_of(self.rng, "nobody")
        quoted = f'"{self.transcript}"'
        return one_of(self.rng, "said"), pick(self.rng, self.transcript, quoted, f"The person says: {quoted}")

    def word(self) -> Turn:
        """Whether a word is said that is, or one that is not."""
        own = re.findall(r"[^\W\d_]{3,}", self.transcript) or self.transcript.split()
        there = self.rng.random() < 0.5
        others = [w for w in wordings()["words"] if w.lower() not in self.transcript.lower()]
        word = pick(self.rng, *(own if there else others))
        return one_of(self.rng, "word").format(x=word), "Yes." if there else "No."

    def times(self) -> Turn:
        """When a sound begins or ends, to half a second; how long all lasts."""
        event = self.front[int(self.rng.integers(len(self.front)))]
        name = classes()[event["label"]].name
        kind, at = pick(
            self.rng,
            ("begins", event["onset_s"]),
            ("begins", event["onset_s"]),
            ("ends", event["offset_s"]),
        )
        return one_of(self.rng, kind).format(x=name), f"At about {_seconds(round(2 * at) / 2)}."

    def unknowable(self) -> Turn:
        """What no sound tells."""
        question, answer = wordings()["unknowable"][int(self.rng.integers(len(wordings()["unknowable"])))]
        return question, answer

    def own(self) -> str:
        """A sound that is there; one that is not, where there is none."""
        return self.names[int(self.rng.integers(len(self.names)))] if self.names else self.absent().name

    def absent(self, but: Sequence[str] = (), *, alone: bool = False) -> SoundClass:
        """A sound that is not there: with odds ``HARD`` one of a sound's own group, else of a far group."""
        own = {event["label"] for event in self.events}
        sounds = [sound for sound in self.others if sound.name not in but]
        far = [s for s in sounds if all(is_far(s.label, label) for label in own)]
        near = [s for s in sounds if any(is_near(s.label, label) for label in own) and s not in far]
        near = [s for s in near if not any(_alike(s, [classes()[label]]) for label in own)]
        chosen = near if near and (self.rng.random() < HARD or not far) else far
        chosen = chosen or [s for s in sounds if not _alike(s, self.sounds)]
        odds = self.offers.alone if alone else self.offers.heard
        weights = np.array([odds[sound.label] for sound in chosen])
        return chosen[int(self.rng.choice(len(chosen), p=weights / weights.sum()))]


@cache
def wordings(file: str = "lessons.yaml") -> dict[str, Any]:
    """The wordings of each kind of question, and of fixed answers."""
    read: dict[str, Any] = yaml.safe_load((resources.files("lalm.corpus") / file).read_text("utf-8"))
    return read


def _seconds(number: float) -> str:
    return "1 second" if number == 1 else f"{number:g} seconds"


def one_of(rng: Rng, kind: str) -> str:
    """One of the wordings of a kind of question, or of a fixed answer."""
    options = wordings()[kind]
    return str(options[int(rng.integers(len(options)))])


def pick(rng: Rng, *options: Any) -> Any:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def kind_of(sample: Sample) -> str:
    """The kind of a corpus's recording: "single", "take", "sequence", "repetition" or "bed"."""
    return sample.origin.get("kind", "single")


def transcript_of(sample: Sample) -> str:
    """What is said, where one person speaks."""
    spoken = sum(event["label"].startswith("speech/") for event in sample.events)
    return " ".join(sample.origin.get("transcript", "").split()) if spoken == 1 else ""


def _language(sounds: Sequence[SoundClass]) -> str:
    """The language of speech, where there is one."""
    spoken = {sound.label.split("/")[1].capitalize() for sound in sounds if sound.group == "speech"}
    return spoken.pop() if len(spoken) == 1 else ""


def _alike(sound: SoundClass, others: Sequence[SoundClass]) -> bool:
    """Whether an answer that names one might name another as well."""
    return any(alike(sound, other) for other in others)
