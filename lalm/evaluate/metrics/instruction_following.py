"""Instruction following, diversity and repetition of answers (SALMONN's appendix C)."""

import json
from collections import Counter
from collections.abc import Sequence

from lalm.data.english import words
from lalm.evaluate.metrics.error_rates import edits
from lalm.evaluate.metrics.intervals import Measured, mean_of, proportion
from lalm.evaluate.metrics.normalise import normalised
from lalm.evaluate.official.ifeval import unfenced

TRANSCRIBED_BELOW = 0.3  # word error rate against the spoken text: the model wrote it down instead
STORY_WORDS = 50  # fewer are no story
STORY_TOKENS = 200  # the longest answer that is asked for
REPEATED_WORDS, REPEATED_TIMES = 4, 3  # "generated responses repeatedly", which the paper does not define


def follows_question(answer: str, spoken: str) -> bool:
    """SQQA and slot filling: False when the answer transcribes the speech (WER below 30 %)."""
    wrong, count = edits(normalised(answer, "en"), normalised(spoken, "en"))
    if not count:
        raise ValueError("whether an answer follows cannot be told without the words that are spoken")
    return wrong / count >= TRANSCRIBED_BELOW


def follows_story(answer: str) -> bool:
    """Storytelling: at least 50 words."""
    return len(words(answer)) >= STORY_WORDS


def is_json(answer: str) -> bool:
    """A JSON array or object and nothing else; a fence of code around it (```json ... ```) is let pass."""
    try:
        return isinstance(json.loads(unfenced(answer)), list | dict)
    except (ValueError, RecursionError):
        return False


def question_following(answers: Sequence[str], spoken: Sequence[str]) -> Measured:
    """Following rate of SQQA and slot filling."""
    return proportion([float(follows_question(a, s)) for a, s in zip(answers, spoken, strict=True)])


def diversity(answers: Sequence[str]) -> Measured:
    """Different words in an answer, on average: "counting the number of different words" (section 4.3)."""
    return mean_of([float(len(set(words(answer)))) for answer in answers], proportion=False)


def repeats(answer: str) -> bool:
    """True when some four words in a row occur three times or more."""
    said = words(answer)
    grams = Counter(tuple(said[i : i + REPEATED_WORDS]) for i in range(len(said) - REPEATED_WORDS + 1))
    return max(grams.values(), default=0) >= REPEATED_TIMES


def repeat_rate(answers: Sequence[str]) -> Measured:
    """Share of the answers that repeat themselves (Table 5; what counts as repeating is ours)."""
    return proportion([float(repeats(answer)) for answer in answers])
