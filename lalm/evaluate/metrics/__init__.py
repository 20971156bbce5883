"""The metrics by name: each computes a ``Measured`` from a run's answers, from which intervals follow."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from lalm.data.english import words
from lalm.evaluate.lacking import Lacking
from lalm.evaluate.metrics import bleu, captions, embeddings, normalise_qwen2_audio
from lalm.evaluate.metrics import classification as labels
from lalm.evaluate.metrics import error_rates as errors
from lalm.evaluate.metrics import event_detection as events
from lalm.evaluate.metrics import instruction_following as following
from lalm.evaluate.metrics.answers import Answer as Answer
from lalm.evaluate.metrics.answers import Metric as Metric
from lalm.evaluate.metrics.answers import Resources as Resources
from lalm.evaluate.metrics.calls import joined
from lalm.evaluate.metrics.intervals import (
    SHARE,
    Array,
    Measured,
    additive,
    each,
    mean_of,
    proportion,
    ratio,
)
from lalm.evaluate.metrics.meteor import meteor
from lalm.evaluate.metrics.official_scores import OFFICIAL
from lalm.evaluate.metrics.spice import NEEDS, spice
from lalm.evaluate.parsers import speaks
from lalm.inference.choices import read_labels
from lalm.inference.counting import read_number
from lalm.inference.naming import names_it
from lalm.inference.times import Span, read_ranges
from lalm.systems import brought


def _texts(answers: Sequence[Answer]) -> tuple[list[str], list[Sequence[str]]]:
    return [a.text.replace("\n", " ") for a in answers], [a.sample.references for a in answers]


def _on_texts(
    score: Callable[[list[str], list[Sequence[str]]], Measured], bounds: tuple[float, float] = SHARE
) -> Metric:
    return Metric(lambda answers, _: score(*_texts(answers)), bounds=bounds)


def _wer(answers: Sequence[Answer], resources: Resources) -> Measured:
    answers = joined(answers)
    return errors.word_errors(*_texts(answers), [a.sample.origin.get("language", "en") for a in answers])


def _released_wer(answers: Sequence[Answer], resources: Resources) -> Measured:
    languages = [a.sample.origin.get("language", "en") for a in answers]
    resources.used["wer_qwen2_audio"] = "the normalisers of Qwen2-Audio's released evaluation"
    return errors.word_errors(*_texts(answers), languages, normalise_qwen2_audio.normalised)


def _exact(answer: Answer) -> bool:
    """Qwen2-Audio's released evaluation of classes: the very string, but for white space before it."""
    return answer.text.lstrip() in answer.sample.references


def _bleu(answers: Sequence[Answer], resources: Resources) -> Measured:
    names = {bleu.tokeniser_for(a.sample.origin.get("target_language", "")) for a in answers}
    if len(names) > 1:
        raise ValueError(f"one BLEU cannot have several tokenisers: {', '.join(sorted(names))}")
    (name,) = names
    resources.used["bleu"] = f"sacreBLEU, tokeniser {name}"
    return _hundredth(bleu.corpus_bleu(*_texts(answers), name))


def _caption_bleu(answers: Sequence[Answer], resources: Resources) -> Measured:
    return _hundredth(captions.caption_bleu(*_texts(answers)))


def _hundredth(measured: Measured) -> Measured:
    return Measured(measured.num_items, lambda counts: measured.of_counts(counts) / 100)


def _meteor(answers: Sequence[Answer], resources: Resources) -> Measured:
    measured, resources.used["meteor"] = meteor(*_texts(answers), resources.folders.get("meteor"))
    return measured


def _right(answer: Answer) -> float:
    accepted = {" ".join(words(reference)) for reference in answer.sample.references}
    return float(answer.read is not None and " ".join(words(answer.read)) in accepted)


def _accuracy(answers: Sequence[Answer], resources: Resources) -> Measured:
    return proportion([_right(answer) for answer in answers])


