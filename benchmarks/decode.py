"""How fast answers come: transformers' ``generate``, lalm in bfloat16 and int8, and llama.cpp, in turns.

    python benchmarks/decode.py --out results/decode.json               # and results/decode.svg, ~8 minutes
    python benchmarks/decode.py --quality --out results/decode_quality.json    # what int8 costs, ~8 minutes
    pip install xllamacpp && python benchmarks/decode.py --gguf qwen2.5-coder-0.5b-instruct-q4_k_m.gguf ...

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
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

QUESTION = "What do you hear? Describe it in detail."
SOUND = Path(__file__).parents[1] / "samples" / "water.ogg"
CLIP_S = 10.0
ROWS = 8
# side -> its environment; lalm's own choice of threads is what OMP_NUM_THREADS is left out for
SIDES = {
    "transformers bfloat16": {},
    "transformers bfloat16, 1 thread": {"OMP_NUM_THREADS": "1"},
    "lalm bfloat16": {"GOMP_SPINCOUNT": "10000"},
    "lalm int8": {"GOMP_SPINCOUNT": "10000"},
    "lalm int8, 1 thread": {"OMP_NUM_THREADS": "1"},
    "lalm int8, 2 threads": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "10000"},
}
GGUF_SIDE = "llama.cpp Q4_K_M"


class Lalm:
    """The engine."""

    def __init__(self, dtype: str) -> None:
        from lalm import Engine

        self.engine = Engine.load(device="cpu", dtype=dtype)  # type: ignore[arg-type]

    def answer(self, tokens: int, rows: int = 1) -> dict[str, float]:
        """Seconds to the first token, and tokens a second after it."""
        from lalm import Options, ask
        from lalm.audio.load import load_audio

        sound = load_audio(SOUND)[: int(16_000 * CLIP_S)]
        samples = [ask([sound], f"{QUESTION} {'.' * row}") for row in range(rows)]
        options = Options(max_new_tokens=tokens, min_tokens=tokens, loop_guard=False)
        replies = self.engine.reply(samples, options)
        took = replies[0].total_s - replies[0].first_token_s
        return {"first_s": replies[0].first_token_s, "tokens_per_s": rows * (tokens - 1) / took}

    def threads(self) -> int:
        """Chosen now."""
        return self.engine.threads.number if self.engine.threads else 0


class Transformers:
    """``generate`` of the LLM's own class, on the same prompt embeddings."""

    def __init__(self, dtype: str) -> None:
        import torch

        from lalm.inference.engine import SMALL
        from lalm.models.load import load_model
        from lalm.weights.fetch import resolve
        from lalm.weights.llm import load_causal_lm

        self.model, self.processor = load_model(SMALL, dtype=getattr(torch, dtype))
        self.llm: Any = load_causal_lm(
            str(resolve(self.model.config.parts["llm"])), dtype=getattr(torch, dtype)
        )
        self.model.model.language_model = self.llm.get_decoder()  # one copy of the weights
        self.model.lm_head = self.llm.get_output_embeddings()

    def answer(self, tokens: int, rows: int = 1) -> dict[str, float]:
        """As ``Lalm``'s."""
        import torch
        from transformers import StoppingCriteria

        from lalm import ask
        from lalm.audio.load import load_audio

        times: list[float] = []

        class Clock(StoppingCriteria):  # type: ignore[misc]
            def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
                times.append(time.perf_counter())
                return torch.zeros(len(input_ids), dtype=torch.bool)

        began = time.perf_counter()
        sound = load_audio(SOUND)[: int(16_000 * CLIP_S)]
        samples = [ask([sound], f"{QUESTION} {'.' * row}") for row in range(rows)]
        batch = dict(self.processor.batch(samples))
        mask = batch.pop("attention_mask")
        with torch.inference_mode():
            embeds = self.model.model.embed(**batch)
            self.llm.generate(
                inputs_embeds=embeds,
                attention_mask=mask,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                stopping_criteria=[Clock()],
            )
        return {
            "first_s": times[0] - began,
            "tokens_per_s": rows * (len(times) - 1) / (times[-1] - times[0]),
        }

    def threads(self) -> int:
        """torch's."""
        import torch

        return torch.get_num_threads()


