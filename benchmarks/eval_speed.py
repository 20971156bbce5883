"""Items a second of ``lalm eval`` against a plain loop over the same questions, in turns in one process::

    python benchmarks/eval_speed.py questions.jsonl --items 200 --minutes 8 --out results/eval_speed.json

The plain loop decodes a recording, makes a batch of one and calls transformers' ``generate``, greedy, with
the same weights and limit. ``lalm eval`` answers the same items with its scoring, card and page. First one
block is asked under all controls of the audio reliance table, with encoder frames shared and without; then
blocks of items go through both, by turns the one and the other first, until the time is over.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lalm.data.sample import Sample
from lalm.evaluate.answering import Local
from lalm.evaluate.controls import RELIANCE, put_under
from lalm.evaluate.items import Asked, open_task, with_settings
from lalm.evaluate.run import Job, run
from lalm.evaluate.said import rows_of
from lalm.inference.engine import Engine

Texts = dict[str, str]  # by the item's id


def plain_loop(engine: Engine, opened: Asked) -> Texts:
    """Every item by itself through transformers' ``generate``."""
    found = Texts()
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
        (found[item.id],) = engine.processor.decode_new(ids)
    return found


def evaluated(answerer: Local, opened: Asked, controls: Sequence[str] = ()) -> dict[tuple[str, str], str]:
    """The same items through ``lalm eval``'s own code, into a new folder; answers by control and id."""
    with tempfile.TemporaryDirectory() as folder:
        run(Job([opened], Path(folder), controls), answerer)
        rows = rows_of(Path(folder) / "predictions.jsonl")
        return {(row["control"], row["id"]): row["text"] for _, row in rows}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what was made."""
    began = time.perf_counter()
    made = work()
    return time.perf_counter() - began, made


def block_of(opened: Asked, samples: Sequence[Sample]) -> Asked:
    """Some of the items."""
    return replace(opened, samples=tuple(samples))


def in_turns(engine: Engine, opened: Asked, size: int, until: float) -> dict[str, Any]:
    """Items a second of both, over blocks of ``size`` items."""
    rates: dict[str, list[float]] = {"plain loop": [], "lalm eval": []}
    same = items = 0
    local = Local(engine)
    for number, start in enumerate(range(0, len(opened.samples), size)):
        block = block_of(opened, opened.samples[start : start + size])
        names = list(rates) if number % 2 else list(rates)[::-1]
        texts: dict[str, Texts] = {}
        for name in names:
            if name == "plain loop":
                seconds, texts[name] = timed(lambda b=block: plain_loop(engine, b))
            else:
                seconds, found = timed(lambda b=block: evaluated(local, b))
                texts[name] = {one: text for (_, one), text in found.items()}
            rates[name].append(len(block.samples) / seconds)
        items += len(block.samples)
        same += sum(texts["plain loop"][one] == text for one, text in texts["lalm eval"].items())
        print(f"{items:>5} items: " + ", ".join(f"{n} {r[-1]:.2f} a second" for n, r in rates.items()))
        if time.perf_counter() > until:
            break
    ratios = [ours / theirs for ours, theirs in zip(rates["lalm eval"], rates["plain loop"], strict=True)]
    return {
        "items": items,
        "blocks": len(ratios),
        "same_answers": same,
        "items_per_s": {name: round(statistics.median(found), 3) for name, found in rates.items()},
        "times_as_quick": [
            round(value, 2) for value in (min(ratios), statistics.median(ratios), max(ratios))
        ],
    }


def under_controls(engine: Engine, block: Asked) -> dict[str, Any]:
    """Answers a second under all controls, with encoder frames shared and without."""
    answers, rates = {}, {}
    for name in ("frames shared", "each by itself"):
        local = Local(engine)
        if name != "frames shared":
            local.sharing = nullcontext  # type: ignore[method-assign,assignment]
        seconds, answers[name] = timed(lambda own=local: evaluated(own, block, RELIANCE))
        rates[name] = round(len(answers[name]) / seconds, 3)
        print(f"{len(answers[name])} answers under controls, {name}: {rates[name]:.2f} a second", flush=True)
    first, second = answers.values()
    same = sum(second[key] == text for key, text in first.items())
    return {"answers": len(first), "same_answers": same, "answers_per_s": rates}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", help="a manifest with answers, of one task")
    parser.add_argument("--model", help="folder or name (default: the embedded small one)")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--control-items", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=8.0, help="in which no further block begins")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    began = time.perf_counter()
    (opened, *_) = open_task(f"manifest={options.manifest}", Path(), limit=options.items)
    opened = with_settings(opened, {"max_new_tokens": options.max_new_tokens})
    engine = Engine.load(options.model)
    warm = block_of(opened, opened.samples[:2])
    plain_loop(engine, warm), evaluated(Local(engine), warm)
    found: dict[str, Any] = {
        "model": engine.name,
        "device": str(engine.model.device),
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "load_before": round(os.getloadavg()[0], 1),
        "max_new_tokens": options.max_new_tokens,
    }
    found["under_controls"] = under_controls(
        engine, block_of(opened, opened.samples[: options.control_items])
    )
    found["in_turns"] = in_turns(engine, opened, options.block, began + 60 * options.minutes)
    print(json.dumps(found))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
