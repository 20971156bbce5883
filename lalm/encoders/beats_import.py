"""Imports BEATs' released checkpoints: ``.pt`` files with ``cfg``, ``model`` and optionally ``label_dict``.

Nothing in a file is run: pickles are read as tensors and plain containers only. Every key is either mapped,
or one of the few that are dropped on purpose, or an error that names it; the same for ``cfg``.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lalm.encoders.beats import BEATsConfig, BEATsEncoder
from lalm.encoders.released import read_released, refuse_unknown
from lalm.errors import LalmError

# A released name -> ours. Layer 0 holds the table of relative positions that all layers share.
RENAMED = (
    (re.compile(r"(patch_embedding|layer_norm|post_extract_proj)\.(weight|bias)"), r"\1.\2"),
    (re.compile(r"encoder\.layer_norm\.(weight|bias)"), r"position_norm.\1"),
    (re.compile(r"encoder\.pos_conv\.0\.bias"), r"position.conv.bias"),
    (re.compile(r"encoder\.layers\.0\.self_attn\.relative_attention_bias\.weight"), r"relative_bias.weight"),
    (
        re.compile(
            r"encoder\.layers\.(\d+)\.((?:self_attn\.(?:[qkv]_proj|out_proj|grep_linear)"
            r"|self_attn_layer_norm|final_layer_norm|fc[12])\.(?:weight|bias)|self_attn\.grep_a)"
        ),
        r"blocks.\1.\2",
    ),
)
SHARED = re.compile(r"encoder\.layers\.\d+\.self_attn\.relative_attention_bias\.weight")
DIRECTION, NORM = "encoder.pos_conv.0.weight_v", "encoder.pos_conv.0.weight_g"
DROPPED = ("predictor.",)  # AudioSet's classifier of finetuned checkpoints

SHAPES = {  # cfg key -> ours
    "encoder_embed_dim": "hidden_size",
    "encoder_layers": "num_hidden_layers",
    "encoder_attention_heads": "num_attention_heads",
    "encoder_ffn_embed_dim": "intermediate_size",
    "embed_dim": "embed_size",
    "input_patch_size": "patch_size",
    "conv_pos": "conv_positions",
    "conv_pos_groups": "conv_position_groups",
    "num_buckets": "num_buckets",
    "max_distance": "max_distance",
    "deep_norm": "deep_norm",
    "conv_bias": "conv_bias",
}
ABSENT = {"max_distance": 1280, "deep_norm": False}  # what the original takes when cfg leaves them out
ONLY = {  # cfg key -> (the one value that this encoder implements, the original's value when absent)
    "activation_fn": ("gelu", "gelu"),
    "layer_norm_first": (False, False),
    "relative_position_embedding": (True, False),
    "gru_rel_pos": (True, False),
}
TRAINING = {  # cfg keys that change no output of a frozen encoder
    *("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "dropout_input"),
    *("layer_wise_gradient_decay_ratio", "finetuned_model", "predictor_dropout", "predictor_class"),
}
LARGEST = 65_536  # no size in a cfg is larger


class BEATsImportError(LalmError, ValueError):
    """A file is not a BEATs checkpoint, or not a safe one; the text says why in one sentence."""


def import_beats(path: Path) -> tuple[BEATsConfig, dict[str, Tensor]]:
    """Configuration and weights (float32, ``BEATsEncoder``'s names) of a released ``.pt`` file.

    Raises BEATsImportError.
    """
    fields, tensors = _read(path)
    config = _config(path, fields)
    state: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, value in tensors.items():
        renamed = next((p.sub(r, key) for p, r in RENAMED if p.fullmatch(key)), None)
        if renamed:
            state[renamed] = value.float().contiguous()
        elif SHARED.fullmatch(key):
            _compare_shared(path, key, tensors)
        elif key not in (DIRECTION, NORM) and not key.startswith(DROPPED):
            unknown.append(key)
    refuse_unknown(path, unknown, "BEATs", BEATsImportError)
    if DIRECTION in tensors and NORM in tensors:
        state["position.conv.weight"] = _normed(path, tensors[DIRECTION].float(), tensors[NORM].float())
    with torch.device("meta"):
        expected = BEATsEncoder(config).state_dict()
    for name in sorted(expected.keys() | state.keys()):
        here = tuple(state[name].shape) if name in state else "absent"
        due = tuple(expected[name].shape) if name in expected else "absent"
        if here != due:
            raise BEATsImportError(f"'{path.name}': the tensor '{name}' is {here} instead of {due}")
    return config, state


def is_beats(path: Path) -> bool:
    """Whether a ``.pt`` file holds what a BEATs file holds; only its outline is read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return set(content) >= {"cfg", "model"} and "post_extract_proj.weight" in content["model"]
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError):
        return False


def _read(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """``cfg`` and ``model`` of a file, without running anything in it."""
    content = read_released(path, BEATsImportError)
    fields, tensors = (
        (content.get("cfg"), content.get("model")) if isinstance(content, dict) else (None, None)
    )
    if not isinstance(fields, dict) or not isinstance(tensors, dict):
        raise BEATsImportError(f"'{path.name}' is no BEATs: it does not hold 'cfg' and 'model'")
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in tensors.items()):
        raise BEATsImportError(f"'{path.name}' is no BEATs: 'model' holds more than tensors by name")
    return fields, tensors


def _config(path: Path, fields: Mapping[str, Any]) -> BEATsConfig:
    """Our configuration from ``cfg``; every key of it is known."""
    unknown = sorted(set(map(str, fields)) - set(SHAPES) - set(ONLY) - TRAINING)
    if unknown:
        raise BEATsImportError(f"'{path.name}': cfg has keys that no BEATs has: {', '.join(unknown[:5])}")
    for key, (value, absent) in ONLY.items():
        if fields.get(key, absent) != value:
            raise BEATsImportError(
                f"'{path.name}': cfg says {key} = {fields.get(key, absent)}, and only {value} is implemented"
            )
    own = {SHAPES[key]: value for key, value in (ABSENT | dict(fields)).items() if key in SHAPES}
    for name, value in own.items():
        if not isinstance(value, int) or not 0 <= value <= LARGEST:
            raise BEATsImportError(f"'{path.name}': cfg gives {name} = {value!r}")
    if own.get("embed_size", 512) == own.get("hidden_size", 768):
        raise BEATsImportError(f"'{path.name}': a BEATs without post_extract_proj is not implemented")
    try:
        return BEATsConfig(**own)
    except (ValueError, ZeroDivisionError) as error:
        raise BEATsImportError(f"'{path.name}': cfg cannot be used: {error}") from None


def _compare_shared(path: Path, key: str, tensors: Mapping[str, Tensor]) -> None:
    """Layers after the first only repeat the first layer's table."""
    first = tensors.get("encoder.layers.0.self_attn.relative_attention_bias.weight")
    if first is None or not torch.equal(first, tensors[key]):
        raise BEATsImportError(f"'{path.name}': '{key}' is not the table of layer 0, which all layers share")


def _normed(path: Path, direction: Tensor, norm: Tensor) -> Tensor:
    """The convolution's weight (D, D / groups, K): ``norm`` (1, 1, K) times each position's direction."""
    if direction.ndim != 3 or norm.shape != (1, 1, direction.shape[2]):
        raise BEATsImportError(
            f"'{path.name}': weight_g {tuple(norm.shape)} does not fit weight_v {tuple(direction.shape)}"
        )
    return norm * direction / direction.norm(dim=(0, 1), keepdim=True)