def unreadable(answers: Sequence[Answer]) -> Measured:
    """Share of the answers that the parser could not read: wrong, and told apart."""
    return proportion([float(answer.read is None) for answer in answers])


def _count_error(answer: Answer) -> float:
    """How far the number read is from the right one; an answer without a number counts as zero."""
    right = next((int(text) for text in answer.sample.references if text.isdecimal()), None)
    if right is None:
        raise Lacking("count_error needs a number in digits among the references")
    return abs(int(read_number(answer.read or "") or 0) - right)


def _names(answer: Answer) -> float:
    """1 when the answer names all content words of any reference, undenied and not as one of many guesses."""
    return float(names_it(answer.text, answer.sample.references))


def _says(answer: Answer) -> bool:
    """Whether any word of the references is said, as it stands."""
    return bool(set(words(answer.text)) & {word for text in answer.sample.references for word in words(text)})


def _on_each(score: Callable[[Answer], bool | float], *, compares: bool = False) -> Metric:
    return Metric(
        lambda answers, _: proportion([float(score(answer)) for answer in answers]),
        compares=compares,
        bounds=SHARE,
    )


def _judged(answers: Sequence[Answer], resources: Resources) -> Measured:
    """The judge's mean score; an unreadable judgment counts 0 and is counted apart."""
    return mean_of([answer.judged or 0.0 for answer in answers], proportion=False)


def _tried(answers: Sequence[Answer], resources: Resources) -> Measured:
    """SAC's following rate: how many answers the judge takes for a try to answer."""
    return mean_of([answer.tried or 0.0 for answer in answers])


def _macro_f1(answers: Sequence[Answer], resources: Resources) -> Measured:
    return labels.macro_f1([a.read for a in answers], [a.sample.references[0] for a in answers])


def _tagging(answers: Sequence[Answer], resources: Resources) -> Measured:
    """Macro mAP over the classes that occur: by an aligner's or a sentence encoder's cosine with the classes'
    names, else by mention."""
    classes = sorted({label for answer in answers for label in answer.sample.references})
    wanted = np.array([[float(c in a.sample.references) for c in classes] for a in answers])
    if "aligner" in resources.folders:
        aligner = embeddings.AlignerTexts(resources.folder("aligner", "map"))
        scores = aligner.scores([a.text for a in answers], classes)
    elif "sentences" in resources.folders:
        encoder = embeddings.SentenceEncoder(resources.folder("sentences", "map"))
        scores = encoder([a.text or " " for a in answers]) @ encoder(classes).T
    else:
        resources.used["map"] = "a class scores 1 when the answer names it, else 0"
        named = [read_labels(answer.text, classes) for answer in answers]
        scores = np.array([[float(c in own) for c in classes] for own in named])
    return labels.mean_average_precision(scores, wanted)


def _spans(answers: Sequence[Answer]) -> tuple[list[list[Span]], list[list[Span]]]:
    said, wanted = [], []
    for answer in answers:
        asked = answer.sample.origin.get("asked", "")  # the one sound that the question is about
        events_of = [e for e in answer.sample.events if not asked or e["label"] == asked]
        own = [(e["label"], e["onset_s"], e["offset_s"]) for e in events_of]
        said.append(read_ranges(answer.text, own[0][0] if own else ""))
        wanted.append(own)
    return said, wanted


def _question_following(answers: Sequence[Answer], resources: Resources) -> Measured:
    """Following rate of SQQA and slot filling; LookupError where a recording's words are unknown."""
    spoken = [a.sample.origin.get("transcript", "") for a in answers]
    unknown = next(
        (a.sample.id for a, words_ in zip(answers, spoken, strict=True) if not words_.strip()), None
    )
    if unknown is not None:
        raise Lacking(f"following needs the words that are spoken, and '{unknown}' has no origin.transcript")
    return following.question_following([a.text for a in answers], spoken)


