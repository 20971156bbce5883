"""Questions about one recording, with their answers: what ``lalm corpus lessons`` draws from."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import yaml

from lalm.corpus.catalogue import SoundClass, classes
from lalm.corpus.questions import NUMBERS, close
from lalm.corpus.wording import in_order, over, repeated, sentence
from lalm.data.sample import Sample

FUZZY = {"speech", "music", "ambience"}  # groups whose sounds may sound like one another
Rng = np.random.Generator
Turn = tuple[str, str]  # question and answer


class Heard:
    """What one recording lets one ask. Each method draws a question and its answer."""

    def __init__(self, row: Sample, present: Sequence[str], rng: Rng, *, said: bool = False) -> None:
        self.asks_what_is_said, self.transcript = said, transcript_of(row)
        self.kind, self.events, self.rng = kind_of(row), row.events, rng
        self.sounds = [classes()[event["label"]] for event in row.events]
        self.names = list(dict.fromkeys(sound.name for sound in self.sounds))
        self.spoken = _language(self.sounds)
        self.others = [classes()[label] for label in present if classes()[label].name not in self.names]
        self.end_s = max((event["offset_s"] for event in row.events), default=0.0)
        self.front = self.events[1:] if self.kind == "bed" else self.events

    def can(self, kind: str) -> bool:
        """Whether a question of this kind makes sense here."""
        if self.kind in ("silence", "noise"):
            return kind in ("what", "describe", "presence", "count", "unknowable", "speech", "choice", "said")
        groups = {sound.group for sound in self.sounds}
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
            "said": self.asks_what_is_said and (bool(self.transcript) or not groups & {*FUZZY, "human"}),
            "word": self.asks_what_is_said and bool(self.transcript),
            "choice": len(self.names) == 1,
        }.get(kind, True)

    def what(self) -> Turn:
        """The one sound, in a few words."""
        if not self.sounds:
            return _one(self.rng, "what"), _one(self.rng, "nothing" if self.kind == "silence" else "noise")
        name, caption = self.names[0], self.events[0]["caption"]
        return _one(self.rng, "what"), pick(
            self.rng, sentence(name), f"I hear {name}.", sentence(caption), f"It is {name}."
        )

    def describe(self) -> Turn:
        """All of it, in a sentence."""
        if not self.sounds:
            return _one(self.rng, "describe"), _one(
                self.rng, "nothing" if self.kind == "silence" else "noise"
            )
        captions = [e["caption"] for e in self.front]
        names = [classes()[e["label"]].name for e in self.front]
        if self.kind == "repetition":
            text = repeated(captions[0], len(captions), self.rng)
        else:
            text = in_order(captions, names, self.rng)
        if self.kind == "bed":
            text = over(self.events[0]["caption"], self.sounds[0].name, text, self.rng)
        return _one(self.rng, "describe"), sentence(text)

    def listed(self) -> Turn:
        """The names, separated by commas."""
        return _one(self.rng, "list"), sentence(", ".join(self.names))

    def as_json(self) -> Turn:
        """The names as JSON."""
        question = _one(self.rng, "json")
        return question, json.dumps({"sounds": self.names} if "key" in question else self.names)

    def one_word(self) -> Turn:
        """The sound's kind."""
        word = self.events[0]["label"].split("/")[1].replace("_", " ").split()[-1]
        return _one(self.rng, "one_word"), word.capitalize() + "."

    def presence(self) -> Turn:
        """Is it there? Yes and no equally often, of both wordings."""
        there = bool(self.names) and self.rng.random() < 0.5
        name = self._own() if there else self._absent(hard=0.3).name
        negated = self.rng.random() < 0.1
        question = _one(self.rng, "absent" if negated else "present").format(x=name) + _one(
            self.rng, "yes_no"
        )
        return question, "Yes." if there != negated else "No."

    def either(self) -> Turn:
        """One of two."""
        own, other = self._own(), self._absent(hard=0.4).name
        x, y = (own, other) if self.rng.random() < 0.5 else (other, own)
        return _one(self.rng, "either").format(x=x, y=y), sentence(own if self.sounds else "neither")

    def choice(self) -> Turn:
        """One of three to five, sometimes with letters, sometimes with none of them right."""
        own = self.names[0] if self.names else None
        size = int(pick(self.rng, 3, 4, 4, 4, 5))
        names = [own] if own else []
        while len(names) < size:
            name = self._absent(hard=0.5).name
            if name not in names:
                names.append(name)
        self.rng.shuffle(names)
        right = own or "none of these"
        if own is None or self.rng.random() < 0.12:  # an option of its own, right or wrong
            if own and self.rng.random() < 0.5:
                names[names.index(own)], right = self._absent(hard=0.3, but=names).name, "none of these"
            names = [*names[: size - 1], "none of these"] if right not in names[-1:] else names
            if right not in names:
                names[0] = right
        return self._choice_text(names, right)

    def _choice_text(self, names: Sequence[str], right: str) -> Turn:
        question, form = _one(self.rng, "choice"), self.rng.random()
        letters = "ABCDE"
        at = list(names).index(right)
        if form < 0.35:
            return f"{question} {', '.join(names[:-1])} or {names[-1]}", sentence(right)
        marks = ") ", ". ", ": "
        mark = pick(self.rng, *marks)
        lines = "\n".join(f"{letters[i]}{mark}{name}" for i, name in enumerate(names))
        if form < 0.6:
            return f"{question}\n{lines}\nAnswer with the letter.", letters[at]
        return f"{question}\n{lines}", f"{letters[at]}{mark}{right}"

    def count(self) -> Turn:
        """How often; 0 where it is not there."""
        question = _one(self.rng, "count")
        if not self.front or self.rng.random() < 0.1:
            name = self._absent(hard=0.0).name
            return question.format(x=name), _one(self.rng, "not_there").format(x=name)
        label = self.front[int(self.rng.integers(len(self.front)))]["label"]
        times = sum(e["label"] == label for e in self.front)
        answer = {1: "Once", 2: "Twice"}.get(times, f"{NUMBERS[times].capitalize()} times")
        answer = pick(self.rng, answer, NUMBERS[times].capitalize(), str(times)) + "."
        return question.format(x=classes()[label].name), answer

    def order(self) -> Turn:
        """Which of two is first, or later."""
        at = int(self.rng.integers(len(self.front) - 1))
        first, later = (classes()[e["label"]].name for e in self.front[at : at + 2])
        x, y = (first, later) if self.rng.random() < 0.5 else (later, first)
        if self.rng.random() < 0.7:
            return _one(self.rng, "first").format(x=x, y=y), sentence(first)
        return _one(self.rng, "second").format(x=x, y=y), sentence(later)

    def neighbours(self) -> Turn:
        """What comes first, last, before or after a sound."""
        names = [classes()[e["label"]].name for e in self.front]
        at = int(self.rng.integers(len(names) - 1))
        question, answer = pick(
            self.rng,
            (_one(self.rng, "opening"), names[0]),
            (_one(self.rng, "closing"), names[-1]),
            (_one(self.rng, "after").format(x=names[at]), names[at + 1]),
            (_one(self.rng, "before").format(x=names[at + 1]), names[at]),
        )
        return question, sentence(answer)

    def background(self) -> Turn:
        """The sound that lasts from start to end."""
        return _one(self.rng, "background"), sentence(self.sounds[0].name)

    def speech(self) -> Turn:
        """Does somebody speak?"""
        groups = {sound.group for sound in self.sounds}
        question = _one(self.rng, "speaking") + _one(self.rng, "yes_no")
        if groups & {"human", "ambience", "music"} and "speech" not in groups:
            return self.presence()  # voices that may or may not be speech
        return question, "Yes." if "speech" in groups else "No."

    def language(self) -> Turn:
        """The language that is spoken."""
        return _one(self.rng, "language"), f"{self.spoken}."

    def said(self) -> Turn:
        """The words; that nobody speaks, where nobody does."""
        if not self.transcript:
            return _one(self.rng, "said"), _one(self.rng, "nobody")
        quoted = f'"{self.transcript}"'
        return _one(self.rng, "said"), pick(self.rng, self.transcript, quoted, f"The person says: {quoted}")

    def word(self) -> Turn:
        """Whether a word is said that is, or one that is not."""
        own = re.findall(r"[^\W\d_]{3,}", self.transcript) or self.transcript.split()
        there = self.rng.random() < 0.5
        others = [w for w in wordings()["words"] if w.lower() not in self.transcript.lower()]
        word = pick(self.rng, *(own if there else others))
        return _one(self.rng, "word").format(x=word), "Yes." if there else "No."

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
        return _one(self.rng, kind).format(x=name), f"At about {_seconds(round(2 * at) / 2)}."

    def unknowable(self) -> Turn:
        """What no sound tells."""
        question, answer = wordings()["unknowable"][int(self.rng.integers(len(wordings()["unknowable"])))]
        return question, answer

    def _own(self) -> str:
        return (
            self.names[int(self.rng.integers(len(self.names)))] if self.names else self._absent(hard=0).name
        )

    def _absent(self, *, hard: float, but: Sequence[str] = ()) -> SoundClass:
        """A sound that is not there: with odds ``hard`` one of a sound's own group, else of a far group."""
        sounds = [sound for sound in self.others if sound.name not in but]
        own = {sound.group for sound in self.sounds}
        near = [s for s in sounds if s.group in own - FUZZY and not _alike(s, self.sounds)]
        far = [s for s in sounds if all(not close(s.group, group) for group in own)]
        far = far or [s for s in sounds if s.group not in own and not _alike(s, self.sounds)]
        chosen = near if near and (self.rng.random() < hard or not far) else far
        return chosen[int(self.rng.integers(len(chosen)))]


