"""How fast answers come: transformers' ``generate``, lalm in bfloat16, int8, int4, other libraries, in turns.

    python benchmarks/decode.py --out results/decode.json               # and results/decode.svg, ~8 minutes
    python benchmarks/decode.py --gguf qwen2.5-coder-0.5b-instruct-q4_k_m.gguf ...    # pip install xllamacpp
    python benchmarks/decode.py --sides "transformers float32" "lalm float32" --busy 0 --out ...
    python benchmarks/decode.py --quality --manifests corpus/questions_unseen.jsonl ... --rows 80 --out ...

Every side is a process that opened its model once; they answer one after the other, round after round, first
alone on the machine, then beside one and two programs that keep a CPU busy. Tokens a second count what comes
after the first token. transformers gets the same parts: the prompt's embeddings are those of the same encoder
and connector, and their making counts in its first token as in ours.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from decode_sides import GGUF_SIDE, SIDES, USUAL, Side

ROWS = 8


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many programs that each keep a CPU busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def bandwidth() -> dict[str, float]:
    """GB/s that reading memory gives, by number of threads: the best of ten passes over 512 MB."""
    import torch

    block, found = torch.ones(2**27), {}
    for threads in (1, os.cpu_count() or 1):
        torch.set_num_threads(threads)
        best = float("inf")
        for _ in range(10):
            began = time.perf_counter()
            block.max()
            best = min(best, time.perf_counter() - began)
        found[str(threads)] = block.numel() * 4 / best / 1e9
    return found


def bytes_a_token() -> dict[str, int]:
    """Bytes of weights that a step reads: every product of the LLM and its head."""
    from lalm.models import SMALL
    from lalm.models.load import read_config

    text: Any = read_config(SMALL)[1].text_config
    width, inner = text.hidden_size, text.intermediate_size
    pairs = 2 * text.num_key_value_heads * width // text.num_attention_heads
    numbers = text.num_hidden_layers * width * (2 * width + pairs + 3 * inner) + text.vocab_size * width
    return {"int8": numbers, "bfloat16": 2 * numbers}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds of all sides under all conditions."""
    names = [*(options.sides or USUAL), *([GGUF_SIDE] if options.gguf else [])]
    sides = [Side(name, options.gguf) for name in names]
    for side in sides:
        side.answer(4)
    rounds: list[dict[str, Any]] = []
    for busy in options.busy:
        with neighbours(busy):
            for number in range(options.rounds):
                for side in sides:
                    found = side.answer(options.tokens)
                    rounds.append({"side": side.name, "busy": busy, "round": number, "rows": 1, **found})
                    print(json.dumps(rounds[-1]), file=sys.stderr)
    for number in range(options.rounds if options.batch else 0):
        for side in sides:
            if "thread" in side.name or side.name == GGUF_SIDE:
                continue
            found = side.answer(options.tokens // 2, ROWS)
            rounds.append({"side": side.name, "busy": 0, "round": number, "rows": ROWS, **found})
            print(json.dumps(rounds[-1]), file=sys.stderr)
    loads = {side.name: side.load_s for side in sides}
    for side in sides:
        side.process.kill()
    kinds = sorted({(row["side"], row["busy"], row["rows"]) for row in rounds})
    table = []
    for name, busy, rows in kinds:
        same = [r for r in rounds if (r["side"], r["busy"], r["rows"]) == (name, busy, rows)]
        told = {key: round(median(r[key] for r in same), 3) for key in ("tokens_per_s", "first_s", "peak_gb")}
        low, high = (pick(r["tokens_per_s"] for r in same) for pick in (min, max))
        spread = {"lowest": round(low, 2), "highest": round(high, 2), "rounds": len(same)}
        table.append({"side": name, "busy": busy, "rows": rows, **told, **spread})
    return {
        "machine": machine(),
        "tokens": options.tokens,
        "load_s": {name: round(seconds, 2) for name, seconds in loads.items()},
        "bandwidth_gb_s": bandwidth(),
        "bytes_a_token": bytes_a_token(),
        "medians": table,
        "rounds": rounds,
    }


def machine() -> dict[str, Any]:
    """What it ran on."""
    import torch
    import transformers

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    amx, vnni = torch.cpu._is_amx_tile_supported(), torch.cpu._is_vnni_supported()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "amx": amx,
        "vnni": vnni,
        "os": platform.platform(),
        **versions,
    }


def draw(found: dict[str, Any], out: Path) -> None:
    """Tokens a second of each side, quiet and beside one and two busy programs, as an SVG."""
    rows = [row for row in found["medians"] if row["rows"] == 1]
    names = list(dict.fromkeys(row["side"] for row in found["rounds"]))
    most = max(row["highest"] for row in rows)
    shades, left, bar = ("#1f6f8b", "#6aa9bd", "#b9d8e2"), 250, 14
    lines, top = [], 46
    for name in names:
        lines.append(f'<text x="{left - 8}" y="{top + 27}" text-anchor="end">{name}</text>')
        for busy, shade in enumerate(shades):
            row = next(r for r in rows if r["side"] == name and r["busy"] == busy)
            y, width = top + busy * bar, 420 * row["tokens_per_s"] / most
            lines.append(f'<rect x="{left}" y="{y}" width="{width:.1f}" height="{bar - 2}" fill="{shade}"/>')
            lines.append(f'<text x="{left + width + 5:.1f}" y="{y + 10}">{row["tokens_per_s"]:.1f}</text>')
        top += 3 * bar + 12
    conditions = ("nothing else runs", "1 busy program", "2 busy programs")
    key = "".join(
        f'<rect x="{left + 130 * i}" y="24" width="12" height="12" fill="{shade}"/>'
        f'<text x="{left + 130 * i + 17}" y="34">{conditions[i]}</text>'
        for i, shade in enumerate(shades)
    )
    heading = f"Tokens a second, one answer ({found['machine']['cpus']} CPUs)"
    title = f'<text x="12" y="16" font-weight="bold">{heading}</text>'
    out.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="740" height="{top}" font-family="sans-serif" '
        f'font-size="12"><rect width="740" height="{top}" fill="white"/>{title}{key}{"".join(lines)}</svg>\n'
    )


def main(arguments: list[str] | None = None) -> None:
    """Run what is asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--no-batch", dest="batch", action="store_false", help="leave out eight rows at once")
    parser.add_argument("--sides", nargs="+", choices=SIDES, help="default: those of bfloat16 and int8")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="programs beside it")
    parser.add_argument("--gguf", help="the LLM's GGUF, for llama.cpp")
    parser.add_argument("--quality", action="store_true", help="measure what fewer bits cost instead")
    parser.add_argument("--questions", type=int, default=15, help="of --quality, about each sample")
    parser.add_argument("--manifests", type=Path, nargs="*", default=[], help="of --quality: more questions")
    parser.add_argument("--rows", type=int, default=80, help="of each manifest")
    parser.add_argument("--kept", type=Path, help="of --quality: a folder from which a stopped run goes on")
    parser.add_argument("--formats", nargs="+", default=["bfloat16", "float32", "int8"], help="of --quality")
    options = parser.parse_args(arguments)
    if options.quality:
        from decode_quality import measure as quality

        found = quality(options.questions, options.manifests, options.rows, options.formats, options.kept)
    else:
        found = measure(options)
        if options.out and set(options.busy) == {0, 1, 2}:
            draw(found, options.out.with_suffix(".svg"))
    print(json.dumps({key: value for key, value in found.items() if key != "rounds"}, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
