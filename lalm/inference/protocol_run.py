"""A model under a protocol: what it hears, in which number format it computes, its folder's own settings.

``weights_format`` says how to open it, ``follow`` sets up the engine; both say in words what is unlike lalm's
own way. ``folder_settings`` reads generation_config.json, which lalm leaves aside unless a protocol asks for
it.
"""

import json
from pathlib import Path
from typing import Any

import torch

from lalm.inference.engine import Engine
from lalm.inference.options import Options
from lalm.inference.protocols import Protocol, ProtocolError
from lalm.models.load import model_folder

# A field of generation_config.json -> ours, and what transformers takes where the file does not say it.
FIELDS = {
    "temperature": ("temperature", 1.0),
    "top_p": ("top_p", 1.0),
    "top_k": ("top_k", 50),
    "min_p": ("min_p", 0.0),
    "repetition_penalty": ("repetition_penalty", 1.0),
    "no_repeat_ngram_size": ("no_repeat_ngram_size", 0),
    "num_beams": ("beams", 1),
}
DRAWING = ("temperature", "top_p", "top_k", "min_p")  # without "do_sample" they do nothing


def weights_format(protocol: Protocol, model: str | Path) -> torch.dtype | None:
    """The number format in which the protocol has a model's weights; None where it does not say."""
    asked = protocol.computing.weights
    if asked != "folder":
        return getattr(torch, asked) if asked else None
    fields = _read(model_folder(model) / "config.json")
    named = fields.get("dtype") or fields.get("torch_dtype") or "float32"
    if named not in ("float32", "float16", "bfloat16"):
        raise ProtocolError(f"'{model}' has weights in {named}, which no protocol computes in")
    found: torch.dtype = getattr(torch, named)
    return found


def follow(engine: Engine, protocol: Protocol) -> list[str]:
    """Make the engine hear and compute as the protocol says; what it does, in sentences for people."""
    said = []
    hearing, computing, model = protocol.hearing, protocol.computing, engine.model
    engine.hearing = hearing
    if hearing.channel is not None:
        said.append(f"of several channels only channel {hearing.channel} is heard")
    if hearing.longest_s is not None:
        said.append(f"only the first {hearing.longest_s:g} s of a recording are heard")
    if hearing.shortest_s and hasattr(model.config, "shortest_s"):
        model.config.shortest_s = hearing.shortest_s
        said.append(f"silence follows recordings shorter than {hearing.shortest_s:g} s")
    on_cpu = model.device.type == "cpu"
    if computing.llm and not on_cpu:
        _recast(model, getattr(torch, computing.llm))
    if computing.autocast and not on_cpu:
        engine.autocast = getattr(torch, computing.autocast)
        said.append(f"computed in {computing.autocast} from encoders in {computing.weights}")
    elif computing.autocast:
        said.append(f"computed in {computing.weights}: on a CPU there is no {computing.autocast} autocast")
    elif computing.weights:
        said.append(f"computed in {str(model.dtype).removeprefix('torch.')}")
    return said


def folder_settings(model: str | Path) -> dict[str, Any]:
    """A model folder's own generation settings as fields of ``Options``; empty where it has none.

    Raises ProtocolError for settings that cannot be.
    """
    fields = _read(model_folder(model) / "generation_config.json")
    if not {"do_sample", *FIELDS} & set(fields):
        return {}
    found: dict[str, Any] = {
        ours: fields.get(name) if fields.get(name) is not None else usual
        for name, (ours, usual) in FIELDS.items()
        if fields.get("do_sample") or name not in DRAWING
    }
    try:
        Options(**found)
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"'{model}': generation_config.json: {error}") from None
    return found


def unlike_ours(settings: dict[str, Any]) -> str:
    """The settings that differ from lalm's own, in words: "temperature 0.7 (lalm's own: 0)"; or ""."""
    usual = Options()
    odd = {name: value for name, value in settings.items() if value != getattr(usual, name)}
    return ", ".join(
        f"{name} {value:g} (lalm's own: {getattr(usual, name):g})" for name, value in odd.items()
    )


def _recast(model: Any, dtype: torch.dtype) -> None:
    """The LLM's own weights in another format; LoRA's matrices stay as they are."""
    for part in (model.model.language_model, model.lm_head):
        for name, parameter in part.named_parameters():
            if "lora_" not in name:
                parameter.data = parameter.data.to(dtype)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"'{file}' is damaged: {error}") from None
    return fields if isinstance(fields, dict) else {}
