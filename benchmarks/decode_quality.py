"""What fewer bits cost: the next token's distribution under each number format, on answers of our own.

For ``decode.py --quality``. The model answers questions about the recordings in samples/ and those of
manifests (in int8, which is fast); then every number format reads the same prompts and answers, llama.cpp's
too, and the distributions at each position of the answers are compared. KL is in nats, from the first to the
second; the interval is a bootstrap's over prompts, since positions of one answer are alike.
"""

import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lone_answers import QUESTIONS, SAMPLES
from torch import Tensor

from lalm import Engine, Options, ask
from lalm.data.readers import read_manifest
from lalm.data.sample import Sample
from lalm.models.modeling import IGNORE_INDEX
from lalm.models.next_position import NextPosition
from lalm.models.prefill import read_apart

REFERENCES = ("bfloat16", "float32")
AT_ONCE = 32  # samples; so many are kept together
LLAMA = {"llama.cpp Q8_0": "int8", "llama.cpp Q4_K_M": "int4"}
ONNX = {"ONNX Runtime int8": "int8"}


def measure(
    questions: int, manifests: Sequence[Path], rows: int, formats: Sequence[str], kept: Path | None = None
) -> dict[str, Any]:
    """Mean KL and share of equal likeliest tokens of each format against bfloat16, and float32 where it is
    among ``formats``; ``rows`` of each manifest, evenly taken. ``kept``: a folder for what is done already,
    so that a run that was stopped goes on."""
    asked = [ask([path], text) for path in SAMPLES for text in QUESTIONS[:questions]]
    for manifest in manifests:
        found = [sample.prompt() for sample in read_manifest(manifest)]
        asked += [found[i * len(found) // rows] for i in range(rows)]
    engine = Engine.load(device="cpu", dtype="int8")
    told = answered(engine, asked, kept)
    read: dict[str, list[Tensor]] = {}
    pairs: dict[str, Any] = {}
    for kind in formats:
        read[kind] = read_all(kind, engine, told, kept)
        for reference in REFERENCES:
            if reference in read and reference != kind:
                pairs[f"{reference} to {kind}"] = compared(read[reference], read[kind])
                print(
                    f"{reference} to {kind}: {pairs[f'{reference} to {kind}']}", file=sys.stderr, flush=True
                )
        if kind not in REFERENCES:
            del read[kind]
    positions = sum(len(row) for row in read[next(iter(read))])
    return {"prompts": len(told), "positions": positions, "pairs": pairs}


def answered(engine: Engine, asked: Sequence[Sample], kept: Path | None) -> list[Sample]:
    """The samples with the engine's answers, without those that have none; answers in ``kept`` are taken."""
    file = kept / "answers.json" if kept else None
    texts: list[str] = json.loads(file.read_text()) if file and file.exists() else []
    while len(texts) < len(asked):
        some = asked[len(texts) : len(texts) + AT_ONCE]
        texts += [reply.text for reply in engine.reply(some, Options(max_new_tokens=40))]
        print(f"{len(texts)} of {len(asked)} answers", file=sys.stderr, flush=True)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(texts))
    return [one.with_target(text) for one, text in zip(asked, texts, strict=True) if text]


def read_all(kind: str, engine: Engine, told: Sequence[Sample], kept: Path | None) -> list[Tensor]:
    """Each sample's log-probabilities (P, V) in that format; those in ``kept`` are taken."""
    found: list[Tensor] = []
    reads: Callable[[Sample], Tensor] | None = None
    for first in range(0, len(told), AT_ONCE):
        some = told[first : first + AT_ONCE]
        file = kept / f"{kind} {first}.pt" if kept else None
        if file and file.exists():
            found += torch.load(file)
            continue
        reads = reads or reader(kind, engine)
        found += [reads(sample) for sample in some]
        if file:
            torch.save(found[first:], file)
        print(f"{kind}: {len(found)} of {len(told)}", file=sys.stderr, flush=True)
    return found


def reader(kind: str, int8: Engine) -> Callable[[Sample], Tensor]:
    """What reads a prompt and its answer in that format."""
    if kind in LLAMA:
        from lalm.inference.llamacpp.engine import LlamaCppEngine

        llama = LlamaCppEngine.open(dtype=LLAMA[kind])
        return lambda sample: read_by_library(llama, sample)
    if kind in ONNX:
        from lalm.inference.onnxruntime.engine import OnnxRuntimeEngine

        onnx = OnnxRuntimeEngine.open(dtype=ONNX[kind])
        return lambda sample: read_by_library(onnx, sample)
    engine = int8 if kind == "int8" else Engine.load(device="cpu", dtype=kind)  # type: ignore[arg-type]
    read = read_by_steps if kind == "int4" else log_probabilities
    return lambda sample: read(engine, sample)


def places_of(batch: Any) -> Tensor:
    """The positions (P,) whose next token is one of the answer, its end included."""
    found: Tensor = (batch["labels"][0] != IGNORE_INDEX).nonzero()[:, 0] - 1
    return found


@torch.inference_mode()
def log_probabilities(engine: Engine, sample: Sample) -> Tensor:
    """(P, V) float16 at the positions of the answer."""
    batch = engine.processor.batch([sample], labels=True)
    places = places_of(batch)
    batch.pop("labels")
    logits = engine.model(**batch, logits_to_keep=places).logits[0]
    return logits.log_softmax(-1).half()


@torch.inference_mode()
def read_by_steps(engine: Engine, sample: Sample) -> Tensor:
    """The same as an answer is decoded: the prompt at once, then token by token."""
    engine.pack()
    batch = engine.processor.batch([sample], labels=True)
    places = places_of(batch)
    mask = batch.pop("attention_mask")
    batch.pop("labels")
    model: Any = engine.model
    step, embeds = NextPosition(model.model.language_model), model.model.embed(**batch)
    first, last = int(places[0]), int(places[-1])
    cache = read_apart(step.body, embeds[:, : first + 1], mask[:, : first + 1])
    hidden = [step(embeds[:, i], mask[:, : i + 1], cache) for i in range(first, last + 1)]
    logits: Tensor = model.logits(torch.cat(hidden))[places - first]
    return logits.log_softmax(-1).half()


@torch.inference_mode()
def read_by_library(engine: Any, sample: Sample) -> Tensor:
    """The same by llama.cpp or ONNX Runtime: the prompt as its engine gives it, then token by token."""
    batch = engine.processor.batch([sample], labels=True)
    places, ids = places_of(batch), batch["input_ids"][0]
    first = int(places[0]) + 1
    logits = [engine._begun(engine._pieces_of(ids[:first], engine._heard(batch)))]
    logits += [engine.read([token]) for token in ids[first : int(places[-1]) + 1, None].numpy()]
    engine._known = []
    return torch.stack([torch.from_numpy(row) for row in logits]).log_softmax(-1).half()


def compared(one: list[Tensor], other: list[Tensor]) -> dict[str, Any]:
    """Over all positions; lists of (P, V)."""
    kls, same = [], []
    for a, b in zip(one, other, strict=True):
        a, b = a.float(), b.float()
        kls.append((a.exp() * (a - b)).sum(-1))
        same.append((a.argmax(-1) == b.argmax(-1)).float())
    draw, means = random.Random(0), []
    for _ in range(1000):
        chosen = draw.choices(kls, k=len(kls))
        means.append(float(torch.cat(chosen).mean()))
    means.sort()
    all_ = torch.cat(kls)
    return {
        "kl": round(float(all_.mean()), 5),
        "kl_95": [round(means[24], 5), round(means[974], 5)],
        "kl_worst": round(float(all_.max()), 4),
        "same_likeliest": round(float(torch.cat(same).mean()), 4),
    }
