"""What int8 costs: the next token's distribution under float32, bfloat16 and int8, on answers of our own.

For ``decode.py --quality``. The model answers questions about the recordings in samples/ (in int8, which is
fast); then every number format reads the same prompts and answers, and the distributions at each position of
the answers are compared. KL is in nats, from the first to the second; the interval is a bootstrap's over
prompts, since positions of one answer are alike.
"""

import random
from typing import Any

import torch
from lone_answers import QUESTIONS, SAMPLES
from torch import Tensor

from lalm import Engine, Options, ask
from lalm.data.sample import Sample
from lalm.models.modeling import IGNORE_INDEX

PAIRS = (("bfloat16", "int8"), ("float32", "int8"), ("float32", "bfloat16"))


def measure(questions: int) -> dict[str, Any]:
    """Mean KL and share of equal likeliest tokens of each pair of formats."""
    asked = [ask([path], text) for path in SAMPLES for text in QUESTIONS[:questions]]
    engine = Engine.load(device="cpu", dtype="int8")
    replies = engine.reply(asked, Options(max_new_tokens=40))
    told = [one.with_target(reply.text) for one, reply in zip(asked, replies, strict=True)]
    read = {"int8": [log_probabilities(engine, sample) for sample in told]}
    for kind in ("bfloat16", "float32"):
        engine = Engine.load(device="cpu", dtype=kind)
        read[kind] = [log_probabilities(engine, sample) for sample in told]
    positions = sum(len(row) for row in read["int8"])
    pairs = {f"{one} to {other}": compared(read[one], read[other]) for one, other in PAIRS}
    return {"prompts": len(told), "positions": positions, "pairs": pairs}


@torch.inference_mode()
def log_probabilities(engine: Engine, sample: Sample) -> Tensor:
    """(P, V) float16 at the positions of the answer, its end included."""
    batch = engine.processor.batch([sample], labels=True)
    labels = batch.pop("labels")[0]
    places = (labels != IGNORE_INDEX).nonzero()[:, 0] - 1
    logits = engine.model(**batch, logits_to_keep=places).logits[0]
    return logits.log_softmax(-1).half()


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
