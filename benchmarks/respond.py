"""Rows a second of ``lalm respond`` against a plain loop that calls ``generate`` for one caption at a time.

Same LLM, same weights in memory, same prompts and the same limits, one after the other in one process::

    python benchmarks/respond.py --rows 96 --max-new-tokens 32

Replies are sampled, so the two do not say the same; tokens are counted on both sides.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import torch

from lalm.data.readers import read_manifest
from lalm.data.sample import ask, write_manifest
from lalm.inference.device import pick_device, pick_dtype
from lalm.synthesis.completions import Chat, LocalWriter, Sampling
from lalm.systems.acdc.continuation import respond
from lalm.weights import fetch as weights

EVENTS = (
    *("a dog barks", "a car passes by", "rain falls on a roof", "a door slams", "birds sing in a forest"),
    *(
        "a man speaks",
        "a church bell rings",
        "a crowd cheers",
        "a train whistles",
        "water drips",
        "a cat meows",
    ),
    *("someone walks on gravel", "a phone rings", "a guitar is strummed", "glass breaks", "thunder rolls"),
)


def captions(count: int, seed: int) -> list[str]:
    """Captions of one to three events, all different."""
    draw = random.Random(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        text = ", then ".join(draw.sample(EVENTS, draw.randint(1, 3)))
        made[f"{text[0].upper()}{text[1:]}."] = None
    return list(made)


def one_by_one(writer: LocalWriter, chats: list[Chat], sampling: Sampling) -> tuple[float, int]:
    """Seconds and new tokens of transformers' ``generate``, a row at a time."""
    torch.manual_seed(sampling.seed)
    num_tokens = 0
    started = time.perf_counter()
    for chat in chats:
        batch = writer.tokenizer(writer.render(chat), return_tensors="pt", add_special_tokens=False)
        batch = batch.to(writer.device)
        new = writer.model.generate(
            **batch,
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            repetition_penalty=1.0,
            max_new_tokens=sampling.max_new_tokens,
        )
        num_tokens += new.shape[1] - batch["input_ids"].shape[1]
    return time.perf_counter() - started, num_tokens


def batched(
    writer: LocalWriter, texts: list[str], sampling: Sampling, args: argparse.Namespace
) -> tuple[float, int]:
    """Seconds and new tokens of ``respond``, reading, writing and syncing included."""
    with tempfile.TemporaryDirectory() as folder:
        manifest, out = Path(folder) / "captions.jsonl", Path(folder) / "replies.jsonl"
        write_manifest(
            manifest, [ask([Path(folder) / f"{i}.wav"], "").with_target(t) for i, t in enumerate(texts)]
        )
        started = time.perf_counter()
        respond(manifest, out, writer, sampling=sampling, batch_size=args.batch_size, system=args.system)
        seconds = time.perf_counter() - started
        replies = list(read_manifest(out))
    ends = [0 if reply.truncated else 1 for reply in replies]
    return seconds, sum(len(writer.tokenizer.encode(r.target)) for r in replies) + sum(ends)


def main() -> None:
    """Measure both and print the ratio; the last line is JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llm", default="qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--system", default="")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    device = pick_device(None)
    writer = LocalWriter(weights.resolve(args.llm), args.llm, pick_dtype(device), device)
    sampling = Sampling(max_new_tokens=args.max_new_tokens, seed=args.seed)
    texts = captions(args.rows, args.seed)
    system = [{"role": "system", "content": args.system}] if args.system else []
    chats: list[Chat] = [[*system, {"role": "user", "content": text}] for text in texts]
    for chat in chats[:2]:  # first calls pay for allocations
        writer.complete([chat], [0], Sampling(max_new_tokens=4))
        one_by_one(writer, [chat], Sampling(max_new_tokens=4))

    found: dict[str, float | str] = {
        "llm": args.llm,
        "device": str(device),
        "threads": torch.get_num_threads(),
    }
    print(f"{args.llm} on {device}, {args.rows} captions, at most {args.max_new_tokens} new tokens")
    for name, (seconds, tokens) in {
        "generate, one by one": one_by_one(writer, chats, sampling),
        f"respond, batches of {args.batch_size}": batched(writer, texts, sampling, args),
    }.items():
        key = name.split(",")[0]
        found |= {f"{key}_rows_per_s": args.rows / seconds, f"{key}_tokens_per_s": tokens / seconds}
        print(
            f"{name:28} {seconds:7.1f} s {args.rows / seconds:7.2f} rows/s {tokens / seconds:7.1f} tokens/s"
        )
    found["ratio"] = float(found["respond_rows_per_s"]) / float(found["generate_rows_per_s"])
    print(f"respond is {found['ratio']:.1f} times as quick in rows")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
