"""The numbers of ``apt_small.py``: answers -> scores with 95 % intervals, and the figure."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lalm.data.english import words
from lalm.data.sample import Sample
from lalm.evaluate.metrics import METRICS, Answer, Resources
from lalm.evaluate.metrics.intervals import Measured, bootstrap, difference, interval, mean_of
from lalm.evaluate.parsers import PARSERS
from lalm.inference.reading import read_class
from lalm.tasks.events import number_word

Array = np.ndarray[Any, Any]
Scores = dict[str, Any]
AT = (1, 5, 10)
SHUFFLES = 20
GRID_S = [round(0.5 * n, 1) for n in range(1, 21)]  # ends of a constant answer to "when?"
TIMES = ("event_f1", "segment_f1", "mean_iou", "recall_at_iou_3", "recall_at_iou_5", "recall_at_iou_7")


@dataclass(frozen=True)
class Said:
    """An answer in words, and the log-likelihoods of the item's options."""

    text: str
    likelihoods: list[float]


def of(hits: Sequence[float] | Array, groups: Sequence[str]) -> Scores:
    """A mean with its interval."""
    return asdict(bootstrap([float(hit) for hit in hits], groups))


def apart(mine: Array, other: Array, groups: Sequence[str]) -> Scores:
    """The difference of two means on the same items, with its interval."""
    return asdict(difference(mean_of(mine), mean_of(other), groups))


def recalled(scores: Array, right: Array, recordings: Sequence[str]) -> Scores:
    """scores: (clips, captions) likeness; right: the same shape, True where they belong together."""
    found: Scores = {"clips": len(scores), "texts of one wording or clip counted alike": True}
    rng = np.random.default_rng(0)
    for name, table in (("audio to text", scores), ("text to audio", scores.T)):
        for k in AT:
            shuffled = [hits(table[rng.permutation(len(table))], right, k).mean() for _ in range(SHUFFLES)]
            found[f"{name} R@{k}"] = {
                "model": of(hits(table, right, k), recordings),
                "chance": float(by_chance(right.sum(1), len(right), k).mean()),
                "shuffled": float(np.mean(shuffled)),
            }
    return found


