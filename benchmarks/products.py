"""How long the products of one decoding step take in each number format that torch has on a CPU.

    python benchmarks/products.py --threads 1 2 --out results/products.json

Shapes are those of the embedded model's LLM; each format's weights are many copies, so that they come from
memory and not from a cache. int8 with two bytes is what lalm does; "weight only" are torch's own products of
bfloat16 rows, in 8 bits and in 4 bits by groups. Formats take turns; the least of the rounds counts, because
what other programs take is not the format's.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from decode import machine
from torch import Tensor
from torch.nn.functional import linear

from lalm.models.int8 import MIDDLE, packed, quantise

SHAPES = {"qkv": (1152, 896, 24), "out": (896, 896, 24), "gate_up": (9728, 896, 24), "down": (896, 4864, 24)}
SHAPES |= {"head": (151936, 896, 1)}  # rows, columns, how many in a step
COPIES = 64_000_000  # weights in all copies of a shape
WHAT = ("none", [], "")  # follows the product


def formats(rows: int, shape: tuple[int, int]) -> dict[str, tuple[Callable[[Any], Any], list[Any]]]:
    """Name -> the product, and what it takes of each copy."""
    height, width = shape
    weights = [torch.randn(height, width).bfloat16() for _ in range(max(1, COPIES // (height * width)))]
    inputs = torch.randn(rows, width).bfloat16()
    both = torch.randint(0, 255, (2 * rows, width), dtype=torch.uint8)
    zeros = torch.zeros(height, dtype=torch.long)
    rounded = [quantise(weight) for weight in weights]
    eight = [(packed([weight]), scale) for weight, scale in rounded]

    def integers(some: Tensor) -> Callable[[Any], Any]:
        how = (1.0, 0, torch.float32, *WHAT)
        return lambda w: torch.ops.onednn.qlinear_pointwise(some, 1.0, MIDDLE, w[0], w[1], zeros, None, *how)

    found: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
        "bfloat16": (lambda w: linear(inputs, w), weights),
        "bfloat16, packed": (
            lambda w: torch.ops.mkldnn._linear_pointwise(inputs, w, None, *WHAT),
            [torch.ops.mkldnn._reorder_linear_weight(weight, rows) for weight in weights],
        ),
        "int8, two bytes (lalm)": (integers(both), eight),
        "int8, one byte": (integers(both[:rows]), eight),
        "int8, weight only": (
            lambda w: torch.ops.aten._weight_int8pack_mm(inputs, *w),
            [(weight, scale.bfloat16()) for weight, scale in rounded],
        ),
    }
    four = torch.randint(0, 15, (height, width), dtype=torch.int32)
    nibbles = [torch.ops.aten._convert_weight_to_int4pack_for_cpu(four, 1) for _ in weights]
    for group in (32, 64, 128):
        scales = torch.ones(width // group, height, 2).bfloat16()
        found[f"int4, groups of {group}"] = (
            lambda w, g=group, s=scales: torch.ops.aten._weight_int4pack_mm_for_cpu(inputs, w, g, s),
            nibbles,
        )
    return found


def measure(rows: int, rounds: int) -> dict[str, dict[str, float]]:
    """Format -> microseconds of each shape, and milliseconds of a step."""
    table: dict[str, dict[str, float]] = {}
    for name, (height, width, count) in SHAPES.items():
        sides = formats(rows, (height, width))
        least = dict.fromkeys(sides, float("inf"))
        for number in range(rounds + 1):  # the first warms up
            for side, (work, copies) in sides.items():
                began = time.perf_counter()
                for copy in copies:
                    work(copy)
                if number:
                    least[side] = min(least[side], (time.perf_counter() - began) / len(copies))
        for side, seconds in least.items():
            row = table.setdefault(side, {"step_ms": 0.0})
            row[f"{name}_us"] = round(1e6 * seconds, 1)
            row["step_ms"] = round(row["step_ms"] + 1e3 * count * seconds, 3)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """All numbers of threads and rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {"machine": machine(), "shapes": SHAPES, "rounds": options.rounds, "found": []}
    with torch.inference_mode():
        for threads in options.threads:
            torch.set_num_threads(threads)
            for rows in options.rows:
                table = measure(rows, options.rounds)
                found["found"].append({"threads": threads, "rows": rows, "formats": table})
                print(
                    threads,
                    "threads,",
                    rows,
                    "rows:",
                    {k: v["step_ms"] for k, v in table.items()},
                    flush=True,
                )
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
