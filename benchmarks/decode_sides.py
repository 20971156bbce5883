"""The sides of decode.py: who answers, each in a process of its own that opened its model once."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

QUESTION = "What do you hear? Describe it in detail."
SOUND = Path(__file__).parents[1] / "samples" / "water.ogg"
CLIP_S = 10.0
# side -> its environment; lalm's own choice of threads is what OMP_NUM_THREADS is left out for
SIDES = {
    "transformers bfloat16": {},
    "transformers bfloat16, 1 thread": {"OMP_NUM_THREADS": "1"},
    "lalm bfloat16": {"GOMP_SPINCOUNT": "10000"},
    "lalm int8": {"GOMP_SPINCOUNT": "10000"},
    "lalm int8, 1 thread": {"OMP_NUM_THREADS": "1"},
    "lalm int8, 2 threads": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "10000"},
    "lalm int4": {"GOMP_SPINCOUNT": "10000"},
    "lalm int4, 1 thread": {"OMP_NUM_THREADS": "1"},
    "lalm int4, 2 threads": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "10000"},
    "ONNX Runtime int8": {},
    "ONNX Runtime int8, 1 thread": {"OMP_NUM_THREADS": "1"},
    "transformers float32": {},
    "lalm float32": {"GOMP_SPINCOUNT": "10000"},
}
USUAL = [name for name in SIDES if "float32" not in name]
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


class OnnxRuntime(Lalm):
    """The engine with ONNX Runtime running the LLM."""

    def __init__(self, dtype: str) -> None:
        from lalm.inference.onnxruntime.engine import OnnxRuntimeEngine

        self.engine = OnnxRuntimeEngine.open(dtype=dtype)

    def answer(self, tokens: int, rows: int = 1) -> dict[str, float]:
        """As ``Lalm``'s; the prompt is read anew, though it is the last one's."""
        self.engine._known = []
        return super().answer(tokens, rows)

    def threads(self) -> int:
        """Given."""
        import torch

        return torch.get_num_threads()


class Transformers:
    """``generate`` of the LLM's own class, on the same prompt embeddings."""

    def __init__(self, dtype: str) -> None:
        import torch

        from lalm.models import SMALL
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
    dtype = next(kind for kind in ("int4", "int8", "float32", "bfloat16") if kind in f"{side} bfloat16")
    kinds = {"lalm": Lalm, "ONNX": OnnxRuntime, "transformers": Transformers}
    made: Any = LlamaCpp(str(gguf)) if side == GGUF_SIDE else kinds[side.split()[0]](dtype)
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
        command = [sys.executable, __file__, name, *([gguf] if gguf else [])]
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
            raise SystemExit(f"{self.name} ended: run `{sys.executable} {__file__} '{self.name}'`")
        found: dict[str, float] = json.loads(line)
        return found

    def answer(self, tokens: int, rows: int = 1) -> dict[str, float]:
        """One answer, timed by the side itself."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"tokens": tokens, "rows": rows}) + "\n")
        self.process.stdin.flush()
        return self._read()


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
