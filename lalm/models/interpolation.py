"""Weights between two models: what a further stage taught, kept beside what it made the model forget.

Of a model before and after a stage, ``(1 - share) * before + share * after``, tensor by tensor (WiSE-FT,
arXiv 2109.01903). The two must have the same parts, and the second must have begun from the first: only then
are the weights on the way between them a model too.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lalm.models.adapter import is_adapter
from lalm.models.load import model_folder, read_config
from lalm.models.save import found_name, lasting_name
from lalm.weights.checkpoint import filled_whole


def interpolate(first: str | Path, second: str | Path, share: float, out: Path) -> int:
    """Write to ``out`` the model that lies ``share`` of the way from ``first`` to ``second``.

    Returns the number of tensors. All else (config, processor) is the second one's. Raises ValueError where
    the two have no common shape, OSError where ``out`` cannot be written.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share is from 0 (the first model) to 1 (the second), not {share:g}")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"'{out}' is not empty: name a new folder")
    before, after = model_folder(first), model_folder(second)
    for folder in (before, after):
        if is_adapter(folder):
            raise ValueError(f"'{folder}' is a PEFT adapter, and no model folder: name a run")
    _check_parts(before, after)
    places = _places(before)
    files = _files(after)
    found = {name for names in files.values() for name in names}
    if found != set(places):
        odd = sorted(found ^ set(places))[0]
        raise ValueError(
            f"'{first}' and '{second}' do not hold the same tensors: '{odd}' is in one of them alone"
        )
    with filled_whole(out) as draft:
        for file, names in files.items():
            path = draft / file.name
            save_file(
                {name: _between(places[name], file, name, share) for name in names}, path, {"format": "pt"}
            )
            path.chmod(0o644)  # safetensors makes files that only their owner may read
        _copy_rest(after, draft, out)
    return len(found)


def _check_parts(before: Path, after: Path) -> None:
    """Raise ValueError where the two are not of one kind."""
    (system, config), (other, own) = read_config(before), read_config(after)
    if system != other:
        raise ValueError(f"'{before}' is of the system {system}, '{after}' of {other}")
    if config.lora != own.lora:
        raise ValueError(f"LoRA has other settings in '{before}' than in '{after}'")
    for role in config.frozen_parts.keys() & own.frozen_parts.keys():
        if config.frozen_parts[role] != own.frozen_parts[role]:
            raise ValueError(f"'{before}' and '{after}' have different weights as their {role}")


def _files(folder: Path) -> dict[Path, list[str]]:
    """The files of weights of a model, with the names of their tensors."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"'{folder}' has no model.safetensors: the copy is not whole")
    return {file: _names(file) for file in files}


def _names(file: Path) -> list[str]:
    try:
        with safe_open(file, "pt") as opened:
            return list(opened.keys())
    except SafetensorError as error:
        raise ValueError(f"'{file}' is damaged or cut short ({error})") from None


def _places(folder: Path) -> dict[str, Path]:
    """The file of each tensor."""
    return {name: file for file, names in _files(folder).items() for name in names}


def _between(file: Path, other: Path, name: str, share: float) -> torch.Tensor:
    """A tensor between two of one name, in the wider of their dtypes."""
    a, b = (_read(place, name) for place in (file, other))
    if a.shape != b.shape:
        raise ValueError(f"'{name}' has the shape {_shape(a)} in '{file}' and {_shape(b)} in '{other}'")
    dtype = torch.promote_types(a.dtype, b.dtype)
    return torch.lerp(a.float(), b.float(), share).to(dtype).contiguous() if dtype.is_floating_point else b


def _read(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, "pt") as opened:
        return opened.get_tensor(name)


def _shape(tensor: torch.Tensor) -> Sequence[int]:
    return list(tensor.shape)


def _copy_rest(folder: Path, draft: Path, out: Path) -> None:
    """All other files of a model; its parts are found from the new folder too."""
    for file in folder.iterdir():
        if file.suffix in (".json", ".txt", ".model", ".jinja") and file.name != "config.json":
            shutil.copy(file, draft)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if isinstance(config.get("parts"), dict):
        parts = {role: found_name(str(name), folder) for role, name in config["parts"].items()}
        config["parts"] = {role: lasting_name(name, out) for role, name in parts.items()}
    (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
