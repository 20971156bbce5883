"""From easy to hard: prompts are answered before the first step, and those rewarded most come first.

``grpo.curriculum`` is how many answers are drawn to each prompt by the model as the run starts. What they are
worth stays in ``out/difficulty.jsonl``, so that a resumed run has the same order; every epoch goes by it. Of
the easiest prompts all answers may be right, of the hardest none: such groups teach nothing (``spread``).
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from lalm.data.mixture import Mixture
from lalm.data.sample import Sample
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.processing import AudioLMProcessor
from lalm.synthesis.resumable_rows import whole_lines
from lalm.training.objectives.rewards import OfGroup, check_rewardable, reward_of
from lalm.training.objectives.rollouts import draw, prompt_batch, row_seeds
from lalm.training.sections import Grpo, Reward
from lalm.training.trainer import Read

FILE = "difficulty.jsonl"
STREAM = 2**40  # steps of ``row_seeds`` that no training step has


def prompt_key(sample: Sample) -> str:
    """What a prompt's worth is kept under: its turns and clips, and what is right."""
    fields = {
        k: v for k, v in sample.to_json().items() if k in ("messages", "references", "choices", "chosen")
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:32]


def worth(
    rewards: Sequence[tuple[Reward, OfGroup]], samples: Sequence[Sample], texts: Sequence[str]
) -> list[float]:
    """The mean reward of each sample's answers; ``texts``: those of a sample behind one another."""
    count = len(texts) // len(samples)
    found = []
    for i, sample in enumerate(samples):
        own = texts[i * count : (i + 1) * count]
        parts = [settings.weight * float(np.mean(reward(sample, own))) for settings, reward in rewards]
        found.append(sum(parts))
    return found


@torch.no_grad()
def measure(
    model: AudioLMForConditionalGeneration,
    processor: AudioLMProcessor,
    samples: Sequence[Sample],
    read: Read,
    settings: Grpo,
    seed: int,
    place: int,
) -> Iterator[tuple[str, float]]:
    """The key and worth of each prompt of a batch, whose first is number ``place`` of all; those that cannot
    be read or rewarded are worth 0, and come last."""
    rewards = [(reward, reward_of(reward)) for reward in settings.rewards]
    good, clips = [], []
    for sample in samples:
        try:
            check_rewardable(settings.rewards, sample, sample.id or "a sample")
            own = read(sample)
            prompt_batch(processor, [sample], [own])
        except (ValueError, OSError):
            yield prompt_key(sample), 0.0
            continue
        clips.append(own)
        good.append(sample)
    if not good:
        return
    made = prompt_batch(processor, good, clips)
    tensors = {k: v.to(model.device) for k, v in made.items() if isinstance(v, torch.Tensor)}
    seeds = row_seeds(seed, STREAM + place, len(good) * settings.curriculum)
    count, longest = settings.curriculum, settings.max_new_tokens
    drawn = draw(model, processor, tensors, made["clips"], count, settings, longest, seeds)
    yield from zip(map(prompt_key, good), worth(rewards, good, drawn.texts), strict=True)


def easy_first(
    mixture: Mixture,
    file: Path,
    run: str,
    batch_size: int,
    found: Callable[[Sequence[Sample], int], Iterator[tuple[str, float]]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Order the mixture by what its prompts are worth, of which ``found`` tells a batch.

    ``file`` keeps it, as of the run of the digest ``run``: a start after a kill asks about the batches that
    are missing, each as a start that was not stopped would. The first of several processes asks; the others
    read its file.
    """
    first, several = os.environ.get("RANK", "0") == "0", int(os.environ.get("WORLD_SIZE", "1")) > 1
    if first:
        known = _known(file, run)
        wanted = {prompt_key(sample): sample for source in mixture.sources for sample in source}
        keys = list(wanted)
        with file.open("a", encoding="utf-8") as rows:
            for at in range(0, len(keys), batch_size):
                batch = keys[at : at + batch_size]
                if any(key not in known for key in batch):
                    for key, value in found([wanted[key] for key in batch], at):
                        rows.write(json.dumps({"run": run, "prompt": key, "worth": value}) + "\n")
                    rows.flush()
                progress(min(at + batch_size, len(keys)), len(keys))
    if several:
        torch.distributed.barrier()
    known = _known(file, run)
    mixture.rank([[-known[prompt_key(sample)] for sample in source] for source in mixture.sources])


def _known(file: Path, run: str) -> dict[str, float]:
    """What a file tells of an earlier start of a run; a line that was cut off is taken away."""
    rows = [json.loads(line) for line in whole_lines(file).splitlines()]
    return {row["prompt"]: float(row["worth"]) for row in rows if row.get("run") == run}
