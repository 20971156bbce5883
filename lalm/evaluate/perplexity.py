"""Perplexity of known answers, by task and LoRA scale (SALMONN table 4 and figure 21)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lalm.data.sample import Sample
from lalm.inference.engine import Engine
from lalm.models.lora import set_lora_scale


@dataclass(frozen=True)
class Perplexity:
    """Of one task's answers under one model. ``mean`` and ``std`` are over answers, as table 4 has them;
    ``pooled`` is that of all tokens together, which a single odd answer cannot rule."""

    model: str
    task: str
    lora_scale: float | None
    mean: float
    std: float
    pooled: float
    num_answers: int
    num_tokens: int


def perplexities(
    engine: Engine, samples: Sequence[Sample], lora_scale: float | None = None
) -> list[Perplexity]:
    """Perplexity of the samples' targets at a LoRA scale (None: as trained; 0: LoRA removed), by task."""
    measured: dict[str, list[tuple[float, int]]] = {}
    set_lora_scale(engine.model, lora_scale)
    try:
        for sample in samples:
            measured.setdefault(sample.task, []).append(answer_nll(engine, sample))
    finally:
        if lora_scale is not None:
            set_lora_scale(engine.model, None)
    found = []
    for task, rows in sorted(measured.items()):
        each = [math.exp(min(nll / count, 700.0)) for nll, count in rows]  # exp(700) is the largest float
        total, tokens = sum(nll for nll, _ in rows), sum(count for _, count in rows)
        pooled = math.exp(min(total / tokens, 700.0))
        mean, std = float(np.mean(each)), float(np.std(each))
        found.append(Perplexity(engine.name, task, lora_scale, mean, std, pooled, len(rows), tokens))
    return found


@torch.inference_mode()
def answer_nll(engine: Engine, sample: Sample) -> tuple[float, int]:
    """Negative log-likelihood (nats) of a sample's target and end, and how many tokens that is."""
    batch = engine.processor.batch([sample], labels=True, audios=[engine.clips(sample)]).to(
        engine.model.device
    )
    count = int((batch["labels"][:, 1:] != -100).sum())
    if not count:
        raise ValueError(f"{sample.id}: the answer is empty")
    return float(engine.model(**batch).loss) * count, count


def plot(found: Sequence[Perplexity], path: Path) -> None:
    """A line a task over the models in the order given, solid as trained, dashed at other LoRA scales.

    Needs matplotlib (extra ``plot``).
    """
    try:
        import matplotlib
    except ImportError:
        raise ValueError("plots need matplotlib: pip install 'lalm[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    models = list(dict.fromkeys(row.model for row in found))
    tasks = list(dict.fromkeys(row.task for row in found))
    scales = list(dict.fromkeys(row.lora_scale for row in found))
    figure, axes = pyplot.subplots(figsize=(6.4, 4.4), layout="constrained")
    for number, task in enumerate(tasks):
        for style, scale in enumerate(scales):
            rows = [row for row in found if (row.task, row.lora_scale) == (task, scale)]
            name = task if scale is None else f"{task}, LoRA {scale:g}"
            places = [models.index(row.model) for row in rows]
            dash = "-" if scale is None else (0, (1 + 2 * style, 2))
            axes.plot(
                places, [row.pooled for row in rows], "o", linestyle=dash, color=f"C{number}", label=name
            )
    axes.set(yscale="log", ylabel="perplexity of the answers", xticks=range(len(models)))
    axes.set_xticklabels(models)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
