"""The scorers of public benchmarks (``lalm.evaluate.official``) as metrics, beside lalm's own."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lalm.evaluate.lacking import Lacking
from lalm.evaluate.metrics.answers import Answer, Metric, Resources
from lalm.evaluate.metrics.bleu import flores_bleu
from lalm.evaluate.metrics.calls import joined
from lalm.evaluate.metrics.error_rates import edits
from lalm.evaluate.metrics.intervals import SHARE, Array, Measured, additive, mean_of, proportion, rate
from lalm.evaluate.official import audio_following, ifeval, letters, voicebench
from lalm.evaluate.official.audiobench import spoken_words
from lalm.evaluate.official.helm import begins_with
from lalm.evaluate.official.open_asr import normaliser, word_edits
from lalm.evaluate.official.string_match import matches
from lalm.evaluate.official.text_parts import exact
from lalm.evaluate.official.voicebench_bbh import phrases


def _string_match(answer: Answer) -> bool:
    sample = answer.sample
    return any(matches(right, answer.text, sample.choices) for right in sample.references)


def _letters(answers: Sequence[Answer], *, empty_counts: bool) -> Measured:
    """Right answers over those that the script counts: one without a readable letter is left out."""
    rows = []
    for answer in answers:
        empty = answer.text.strip().replace("\n", "") in ("", "None")
        right = letters.chosen(answer.text, answer.sample.choices) in answer.sample.references
        rows.append((float(right), float(letters.counted(answer.text) or (empty and empty_counts))))
    return rate(rows)


def _spoken_choice(answer: Answer) -> float:
    return max(voicebench.choice_score(answer.text, right) for right in answer.sample.references)


def _bbh(answers: Sequence[Answer], resources: Resources) -> Measured:
    """As VoiceBench reads answers to its BBH questions, by the phrases of the user's copy."""
    known = phrases(resources.folder("voicebench", "voicebench_bbh"))
    resources.used["voicebench_bbh"] = f"the phrases of your VoiceBench, bbh.py {known.digest}"
    scores = [known.score(a.sample.id, a.text, (a.sample.references or ("",))[0]) for a in answers]
    return mean_of(scores, proportion=False)


def _following(answer: Answer) -> bool:
    origin = answer.sample.origin
    task, given = origin.get("task_identifier", ""), _json(answer, "kwargs") or {}
    return audio_following.follows(task, given, answer.text, origin.get("question", ""))


def _json(answer: Answer, name: str) -> Any:
    """A value that a reader kept as JSON in the sample's origin."""
    text = answer.sample.origin.get(name)
    if text is None:
        raise Lacking(f"it needs origin.{name}, which '{answer.sample.id}' does not have")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Lacking(f"origin.{name} of '{answer.sample.id}' is not JSON") from None


def _ifeval(answers: Sequence[Answer], resources: Resources) -> Measured:
    """VoiceBench's final number of IFEval: the mean of four shares, as sums over answers."""
    rows, near = list[list[float]](), 0
    for answer in answers:
        names, givens = _json(answer, "instruction_id_list"), _json(answer, "kwargs")
        both = [ifeval.follows(names, givens, answer.text, loose=loose) for loose in (False, True)]
        near += any(name in ifeval.APPROXIMATE for name in names)
        rows.append([1.0, len(names), *(number for own in both for number in (float(all(own)), sum(own)))])
    if near and not exact():
        resources.used["ifeval"] = (
            f"{near} answers have instructions that our rules check (docs/benchmarks.md)"
        )

    def finish(sums: Array) -> Array:
        items, instructions = np.maximum(sums[..., 0], 1), np.maximum(sums[..., 1], 1)
        prompts, single = sums[..., 2] + sums[..., 4], sums[..., 3] + sums[..., 5]
        found: Array = (prompts / items + single / instructions) / 4
        return found

    return additive(rows, finish)


def _audiobench_wer(answers: Sequence[Answer], resources: Resources) -> Measured:
    """Of the first reference, as AudioBench has one."""
    resources.used["audiobench_wer"] = "AudioBench's text before word errors, English"
    pairs = [(spoken_words(a.text), spoken_words(a.sample.references[0])) for a in answers]
    return rate([edits(said, wanted) for said, wanted in pairs])


def _open_asr_wer(answers: Sequence[Answer], resources: Resources) -> Measured:
    """Of the first reference, over texts as the Open ASR leaderboard compares them."""
    clean = normaliser(resources.folder("open_asr", "open_asr_wer"))
    resources.used["open_asr_wer"] = "the leaderboard's normaliser with your copy of its lists, kaldialign"
    return rate([word_edits(clean(a.text), clean(a.sample.references[0])) for a in joined(answers)])


def _flores_bleu(answers: Sequence[Answer], resources: Resources) -> Measured:
    """As AudioBench's translations are scored: an empty text is the word "empty" there."""
    found = flores_bleu(
        [a.text or "empty" for a in answers],
        [a.sample.references[:1] for a in answers],
        resources.folders.get("flores101"),
    )
    resources.used["bleu_flores101"] = "sacreBLEU, tokeniser flores101"
    return replace(found, of_counts=lambda counts: found.of_counts(counts) / 100)


def _begins(answer: Answer) -> bool:
    return any(begins_with(answer.text.strip(), right) for right in answer.sample.references)


def _helm_letter(answer: Answer) -> bool:
    """HELM's exact match of a question with options: nothing but the letter of the right one."""
    options = {chr(ord("A") + place): text for place, text in enumerate(answer.sample.choices)}
    return options.get(answer.text.strip(), "") in answer.sample.references


def _each(score: Callable[[Answer], bool], *, compares: bool = True) -> Metric:
    return Metric(
        lambda answers, _: proportion([float(score(a)) for a in answers]), compares=compares, bounds=SHARE
    )


OFFICIAL: Mapping[str, Metric] = {
    "string_match": _each(_string_match),
    "mmsu_accuracy": Metric(lambda answers, _: _letters(answers, empty_counts=True), bounds=SHARE),
    "airbench_accuracy": Metric(lambda answers, _: _letters(answers, empty_counts=False), bounds=SHARE),
    "voicebench_choice": Metric(
        lambda answers, _: mean_of([_spoken_choice(a) for a in answers], proportion=False), bounds=SHARE
    ),
    "voicebench_bbh": Metric(_bbh, bounds=SHARE),
    "voicebench_refusal": _each(lambda answer: voicebench.refuses(answer.text), compares=False),
    "ifeval": Metric(_ifeval, compares=False, bounds=SHARE),
    "helm_prefix_match": _each(_begins),
    "helm_letter": _each(_helm_letter),
    "mmau_pro_following": _each(_following, compares=False),
    "open_asr_wer": Metric(_open_asr_wer, lower_is_better=True),
    "bleu_flores101": Metric(_flores_bleu, bounds=SHARE),
    "audiobench_wer": Metric(_audiobench_wer, lower_is_better=True),
}
