"""Rewards that can be checked: what an answer is worth, from 0 to 1, read off the sample itself.

A recipe lists them with weights (``grpo.rewards``); an answer's reward is their weighted sum. A name with
``.py:`` in it is a function of the user's own file, ``reward(sample, answer) -> float``. ``vote`` needs no
reference: it is right what most answers of the group say (AQA-TTRL, arXiv 2510.05478).
"""

import importlib.util
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from lalm.data.english import words
from lalm.data.sample import Sample
from lalm.errors import LalmError
from lalm.inference.choices import read_choice
from lalm.inference.counting import read_number
from lalm.inference.final_answer import final_answer
from lalm.inference.naming import held_words, names_it
from lalm.inference.times import read_ranges
from lalm.inference.yes_no import read_yes_no
from lalm.synthesis.judging import known
from lalm.training.objectives.judge_reward import JudgeReward
from lalm.training.sections import Reward

OfAnswer: TypeAlias = Callable[[Sample, str], float]
OfGroup: TypeAlias = Callable[[Sample, Sequence[str]], list[float]]

REPEATED = 4  # words: a run of so many that comes again is a repetition


class RewardError(LalmError, ValueError):
    """A reward that cannot be given; the text names it, or the sample that lacks what it needs."""


def accepted(sample: Sample) -> tuple[str, ...]:
    """The answers that are right: references, or else the target or the chosen answer."""
    return sample.references or tuple(text for text in (sample.target or sample.chosen,) if text)


def right(sample: Sample, answer: str) -> float:
    """Right or wrong by the sample's own form: one of its choices, yes or no, a number, else a name."""
    wanted = accepted(sample)
    if sample.choices:
        return choice(sample, answer)
    if wanted[0].strip().lower().rstrip(".") in ("yes", "no"):
        return yes_no(sample, answer)
    if wanted[0].strip().isdigit():
        return number(sample, answer)
    return names(sample, answer)


def choice(sample: Sample, answer: str) -> float:
    """The option that the answer chooses is the right one."""
    return _among(read_choice(answer, sample.choices), right_choices(sample))


def yes_no(sample: Sample, answer: str) -> float:
    """The answer says yes where yes is right, and no where no is."""
    return _among(read_yes_no(answer), map(read_yes_no, accepted(sample)))


def number(sample: Sample, answer: str) -> float:
    """The number that the answer gives is the right one."""
    return _among(read_number(answer), map(read_number, accepted(sample)))


def right_choices(sample: Sample) -> list[str]:
    """The options that are right, which a reference names by their words or their letter."""
    found = [
        text if text in sample.choices else read_choice(text, sample.choices) for text in accepted(sample)
    ]
    return [option for option in found if option]


def _among(said: str | None, true: Iterable[str | None]) -> float:
    """1 where something was said and it is among what is true."""
    return float(said is not None and said in true)


def names(sample: Sample, answer: str) -> float:
    """The answer names what is right, undenied and not as one of many guesses."""
    return float(names_it(answer, accepted(sample)))


def exact(sample: Sample, answer: str) -> float:
    """The answer has the very words of a right one; case and punctuation do not count."""
    return float(words(final_answer(answer)) in [words(text) for text in accepted(sample)])


def word_errors(sample: Sample, answer: str) -> float:
    """1 minus the word error rate against the nearest right answer, at least 0."""
    import jiwer

    said = " ".join(words(final_answer(answer)))
    rates = [
        jiwer.wer(truth, said) if (truth := " ".join(words(text))) else float(bool(said))
        for text in accepted(sample)
    ]
    return max(0.0, 1.0 - min(rates))


def times(sample: Sample, answer: str) -> float:
    """How much the times said and the true ones overlap: their common seconds over those of either.

    The true ones are the events that ``origin.asked`` names, or all, or else the times in the reference.
    """
    asked = sample.origin.get("asked", "")
    events = [e for e in sample.events if not asked or e["label"] == asked]
    true = [(event["onset_s"], event["offset_s"]) for event in events]
    if not true and not sample.events:
        true = [(a, b) for text in accepted(sample)[:1] for _, a, b in read_ranges(text)]
    said = [(a, b) for _, a, b in read_ranges(answer)]
    if not true or not said:
        return float(not true and not said)
    common = sum(max(0.0, min(b, d) - max(a, c)) for a, b in joined(true) for c, d in joined(said))
    either = sum(b - a for a, b in joined([*true, *said]))
    return common / either if either else 0.0


def order(sample: Sample, answer: str) -> float:
    """The share of pairs of events that the answer names in their true order; names are the labels' words."""
    said = held_words(answer)
    places = []
    for event in sorted(sample.events, key=lambda event: event["onset_s"]):
        own = held_words(event["label"])
        spots = [i for i, word in enumerate(said) if word in own]
        places.append(spots[0] if spots else None)
    pairs = [(a, b) for i, a in enumerate(places) for b in places[i + 1 :]]
    if not pairs:
        return 0.0
    return sum(a is not None and b is not None and a < b for a, b in pairs) / len(pairs)


def read_json(answer: str) -> dict[str, Any] | None:
    """The one JSON object that an answer is, perhaps in a fence of code; None where it is anything else."""
    try:
        said = json.loads(answer.strip().removeprefix("```json").strip("`\n "))
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def json_object(sample: Sample, answer: str) -> float:
    """The answer is one JSON object; where a right answer is one too, the share of its keys that agree."""
    said = read_json(answer)
    if said is None:
        return 0.0
    for text in accepted(sample):
        try:
            true = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(true, dict) and true:
            return sum(said.get(key) == value for key, value in true.items()) / len(true)
    return 1.0


