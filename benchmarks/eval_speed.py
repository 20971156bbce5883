"""Items a second of ``lalm eval`` against a plain loop over the same questions, in turns in one process::

    python benchmarks/eval_speed.py --out results/eval_speed.json
    python benchmarks/eval_speed.py questions.jsonl --items 200 --out results/eval_speed.json

Without a manifest the questions are about 500 stretches of two to six seconds of the recordings in
``samples``. ``lalm eval`` answers all of them, the other sides the first ``--fewer`` of each block, and no
block begins after ``--minutes``.

The plain loop decodes a recording, makes a batch of one and calls transformers' ``generate``, greedy, with
the same weights and limit. ``lalm eval`` answers with its scoring, card and page, once with the next batch
encoded while the LLM answers (in ``--ahead`` threads) and once one after the other: a block of several
batches shows that. First some blocks are asked under all controls of the audio reliance table, with encoder
frames shared and without; then blocks of items go through all sides until the time is over. Each block begins
with another side, so that none gains by its place: take as many blocks as there are sides, or a multiple.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from lalm.audio.load import load_audio
from lalm.data.sample import ask, write_manifest
from lalm.evaluate.answering import Local
from lalm.evaluate.controls import AUDIO, RELIANCE, put_under
from lalm.evaluate.items import Asked, open_task, with_settings
from lalm.evaluate.run import Job, run
from lalm.evaluate.said import rows_of
from lalm.inference.engine import Engine

SAMPLES = Path(__file__).parents[1] / "samples"
Answers = dict[tuple[str, str], str]  # by control and the item's id
Side = Callable[[Asked], Answers]


def plain_loop(engine: Engine, opened: Asked) -> Answers:
    """Every item by itself through transformers' ``generate``."""
    found = Answers()
    ends, tokenizer = sorted(engine.ends()), engine.processor.tokenizer
    for item in put_under(opened.task, opened.samples).items:
        batch = engine.processor.batch([item]).to(engine.model.device)
        with torch.inference_mode():
            ids = engine.model.generate(
                **batch,
                max_new_tokens=opened.task.max_new_tokens,
                do_sample=False,
                eos_token_id=ends,
                pad_token_id=tokenizer.pad_token_id,
            )
        (found[AUDIO, item.id],) = engine.processor.decode_new(ids)
    return found


def evaluated(answerer: Local, opened: Asked, controls: Sequence[str] = ()) -> Answers:
    """The same items through ``lalm eval``'s own code, into a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        run(Job([opened], Path(folder), controls), answerer)
        rows = rows_of(Path(folder) / "predictions.jsonl")
        return {(row["control"], row["id"]): row["text"] for _, row in rows}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what was made."""
    began = time.perf_counter()
    made = work()
    return time.perf_counter() - began, made


def blocks_of(opened: Asked, size: int) -> Iterator[Asked]:
    """The items, ``size`` at a time."""
    for start in range(0, len(opened.samples), size):
        yield replace(opened, samples=opened.samples[start : start + size])


def stretches(folder: Path, count: int, seed: int = 0) -> Path:
    """A manifest of ``count`` questions about stretches of the sample recordings, each a file of its own."""
    draw = np.random.default_rng(seed)
    sources = [load_audio(path) for path in sorted(SAMPLES.iterdir()) if path.suffix in (".flac", ".ogg")]
    rows = []
    for number in range(count):
        whole = sources[number % len(sources)]
        length = min(len(whole), int(16_000 * draw.uniform(2, 6)))
        start = int(draw.integers(0, len(whole) - length + 1))
        path = folder / f"{number}.wav"
        soundfile.write(path, whole[start : start + length], 16_000)
        rows.append(replace(ask([path], "What do you hear?"), id=str(number), references=("a sound",)))
    write_manifest(folder / "questions.jsonl", rows)
    return folder / "questions.jsonl"