# How often each kind is drawn where it can be, and what draws it.
KINDS: Mapping[str, tuple[float, Callable[[Heard], Turn]]] = {
    "what": (5.0, Heard.what),
    "describe": (3.0, Heard.describe),
    "list": (1.0, Heard.listed),
    "json": (0.5, Heard.as_json),
    "one_word": (1.0, Heard.one_word),
    "presence": (5.0, Heard.presence),
    "either": (4.0, Heard.either),
    "choice": (5.0, Heard.choice),
    "count": (20.0, Heard.count),  # of repetitions alone, which nothing else asks much about
    "order": (14.0, Heard.order),
    "neighbours": (1.5, Heard.neighbours),
    "background": (1.0, Heard.background),
    "speech": (1.5, Heard.speech),
    "language": (1.5, Heard.language),
    "times": (1.5, Heard.times),
    "unknowable": (0.5, Heard.unknowable),
    "said": (4.0, Heard.said),
    "word": (1.0, Heard.word),
}


@cache
def wordings() -> dict[str, list[Any]]:
    """The wordings of each kind of question, and of fixed answers."""
    read: dict[str, list[Any]] = yaml.safe_load(
        (resources.files("lalm.corpus") / "lessons.yaml").read_text("utf-8")
    )
    return read


def _seconds(number: float) -> str:
    return "1 second" if number == 1 else f"{number:g} seconds"


def _one(rng: Rng, kind: str) -> str:
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
    return any(set(sound.words) & set(other.words) for other in others)