def hits(table: Array, right: Array, k: int) -> Array:
    """Whether a right one is among the first k of each row, (rows,)."""
    first = np.argsort(-table, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(right, first, 1).any(1).astype(float)


def by_chance(num_right: Array, total: int, k: int) -> Array:
    """The same expected of a drawn order: 1 - C(total - right, k) / C(total, k)."""
    places = np.arange(k)
    left = (total - num_right[:, None] - places).clip(0) / (total - places)
    return 1 - left.prod(1)


def shot(
    samples: Sequence[Sample],
    said: Mapping[str, Sequence[Said]],
    vectors: Sequence[Array],
    groups: Sequence[str],
    encoder: Callable[[Sequence[str]], Array] | None,
) -> Scores:
    """One cell of few-shot: vectors are the clips' own, (N K + 1, W) an item, the query's last."""
    wanted = [sample.references[0] for sample in samples]

    def right(labels: Sequence[str | None]) -> Array:
        return np.array([float(label == one) for label, one in zip(labels, wanted, strict=True)])

    found: dict[str, Array] = {}
    unreadable = {}
    for control, answers in said.items():
        pairs = list(zip(samples, answers, strict=True))
        read = [read_class(one.text, sample.choices) for sample, one in pairs]
        found[f"words, {control}"] = right(read)
        unreadable[control] = float(np.mean([label is None for label in read]))
        if encoder:
            found[f"words by meaning, {control}"] = right(
                [read_class(one.text, sample.choices, encoder) for sample, one in pairs]
            )
        found[f"likelihood, {control}"] = right(
            [sample.choices[int(np.argmax(one.likelihoods))] for sample, one in pairs]
        )
    gained = [
        np.subtract(a.likelihoods, b.likelihoods) for a, b in zip(said["audio"], said["silent"], strict=True)
    ]
    found["likelihood gained by hearing"] = right(
        [sample.choices[int(gain.argmax())] for sample, gain in zip(samples, gained, strict=True)]
    )
    both = [named(sample, own) for sample, own in zip(samples, vectors, strict=True)]
    found["nearest neighbour"] = right([near for near, _ in both])
    found["prototypes"] = right([prototype for _, prototype in both])
    cell: Scores = {name: of(values, groups) for name, values in found.items()}
    cell["unreadable"] = unreadable
    cell["chance"] = float(np.mean([1 / len(sample.choices) for sample in samples]))
    for other in ("likelihood, silent", "nearest neighbour", "prototypes"):
        cell[f"likelihood, audio minus {other}"] = apart(found["likelihood, audio"], found[other], groups)
    cell["words, audio minus words, silent"] = apart(found["words, audio"], found["words, silent"], groups)
    return cell


def named(sample: Sample, vectors: Array) -> tuple[str, str]:
    """The label of the support that is nearest by cosine, and of the prototype that is nearest."""
    content = sample.messages[0]["content"]
    texts = [part["text"] for part in content if part["type"] == "text"][:-1]
    labels = [
        next(c for c in sorted(sample.choices, key=len, reverse=True) if text.endswith(f" {c}.\n"))
        for text in texts
    ]
    supports, query = vectors[:-1], vectors[-1]
    cosine = supports @ query / np.linalg.norm(supports, axis=1)
    means = {label: supports[[one == label for one in labels]].mean(0) for label in dict.fromkeys(labels)}
    nearest = min(means, key=lambda label: float(((means[label] - query) ** 2).sum()))
    return labels[int(cosine.argmax())], nearest


def plotted(cells: Mapping[str, Any], path: Path) -> None:
    """Accuracy against shots at 5 ways and against ways at 5 shots, as the paper's figure 3 has it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = {name: tuple(map(int, name.split("x"))) for name in cells}
    panels = (("shots of 5 ways", 1, [n for n in cells if sizes[n][0] == 5]),)
    panels += (("ways of 5 shots", 0, [n for n in cells if sizes[n][1] == 5]),)
    figure, axes = pyplot.subplots(1, 2, figsize=(9.6, 4.0), sharey=True, layout="constrained")
    lines = ("likelihood, audio", "words, audio", "likelihood, silent", "nearest neighbour", "prototypes")
    for axis, (title, place, names) in zip(axes, panels, strict=True):
        names = sorted(names, key=lambda name: sizes[name][place])
        across = [sizes[name][place] for name in names]
        for number, line in enumerate(lines):
            rows = [cells[name][line] for name in names]
            means = [row["mean"] for row in rows]
            spread = [[max(0.0, r["mean"] - r["low"]) for r in rows], [r["high"] - r["mean"] for r in rows]]
            shifted = [x + 0.04 * (number - 2) for x in across]
            axis.errorbar(shifted, means, spread, marker="o", capsize=2, label=line, color=f"C{number}")
        axis.plot(across, [cells[name]["chance"] for name in names], "k:", label="chance")
        axis.set(xlabel=title, xticks=across, ylim=(0, 1))
    axes[0].set_ylabel("accuracy, held-out classes")
    axes[1].legend(fontsize="small")
    figure.savefig(path)
    pyplot.close(figure)


def compared(samples: Sequence[Sample], said: Mapping[str, Sequence[Said]]) -> Scores:
    """Questions about two recordings; items of one pair are drawn together."""
    pairs = [sample.id.rsplit("-", 1)[0] for sample in samples]
    wanted = [sample.references[0] for sample in samples]
    kinds = [kind(sample) for sample in samples]

    def right(answers: Sequence[str]) -> Array:
        return np.array([float(a == one) for a, one in zip(answers, wanted, strict=True)])

    found: dict[str, Array] = {}
    for control, answers in said.items():
        found[f"words, {control}"] = right([" ".join(words(one.text)) for one in answers])
        likely = [OPTIONS[k][int(np.argmax(one.likelihoods))] for k, one in zip(kinds, answers, strict=True)]
        found[f"likelihood, {control}"] = right(likely)
    best = Counter(wanted).most_common(1)[0][0]
    found[f"always '{best}'"] = right([best] * len(wanted))
    bests = {k: Counter(w for w, own in zip(wanted, kinds, strict=True) if own == k) for k in set(kinds)}
    of_kind = "the best constant of each kind of question"
    found[of_kind] = right([bests[k].most_common(1)[0][0] for k in kinds])
    scores: Scores = {name: of(values, pairs) for name, values in found.items()}
    scores["chance"] = float(np.mean([1 / len(OPTIONS[k]) for k in kinds]))
    for mine in ("words, audio", "likelihood, audio"):
        for other in (f"always '{best}'", of_kind, mine.replace("audio", "silent")):
            scores[f"{mine} minus {other}"] = apart(found[mine], found[other], pairs)
    scores["by kind"] = {
        k: {
            name: of(values[mask], np.array(pairs)[mask].tolist())
            for name, values in found.items()
            if "shuffled" not in name
        }
        for k in sorted(set(kinds))
        if (mask := np.array([own == k for own in kinds])).any()
    }
    scores["both orders right"] = {name: both(values, pairs, wanted) for name, values in found.items()}
    return scores


def both(values: Array, pairs: Sequence[str], wanted: Sequence[str]) -> Scores:
    """Share of pairs answered rightly in both orders, where the order changes the answer."""
    rows: dict[str, list[float]] = {}
    for value, pair, answer in zip(values, pairs, wanted, strict=True):
        if answer in ("first", "second"):
            rows.setdefault(pair, []).append(float(value))
    whole = {pair: min(own) for pair, own in rows.items() if len(own) == 2}
    return of(list(whole.values()), list(whole)) if whole else {}


OPTIONS = {
    "where": ("first", "second", "both", "neither"),
    "both": ("yes", "no"),
    **dict.fromkeys(("more often", "sooner", "last longer", "more different sounds"), ("first", "second")),
}


def kind(sample: Sample) -> str:
    """What a question of ``lalm build compare`` asks for."""
    content = sample.messages[0]["content"]
    text = " ".join(part["text"] for part in content if part["type"] == "text")
    if "both or neither" in text:
        return "where"
    return "both" if "Do both" in text else next(name for name in list(OPTIONS)[2:] if name in text)


def detected(samples: Sequence[Sample], said: Mapping[str, Sequence[Said]]) -> Scores:
    """Times of sounds, of all recordings and of those with more than one event."""

    def scored(rows: Sequence[int]) -> Scores:
        own = [samples[i] for i in rows]
        groups = [sample.origin["recording"] for sample in own]
        texts = {control: [answers[i].text for i in rows] for control, answers in said.items()}
        scores: Scores = {"items": len(own)}
        for name in TIMES:
            measured = {control: measure(name, own, text, "ranges") for control, text in texts.items()}
            scores[name] = {control: asdict(interval(m, groups)) for control, m in measured.items()}
            constants = {end: measure(name, own, [f"0.0s-{end}s."] * len(own), "ranges") for end in GRID_S}
            best = max(constants, key=lambda end: constants[end].value)
            scores[name][f"always 0.0s-{best}s"] = asdict(interval(constants[best], groups))
            for other, theirs in (("silent", measured["silent"]), ("constant", constants[best])):
                gap = difference(measured["audio"], theirs, groups)
                scores[name][f"audio minus {other}"] = asdict(gap)
        unread = [PARSERS["ranges"](s, text) is None for s, text in zip(own, texts["audio"], strict=True)]
        return scores | {"unreadable": float(np.mean(unread))}

    return everywhere(samples, scored)


def counted(samples: Sequence[Sample], said: Mapping[str, Sequence[Said]]) -> Scores:
    """How often, exactly and on average how far off, of all recordings and of those with several events."""

    def scored(rows: Sequence[int]) -> Scores:
        own = [samples[i] for i in rows]
        groups = [sample.origin["recording"] for sample in own]
        scores: Scores = {"items": len(own), "counts": Counter(sample.references[0] for sample in own)}
        for name, better in (("accuracy", max), ("count_error", min)):
            measured = {
                control: measure(name, own, [answers[i].text for i in rows], "number")
                for control, answers in said.items()
            }
            scores[name] = {control: asdict(interval(m, groups)) for control, m in measured.items()}
            constants = {n: measure(name, own, [number_word(n)] * len(own), "number") for n in range(1, 7)}
            best = better(constants, key=lambda n: constants[n].value)
            scores[name][f"always {number_word(best)}"] = asdict(interval(constants[best], groups))
            for other, theirs in (("silent", measured["silent"]), ("constant", constants[best])):
                gap = difference(measured["audio"], theirs, groups)
                scores[name][f"audio minus {other}"] = asdict(gap)
        return scores

    return everywhere(samples, scored)


def everywhere(samples: Sequence[Sample], scored: Callable[[Sequence[int]], Scores]) -> Scores:
    """The scores of all items, and of those about recordings with more than one event."""
    mixed = [i for i, sample in enumerate(samples) if len(sample.events) > 1]
    scores = {"all": scored(range(len(samples)))}
    return scores | ({"mixtures": scored(mixed)} if mixed else {})


def measure(name: str, samples: Sequence[Sample], texts: Sequence[str], parser: str) -> Measured:
    """One of the metrics of ``lalm eval``."""
    answers = [Answer(s, t, PARSERS[parser](s, t)) for s, t in zip(samples, texts, strict=True)]
    return METRICS[name].measure(answers, Resources())
