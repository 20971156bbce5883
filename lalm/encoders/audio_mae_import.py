"""Imports Audio-MAE's released checkpoints: the official ``.pth`` files and folders in timm's format.

Both name the tensors alike. Every key is either mapped, or one of the parts that are not used here (the
classifier of finetuned models, the decoder of pretrained ones), or an error that names it.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lalm.encoders.audio_mae import AudioMAEConfig, AudioMAEEncoder
from lalm.encoders.released import check_shapes, num_blocks, refuse_unknown, tensors_by_name, weights_file
from lalm.errors import LalmError

KIND = "Audio-MAE"  # in messages
HEAD_WIDTH = 64  # of ViT-S, -B and -L alike
FILES = ("model.safetensors", "pytorch_model.bin")

RENAMED = (
    (re.compile(r"patch_embed\.proj\.(weight|bias)"), r"patch.\1"),
    (re.compile(r"cls_token"), "cls"),
    (re.compile(r"pos_embed"), "positions"),
    (re.compile(r"blocks\.(\d+)\.(norm1|norm2)\.(weight|bias)"), r"blocks.\1.\2.\3"),
    (re.compile(r"blocks\.(\d+)\.(?:attn|mlp)\.(qkv|proj|fc1|fc2)\.(weight|bias)"), r"blocks.\1.\2.\3"),
)
# What comes after the last block: the norms, AudioSet's classifier, the decoder of pretraining.
DROPPED = re.compile(
    r"(?:fc_norm|norm|head)\.(?:weight|bias)|mask_token|decoder_(?:embed|norm|pred)\.(?:weight|bias)"
    r"|decoder_pos_embed|decoder_blocks\.\d+\..*"
)


class AudioMAEImportError(LalmError, ValueError):
    """A file is not an Audio-MAE checkpoint, or not a safe one; the text says why in one sentence."""


def import_audio_mae(path: Path) -> tuple[AudioMAEConfig, dict[str, Tensor]]:
    """Configuration and weights (float32, ``AudioMAEEncoder``'s names) of a released checkpoint.

    ``path``: an official ``.pth`` or a folder of timm's. Raises AudioMAEImportError.
    """
    path = weights_file(path, FILES, ".pth", AudioMAEImportError)
    state: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, value in tensors_by_name(path, AudioMAEImportError).items():
        renamed = next((p.sub(r, key) for p, r in RENAMED if p.fullmatch(key)), None)
        if renamed and isinstance(value, Tensor):
            state[renamed] = value.float().contiguous()
        elif not DROPPED.fullmatch(key):
            unknown.append(key)
    refuse_unknown(path, unknown, KIND, AudioMAEImportError)
    if "positions" in state:
        state["positions"] = state["positions"].flatten(0, -2)
    config = _config(path, state)
    with torch.device("meta"):
        expected = AudioMAEEncoder(config).state_dict()
    check_shapes(path, state, expected, KIND, AudioMAEImportError)
    return config, state


def is_audio_mae(path: Path) -> bool:
    """Whether ``path`` is a ``.pth`` file, or a folder that has nothing else, or one in timm's format."""
    if path.suffix == ".pth" or is_timm(path):
        return True
    return any(path.glob("*.pth")) and not (path / "config.json").is_file()


def is_timm(folder: Path) -> bool:
    """Whether a folder's config.json is timm's, of a vision transformer that takes one channel."""
    try:
        fields = json.loads((folder / "config.json").read_text())
        return fields["architecture"].startswith("vit_") and fields["pretrained_cfg"]["input_size"][0] == 1
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return False


def _config(path: Path, state: Mapping[str, Tensor]) -> AudioMAEConfig:
    """The shape that the tensors tell."""
    needed = {"patch.weight": 4, "positions": 2, "blocks.0.fc1.bias": 1}
    for name, dimensions in needed.items():
        if name not in state or state[name].ndim != dimensions:
            raise AudioMAEImportError(f"'{path.name}' is no Audio-MAE: it has no usable '{name}'")
    width, channels, patch, _ = state["patch.weight"].shape
    bands = AudioMAEConfig().num_mel_bins // patch
    if width % HEAD_WIDTH or channels != 1 or (len(state["positions"]) - 1) % max(bands, 1):
        raise AudioMAEImportError(
            f"'{path.name}' is no Audio-MAE: "
            f"{width} wide, {channels} channels, {len(state['positions'])} positions"
        )
    return AudioMAEConfig(
        hidden_size=width,
        num_hidden_layers=num_blocks(path, state, KIND, AudioMAEImportError),
        num_attention_heads=width // HEAD_WIDTH,
        mlp_ratio=len(state["blocks.0.fc1.bias"]) / width,
        patch_size=patch,
        window_frames=(len(state["positions"]) - 1) // bands * patch,
    )