class LlamaCpp:
    """llama.cpp's own library reads the embeddings that our encoder and connector make."""

    def __init__(self, gguf: str) -> None:
        from lalm import Engine
        from lalm.inference.llamacpp.running import Llama

        self.engine = Engine.load(device="cpu", dtype="int8")
        self.count = os.cpu_count() or 1
        self.gguf, self.open = Path(gguf), Llama

    def answer(self, tokens: int, rows: int = 1) -> dict[str, float]:
        """As ``Lalm``'s; opening the file is not in it."""
        import torch

        from lalm import ask
        from lalm.audio.load import load_audio

        llama = self.open(self.gguf, context=1024, threads=self.count)
        began = time.perf_counter()
        sound = load_audio(SOUND)[: int(16_000 * CLIP_S)]
        batch = dict(self.engine.processor.batch([ask([sound], QUESTION)]))
        batch.pop("attention_mask")
        with torch.inference_mode():
            embeds = self.engine.model.model.embed(**batch)[0].float().numpy()
        logits, times = llama.read(embeds), [time.perf_counter()]
        for _ in range(tokens - 1):
            logits = llama.read([int(logits.argmax())])
            times.append(time.perf_counter())
        llama.close()
        rate = (tokens - 1) / (times[-1] - times[0])
        return {"first_s": times[0] - began, "tokens_per_s": rate}

    def threads(self) -> int:
        """Given."""
        return self.count


def work(side: str, gguf: str | None) -> None:
    """One side: opens its model, then answers as often as a line comes in."""
    began = time.perf_counter()
    dtype = "int8" if "int8" in side else "bfloat16"
    made: Any = LlamaCpp(str(gguf)) if side == GGUF_SIDE else None
    made = made or (Lalm(dtype) if side.startswith("lalm") else Transformers(dtype))
    said = {"load_s": time.perf_counter() - began}
    print(json.dumps(said), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        told = made.answer(asked["tokens"], asked["rows"])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps(told | {"threads": made.threads(), "peak_gb": peak}), flush=True)


class Side:
    """A process of ``work``."""

    def __init__(self, name: str, gguf: str | None) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
        command = [sys.executable, __file__, "--work", name, *(["--gguf", gguf] if gguf else [])]
        self.name = name
        self.process = subprocess.Popen(
            command,
            env=environment | SIDES.get(name, {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.load_s: float = self._read()["load_s"]

    def _read(self) -> dict[str, float]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise SystemExit(f"{self.name} ended: run `{sys.executable} {__file__} --work '{self.name}'`")
        found: dict[str, float] = json.loads(line)
        return found

    def answer(self, tokens: int, rows: int = 1) -> dict[str, float]:
        """One answer, timed by the side itself."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"tokens": tokens, "rows": rows}) + "\n")
        self.process.stdin.flush()
        return self._read()


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
    from lalm.inference.engine import SMALL
    from lalm.models.load import read_config

    text: Any = read_config(SMALL)[1].text_config
    width, inner = text.hidden_size, text.intermediate_size
    pairs = 2 * text.num_key_value_heads * width // text.num_attention_heads
    numbers = text.num_hidden_layers * width * (2 * width + pairs + 3 * inner) + text.vocab_size * width
    return {"int8": numbers, "bfloat16": 2 * numbers}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds of all sides under all conditions."""
    names = [*SIDES, *([GGUF_SIDE] if options.gguf else [])]
    sides = [Side(name, options.gguf) for name in names]
    for side in sides:
        side.answer(4)
    rounds: list[dict[str, Any]] = []
    for busy in (0, 1, 2):
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
    parser.add_argument("--gguf", help="the LLM's GGUF, for llama.cpp")
    parser.add_argument("--quality", action="store_true", help="measure what int8 costs instead")
    parser.add_argument("--questions", type=int, default=15, help="of --quality, about each recording")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        work(options.work, options.gguf)
        return
    if options.quality:
        from decode_quality import measure as quality

        found = quality(options.questions)
    else:
        found = measure(options)
        if options.out:
            draw(found, options.out.with_suffix(".svg"))
    print(json.dumps({key: value for key, value in found.items() if key != "rounds"}, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