def _keywords(answers: Sequence[Answer], resources: Resources) -> Measured:
    """Share of the first three keywords named that are among the references (SALMONN's KE)."""
    scores = []
    for answer in answers:
        named = [" ".join(words(k)) for k in answer.text.replace("\n", ",").split(",")]
        accepted = {" ".join(words(reference)) for reference in answer.sample.references}
        scores.append(sum(k in accepted for k in dict.fromkeys(k for k in named if k)) / 3 if named else 0.0)
    return mean_of([min(score, 1.0) for score in scores], proportion=False)


def _similarity(answers: Sequence[Answer], resources: Resources) -> Measured:
    encoder = embeddings.SentenceEncoder(resources.folder("sentences", "similarity"))
    return mean_of(embeddings.similarities(encoder, *_texts(answers)), proportion=False)


def _broken(texts: list[str], resources: Resources, metric: str) -> Array:
    return embeddings.broken(resources.folder("fluency", metric), texts)


def _fense(answers: Sequence[Answer], resources: Resources) -> Measured:
    texts, references = _texts(answers)
    error = _broken(texts, resources, "fense")
    encoder = embeddings.SentenceEncoder(resources.folder("sentences", "fense"))
    resources.used["fense"] = f"{resources.named('sentences')}, {resources.named('fluency')}"
    return mean_of(
        embeddings.punished(embeddings.similarities(encoder, texts, references), error), proportion=False
    )


def _spice_of_items(answers: Sequence[Answer], resources: Resources, metric: str) -> Array:
    if "spice" not in resources.folders:
        raise Lacking(f"{NEEDS}: say --resource spice=FOLDER")
    scores = spice(resources.folder("spice", metric), *_texts(answers))
    resources.used[metric] = "spice-1.0.jar"
    return scores


def _spice(answers: Sequence[Answer], resources: Resources) -> Measured:
    return mean_of(_spice_of_items(answers, resources, "spice"), proportion=False)


def _with_cider(answers: Sequence[Answer], other: Array) -> Array:
    """The mean of each answer's CIDEr-D and of another score."""
    return (each(captions.cider_d(*_texts(answers))) + other) / 2


def _spider(answers: Sequence[Answer], resources: Resources) -> Measured:
    return mean_of(_with_cider(answers, _spice_of_items(answers, resources, "spider")), proportion=False)


def _spider_fl(answers: Sequence[Answer], resources: Resources) -> Measured:
    scores = _with_cider(answers, _spice_of_items(answers, resources, "spider_fl"))
    error = _broken(_texts(answers)[0], resources, "spider_fl")
    resources.used["spider_fl"] = f"spice-1.0.jar, {resources.named('fluency')}"
    return mean_of(embeddings.punished(scores, error), proportion=False)


def _cider_content(answers: Sequence[Answer], resources: Resources) -> Measured:
    """A stand-in for SPIDEr without Java, and not SPIDEr: content F1 in SPICE's place."""
    return mean_of(_with_cider(answers, each(captions.content_f1(*_texts(answers)))), proportion=False)


def _cider_content_fl(answers: Sequence[Answer], resources: Resources) -> Measured:
    """The same with SPIDEr-FL's punishment of captions that are not fluent; not SPIDEr-FL."""
    error = _broken(_texts(answers)[0], resources, "cider_content_fl")
    return mean_of(embeddings.punished(each(_cider_content(answers, resources)), error), proportion=False)


def _perplexity(answers: Sequence[Answer], resources: Resources) -> Measured:
    """Of all known answers' tokens together."""
    rows = [answer.likelihood for answer in answers if answer.likelihood is not None]
    if len(rows) < len(answers):
        raise Lacking("perplexity needs a local model: endpoints and files do not say how likely a text is")
    resources.used["perplexity"] = (
        "all tokens of the first references together, the end of the answer included"
    )
    return additive(rows, lambda sums: np.exp(np.minimum(ratio(sums), 700.0)))


CIDER = (0.0, 10.0)
SPIDER = (0.0, 5.5)  # the mean of CIDEr-D and a share
COSINE = (-1.0, 1.0)

