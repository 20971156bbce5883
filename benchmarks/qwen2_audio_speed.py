"""Speed and memory of Qwen2-Audio here and in transformers, on the same random weights in the same run.

    python benchmarks/qwen2_audio_speed.py --out results/qwen2_audio_speed.json

Each side of each case runs in a process of its own, so that its peak memory is its own; the best of the
repeats counts. Both get waveforms, so features and tokenising are inside. Beside the time on the clock
stands the processor time, which other programs on the machine change less (meant for one thread).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

SIZES = {  # encoder width, layers, heads; LLM width, layers, heads
    "tiny": (64, 2, 2, 128, 2, 4),
    "medium": (384, 4, 6, 768, 8, 12),
}
MIXED_S = (1, 2, 3, 5, 8, 12, 20, 30)
CASES = {"one clip of 5 s": (5,), "one clip of 30 s": (30,), "8 clips, 1 to 30 s": MIXED_S}
SIDES = ("transformers", "lalm")
QUESTION = "What is it?"


def write_model(size: str, folder: Path) -> None:
    """A Qwen2-Audio folder with random weights, as transformers writes it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        AddedToken,
        GenerationConfig,
        PreTrainedTokenizerFast,
        Qwen2AudioConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    inner = Tokenizer(
        models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|pad|>")
    names = ["<|im_start|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
    tokenizer.add_tokens([AddedToken(name, special=True) for name in names])
    tokenizer.padding_side = "left"
    width, layers, heads, llm_width, llm_layers, llm_heads = SIZES[size]
    torch.manual_seed(0)
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "d_model": width,
            "encoder_layers": layers,
            "encoder_attention_heads": heads,
            "encoder_ffn_dim": 4 * width,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": 32_000,
            "hidden_size": llm_width,
            "intermediate_size": 11 * llm_width // 4,
            "num_hidden_layers": llm_layers,
            "num_attention_heads": llm_heads,
            "num_key_value_heads": llm_heads,
            "max_position_embeddings": 8192,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    model = Qwen2AudioForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=None, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    extractor = WhisperFeatureExtractor(feature_size=128, return_attention_mask=True)
    Qwen2AudioProcessor(extractor, tokenizer).save_pretrained(folder)


def clips(case: str) -> list[np.ndarray]:
    """Noise of the case's lengths, (N,) float32 16 kHz each."""
    noise = np.random.default_rng(0)
    return [(noise.standard_normal(16_000 * s) * 0.1).astype(np.float32) for s in CASES[case]]


def transformers_side(folder: Path):
    """(clips, new tokens) -> ids of the answers, by transformers."""
    from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

    model = Qwen2AudioForConditionalGeneration.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"
    chat = [{"role": "user", "content": [{"type": "audio", "audio": ""}, {"type": "text", "text": QUESTION}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)

    def answer(audio: list[np.ndarray], tokens: int) -> list[list[int]]:
        batch = processor(
            text=[text] * len(audio), audio=audio, sampling_rate=16_000, return_tensors="pt", padding=True
        )
        ids = model.generate(**batch, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        return ids[:, batch["input_ids"].shape[1] :].tolist()

    return answer


def lalm_side(folder: Path):
    """The same by lalm."""
    from lalm import systems
    from lalm.sample import Sample

    model, processor = systems.load(folder)

    def answer(audio: list[np.ndarray], tokens: int) -> list[list[int]]:
        samples = [
            Sample(({"role": "user", "content": [
                {"type": "audio", "audio": clip, "rate": 16_000}, {"type": "text", "text": QUESTION}
            ]},))
            for clip in audio
        ]  # fmt: skip
        batch = processor.batch(samples)
        return model.generate(**batch, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False).tolist()

    return answer


def measure(side: str, case: str, folder: Path, tokens: int, repeats: int) -> dict:
    """One side of one case, after a warm-up on a short clip: the best time to the first token and in all."""
    answer = {"transformers": transformers_side, "lalm": lalm_side}[side](folder)
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    audio = clips(case)
    answer([audio[0][:8000]], 2)
    best: dict[str, float] = {}
    for _ in range(repeats):
        for name, count in (("first_token", 1), ("total", tokens)):
            clock, processor = time.perf_counter(), time.process_time()
            ids = answer(audio, count)
            for key, spent in (
                (f"{name}_s", time.perf_counter() - clock),
                (f"{name}_cpu_s", time.process_time() - processor),
            ):
                best[key] = min(spent, best.get(key, spent))
    decoding_s = best["total_cpu_s"] - best["first_token_cpu_s"]
    return {
        **best,
        "tokens_per_cpu_s": len(audio) * (tokens - 1) / max(decoding_s, 1e-9),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "loaded_mib": loaded / 1024,
        "ids": ids,
    }


def run(size: str, repeats: int, tokens: int) -> dict:
    """Every case: both sides, how many times faster ours is, and how many answers are the same."""
    report: dict = {
        "size": size,
        "tokens": tokens,
        "repeats": repeats,
        "torch": torch.__version__,
        "cases": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        write_model(size, Path(folder))
        for case in CASES:
            row: dict = {}
            ids = []
            for side in SIDES:
                words = [sys.executable, __file__, "--one", side, case, folder, str(tokens), str(repeats)]
                done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ)
                found = json.loads(done.stdout.splitlines()[-1])
                ids.append(found.pop("ids"))
                row[side] = {key: round(value, 3) for key, value in found.items()}
            row["faster"] = {
                key: round(row["transformers"][key] / row["lalm"][key], 2)
                for key in row["lalm"]
                if key.endswith("_s") and key.startswith(("first", "total"))
            }
            row["same_answers"] = f"{sum(a == b for a, b in zip(*ids, strict=True))} of {len(ids[0])}"
            report["cases"][case] = row
            print(case, json.dumps(row), flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        side, case, folder, tokens, repeats = given.one
        print(json.dumps(measure(side, case, Path(folder), int(tokens), int(repeats))))
        return
    report = run(given.size, given.repeats, given.tokens)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
