"""``lalm export``: a model folder in the layout of a released model, for other programs to run."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import GenerationConfig

from lalm.cli.weights import fetch_for
from lalm.inference.engine import Engine
from lalm.models import assemble as systems
from lalm.models.chat_template import with_parts
from lalm.systems.qwen2_audio import released
from lalm.systems.salmonn import released as salmonn_released

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def to_salmonn(model: str, out: Path) -> None:
    """Write what was trained of a SALMONN folder to ``out``/salmonn.pth, as the authors' files are."""
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"'{out}' is not empty: name a new folder")
    system, config = systems.read_config(Path(model))
    if system != "salmonn" or not config.lora:
        raise ValueError(f"'{model}' is no SALMONN with LoRA, so it cannot be written as one")
    if config.qformer_heads * salmonn_released.HEAD_WIDTH != config.qformer_width:
        raise ValueError(f"the Q-Former of '{model}' has heads of another width than the released ones' 64")
    weights = Path(model) / "model.safetensors"
    try:
        tensors = load_file(weights)
    except FileNotFoundError:
        raise ValueError(f"'{model}' has no model.safetensors") from None
    except SafetensorError as error:
        raise ValueError(f"'{weights}' is damaged or cut short ({error})") from None
    out.mkdir(parents=True, exist_ok=True)
    windows = {"second_per_window": config.window_s, "second_stride": config.stride_s}
    salmonn_released.write(tensors, config.lora, windows, out / "salmonn.pth")
    print(out / "salmonn.pth")


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


def to_transformers(model: str, out: Path, dtype: str) -> None:
    """Write a folder that needs no other to ``out``, for transformers and for vLLM with our plugin."""
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"'{out}' is not empty: name a new folder")
    fetch_for(model)
    complete(Path(model), out, dtype)
    print(out)


def complete(folder: Path, out: Path, dtype: str) -> None:
    """All weights of a model folder with LoRA merged in, and one chat template that says everything.

    Encoder and LLM are written in ``dtype``, the connector in float32. Of the LLM's own habits of
    generation only the tokens that end an answer stay.
    """
    opened, processor = systems.load(folder)
    if opened.config.lora:
        systems.merge_lora(opened)
    for part in (opened.model.audio_tower, opened.model.language_model, opened.lm_head):
        part.to(DTYPES[dtype])
    opened.config.dtype = DTYPES[dtype]
    opened.config.text_config.dtype = DTYPES[dtype]
    opened.config.parts = {}
    opened.generation_config = GenerationConfig(
        eos_token_id=sorted(Engine(opened, processor, folder.name).ends()),
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    if not processor.parts:
        processor.chat_template = with_parts(
            processor.chat_template, processor.question_prompt, processor.audio_token
        )
        processor.parts, processor.question_prompt = True, {}
    processor.tokenizer.chat_template = processor.chat_template
    systems.save(opened, processor, out, slim=False)
