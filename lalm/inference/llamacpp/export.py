"""``lalm export --to gguf``: two files with which llama.cpp and what is built on it run a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from lalm.inference.llamacpp.language_model import check_llm, write_llm
from lalm.inference.llamacpp.library import library
from lalm.inference.llamacpp.projector import check_encoder, projector_of, write_projector
from lalm.inference.llamacpp.prompt import template_for
from lalm.models.load import load_model, model_name, read_config
from lalm.models.lora import merge_lora
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.processing import AudioLMProcessor
from lalm.weights.checkpoint import filled_whole


@dataclass(frozen=True)
class Written:
    """The files, their chat template, and the model as it was written: LoRA merged."""

    llm: Path
    projector: Path
    template: str
    model: AudioLMForConditionalGeneration
    processor: AudioLMProcessor


def export_gguf(
    name: str, out: Path, dtype: str, quantize: str | None = None, pad_to_window: bool = False
) -> Written:
    """Write the model folder ``name`` to ``out``: LLM (LoRA merged) and mmproj.

    ``dtype`` is float32, bfloat16 or float16; ``quantize``, for the LLM alone, one of ``gguf_file.MIXES``.
    Raises GGUFError before anything is written where llama.cpp cannot do what the model does.
    """
    _, known = read_config(Path(name))
    config: Any = known
    options = _padded(config, pad_to_window)
    check_encoder(config, name)
    check_llm(config.text_config, name)
    if quantize not in (None, "q8_0"):
        library()
    model, processor = load_model(name)
    model.config.audio_config.pad_to_window = processor.config.audio_config.pad_to_window = options
    model.model.audio_tower.config.pad_to_window = options
    projector = projector_of(model, name)
    template = template_for(processor, projector.marks, name)
    if model.config.lora:
        merge_lora(model)
    if dtype != "float32":
        model.model.language_model.to(getattr(torch, dtype))
        model.lm_head.to(getattr(torch, dtype))
    title = model_name(name)
    floats = "float32" if dtype == "float32" else "float16"
    llm, beside = f"{title}-{_short(quantize or dtype)}.gguf", f"mmproj-{title}-{_short(floats)}.gguf"
    with filled_whole(out) as draft:
        write_llm(model, processor, draft / llm, quantize or dtype, template, title)
        write_projector(model, projector, draft / beside, floats, title)
    return Written(out / llm, out / beside, template, model, processor)


def _padded(config: Any, pad_to_window: bool) -> bool:
    """Whether clips are heard as 30 s: in the config from now on, where ``pad_to_window`` asks for it."""
    encoder = getattr(config, "audio_config", None)
    if encoder is None or encoder.model_type != "lalm_whisper":
        return False
    encoder.pad_to_window = encoder.pad_to_window or pad_to_window
    return bool(encoder.pad_to_window)


def _short(kind: str) -> str:
    return {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}.get(kind, kind.upper())


def read_back(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of a GGUF file by name, unpacked to float32."""
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(
            tuple(int(n) for n in reversed(tensor.shape))
        )
        for tensor in gguf.GGUFReader(path).tensors
    }
