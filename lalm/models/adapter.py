"""PEFT adapters, read and written: what transformers, ms-swift and LLaMA-Factory train.

An adapter folder holds adapter_config.json and adapter_model.safetensors (or .bin). Its names are those of
the module tree that some transformers built; a system's ``released`` module knows ours for each.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lalm.errors import LalmError, refuse_pickled_code
from lalm.models.lora import add_lora
from lalm.models.modeling import AudioLMForConditionalGeneration

CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
Names = Sequence[tuple[str, str]]
"""A module's name in another tree, as a regular expression, and what ours has in its place."""
UNKNOWN = ("use_dora", "use_qalora", "alora_invocation_tokens")  # settings whose arithmetic is another


class AdapterError(LalmError, ValueError):
    """An adapter that cannot be opened or written; the text names the folder."""


@dataclass(frozen=True)
class _Pair:
    """The two matrices at one layer: A (r, in), B (out, r), and the factor of their product."""

    first: Tensor
    second: Tensor
    scale: float


def is_adapter(folder: Path) -> bool:
    """True for a folder that holds an adapter and no model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> str:
    """The model that an adapter was trained on: a folder or a Hub id."""
    name = _settings(folder).get("base_model_name_or_path")
    if not name:
        raise AdapterError(f"'{folder / CONFIG}' does not say which model it belongs to")
    beside = folder / str(name)
    return str(beside) if beside.is_dir() else str(name)


@torch.no_grad()
def put_in(model: AudioLMForConditionalGeneration, folder: Path, names: Names) -> bool:
    """Apply an adapter to its base model. True when it stays LoRA that can be turned and trained on.

    It does if it lies in the LLM alone, in all layers, perhaps beside a trained projector; any other,
    such as one that reaches the encoder, is added to the weights. Raises AdapterError for tensors that have
    no place in the model, and for kinds of adapters other than LoRA.
    """
    settings = _settings(folder)
    pairs, whole = _tensors(folder, settings, names)
    modules = dict(model.named_modules())
    for name, pair in pairs.items():
        weight = getattr(modules.get(name), "weight", None)
        if weight is None or weight.shape != (pair.second.shape[0], pair.first.shape[1]):
            raise AdapterError(
                f"the adapter in '{folder}' has LoRA for '{name}', which does not fit the model"
            )
    state = model.state_dict()
    for name, tensor in whole.items():
        if name not in state or state[name].shape != tensor.shape:
            raise AdapterError(f"the adapter in '{folder}' has '{name}', which does not fit the model")
        state[name].copy_(tensor)
    if (lora := _as_lora(pairs, modules)) and all(name.startswith("model.connector.") for name in whole):
        add_lora(model, lora)
        state = model.state_dict()
        for name, pair in pairs.items():
            state[f"{name}.lora_A.default.weight"].copy_(pair.first)
            state[f"{name}.lora_B.default.weight"].copy_(pair.second)
        return True
    for name, pair in pairs.items():
        weight = modules[name].weight
        weight.copy_(weight.float() + pair.scale * (pair.second.float() @ pair.first.float()))
    return False


def write(model: AudioLMForConditionalGeneration, folder: Path, base: str, names: Names) -> None:
    """Write the model's LoRA, and its connector beside it, as an adapter to ``base``.

    ``names`` are beginnings of our names and what the base's own classes have in their place.
    """
    lora = model.config.lora
    if not lora:
        raise AdapterError("this model has no LoRA, so there is no adapter to write: export it whole")
    found: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if "lora_" in name or name.startswith("model.connector."):
            ours, theirs = next(row for row in names if name.startswith(row[0]))
            named = (theirs + name.removeprefix(ours)).replace(".default.", ".")
            found[PREFIX + named] = tensor.detach().float().contiguous()
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora["rank"],
        "lora_alpha": lora["alpha"],
        "lora_dropout": lora.get("dropout", 0.0),
        "rank_pattern": lora.get("rank_pattern", {}),
        "alpha_pattern": lora.get("alpha_pattern", {}),
        "target_modules": r".*language_model\..*\.(" + "|".join(lora["targets"]) + ")",
        "modules_to_save": ["multi_modal_projector"],
        "bias": "none",
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(found, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _settings(folder: Path) -> dict[str, Any]:
    try:
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"'{folder / CONFIG}' cannot be read: {error}") from None
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise AdapterError(f"'{folder}' is no LoRA adapter, the only kind that can be opened")
    for name in UNKNOWN:
        if settings.get(name):
            raise AdapterError(
                f"the adapter in '{folder}' has {name}: merge it with PEFT and open the result"
            )
    return settings


def _tensors(
    folder: Path, settings: Mapping[str, Any], names: Names
) -> tuple[dict[str, _Pair], dict[str, Tensor]]:
    """LoRA pairs by our name of their layer, and tensors that were trained whole by our name."""
    safe, old = folder / "adapter_model.safetensors", folder / "adapter_model.bin"
    try:
        with refuse_pickled_code(f"the adapter in '{folder}'", AdapterError):
            tensors = load_file(safe) if safe.is_file() else torch.load(old, weights_only=True)
    except FileNotFoundError:
        raise AdapterError(f"'{folder}' has no adapter_model.safetensors") from None
    except (SafetensorError, OSError, RuntimeError, EOFError) as error:
        raise AdapterError(f"the adapter in '{folder}' is damaged: {error}") from None
    halves: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module, lora, half = name.removeprefix(PREFIX).partition(".lora_")
        if not lora:
            whole[_ours(module.replace(".modules_to_save.default", ""), folder, names)] = tensor
        elif half.replace(".default", "") in ("A.weight", "B.weight"):
            halves.setdefault(module, {})[half[0]] = tensor
        else:
            raise AdapterError(f"the adapter in '{folder}' has '{name}', which is no LoRA of a linear layer")
    pairs = {}
    for module, found in halves.items():
        if found.keys() != {"A", "B"}:
            raise AdapterError(f"the adapter in '{folder}' has one matrix of two for '{module}'")
        rank, alpha = len(found["A"]), _alpha(settings, module)
        scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
        pairs[_ours(module, folder, names)] = _Pair(found["A"], found["B"], scale)
    return pairs, whole


def _alpha(settings: Mapping[str, Any], module: str) -> float:
    """The numerator of a layer's factor, which patterns may give layers of their own."""
    for pattern, alpha in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(?:.*\.)?(?:{pattern})$", module):
            return float(alpha)
    return float(settings["lora_alpha"])


