"""What a training run of milliseconds needs: parts, clips and manifests, its recipe, its losses."""

import json
from pathlib import Path
from typing import Any

from tiny_parts import llama_folder, noise, whisper_folder

from lalm.data.sample import Message, Sample, write_manifest
from lalm.training import recipe


def training_world(folder: Path, *, dropout: float = 0.1) -> Path:
    """A folder with an encoder, an LLM, twelve clips of different lengths and two manifests."""
    whisper_folder(folder / "encoder")
    llama_folder(folder / "llm", dropout=dropout)
    samples = []
    for i in range(12):
        clip = noise(folder / "clips" / f"{i}.wav", 0.5 + 0.25 * i, seed=i)
        user: Message = {"role": "user", "content": [{"type": "audio", "audio": str(clip)}]}
        answer: Message = {"role": "assistant", "content": f"Noise, number {i}." * (1 + i % 3)}
        samples.append(Sample((user, answer), id=f"clip{i}"))
    write_manifest(folder / "train.jsonl", samples)
    write_manifest(folder / "valid.jsonl", samples[:3])
    return folder


def settings(world: Path, out: Path, **changes: Any) -> recipe.Recipe:
    """The recipe of a run in that world; a mapping in ``changes`` is laid over its section."""
    fields: dict[str, Any] = {
        "system": "acdc",
        "init": {
            "encoder": str(world / "encoder"),
            "llm": str(world / "llm"),
            "options": {"group_size": 10, "connector_width": 32},
        },
        "lora": {"rank": 2, "alpha": 4, "dropout": 0.2},
        "data": {"train": [{"path": str(world / "train.jsonl")}]},
        "optim": {"learning_rate": 1e-2, "batch_size": 2, "max_steps": 12, "warmup_steps": 2},
        "every": {"log": 1, "save": 4, "valid": 4},
        "valid": {"samples": 3, "generate": 1},
        "out": str(out),
    }
    for key, value in changes.items():
        fields[key] = {**fields[key], **value} if isinstance(value, dict) and key in fields else value
    return recipe.Recipe.model_validate(fields)


def lines(out: Path, key: str = "loss") -> dict[int, float]:
    """One measure of a run by step, from its metrics.jsonl."""
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[key] for line in found if key in line}
