"""What a step of each training objective costs, beside a step of cross-entropy: same model, same clips.

    python benchmarks/objectives.py --out results/objectives_cost.json

Random weights of the sizes of ``benchmarks/training.py``; clips are noise of 1 to 8 s, their frames cached,
as a frozen encoder's are. A step is one batch of ``--batch`` samples: the loss and its gradients, without the
optimizer's own work, which is the same for all. A preference has two answers a sample, and a reward
``--group`` answers of ``--tokens`` tokens a prompt. All objectives take turns within a round; processor
seconds count, and a ratio is the median of those within each round, between the lowest and the highest.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from training import SIZES, write_parts

BASE = "cross-entropy"


def write_samples(folder: Path, count: int) -> None:
    """A manifest of noise clips with all that any objective asks for."""
    import soundfile

    from lalm.data.sample import Sample, write_manifest

    rng = np.random.default_rng(0)
    (folder / "clips").mkdir()
    samples = []
    for i, seconds in enumerate(np.geomspace(1, 8, count)):
        path = folder / "clips" / f"{i}.flac"
        soundfile.write(path, rng.normal(0, 0.1, int(seconds * 16_000)).clip(-1, 1), 16_000)
        user: Any = {"role": "user", "content": [{"type": "audio", "audio": str(path)}]}
        answer = f"Noise of many colours, number {i}."
        known = {"references": (answer,), "origin": {"caption": f"noise number {i} hisses"}}
        plain = Sample((user, {"role": "assistant", "content": answer}), id=str(i), **known)
        samples.append(plain)
    write_manifest(folder / "plain.jsonl", samples)
    pairs = [
        Sample(s.messages[:1], id=s.id, chosen=s.target, rejected="A dog barks at a passing car.")
        for s in samples
    ]
    write_manifest(folder / "pairs.jsonl", pairs)


def objectives(folder: Path, group: int, tokens: int) -> dict[str, dict[str, Any]]:
    """Name -> what its recipe has beside that of cross-entropy."""
    grpo = {"rewards": [{"name": "names"}], "group": group, "max_new_tokens": tokens}
    pairs: dict[str, Any] = {"manifest": "pairs"}
    alone: dict[str, Any] = {"trainable": []}
    return {
        BASE: {},
        "distil, the teacher reads": {"distil": {}},
        "distil, kept on disk": {"distil": {"cache": str(folder / "teacher")}},
        "contrast": {"contrast": {}},
        "dpo, reference copy": {**pairs, "dpo": {"beta": 0.1}},
        "dpo, reference adapter": {**pairs, **alone, "dpo": {"beta": 0.1, "reference": "adapter"}},
        "dpo, precomputed": {**pairs, "dpo": {"beta": 0.1, "reference": "precomputed"}},
        "simpo": {**pairs, "dpo": {"beta": 2.0, "loss": "simpo"}},
        "orpo": {**pairs, "dpo": {"beta": 0.1, "loss": "orpo"}},
        "kto": {**pairs, "dpo": {"beta": 0.1, "loss": "kto"}},
        "grpo": {"grpo": grpo},
        "grpo, kl to a copy": {"grpo": {**grpo, "kl": 0.05}},
    }


def steps_of(
    folder: Path, name: str, changes: dict[str, Any], batch_size: int
) -> Iterator[Callable[[], None]]:
    """What makes one step after another of an objective, from a model of its own."""
    from rich.console import Console

    from lalm.training import run as train
    from lalm.training.batches import Batches
    from lalm.training.clip_loading import reader
    from lalm.training.manifests import mixtures, training_sources
    from lalm.training.preparing import collator_of
    from lalm.training.recipe import Recipe

    changes = dict(changes)
    manifest = changes.pop("manifest", "plain")
    out = folder / f"out {name}"
    out.mkdir()
    fields: dict[str, Any] = {
        "system": "acdc",
        "init": {
            "encoder": str(folder / "encoder"),
            "llm": str(folder / "llm"),
            "options": {"encoder": {"pool": 4}, "group_size": 4, "connector_width": 256},
        },
        "lora": {"rank": 8, "alpha": 16},
        "data": {"train": [{"path": str(folder / f"{manifest}.jsonl")}]},
        "optim": {"learning_rate": 1e-3, "batch_size": batch_size, "max_steps": 1000},
        "cache": str(folder / "frames"),
        "out": str(out),
    }
    recipe, quiet = Recipe.model_validate(fields | changes), Console(quiet=True)
    torch.manual_seed(0)
    model, processor = train.build(recipe)
    mixture, _ = mixtures(recipe, training_sources(recipe), model, quiet)
    read = reader(recipe, model, processor, [mixture], quiet)
    collate = collator_of(recipe, model, processor, [mixture, None], read, quiet)
    batches = Batches(mixture, 1000)
    settings = train.arguments(recipe, 1000, model, with_valid=False)
    trainer = train.trainer_of(recipe)(
        recipe=recipe,
        processor=processor,
        model=model,
        args=settings,
        data_collator=collate,
        train_dataset=batches,
    )
    trainer.current_gradient_accumulation_steps = 1
    for number in range(1000):

        def step(number: int = number) -> None:
            model.train()
            inputs = trainer._prepare_inputs(collate([batches[number]]))
            trainer.state.global_step = number
            trainer.compute_loss(model, inputs).backward()
            model.zero_grad()

        yield step


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Processor seconds of each objective's steps, by round."""
    write_parts(args.size, folder)
    write_samples(folder, 4 * args.batch)
    sides = objectives(folder, args.group, args.tokens)
    makers = {name: steps_of(folder, name, changes, args.batch) for name, changes in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for name, maker in makers.items():
        next(maker)()  # does not count
        print(f"{name} is ready", flush=True)
    for turn in range(args.rounds):
        order = list(makers)[turn % len(makers) :] + list(makers)[: turn % len(makers)]
        for name in order:
            step = next(makers[name])
            began = time.process_time()
            step()
            seconds[name].append(time.process_time() - began)
    table = {}
    for name, own in seconds.items():
        ratios = [a / b for a, b in zip(own, seconds[BASE], strict=True)]
        table[name] = {
            "processor_s": statistics.median(own),
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        }
    return {
        "size": args.size,
        "batch": args.batch,
        "group": args.group,
        "tokens": args.tokens,
        "rounds": args.rounds,
        "table": table,
    }


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, Path(folder))
    print("| objective | processor seconds a step | times cross-entropy |")
    print("|---|---|---|")
    for name, row in found["table"].items():
        times = f"{row['ratio']:.2f} ({row['lowest']:.2f} to {row['highest']:.2f})"
        print(f"| {name} | {row['processor_s']:.2f} | {times} |")
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
