"""How long an LLM's attention takes forward and backward on a CPU, by transformers and by lalm.

    python benchmarks/training_attention.py --out results/training_attention.json

One layer of the embedded model's LLM, eight conversations of 80 to 140 tokens: packed behind one another, and
padded. Sides take turns; processor milliseconds, because other programs change them less than the time on the
clock, median with lowest and highest of the rounds.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from decode import machine
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from lalm.training.cpu_attention import attend

LENGTHS = (110, 95, 140, 80, 120, 100, 130, 105)
HEADS, SHARED, WIDTH = 14, 2, 64  # of queries, of keys and values, numbers in each
LAYER: Any = SimpleNamespace(num_key_value_groups=HEADS // SHARED, is_causal=True)
SIDES = {"transformers": sdpa_attention_forward, "lalm": attend}


def packed() -> tuple[tuple[int, int], Tensor, Tensor]:
    """Rows and positions, the mask (1, 1, L, L), and positions (1, L) from 0 again in each row."""
    row = torch.cat([torch.full((length,), i) for i, length in enumerate(LENGTHS)])
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    size = sum(LENGTHS)
    mask = (row[:, None] == row[None]) & torch.ones(size, size).tril().bool()
    return (1, size), mask[None, None], positions


def padded() -> tuple[tuple[int, int], Tensor, Tensor]:
    """The same as rows padded on the right: the mask is (B, 1, L, L)."""
    size = max(LENGTHS)
    real = torch.arange(size)[None] < torch.tensor(LENGTHS)[:, None]
    mask = torch.ones(size, size).tril().bool()[None, None] & real[:, None, None]
    return (len(LENGTHS), size), mask, torch.arange(size)[None].expand(len(LENGTHS), -1)


def once(side: str, how: str, dtype: torch.dtype, steps: int) -> float:
    """Processor milliseconds of a layer, forward and backward."""
    (rows, size), mask, positions = {"packed": packed, "padded": padded}[how]()
    spent = 0.0
    for _ in range(steps):
        states = [
            torch.randn(rows, heads, size, WIDTH, dtype=dtype, requires_grad=True)
            for heads in (HEADS, SHARED, SHARED)
        ]
        above = torch.randn(rows, size, HEADS, WIDTH, dtype=dtype)
        began = time.process_time()
        made, _ = SIDES[side](LAYER, *states, mask, scaling=WIDTH**-0.5, position_ids=positions)
        made.backward(above)
        spent += time.process_time() - began
    return spent / steps * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/training_attention.json"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    kinds = [(how, dtype) for how in ("packed", "padded") for dtype in (torch.bfloat16, torch.float32)]
    times: dict[tuple[str, str, str], list[float]] = {}
    for turn in range(given.rounds + 1):  # the first does not count
        for how, dtype in kinds:
            for side in SIDES:
                spent = once(side, how, dtype, given.steps)
                if turn:
                    times.setdefault((how, str(dtype)[6:], side), []).append(spent)
    rows = [
        {
            "rows": how,
            "dtype": dtype,
            "side": side,
            "processor_ms": [round(f(found), 1) for f in (statistics.median, min, max)],
        }
        for (how, dtype, side), found in times.items()
    ]
    for row in rows:
        print(row)
    written = {"machine": machine(), "threads": given.threads, "rounds": given.rounds, "layers": rows}
    given.out.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
