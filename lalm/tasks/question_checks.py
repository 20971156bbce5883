"""What is checked of a question that an LLM wrote from a text: that the text bears its answer out, that the
question does not give it away, and that no wrong option is true of the recording."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from lalm.corpus.catalogue import SoundClass, classes
from lalm.corpus.questions import close
from lalm.data.english import STOP_WORDS, stem, stems, words
from lalm.data.sample import Sample
from lalm.inference.answer_words import spoken_numbers
from lalm.inference.naming import held_words

FEWEST_WORDS, MOST_WORDS = 3, 40  # of a question
MOST_OPTION_WORDS = 10
LONGER = 2.5  # times as long as every wrong option, and the right one is told by its length
FUZZY = ("speech", "music", "ambience")  # groups whose sounds may be heard as one another
THINGS = ("animal", "instrument", "vehicle", "weather")  # groups whose labels end in what makes the sound
_OF_THE_TEXT = re.compile(
    r"\b(?:captions?|texts?|descri(?:bed|ptions?)|passages?|sentences?|transcripts?|statements?|"
    r"mention(?:ed|s)?|stated|according to)\b",
    re.I,
)
_ORDER = re.compile(r"\b(?:before|after)\b", re.I)
_NO_OPTION = re.compile(r"\b(?:above|none|neither|both|unknown|cannot be|not given|not specified)\b", re.I)
_NUMBERS = {word: value for value, row in enumerate(spoken_numbers()) for word in row.split()}
_SMALL = ("a", "an", "one", "once", "un", "une", "uno", "una")  # say a number and often mean none


@dataclass(frozen=True)
class Facts:
    """What is known of a recording: the text that the LLM reads, and the events of the sample."""

    text: str
    sample: Sample

    @cached_property
    def sounds(self) -> list[SoundClass]:
        """Kinds of the events that the catalogue knows."""
        labels = dict.fromkeys(event["label"] for event in self.sample.events)
        return [classes()[label] for label in labels if label in classes()]

    @cached_property
    def stems(self) -> set[str]:
        """Stems of all that is known: the text, captions of events, names of their kinds."""
        told = [self.text, *(event["caption"] for event in self.sample.events)]
        return stems(
            " ".join([*told, *(s.name for s in self.sounds), *(" ".join(s.words) for s in self.sounds)])
        )

    @cached_property
    def numbers(self) -> set[int]:
        """Numbers in the text, and how often each kind of event happens."""
        labels = [event["label"] for event in self.sample.events]
        counts = {labels.count(label) for label in labels} | ({len(labels)} if labels else set())
        return _numbers(self.text) | counts

    @cached_property
    def near(self) -> list[SoundClass]:
        """Kinds of the events' own groups that are surely not there: hard wrong options. A kind of a group
        whose sounds are taken for one another is none, nor one that shares a word with what is there."""
        groups = {sound.group for sound in self.sounds} - {*FUZZY}
        held = {word for sound in self.sounds for word in sound.words}
        others = [s for s in classes().values() if s.group in groups and not held & {*s.words}]
        clear = [s for s in self.sounds if s.group not in groups]
        return [
            s
            for s in others
            if not any(close(s.group, own.group) for own in clear) and not self.holds(s.name)
        ]

    def named(self, text: str) -> list[SoundClass]:
        """Kinds of the events that a text has a word of."""
        said = stems(text)
        return [sound for sound in self.sounds if said & {stem(word) for word in sound.words}]

    def onsets(self, sound: SoundClass) -> list[float]:
        """Where each event of a kind begins, in seconds."""
        return [event["onset_s"] for event in self.sample.events if event["label"] == sound.label]

    def holds(self, text: str) -> bool:
        """Whether all content words of a text are known of the recording."""
        return bool(stems(text)) and stems(text) <= self.stems


def fault_of_question(question: str) -> str:
    """What is wrong with a question's wording; empty when nothing is."""
    if not question.rstrip().endswith("?") or not FEWEST_WORDS <= len(words(question)) <= MOST_WORDS:
        return "not a question of usual length"
    if _OF_THE_TEXT.search(question):
        return "it asks about the text"
    return ""


