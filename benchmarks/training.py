"""Training throughput here and in a plain transformers + peft loop: same weights, steps and loss.

    python benchmarks/training.py --out results/training_speed.json

The plain loop is what one writes without this package: Whisper's extractor pads every clip to its 30 s,
the encoder runs at every step, text is padded to the longest row, the LLM gives all logits. Here a step is
split into batches of like length, and clips cost what they are long. Both run with float32 and with
bfloat16 frozen parts. Each side runs in a process of its own (peak memory), all in one call, after a step
that does not count. Weights are random; clips are noise, 1 to 30 s long. Processor seconds count, because
other programs change them less than the time on the clock, and all sides take turns several times: a ratio
is the median of those within each round, because a shared machine is not equally fast all the time.
"""

import argparse
import json
import math
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import torch

SIDES = {  # name -> dtype of the frozen parts, plain loop, frame cache, packed rows
    "plain": ("float32", True, False, False),
    "lalm": ("float32", False, False, False),
    "lalm with cache": ("float32", False, True, False),
    "lalm packed, with cache": ("float32", False, True, True),
    "plain, bfloat16": ("bfloat16", True, False, False),
    "lalm, bfloat16": ("bfloat16", False, False, False),
    "lalm, bfloat16, packed": ("bfloat16", False, False, True),
    "lalm, bfloat16, with cache": ("bfloat16", False, True, False),
    "lalm, bfloat16, packed, with cache": ("bfloat16", False, True, True),
}
SIZES = {  # encoder width, layers; LLM width, layers; vocabulary
    "tiny": (64, 2, 64, 2, 2_000),
    "small": (128, 3, 128, 3, 16_000),
    "medium": (384, 4, 576, 12, 49_152),
    "base": (512, 6, 576, 30, 49_152),
}
POOL, GROUP = 4, 4  # frames to an audio token: 16 x 20 ms


def write_parts(size: str, folder: Path) -> None:
    """A Whisper folder and a Llama folder with random weights."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
        WhisperConfig,
        WhisperForConditionalGeneration,
    )

    width, layers, llm_width, llm_layers, vocabulary = SIZES[size]
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=width // 32,
        encoder_ffn_dim=4 * width,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=64,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
    )
    WhisperForConditionalGeneration(config).save_pretrained(folder / "encoder")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|pad|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|audio|>"]})
    tokenizer.save_pretrained(folder / "llm")
    llama = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=llm_width,
        intermediate_size=3 * llm_width,
        num_hidden_layers=llm_layers,
        num_attention_heads=llm_width // 32,
        num_key_value_heads=llm_width // 32,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(llama).save_pretrained(folder / "llm")


def write_clips(folder: Path, count: int) -> None:
    """A manifest of noise clips whose lengths are spread evenly over the logarithm of 1 to 30 s."""
    import soundfile

    from lalm.data.sample import Sample, write_manifest

    rng = np.random.default_rng(0)
    (folder / "clips").mkdir()
    samples = []
    for i, seconds in enumerate(np.geomspace(1, 30, count)):
        path = folder / "clips" / f"{i}.flac"
        soundfile.write(path, rng.normal(0, 0.1, int(seconds * 16_000)).clip(-1, 1), 16_000)
        part: Any = {"type": "audio", "audio": str(path), "duration_s": round(float(seconds), 3)}
        answer = "Noise of many colours, number " + str(i) + "."
        samples.append(
            Sample(({"role": "user", "content": [part]}, {"role": "assistant", "content": answer}), id=str(i))
        )
    write_manifest(folder / "train.jsonl", samples)


def recipe_of(
    folder: Path, batch_size: int, accumulation: int, dtype: str, cached: bool, packing: bool
) -> Any:
    """The recipe both sides follow."""
    from lalm.training.recipe import Recipe

    fields: dict[str, Any] = {
        "system": "acdc",
        "init": {
            "encoder": str(folder / "encoder"),
            "llm": str(folder / "llm"),
            "options": {"encoder": {"pool": POOL}, "group_size": GROUP, "connector_width": 256},
        },
        "lora": {"rank": 8, "alpha": 16},
        "data": {"train": [{"path": str(folder / "train.jsonl")}]},
        "optim": {
            "learning_rate": 1e-3,
            "batch_size": batch_size,
            "accumulation": accumulation,
            "max_steps": 1,
            "dtype": dtype,
            "packing": packing,
        },
        "cache": str(folder / "frames") if cached else None,
        "out": str(folder / "out"),
    }
    return Recipe.model_validate(fields)


def run_side(side: str, folder: Path, batch_size: int, part: int, steps: int) -> dict[str, Any]:
    """Losses, processor and clock seconds of the steps, and peak memory of this process.

    A step of ``batch_size`` samples is one batch in the plain loop and where rows are packed, else batches of
    ``part``.
    """
    from rich.console import Console

    from lalm.training import run as train
    from lalm.training.batches import Batches, Collator
    from lalm.training.clip_loading import reader
    from lalm.training.malloc import keep_freed_memory
    from lalm.training.manifests import mixtures, training_sources

    torch.manual_seed(0)
    dtype, plain, cached, packing = SIDES[side]
    if not plain:
        keep_freed_memory()  # as ``lalm train`` does on a CPU
    parts = 1 if plain or packing else batch_size // part
    recipe = recipe_of(folder, batch_size // parts, parts, dtype, cached, packing)
    model, processor = train.build(recipe)
    mixture, _ = mixtures(recipe, training_sources(recipe), model, Console(quiet=True))
    batches = Batches(mixture, steps * parts)
    began_cpu = time.process_time()
    if plain:
        loss_of = plain_losses(model, processor)
    else:
        read = reader(recipe, model, processor, [mixture], Console(quiet=True))
        collate = Collator(processor, read, packing=packing)

        def loss_of(batch: Any, count: int) -> torch.Tensor:
            return model(**collate([batch]), num_items_in_batch=count).loss

    filled_s = time.process_time() - began_cpu
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-3)
    model.train()
    # What is learned of each answer: its text and the token that ends it, here a token a byte.
    counts = [
        sum(len(s.target.encode()) + 1 for i in range(parts) for s in batches[step * parts + i].samples)
        for step in range(steps)
    ]
    for i in range(parts):
        loss_of(batches[i], counts[0]).backward()
    optimizer.zero_grad()
    losses = []
    began, began_cpu = time.perf_counter(), time.process_time()
    for step in range(steps):
        total = 0.0
        for i in range(parts):
            loss = loss_of(batches[step * parts + i], counts[step])
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return {
        "side": side,
        "losses": losses,
        "processor_s": time.process_time() - began_cpu,
        "clock_s": time.perf_counter() - began,
        "filling_processor_s": filled_s if cached else 0.0,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def plain_losses(model: Any, processor: Any) -> Any:
    """The loss as one writes it by hand: the same modules, transformers' own features."""
    import soundfile
    from transformers import WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    extractor = WhisperFeatureExtractor()
    tower = model.model.audio_tower
    encoder = WhisperEncoder(tower.whisper.config).eval().to(tower.whisper.conv1.weight.dtype)
    encoder.load_state_dict(tower.whisper.state_dict())
    tokenizer, llm = processor.tokenizer, model.model.language_model
    llm.set_attn_implementation("sdpa")  # transformers' own, not that of lalm.training.cpu_attention

    def loss_of(batch: Any, count: int) -> torch.Tensor:
        waves = [soundfile.read(s.audios[0]["audio"], dtype="float32")[0] for s in batch.samples]
        mel = extractor(waves, sampling_rate=16_000, return_tensors="pt").input_features
        with torch.no_grad():
            frames = encoder(mel.to(encoder.conv1.weight.dtype)).last_hidden_state  # (B, 1500, D)
        frames = frames.reshape(len(waves), -1, POOL, frames.shape[2]).mean(2)
        lengths = torch.tensor([math.ceil(math.ceil(len(w) / 320) / POOL) for w in waves])
        tokens, counts = model.model.connector(frames, lengths)
        rows, labels = [], []
        embed = llm.get_input_embeddings()
        for i, sample in enumerate(batch.samples):
            before = tokenizer("<|im_start|>user\n", add_special_tokens=False).input_ids
            after = tokenizer("<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False).input_ids
            answer = tokenizer(sample.target + "<|im_end|>", add_special_tokens=False).input_ids
            end = tokenizer("\n", add_special_tokens=False).input_ids
            heard = tokens[i, : counts[i]].to(llm.dtype)
            text = [embed(torch.tensor(ids)) for ids in (before, [*after, *answer, *end])]
            rows.append(torch.cat([text[0], heard, text[1]]))
            skipped = len(before) + len(heard) + len(after)
            labels.append(torch.tensor([-100] * skipped + answer + [-100] * len(end)))
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(r), dtype=torch.long) for r in rows], True)
        hidden = llm(
            inputs_embeds=torch.nn.utils.rnn.pad_sequence(rows, True), attention_mask=mask, use_cache=False
        ).last_hidden_state
        logits = model.lm_head(hidden).float()  # all of them
        targets = torch.nn.utils.rnn.pad_sequence(labels, True, -100)
        flat = logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten()
        return torch.nn.functional.cross_entropy(*flat, reduction="sum") / count

    return loss_of