METRICS: dict[str, Metric] = {
    "wer": Metric(_wer, lower_is_better=True),
    "wer_qwen2_audio": Metric(_released_wer, lower_is_better=True),
    "per": Metric(lambda answers, _: errors.phone_errors(*_texts(answers)), lower_is_better=True),
    "bleu": Metric(_bleu, bounds=SHARE),
    "caption_bleu": Metric(_caption_bleu, bounds=SHARE),
    "rouge_l": _on_texts(captions.rouge_l),
    "cider_d": _on_texts(captions.cider_d, CIDER),
    "meteor": Metric(_meteor, bounds=SHARE),
    "content_f1": _on_texts(captions.content_f1),
    "spice": Metric(_spice, bounds=SHARE),
    "spider": Metric(_spider, bounds=SPIDER),
    "spider_fl": Metric(_spider_fl, bounds=SPIDER),
    "cider_content": Metric(_cider_content, bounds=SPIDER),
    "cider_content_fl": Metric(_cider_content_fl, bounds=SPIDER),
    "similarity": Metric(_similarity, bounds=COSINE),
    "fense": Metric(_fense, bounds=COSINE),
    "accuracy": Metric(_accuracy, bounds=SHARE),
    "names": _on_each(_names, compares=True),
    "says": _on_each(_says, compares=True),
    "judge": Metric(_judged, bounds=SHARE),
    "one_word": _on_each(lambda answer: len(words(answer.text)) == 1),
    "ten_words": _on_each(lambda answer: 9 <= len(words(answer.text)) <= 11),
    "is_json": _on_each(lambda answer: following.is_json(answer.text)),
    "says_yes_or_no": _on_each(lambda answer: words(answer.text) in (["yes"], ["no"])),
    "in_language": _on_each(lambda a: speaks(a.text, a.sample.origin.get("target_language", ""))),
    "exact": _on_each(_exact, compares=True),
    "macro_f1": Metric(_macro_f1, bounds=SHARE),
    "map": Metric(_tagging, bounds=SHARE),
    "event_f1": Metric(lambda answers, _: events.event_f1(*_spans(answers)), bounds=SHARE),
    "segment_f1": Metric(lambda answers, _: events.segment_f1(*_spans(answers)), bounds=SHARE),
    "mean_iou": Metric(lambda answers, _: events.mean_iou(*_spans(answers)), bounds=SHARE),
    "recall_at_iou_3": Metric(lambda answers, _: events.recall_at_iou(*_spans(answers), 0.3), bounds=SHARE),
    "recall_at_iou_5": Metric(lambda answers, _: events.recall_at_iou(*_spans(answers), 0.5), bounds=SHARE),
    "recall_at_iou_7": Metric(lambda answers, _: events.recall_at_iou(*_spans(answers), 0.7), bounds=SHARE),
    "count_error": Metric(
        lambda answers, _: mean_of([_count_error(answer) for answer in answers], proportion=False),
        lower_is_better=True,
        percent=False,
    ),
    "keywords": Metric(_keywords, bounds=SHARE),
    "perplexity": Metric(_perplexity, lower_is_better=True, percent=False, bounds=(1.0, math.inf)),
    "following": Metric(_question_following, compares=False, bounds=SHARE),
    "judge_following": Metric(_tried, compares=False, bounds=SHARE),
    "story_following": _on_each(lambda answer: following.follows_story(answer.text)),
    "diversity": Metric(
        lambda answers, _: following.diversity([a.text for a in answers]), percent=False, compares=False
    ),
    "repeat_rate": Metric(
        lambda answers, _: following.repeat_rate([a.text for a in answers]),
        lower_is_better=True,
        compares=False,
        bounds=SHARE,
    ),
    **OFFICIAL,
}


def is_metric(name: str) -> bool:
    """Whether a metric of this name is known here, or brought by an own file or an installed package."""
    if name not in METRICS:
        for own in brought("METRICS"):
            METRICS.update(own)
    return name in METRICS