def turns(
    sides: Mapping[str, Side], blocks: Iterable[Asked], until: float, fewer: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Answers a second of each side over the blocks, and how many answers are the first side's. Sides take
    turns in being first, second and last; those in ``fewer`` answer so many items of a block."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    same, count = dict.fromkeys(sides, 0), dict.fromkeys(sides, 0)
    items, names = 0, list(sides)
    for number, block in enumerate(blocks):
        made: dict[str, Answers] = {}
        for name in names[number % len(names) :] + names[: number % len(names)]:
            asked = replace(block, samples=block.samples[: (fewer or {}).get(name)])
            seconds, made[name] = timed(partial(sides[name], asked))
            count[name] += len(made[name])
            rates[name].append(len(made[name]) / seconds)
        first = made[names[0]]
        items += len(first)
        for name, own in made.items():
            same[name] += sum(own.get(key) == text for key, text in first.items())
        told = ", ".join(f"{name} {found[-1]:.2f}" for name, found in rates.items())
        print(f"{items:>5} answers, a second: {told}", flush=True)
        if time.perf_counter() > until:
            break
    found: dict[str, Any] = {"answers": items, "blocks": len(rates[names[0]]), "sides": {}}
    for name, speeds in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(speeds, rates[names[0]], strict=True)]
        found["sides"][name] = {
            "answers": count[name],
            "answers_per_s": round(statistics.median(speeds), 3),
            "times_the_first": [
                round(value, 2) for value in (min(ratios), statistics.median(ratios), max(ratios))
            ],
            "same_answers": same[name],
        }
    return found


def evaluation(engine: Engine, ahead: int | None, controls: Sequence[str] = (), shared: bool = True) -> Side:
    """``lalm eval`` with the next batch encoded in so many threads beside the LLM (0: not ahead, None: where
    there is room), and with encoder frames shared or not."""

    def side(block: Asked) -> Answers:
        engine.encodes_ahead = ahead
        local = Local(engine)
        if not shared:
            local.sharing = nullcontext  # type: ignore[method-assign,assignment]
        return evaluated(local, block, controls)

    return side


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", nargs="?", help="a manifest with answers, of one task")
    parser.add_argument("--model", help="folder or name (default: the embedded small one)")
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--block", type=int, default=100)
    parser.add_argument("--fewer", type=int, default=16, help="items of a block that the other sides answer")
    parser.add_argument("--control-items", type=int, default=4)
    parser.add_argument("--control-blocks", type=int, default=2)
    parser.add_argument("--ahead", type=int, help="threads of the encoder (default: those that are free)")
    parser.add_argument("--max-new-tokens", type=int, default=12)
    parser.add_argument("--minutes", type=float, default=8.0, help="in which no further block begins")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        manifest = options.manifest or stretches(Path(folder), options.items)
        measure(options, manifest, began)


def measure(options: argparse.Namespace, manifest: str | Path, began: float) -> None:
    """Both comparisons over the manifest's items; printed, and written where that is asked for."""
    (opened, *_) = open_task(f"manifest={manifest}", Path(), limit=options.items)
    opened = with_settings(opened, {"max_new_tokens": options.max_new_tokens})
    engine = Engine.load(options.model)
    warm = next(blocks_of(opened, 2))
    plain_loop(engine, warm), evaluated(Local(engine), warm)
    found: dict[str, Any] = {
        "model": engine.name,
        "device": str(engine.model.device),
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "ahead": options.ahead,
        "load_before": round(os.getloadavg()[0], 1),
        "max_new_tokens": options.max_new_tokens,
        "clips": len(opened.samples),
    }
    controlled = {
        "each by itself": evaluation(engine, 0, RELIANCE, shared=False),
        "frames shared": evaluation(engine, 0, RELIANCE),
    }
    some = islice(blocks_of(opened, options.control_items), options.control_blocks)
    found["under_controls"] = turns(controlled, some, began + 60 * options.minutes)
    sides: dict[str, Side] = {
        "plain loop": lambda block: plain_loop(engine, block),
        "lalm eval, encoder ahead": evaluation(engine, options.ahead),
        "lalm eval, one after the other": evaluation(engine, 0),
    }
    others = {name: options.fewer for name in sides if name != "lalm eval, encoder ahead"}
    blocks = blocks_of(opened, options.block)
    found["in_turns"] = turns(sides, blocks, began + 60 * options.minutes, others)
    found["minutes"] = round((time.perf_counter() - began) / 60, 1)
    found["load_after"] = round(os.getloadavg()[0], 1)
    print(json.dumps(found))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