def compared(plain: list[dict[str, Any]], own: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the rounds' ratios, and their range."""
    times = [a["processor_s"] / b["processor_s"] for a, b in zip(plain, own, strict=True)]
    memory = [b["peak_mb"] / a["peak_mb"] for a, b in zip(plain, own, strict=True)]
    return {
        "times as fast": statistics.median(times),
        "from": min(times),
        "to": max(times),
        "peak memory": statistics.median(memory),
        "largest loss difference": max(
            abs(x - y)
            for a, b in zip(plain, own, strict=True)
            for x, y in zip(a["losses"], b["losses"], strict=True)
        ),
    }


def main() -> None:
    """Run all sides and write the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--part", type=int, default=8, help="samples of one batch here")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    import lalm.training.run  # once, for the processes that are forked from this one

    assert lalm.training.run
    rows = []
    with tempfile.TemporaryDirectory() as name:
        forked = multiprocessing.get_context("fork")
        with forked.Pool(1, maxtasksperchild=1) as pool:
            pool.apply(write_parts, (options.size, Path(name)))
            pool.apply(write_clips, (Path(name), options.batch_size * options.steps))
            for _ in range(options.rounds):
                for side in SIDES:
                    given = (side, Path(name), options.batch_size, options.part, options.steps)
                    rows.append(pool.apply(run_side, given))
                    print(rows[-1], file=sys.stderr, flush=True)
                    rmtree(Path(name) / "frames", ignore_errors=True)
    report: dict[str, Any] = {
        "size": options.size,
        "shape": dict(
            zip(("encoder", "layers", "llm", "llm_layers", "words"), SIZES[options.size], strict=True)
        ),
        "steps": options.steps,
        "samples of a step": options.batch_size,
        "threads": 1,
        "sides": rows,
    }
    by_side = {side: [row for row in rows if row["side"] == side] for side in SIDES}
    for name in ("plain", "plain, bfloat16"):
        report[f"against {name}"] = {
            side: compared(by_side[name], own)
            for side, own in by_side.items()
            if not side.startswith("plain")
        }
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
