"""Imports Dasheng as it is published, without running the code beside its weights.

- ``mispeech/dasheng-base``, ``-0.6B``, ``-1.2B``: config.json of the type "dasheng", tensors ``encoder.*``
- MiDashengLM: its encoder, ``audio_encoder_config`` and ``audio_encoder.*``
- the authors' ``dasheng_base.pt`` and others: ``{"model": tensors, "config": settings}``

Every tensor is mapped, or one of those that are dropped on purpose, or an error that names it.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lalm.encoders.dasheng import FFT, DashengConfig, DashengEncoder
from lalm.encoders.released import check_shapes, folder_tensors, read_released, refuse_unknown
from lalm.errors import LalmError

# model_type -> where its config.json has the encoder's settings, and how its tensors' names begin
FOLDERS = {
    "dasheng": ("encoder_kwargs", "encoder."),
    "midashenglm": ("audio_encoder_config", "audio_encoder."),
    "midashenglm_dasheng_encoder": ("", ""),
}
SIZES = {  # of the folders whose config.json only has the name
    "dasheng-base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "dasheng-0.6B": {"embed_dim": 1280, "depth": 32, "num_heads": 16},
    "dasheng-1.2B": {"embed_dim": 1536, "depth": 40, "num_heads": 24},
}
RENAMED = (
    (re.compile(r"patch_embed\.proj\.(weight|bias)"), r"patch.\1"),
    (re.compile(r"blocks\.(\d+)\.(norm1|norm2)\.(weight|bias)"), r"blocks.\1.\2.\3"),
    (re.compile(r"blocks\.(\d+)\.(?:attn|mlp)\.(qkv|proj|fc1|fc2)\.(weight|bias)"), r"blocks.\1.\2.\3"),
    (re.compile(r"norm\.(weight|bias)"), r"norm.\1"),
    (re.compile(r"init_bn\.(?:1\.)?(weight|bias|running_mean|running_var)"), r"batch_norm.\1"),
    (re.compile(r"(time|freq)_pos_embed"), r"\1_positions"),
)
DROPPED = re.compile(r"front_end\..*|init_bn\.(?:1\.)?num_batches_tracked|outputlayer\..*")
BATCH_NORM_EPS = 1e-5
ONLY: dict[str, tuple[Any, ...]] = {  # setting -> what of it is implemented, the first where it is not there
    "pooling": ("mean", None),
    "init_values": (None, 0),
    "n_fft": (FFT,),
    "win_size": (FFT,),
    "win_length": (FFT,),
    "hop_size": (160,),
    "hop_length": (160,),
    "sample_rate": (16_000,),
    "f_min": (0,),
    "f_max": (8_000,),
    "center": (True,),
    "qkv_bias": (True,),
    "input_channels": (1,),
}


class DashengImportError(LalmError, ValueError):
    """A folder or file is no Dasheng, or not a whole one; the text says why in one sentence."""


def import_dasheng(path: Path) -> tuple[DashengConfig, dict[str, Tensor]]:
    """Configuration and weights (float32, ``DashengEncoder``'s names) of a published folder or ``.pt``.

    Raises DashengImportError.
    """
    settings, tensors = _file(path) if path.is_file() else _folder(path)
    for name, possible in ONLY.items():
        if (given := settings.get(name, possible[0])) not in possible:
            raise DashengImportError(
                f"the Dasheng in '{path}' has {name} {given}; only {possible[0]} is known"
            )
    found: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, value in tensors.items():
        renamed = next((p.sub(r, key) for p, r in RENAMED if p.fullmatch(key)), None)
        if renamed and isinstance(value, Tensor):
            found[renamed] = value.float().contiguous()
        elif not DROPPED.fullmatch(key):
            unknown.append(key)
    refuse_unknown(path, unknown, "Dasheng", DashengImportError)
    state = _joined(path, found)
    config = _config(path, settings, state)
    with torch.device("meta"):
        expected = DashengEncoder(config).state_dict()
    check_shapes(path, state, expected, "Dasheng", DashengImportError)
    if extra := sorted(set(state) - set(expected)):
        raise DashengImportError(
            f"'{path}' has {len(extra)} tensors more than its settings say, e.g. {extra[0]}"
        )
    return config, state


def is_dasheng(path: Path) -> bool:
    """Whether a released ``.pt`` is a Dasheng."""
    try:
        tensors = _file(path)[1]
    except DashengImportError:
        return False
    return {"time_pos_embed", "freq_pos_embed"} <= tensors.keys()


def _file(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    content = read_released(path, DashengImportError)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise DashengImportError(f"'{path.name}' holds no 'model' with tensors by name")
    settings = content.get("config")
    return settings if isinstance(settings, dict) else {}, content["model"]


def _folder(folder: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    fields = json.loads((folder / "config.json").read_text())
    where, prefix = FOLDERS[fields["model_type"]]
    settings = fields.get(where) if where else fields
    settings = {**SIZES.get(str(fields.get("name")), {}), **(settings or {})}
    features = folder / "preprocessor_config.json"
    if where == "encoder_kwargs" and features.is_file():
        settings = {**json.loads(features.read_text()), **settings}
    tensors = folder_tensors(folder, DashengImportError, prefix)
    return settings, {name.removeprefix(prefix): value for name, value in tensors.items()}


def _joined(path: Path, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Batch norm as a scale and a shift, positions of time and (one) frequency as one table."""
    needed = (*(f"batch_norm.{n}" for n in ("weight", "bias", "running_mean", "running_var")),)
    for name in (*needed, "time_positions", "freq_positions", "patch.weight"):
        if name not in found:
            raise DashengImportError(f"'{path}' holds no whole Dasheng: it lacks '{name}'")
    state = {name: value for name, value in found.items() if name.split("_")[-1] != "positions"}
    weight, bias, mean, variance = (state.pop(name) for name in needed)
    state["mel_scale"] = weight / (variance + BATCH_NORM_EPS).sqrt()
    state["mel_shift"] = bias - mean * state["mel_scale"]
    time, bands = found["time_positions"], found["freq_positions"]  # (1, D, 1, T) and (1, D, 1, 1)
    if time.ndim != 4 or bands.shape != (1, time.shape[1], 1, 1) or state["patch.weight"].ndim != 4:
        raise DashengImportError(f"'{path}' has patches of several frequencies; Dasheng's are of all of them")
    state["positions"] = (time + bands)[0, :, 0].T.contiguous()
    return state


def _config(path: Path, settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> DashengConfig:
    """The shapes that the tensors tell, and the number of heads, which only the settings say."""
    width, _, bins, frames = state["patch.weight"].shape
    blocks = {int(name.split(".")[1]) for name in state if name.startswith("blocks.")}
    heads = settings.get("num_heads") or next(
        (size["num_heads"] for size in SIZES.values() if size["embed_dim"] == width), None
    )
    if not heads or not blocks or "blocks.0.fc1.bias" not in state:
        raise DashengImportError(f"'{path}' does not say how many heads its Dasheng has (num_heads)")
    try:
        return DashengConfig(
            hidden_size=width,
            num_hidden_layers=max(blocks) + 1,
            num_attention_heads=heads,
            mlp_ratio=len(state["blocks.0.fc1.bias"]) / width,
            num_mel_bins=bins,
            patch_frames=frames,
            positions=len(state["positions"]),
        )
    except ValueError as error:
        raise DashengImportError(f"the settings of the Dasheng in '{path}' do not fit: {error}") from None