def fault_of_answer(question: str, answer: str, facts: Facts, *, inferred: bool) -> str:
    """Why the text does not bear an answer out, or the question gives it away; empty when neither is so.

    ``inferred``: the answer may be in words of its own (a place, a feeling), so that only what it says of
    numbers and of sounds can be looked up.
    """
    said, asked = stems(answer), stems(question)
    if not said:
        return "the answer says nothing"
    if _OF_THE_TEXT.search(answer):
        return "it answers about the text"
    if said <= asked and not _numbers(answer):
        return "the question holds its answer"
    if _numbers(answer) - facts.numbers - _numbers(question):
        return "a number that is not known"
    claimed = set(held_words(answer))  # what is denied is not claimed
    for sound in classes().values():
        own = stems(sound.label.split("/")[1] if sound.group in THINGS else sound.name)
        if own <= claimed and not own & facts.stems and not own & asked:
            return "a sound that is not there"
    if not inferred and not (said & facts.stems) - asked and not _numbers(answer):
        return "nothing of the text is in the answer"
    return ""


def fault_of_order(question: str, answer: str, facts: Facts) -> str:
    """Whether question and answer put two kinds of events in an order that these do not have; else empty.

    Read are "A before B" and "A after B" within a sentence of the answer, and of "what comes before B?" with
    the answer A, where each side names one kind, and not the same.
    """
    asked = _ORDER.search(question)
    claims = [(answer, asked[0], question[asked.end() :])] if asked else []
    for sentence in re.split(r"[.;!?]", answer):
        if hit := _ORDER.search(sentence):
            claims.append((sentence[: hit.start()], hit[0], sentence[hit.end() :]))
    for left, word, right in claims:
        one, other = facts.named(left), facts.named(right)
        if len(one) == len(other) == 1 and one != other:
            first, later = (one[0], other[0]) if word.lower() == "before" else (other[0], one[0])
            if min(facts.onsets(first)) >= max(facts.onsets(later)):
                return "the events come in another order"
    return ""


def wrong_options(answer: str, proposed: Sequence[str], facts: Facts, near: Sequence[str] = ()) -> list[str]:
    """Those of the ``proposed`` options that are not true, and not the answer again."""
    kept: list[str] = []
    taken = [stems(answer)]
    named = {stem(word) for sound in facts.sounds for word in sound.words}
    for option in proposed:
        own = stems(option)
        fits = 0 < len(words(option)) <= MOST_OPTION_WORDS and not _NO_OPTION.search(option)
        again = any(own <= other or other <= own for other in taken)
        if own and fits and not again and not own & named and not facts.holds(option):
            kept.append(option)
            taken.append(own)
    return kept


def fault_of_options(question: str, right: str, wrong: Sequence[str]) -> str:
    """How a question's options tell the right one without the recording; empty when they do not."""
    if len(right) > LONGER * max(map(len, wrong)) or len(right) * LONGER < min(map(len, wrong)):
        return "the length tells the right option"
    asked = stems(question)
    if stems(right) & asked and not any(stems(option) & asked for option in wrong):
        return "the question's words tell the right option"
    return ""


def plain_option(text: str) -> str:
    """An option as all are written: without article and full stop, with a capital."""
    bare = re.sub(
        r"^(?:[A-Ha-h][).:]\s+)?(?:(?:an?|the)\s+)?", "", " ".join(text.split()).strip(" .\"'"), flags=re.I
    )
    return bare[:1].upper() + bare[1:]


def _numbers(text: str) -> set[int]:
    found = {int(word) for word in words(text) if word.isdigit() and len(word) < 7}
    return found | {
        _NUMBERS[word]
        for word in words(text)
        if word in _NUMBERS and word not in _SMALL and word not in STOP_WORDS
    }
