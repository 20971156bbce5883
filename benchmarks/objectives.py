"""What a step of each training objective costs, beside a step of cross-entropy: same model, same clips.

    python benchmarks/objectives.py --out results/objectives_cost.json

Random weights of the sizes of ``benchmarks/training.py``; clips are noise of 1 to 8 s, their frames cached,
as a frozen encoder's are. A step is one batch of ``--batch`` samples: the loss and its gradients, without the
optimizer's own work, which is the same for all. A preference has two answers a sample, and a reward
``--group`` answers of ``--tokens`` tokens a prompt. A warm start is no step: one epoch of it over ``--clips``
clips, or its closed form of them, is divided by the batches that they would make. APT's alignment stands
beside cross-entropy of APT's own model, which reads answers with a frozen LLM. All objectives take turns
within a round; processor seconds count, and a ratio is the median of those within each round, between the
lowest and the highest. ``--only`` measures some of them, beside what they are compared with, and lays their
rows over those that ``--out`` has already.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from rich.console import Console
from training import SIZES, write_parts
from transformers import BertConfig, BertModel, BertTokenizer

from lalm.data.sample import Sample, write_manifest
from lalm.systems.apt.model import BERT_MINI
from lalm.training import run as train
from lalm.training.batches import Batches
from lalm.training.clip_loading import reader
from lalm.training.manifests import mixtures, training_sources
from lalm.training.preparing import collator_of, warm_up
from lalm.training.recipe import Recipe

BASE = "cross-entropy"
APT_BASE = "cross-entropy, APT's model"
BESIDE = {"align": APT_BASE}  # what is not compared with BASE
EVENT_LABELS = 32  # kinds of sounds that a warm start names


def noise_samples(folder: Path, count: int) -> list[Sample]:
    """Noise clips with all that any objective but a preference asks for."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    samples = []
    for i, seconds in enumerate(np.geomspace(1, 8, count)):
        path = folder / f"{i}.flac"
        soundfile.write(path, rng.normal(0, 0.1, int(seconds * 16_000)).clip(-1, 1), 16_000)
        user: Any = {"role": "user", "content": [{"type": "audio", "audio": str(path)}]}
        answer, caption = f"Noise of many colours, number {i}.", f"noise number {i % EVENT_LABELS} hisses"
        event: Any = {"label": caption, "caption": caption, "onset_s": 0.0, "offset_s": float(seconds)}
        known: Any = {"references": (answer,), "origin": {"caption": caption}, "events": (event,)}
        samples.append(Sample((user, {"role": "assistant", "content": answer}), id=str(i), **known))
    return samples


def write_samples(folder: Path, count: int, clips: int) -> None:
    """Manifests of noise clips: to answer, to prefer one answer of, and to name the events of."""
    samples = noise_samples(folder / "clips", count)
    write_manifest(folder / "plain.jsonl", samples)
    write_manifest(folder / "events.jsonl", noise_samples(folder / "events", clips))
    pairs = [
        Sample(s.messages[:1], id=s.id, chosen=s.target, rejected="A dog barks at a passing car.")
        for s in samples
    ]
    write_manifest(folder / "pairs.jsonl", pairs)


