"""Imports EAT's released checkpoints: fairseq ``.pt`` files and the Hub port's safetensors or ``.bin``.

Nothing in a file is run: pickles are read as tensors and plain containers only. Every key is either
mapped, or one of the training-time leftovers that are dropped on purpose, or an error that names it.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lalm.encoders.eat import EATConfig, EATEncoder, position_table
from lalm.encoders.released import check_shapes, num_blocks, refuse_unknown, tensors_by_name, weights_file
from lalm.errors import LalmError

HEAD_WIDTH = 64  # of EAT-base (12 heads) and EAT-large (16 heads) alike
POSITION_TOLERANCE = 2e-3  # a table stored in half precision
FILES = ("model.safetensors", "pytorch_model.bin")

# Names after "model." and "modality_encoders.IMAGE." -> ours. Both layouts share the blocks' names.
RENAMED = (
    (re.compile(r"local_encoder\.proj\.(weight|bias)"), r"patch.\1"),
    (re.compile(r"extra_tokens"), "cls"),
    (re.compile(r"(?:context_encoder\.norm|pre_norm)\.(weight|bias)"), r"norm.\1"),
    (re.compile(r"blocks\.(\d+)\.(norm1|norm2)\.(weight|bias)"), r"blocks.\1.\2.\3"),
    (re.compile(r"blocks\.(\d+)\.(?:attn|mlp)\.(qkv|proj|fc1|fc2)\.(weight|bias)"), r"blocks.\1.\2.\3"),
)
# The teacher, the pretraining decoder and projections, and the classifier of finetuned checkpoints.
DROPPED = ("_ema", "decoder.", "shared_decoder.", "recon_proj.", "cls_proj.", "center", "fc_norm.", "head.")
POSITIONS = "fixed_positional_encoder.positions"


class EATImportError(LalmError, ValueError):
    """A file is not an EAT checkpoint, or not a safe one; the text says why in one sentence."""


def import_eat(path: Path) -> tuple[EATConfig, dict[str, Tensor]]:
    """Configuration and weights (float32, ``EATEncoder``'s names) of a released checkpoint.

    ``path``: a fairseq ``.pt``, a ``.safetensors`` or ``.bin`` of the Hub port, or the port's folder.
    Raises EATImportError.
    """
    path = weights_file(path, FILES, ".pt", EATImportError)
    state: dict[str, Tensor] = {}
    unknown: list[str] = []
    positions: Tensor | None = None
    for key, value in tensors_by_name(path, EATImportError).items():
        name = key.removeprefix("model.").removeprefix("modality_encoders.IMAGE.")
        renamed = next((p.sub(r, name) for p, r in RENAMED if p.fullmatch(name)), None)
        if name == POSITIONS and isinstance(value, Tensor):
            positions = value.float()
        elif renamed and renamed not in state and isinstance(value, Tensor):
            state[renamed] = value.float().contiguous()
        elif not name.startswith(DROPPED):
            unknown.append(key)
    refuse_unknown(path, unknown, "EAT", EATImportError)
    config = _config(path, state)
    with torch.device("meta"):
        expected = EATEncoder(config).state_dict()
    check_shapes(path, state, expected, "EAT", EATImportError)
    if positions is not None:
        _compare_positions(path, positions, config)
    return config, state


def check_eat(folder: Path, audio: Path, reference: Path) -> float:
    """Largest difference between EAT's frames of a recording and a stored reference (513, 768) ``.npy``.

    The EAT repository has such a pair: feature_extract/test.wav and test.npy, from the finetuned base
    model of the Hub. Raises ValueError when the shapes differ.
    """
    from lalm.audio.load import load_audio
    from lalm.encoders import load_encoder

    encoder = load_encoder(folder)
    samples = torch.from_numpy(load_audio(audio))[None]
    wanted = np.load(reference, allow_pickle=False)
    with torch.no_grad():
        frames, _ = encoder(samples, torch.tensor([samples.shape[1]]))
    found = frames[0].numpy()
    if wanted.shape != found.shape:
        raise EATImportError(f"'{reference.name}' has shape {wanted.shape}, EAT gives {found.shape}")
    return float(np.abs(found - wanted).max())


def _config(path: Path, state: Mapping[str, Tensor]) -> EATConfig:
    """The shape that the tensors tell."""
    needed = ("patch.weight", "blocks.0.fc1.bias")
    missing = [name for name in needed if name not in state]
    if missing or state["patch.weight"].ndim != 4:
        raise EATImportError(f"'{path.name}' is no EAT: it has no usable '{(missing or needed)[0]}'")
    width, _, patch, _ = state["patch.weight"].shape
    if width % HEAD_WIDTH:
        raise EATImportError(f"'{path.name}' is no EAT: its width {width} is no multiple of {HEAD_WIDTH}")
    return EATConfig(
        hidden_size=width,
        num_hidden_layers=num_blocks(path, state, "EAT", EATImportError),
        num_attention_heads=width // HEAD_WIDTH,
        mlp_ratio=len(state["blocks.0.fc1.bias"]) / width,
        patch_size=patch,
    )


def _compare_positions(path: Path, stored: Tensor, config: EATConfig) -> None:
    """Positions are computed, not read (older files hold fewer); those that are stored must agree."""
    table = position_table(config.max_frames // config.patch_size, config.num_bands, config.hidden_size)
    rows = stored.reshape(-1, stored.shape[-1])
    if rows.shape[1] != config.hidden_size:
        raise EATImportError(
            f"'{path.name}': its positions are {rows.shape[1]} wide, not {config.hidden_size}"
        )
    count = min(len(rows), len(table))
    difference = float((rows[:count] - torch.from_numpy(table[:count])).abs().max())
    if not difference <= POSITION_TOLERANCE:
        raise EATImportError(f"'{path.name}': its positions differ by {difference:.3g} from EAT's")