def fitting(schema: str | dict[str, Any]) -> OfAnswer:
    """The reward "json" of answers that fit a JSON schema, given as it is or as a file; 0 of all others."""
    try:
        from jsonschema import exceptions, validators
    except ImportError:
        raise RewardError("grpo.rewards: 'schema' needs jsonschema: pip install 'lalm[evaluate]'") from None
    try:
        told = json.loads(Path(schema).read_text("utf-8")) if isinstance(schema, str) else schema
        kind = validators.validator_for(told)
        kind.check_schema(told)
    except (OSError, ValueError, exceptions.SchemaError, RecursionError) as error:
        what = getattr(error, "message", "") or error
        raise RewardError(f"grpo.rewards: 'schema' is no JSON schema: {what}") from None
    validator = kind(told)

    def reward(sample: Sample, answer: str) -> float:
        said = read_json(answer)
        return json_object(sample, answer) if said is not None and validator.is_valid(said) else 0.0

    return reward


def repeats(sample: Sample, answer: str) -> float:
    """The share of runs of four words that came before: for a negative weight."""
    said = words(answer)
    runs = [tuple(said[i : i + REPEATED]) for i in range(len(said) - REPEATED + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


ONE_BY_ONE: dict[str, OfAnswer] = {
    "right": right,
    "choice": choice,
    "yes_no": yes_no,
    "number": number,
    "names": names,
    "exact": exact,
    "words": word_errors,
    "times": times,
    "order": order,
    "json": json_object,
    "repeats": repeats,
}
NEEDS_EVENTS = ("order",)
NEEDS_NOTHING = ("repeats", "json", "format", "length", "vote")


def vote(sample: Sample, answers: Sequence[str]) -> list[float]:
    """1 for the answers that say what most of the group say, as far as they can be read; 0 for the others."""

    def read(answer: str) -> str:
        if sample.choices:
            return read_choice(answer, sample.choices) or ""
        return read_yes_no(answer) or " ".join(words(final_answer(answer)))

    said = [read(answer) for answer in answers]
    counts = Counter(text for text in said if text)
    most = max(counts.values(), default=0)
    leading = next((text for text in said if text and counts[text] == most), "")
    return [float(bool(text) and text == leading) for text in said]


def reward_of(settings: Reward) -> OfGroup:
    """The function that a recipe's entry names. Raises RewardError where there is no such thing."""
    name = settings.name
    if name == "vote":
        return vote
    if name == "format":
        pattern = re.compile(settings.pattern or "", re.S)
        return _each(lambda sample, answer: float(bool(pattern.fullmatch(answer.strip()))))
    if name == "length":
        fewest, most = settings.between or (0, 0)
        return _each(lambda sample, answer: float(fewest <= len(answer.split()) <= most))
    if name == "judge":
        return JudgeReward(settings)
    if name == "json" and settings.schema_ is not None:
        return _each(fitting(settings.schema_))
    if name == "words" and find_spec("jiwer") is None:
        raise RewardError("grpo.rewards: 'words' needs jiwer: pip install 'lalm[evaluate]'")
    return _each(_own(name) if ".py:" in name else ONE_BY_ONE[name])


def check_rewardable(rewards: Sequence[Reward], sample: Sample, where: str) -> None:
    """Raises RewardError when a sample lacks what a reward compares answers with."""
    for reward in rewards:
        name = reward.name
        if name in NEEDS_NOTHING or ".py:" in name:
            continue
        if name == "judge":
            if not known(sample, accepted=True):
                raise RewardError(f"{where}: the reward 'judge' needs references, a caption or a transcript")
            continue
        if name in NEEDS_EVENTS and len(sample.events) < 2:
            raise RewardError(f"{where}: the reward '{name}' needs two events or more")
        if name == "choice" and not sample.choices:
            raise RewardError(f"{where}: the reward 'choice' needs choices")
        if name not in NEEDS_EVENTS and not accepted(sample) and not (name == "times" and sample.events):
            raise RewardError(f"{where}: the reward '{name}' needs references, or an answer")
        _check_true(name, sample, where)


def _check_true(name: str, sample: Sample, where: str) -> None:
    """Raises RewardError when nothing that is right of a sample has the form that a reward reads."""
    true = accepted(sample)
    if name in ("choice", "right") and sample.choices and not right_choices(sample):
        raise RewardError(f"{where}: '{true[0][:60]}' is right, and none of its choices is that")
    for form, read, what in (("yes_no", read_yes_no, "yes or no"), ("number", read_number, "a number")):
        if name == form and not any(map(read, true)):
            raise RewardError(
                f"{where}: the reward '{form}' needs {what}, and right is '{true[0][:60]}': take 'right', "
                "which goes by each sample's own form"
            )


def joined(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans in order, those that touch made one."""
    found: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def _each(one: OfAnswer) -> OfGroup:
    return lambda sample, answers: [float(one(sample, answer)) for answer in answers]


def _own(name: str) -> OfAnswer:
    """A function of the user's own file, "rewards.py:brief"."""
    file, _, function = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise RewardError(f"grpo.rewards: there is no file '{file}'")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RewardError(f"grpo.rewards: '{file}' cannot be run: {type(error).__name__}: {error}") from None
    found = getattr(module, function, None)
    if not callable(found):
        raise RewardError(f"grpo.rewards: '{file}' has no function '{function}'")

    def reward(sample: Sample, answer: str) -> float:
        try:
            said = found(sample, answer)
        except Exception as error:
            what = f"{answer[:60]!r}: {type(error).__name__}: {error}"
            raise RewardError(f"grpo.rewards: '{name}' failed on the answer {what}") from error
        try:
            return float(said)
        except (TypeError, ValueError):
            raise RewardError(f"grpo.rewards: '{name}' gave {said!r} instead of a number") from None

    return reward