def _ours(name: str, folder: Path, names: Names) -> str:
    for pattern, ours in names:
        if re.match(pattern, name):
            return re.sub(pattern, ours, name)
    raise AdapterError(f"the adapter in '{folder}' is for '{name}', which the model has not")


def _as_lora(pairs: Mapping[str, _Pair], modules: Mapping[str, Any]) -> dict[str, Any] | None:
    """The LoRA of ours that the pairs are, if they are one: in all of the LLM's layers of some names.

    The rank and factor of most layers are the rule, others stand in patterns.
    """
    body = "model.language_model."
    targets = {name.rpartition(".")[2] for name in pairs}
    covered = {name for name in modules if name.startswith(body) and name.rpartition(".")[2] in targets}
    if not pairs or set(pairs) != covered:
        return None
    own = {
        re.escape(name.removeprefix(body)): (len(pair.first), pair.scale * len(pair.first))
        for name, pair in pairs.items()
    }
    rank, alpha = Counter(own.values()).most_common(1)[0][0]
    ranks = {name: mine for name, (mine, _) in own.items() if mine != rank}
    alphas = {name: mine for name, (_, mine) in own.items() if mine != alpha}
    patterns: dict[str, Any] = {"rank_pattern": ranks} if ranks else {}
    patterns |= {"alpha_pattern": alphas} if alphas else {}
    return {"rank": rank, "alpha": alpha, "dropout": 0.0, "targets": sorted(targets), **patterns}
