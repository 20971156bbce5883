"""``lalm export``: a model folder in the layout of a released model, for other programs to run."""

from pathlib import Path

import torch

from lalm import systems
from lalm.commands.weights import fetch_for
from lalm.systems.qwen2_audio import released

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def run(model: str, out: Path, dtype: str) -> None:
    """Write the model to a new folder as Qwen2-Audio's release has it, LoRA merged in."""
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"'{out}' is not empty: name a new folder")
    fetch_for(model)
    opened, processor = systems.load(model)
    if opened.config.lora:
        systems.merge_lora(opened)
    released.export(opened.to(DTYPES[dtype]), processor, out)
    print(out)
