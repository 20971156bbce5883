"""Speed and memory of Qwen2-Audio here and in transformers, on the same random weights in the same run.

    python benchmarks/qwen2_audio_speed.py --out results/qwen2_audio_speed.json

Each side of each case runs in a process of its own, so that its peak memory is its own. The sides take
turns, so that what else the machine does meets both, and the best of a side's turns counts. Both get
waveforms, so features and tokenising are inside. Beside the time on the clock stands the processor time,
which other programs on the machine change less (meant for one thread: OMP_NUM_THREADS=1).
"""

import argparse
import json
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
    from lalm.data.sample import Sample
    from lalm.models.load import load_model

    model, processor = load_model(folder)

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


def peak_mib() -> float:
    """Most memory this process has held. (``getrusage`` would count its parent's, from before the exec.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def take_turns(side: str, case: str, folder: Path, tokens: int) -> None:
    """One side of one case: a turn, and a line of JSON about it, for every line of standard input."""
    answer = {"transformers": transformers_side, "lalm": lalm_side}[side](folder)
    loaded = peak_mib()
    audio = clips(case)
    answer([audio[0][:8000]], 2)  # warm-up
    for _ in sys.stdin:
        found: dict = {"loaded_mib": loaded}
        for name, count in (("first_token", 1), ("total", tokens)):
            clock, processor = time.perf_counter(), time.process_time()
            found["ids"] = answer(audio, count)
            found[f"{name}_s"] = time.perf_counter() - clock
            found[f"{name}_cpu_s"] = time.process_time() - processor
        found["peak_mib"] = peak_mib()
        print(json.dumps(found), flush=True)


def one_case(case: str, folder: str, tokens: int, repeats: int) -> dict:
    """Both sides, how many times faster ours is, and how many answers are the same."""
    running = {
        side: subprocess.Popen(
            [sys.executable, __file__, "--one", side, case, folder, str(tokens)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side in SIDES
    }
    turns: dict[str, list[dict]] = {side: [] for side in SIDES}
    for _ in range(repeats):
        for side, process in running.items():
            process.stdin.write("turn\n")
            process.stdin.flush()
            turns[side].append(json.loads(process.stdout.readline()))
    for process in running.values():
        process.stdin.close()
        process.wait()
    ids = [turns[side][-1]["ids"] for side in SIDES]
    keys = [key for key in turns["lalm"][0] if key != "ids"]
    best = {side: {key: min(turn[key] for turn in turns[side]) for key in keys} for side in SIDES}
    for found in best.values():  # of the best times: within a turn their difference is mostly noise
        found["token_cpu_s"] = (found["total_cpu_s"] - found["first_token_cpu_s"]) / (tokens - 1)
    return {
        **{side: {key: round(value, 4) for key, value in best[side].items()} for side in SIDES},
        "faster": {
            key: round(best["transformers"][key] / value, 2)
            for key, value in best["lalm"].items()
            if key.endswith("_s")
        },
        "same_answers": f"{sum(a == b for a, b in zip(*ids, strict=True))} of {len(ids[0])}",
    }


def run(size: str, repeats: int, tokens: int) -> dict:
    """Every case."""
    report: dict = {
        "size": size,
        "tokens": tokens,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cases": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        write_model(size, Path(folder))
        for case in CASES:
            report["cases"][case] = row = one_case(case, folder, tokens, repeats)
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
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        side, case, folder, tokens = given.one
        take_turns(side, case, Path(folder), int(tokens))
        return
    report = run(given.size, given.repeats, given.tokens)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