def write_bert(folder: Path) -> None:
    """A BERT with random weights of the shape of APT's aligner, whose tokens are letters."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,'"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters)]
    BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}).save_pretrained(folder)
    shape = {key: value for key, value in BERT_MINI.items() if key != "cross_attention_frequency"}
    BertModel(BertConfig(**shape | {"vocab_size": BERT_MINI["vocab_size"] - 1})).save_pretrained(folder)


def objectives(folder: Path, group: int, tokens: int) -> dict[str, dict[str, Any]]:
    """Name -> what its recipe has beside that of cross-entropy."""
    grpo = {"rewards": [{"name": "names"}], "group": group, "max_new_tokens": tokens}
    pairs: dict[str, Any] = {"manifest": "pairs"}
    alone: dict[str, Any] = {"trainable": []}
    parts = {name: str(folder / name) for name in ("encoder", "aligner", "llm")}
    apt: dict[str, Any] = {"system": "apt", "init": parts, "lora": None}
    heard = ["connector.norm", "connector.queries", "connector.aligner"]
    named: dict[str, Any] = {"manifest": "events"}
    return {
        BASE: {},
        "distil, the teacher reads": {"distil": {}},
        "distil, kept on disk": {"distil": {"cache": str(folder / "teacher")}},
        "distil, hidden states, the teacher reads": {"distil": {"on": "hidden"}},
        "distil, hidden states, kept on disk": {
            "distil": {"on": "hidden", "cache": str(folder / "states")},
        },
        "warm start, an epoch of steps": {**named, "warm_start": {"epochs": 1, "learning_rate": 1e-3}},
        "warm start, least squares": {**named, "warm_start": {"kind": "least_squares"}},
        "contrast": {"contrast": {}},
        APT_BASE: apt,
        "align": {**apt, "align": True, "trainable": heard},
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
    """What makes one step after another of an objective, or one warm start, from a model of its own."""
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
    while recipe.warm_start is not None:
        yield partial(warm_up, recipe, model, processor, mixture, read, quiet)
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
            trainer.model.train()
            inputs = trainer._prepare_inputs(collate([batches[number]]))
            trainer.state.global_step = number
            trainer.compute_loss(trainer.model, inputs).backward()
            trainer.model.zero_grad()

        yield step


def chosen(sides: dict[str, dict[str, Any]], only: list[str]) -> dict[str, dict[str, Any]]:
    """The sides named, or all, and those that they are compared with; ValueError for an unknown one."""
    if odd := [name for name in only if name not in sides]:
        raise ValueError(f"there is no objective '{odd[0]}'; there are: {'; '.join(sides)}")
    wanted = {*only, *(BESIDE.get(name, BASE) for name in only)} if only else {*sides}
    return {name: changes for name, changes in sides.items() if name in wanted}


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Processor seconds of each objective's steps, by round."""
    sides = chosen(objectives(folder, args.group, args.tokens), args.only)
    write_parts(args.size, folder)
    write_bert(folder / "aligner")
    write_samples(folder, 4 * args.batch, args.clips)
    makers = {name: steps_of(folder, name, changes, args.batch) for name, changes in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for name, maker in makers.items():
        next(maker)()  # does not count
        print(f"{name} is ready", flush=True)
    for turn in range(args.rounds):
        order = list(makers)[turn % len(makers) :] + list(makers)[: turn % len(makers)]
        for name in order:
            step = next(makers[name])
            batches = args.clips / args.batch if "warm_start" in sides[name] else 1
            began = time.process_time()
            step()
            seconds[name].append((time.process_time() - began) / batches)
    table = {}
    for name, own in seconds.items():
        beside = BESIDE.get(name, BASE)
        ratios = [a / b for a, b in zip(own, seconds[beside], strict=True)] if name != APT_BASE else [1.0]
        table[name] = {
            "processor_s": statistics.median(own),
            "beside": beside,
            "beside_s": statistics.median(seconds[beside]),
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        }
    settings = {name: getattr(args, name) for name in ("size", "batch", "group", "tokens", "clips", "rounds")}
    return {**settings, "table": table}


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--clips", type=int, default=128, help="that a warm start reads")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=[], metavar="OBJECTIVE", help="rows to measure")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, Path(folder))
    print("| objective | processor seconds a step | times cross-entropy |")
    print("|---|---|---|")
    for name, row in found["table"].items():
        times = f"{row['ratio']:.3g} ({row['lowest']:.3g} to {row['highest']:.3g})"
        print(f"| {name} | {row['processor_s']:.2f} | {times} |")
    if args.out and args.only and args.out.is_file():
        before = json.loads(args.out.read_text())
        found = (
            before | found | {"table": before["table"] | {name: found["table"][name] for name in args.only}}
        )
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
