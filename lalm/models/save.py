"""Writing a model as a checkpoint folder: whole, or slim with what was trained and the names of the rest."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import save_file

from lalm.models.classes import ModelError
from lalm.models.config import AudioLMConfig
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.processing import AudioLMProcessor
from lalm.weights.fetch import resolve, where
from lalm.weights.identity import identities
from lalm.weights.pins import PARTS, WeightsError


def has_parts(config: AudioLMConfig) -> bool:
    """True when everything but connector and LoRA can be found again by name."""
    return {"encoder", "llm"} <= set(config.parts) or "model" in config.parts


def lasting_name(name: str, folder: Path) -> str:
    """A part's name such that the model in ``folder`` opens from any working folder.

    A path becomes absolute, or relative to ``folder`` where it lies inside; pinned names and Hub ids stay.
    """
    path = Path(name).expanduser()
    if name in PARTS or not path.exists():
        return name
    path = path.resolve()
    inside = path.is_relative_to(folder.resolve())
    return f"./{path.relative_to(folder.resolve())}" if inside else str(path)


def found_name(name: str, folder: Path) -> str:
    """The name of a part of the model in ``folder`` as ``resolve`` takes it: relative paths from there.

    Folders of older versions hold paths that are relative to where they were written; those stay.
    """
    path = folder / name
    return str(path.resolve()) if name not in PARTS and path.exists() else name


def trained_names(model: AudioLMForConditionalGeneration) -> list[str]:
    """Names of the tensors a slim checkpoint holds: the connector's and LoRA's, and a trained encoder's."""
    own = ("model.connector.", *(["model.audio_tower."] if model.config.trained_encoder else []))
    return [name for name in model.state_dict() if name.startswith(own) or "lora_" in name]


def note_frozen(config: AudioLMConfig) -> None:
    """Note in ``config`` which weights its frozen parts have, where it is not known yet."""
    trained = ("encoder", "encoder_2") if config.trained_encoder else ()
    known = {r: one for r, one in config.frozen_parts.items() if r in config.parts and r not in trained}
    for role, name in config.parts.items():
        if role in known or role in trained:
            continue
        with suppress(WeightsError):  # a part that is gone by now: the checkpoint is worth more than its hash
            place = where(name) if name in PARTS else resolve(name)
            known |= identities({role: place} if place else {})
    config.frozen_parts = known


def save_model(
    model: AudioLMForConditionalGeneration,
    processor: AudioLMProcessor,
    folder: Path,
    *,
    slim: bool,
    state: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write a checkpoint folder: whole, or slim (trained tensors plus the names of the frozen parts).

    ``state`` takes the place of the model's own tensors, for one whose tensors are sharded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not slim:
        if model.config.lora:
            raise ModelError("merge the LoRA matrices before saving a whole checkpoint")
        model.save_pretrained(folder, state_dict=dict(state) if state is not None else None)
        processor.save_pretrained(folder)
        return
    if not has_parts(model.config):
        raise ModelError("a slim checkpoint needs the names of its encoder and LLM; this model has none")
    state = state if state is not None else model.state_dict()
    path = folder / "model.safetensors"
    save_file({name: state[name].detach().contiguous() for name in trained_names(model)}, path)
    path.chmod(0o644)  # safetensors makes files that only their owner may read
    note_frozen(model.config)
    config = {"lalm_slim": True, **json.loads(model.config.to_json_string(use_diff=False))}
    config["parts"] = {role: lasting_name(name, folder) for role, name in model.config.parts.items()}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
