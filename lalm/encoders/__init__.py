"""The encoders by name. Each is waveform in, frames out: ``forward(audio, audio_lengths) -> frames, lengths``.

An encoder's config knows its ``width``, ``frames_per_second`` and, exactly, ``num_frames(num_samples)``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from lalm.encoders.eat import EATConfig, EATEncoder
from lalm.encoders.whisper import WhisperEncoder, WhisperEncoderConfig

EncoderConfig: TypeAlias = WhisperEncoderConfig | EATConfig

ENCODERS: dict[str, tuple[type[Any], type[nn.Module]]] = {
    WhisperEncoderConfig.model_type: (WhisperEncoderConfig, WhisperEncoder),
    EATConfig.model_type: (EATConfig, EATEncoder),
}
ENCODERS["whisper"] = ENCODERS[WhisperEncoderConfig.model_type]  # a Whisper folder as the Hub has it

for _name, (_config, _) in ENCODERS.items():
    if _name == _config.model_type:
        AutoConfig.register(_name, _config)


def encoder_config(config: PreTrainedConfig | Mapping[str, Any] | None) -> EncoderConfig:
    """A config object from what a config.json holds; EAT-base when there is none (AC/DC's encoder)."""
    if isinstance(config, PreTrainedConfig):
        return config
    fields = dict(config or {"model_type": EATConfig.model_type})
    name = fields.pop("model_type", None)
    if name not in ENCODERS:
        raise ValueError(f"there is no encoder '{name}'; the encoders are: {', '.join(sorted(ENCODERS))}")
    return ENCODERS[name][0](**fields)


def build_encoder(config: PreTrainedConfig) -> nn.Module:
    """A randomly initialised encoder of that shape."""
    return ENCODERS[config.model_type][1](config)


def load_encoder(folder: Path, options: Mapping[str, Any] | None = None) -> nn.Module:
    """An encoder with the weights of ``folder`` (config.json + model.safetensors), in eval mode.

    ``options`` override fields of its config that change no weight (``layers``, ``pool``, ...). A Whisper
    folder of the Hub will do: of its tensors only the encoder's are read.
    """
    try:
        fields = json.loads((folder / "config.json").read_text()) | dict(options or {})
        state = load_file(folder / "model.safetensors")
    except FileNotFoundError as error:
        raise ValueError(f"'{folder}' is not an encoder folder: it has no {Path(error.filename).name}") from None
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"the encoder in '{folder}' is damaged: {error}") from None
    if fields["model_type"] == "whisper" or (options or {}).get("model_type") == "lalm_whisper":
        prefixes = ("model.encoder.", "encoder.")
        state = {
            "whisper." + key.removeprefix(prefix): value
            for key, value in state.items()
            for prefix in prefixes
            if key.startswith(prefix)
        }
    encoder = build_encoder(encoder_config(fields))
    missing, unexpected = encoder.load_state_dict(state, strict=False)
    if missing or unexpected:
        odd = (missing or unexpected)[0]
        raise ValueError(f"'{folder}' does not fit its config.json: {len(missing)} tensors missing, {odd}")
    return encoder.float().eval()
