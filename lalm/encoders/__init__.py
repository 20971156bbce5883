"""The encoders by name, each from waveform to frames: ``encoder(audio, lengths) -> frames, lengths``.

An encoder's config knows its ``width``, ``frames_per_second`` and, exactly, ``num_frames(num_samples)``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from lalm.encoders.aisfx import AISFXConfig, AISFXEncoder
from lalm.encoders.audio_mae import AudioMAEConfig, AudioMAEEncoder
from lalm.encoders.audio_mae_import import import_audio_mae, is_audio_mae
from lalm.encoders.beats import BEATsConfig, BEATsEncoder
from lalm.encoders.beats_import import import_beats, is_beats
from lalm.encoders.dasheng import DashengConfig, DashengEncoder
from lalm.encoders.dasheng_import import FOLDERS as DASHENG_FOLDERS
from lalm.encoders.dasheng_import import DashengImportError, import_dasheng, is_dasheng
from lalm.encoders.eat import EATConfig, EATEncoder
from lalm.encoders.eat_import import EATImportError, import_eat
from lalm.encoders.pair import PairConfig, PairEncoder
from lalm.encoders.released import folder_tensors
from lalm.encoders.transformers_audio import TransformersAudioConfig, TransformersAudioEncoder
from lalm.encoders.transformers_audio_import import (
    MERT,
    PARTS,
    TransformersAudioError,
    config_in,
    is_transformers_audio,
    open_transformers_audio,
)
from lalm.encoders.transformers_kinds import KINDS
from lalm.encoders.whisper import WhisperEncoder, WhisperEncoderConfig
from lalm.errors import LalmError
from lalm.systems import brought

EncoderConfig: TypeAlias = (
    WhisperEncoderConfig
    | EATConfig
    | AudioMAEConfig
    | BEATsConfig
    | AISFXConfig
    | DashengConfig
    | PairConfig
    | TransformersAudioConfig
)

ENCODERS: dict[str, tuple[type[Any], type[nn.Module]]] = {
    WhisperEncoderConfig.model_type: (WhisperEncoderConfig, WhisperEncoder),
    EATConfig.model_type: (EATConfig, EATEncoder),
    AudioMAEConfig.model_type: (AudioMAEConfig, AudioMAEEncoder),
    BEATsConfig.model_type: (BEATsConfig, BEATsEncoder),
    AISFXConfig.model_type: (AISFXConfig, AISFXEncoder),
    DashengConfig.model_type: (DashengConfig, DashengEncoder),
    PairConfig.model_type: (PairConfig, PairEncoder),
    TransformersAudioConfig.model_type: (TransformersAudioConfig, TransformersAudioEncoder),
}
ENCODERS["whisper"] = ENCODERS[WhisperEncoderConfig.model_type]  # a Whisper folder as the Hub has it

# Whispers in larger models: whether frames are averaged in pairs before the last norm, as Qwen2-Audio has it.
TOWERS = {
    **dict.fromkeys(("qwen2_audio", "qwen2_audio_encoder"), True),
    **dict.fromkeys(("audioflamingo3", "audioflamingo3_encoder", "musicflamingo"), True),
    **dict.fromkeys(("voxtral", "voxtral_encoder"), False),
}
TOWER_NAMES = ("model.audio_tower.", "audio_tower.")  # how the names of their weights begin
WHISPER_NAMES = {  # as newer configs call them
    **{"hidden_size": "d_model", "num_hidden_layers": "encoder_layers", "layerdrop": "encoder_layerdrop"},
    **{"num_attention_heads": "encoder_attention_heads", "intermediate_size": "encoder_ffn_dim"},
}

for _name, (_config, _) in ENCODERS.items():
    if _name == _config.model_type:
        AutoConfig.register(_name, _config)


class EncoderError(LalmError, ValueError):
    """A folder holds no encoder, or not a whole one; the text says why in one sentence."""


def is_known(name: object) -> bool:
    """Whether there is an encoder of that model_type, ours or an own file's."""
    if name not in ENCODERS:
        for own in brought("ENCODERS"):
            for kind, (config, module) in own.items():
                if kind not in ENCODERS:
                    ENCODERS[kind] = (config, module)
                    AutoConfig.register(kind, config)
    return name in ENCODERS


def encoder_config(config: PreTrainedConfig | Mapping[str, Any] | None) -> EncoderConfig:
    """A config object from what a config.json holds; EAT-base when there is none (AC/DC's encoder)."""
    if isinstance(config, PreTrainedConfig):
        return config
    fields = dict(config or {"model_type": EATConfig.model_type})
    name = fields.pop("model_type", None)
    if not is_known(name):
        raise ValueError(f"there is no encoder '{name}'; the encoders are: {', '.join(sorted(ENCODERS))}")
    return ENCODERS[name][0](**fields)


def build_encoder(config: PreTrainedConfig) -> nn.Module:
    """A randomly initialised encoder of that shape."""
    if isinstance(config, PairConfig):
        return PairEncoder(config, build_encoder(config.first), build_encoder(config.second))
    return ENCODERS[config.model_type][1](config)


def read_config(folder: Path, options: Mapping[str, Any] | None = None) -> EncoderConfig:
    """The config of the encoder that ``load_encoder`` would open; of our folders no weights are read."""
    if foreign := _foreign(folder):
        return config_in(folder, foreign, options or {})
    try:
        fields = json.loads((folder / "config.json").read_text())
        ours = is_known(fields["model_type"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        ours = False  # released or damaged: reading the weights opens the folder, or says what is wrong
    return encoder_config(fields | dict(options or {}) if ours else load_encoder(folder, options).config)


def load_encoder(folder: Path, options: Mapping[str, Any] | None = None) -> nn.Module:
    """An encoder with the weights of ``folder``, float32, in eval mode.

    ``folder`` holds config.json and weights: ours, a Whisper as the Hub has it (safetensors or ``.bin``,
    whole or in shards; of its tensors only the encoder's are taken), a released EAT, or an Audio-MAE in
    timm's format. A released ``.pt`` of EAT (fairseq) or BEATs or ``.pth`` of Audio-MAE, alone in its folder
    or named itself, is read as it is. An audio encoder of transformers is opened as the Hub has it, with its
    feature extractor's settings beside it; see ``lalm.encoders.transformers_audio``.
    ``options`` override fields of the config that change
    no weight (``layers``, ``pool``, ``keep_cls``, ...). Raises ValueError.
    """
    if foreign := _foreign(folder):
        return open_transformers_audio(folder, foreign, options or {})
    fields, state = _read(folder)
    config = encoder_config(fields | dict(options or {}))
    # Modules of transformers hold tensors that no file has: those are computed here.
    with torch.device("cpu" if isinstance(config, TransformersAudioConfig) else "meta"):
        encoder = build_encoder(config)
    expected = encoder.state_dict()
    odd = sorted(set(expected) ^ set(state)) or sorted(
        k for k in state if state[k].shape != expected[k].shape
    )
    if odd:
        raise ValueError(
            f"the weights in '{folder}' do not fit its config.json: {len(odd)} differ, e.g. {odd[0]}"
        )
    floats = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    encoder.load_state_dict(floats, assign=True)
    return encoder.eval()


def save_encoder(encoder: Any, folder: Path) -> Path:
    """Write an encoder as a folder that ``load_encoder`` opens; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in encoder.state_dict().items()}, folder / "model.safetensors")
    encoder.config.save_pretrained(folder)
    return folder


def load_pair(
    first: Path,
    second: Path,
    options: Mapping[str, Any] | None = None,
    options_2: Mapping[str, Any] | None = None,
) -> PairEncoder:
    """Two encoders that work as one, the first as the clock; arguments as for ``load_encoder``."""
    encoders: list[Any] = [load_encoder(first, options), load_encoder(second, options_2)]
    return PairEncoder(PairConfig(encoders[0].config, encoders[1].config), *encoders).eval()


def _foreign(folder: Path) -> dict[str, Any] | None:
    """The fields of config.json, if it is that of an audio encoder of transformers."""
    try:
        fields = json.loads((folder / "config.json").read_text())
        return dict(fields) if is_transformers_audio(fields["model_type"]) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fields of the config and weights under our names."""
    if is_audio_mae(folder):
        audio_mae, state = import_audio_mae(folder)
        return audio_mae.to_diff_dict() | {"model_type": AudioMAEConfig.model_type}, state
    released = [folder] if folder.suffix == ".pt" else sorted(folder.glob("*.pt"))
    if not (folder / "config.json").is_file() and released:
        if is_beats(released[0]):
            beats, state = import_beats(released[0])
            return beats.to_diff_dict() | {"model_type": BEATsConfig.model_type}, state
        if is_dasheng(released[0]):
            return _dasheng(released[0])
        return _released_eat(folder)
    try:
        fields = json.loads((folder / "config.json").read_text())
        name = fields["model_type"]
        if name == "eat" or any(str(c).startswith("EAT") for c in fields.get("architectures") or ()):
            return _released_eat(folder)
        if name in TOWERS:
            return _tower(folder, fields)
        if name in DASHENG_FOLDERS:
            return _dasheng(folder)
        if not is_known(name):
            _refuse(folder, fields)
        state = folder_tensors(folder, EncoderError)
    except FileNotFoundError as error:
        raise ValueError(
            f"'{folder}' is not an encoder folder: it has no {_missing(folder)}; `lalm "
            "weights list` has those with a name"
        ) from error
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, (EATImportError, EncoderError, TransformersAudioError, DashengImportError)):
            raise
        raise ValueError(f"the encoder in '{folder}' is damaged: {error}") from None
    if name == "whisper":
        prefixes = ("model.encoder.", "encoder.")
        state = {
            "whisper." + key.removeprefix(prefix): value
            for key, value in state.items()
            for prefix in prefixes
            if key.startswith(prefix)
        }
    return fields, state


def _tower(folder: Path, fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A Whisper's encoder in a larger model, or alone."""
    alone = fields["model_type"].endswith("_encoder")
    own = fields if alone else fields["audio_config"]
    state = folder_tensors(folder, EncoderError, "" if alone else TOWER_NAMES)
    shape = {
        WHISPER_NAMES.get(name, name): value
        for name, value in own.items()
        if name not in ("model_type", "architectures")
    }
    ours: dict[str, Any] = {"model_type": WhisperEncoderConfig.model_type}
    ours |= {"qwen2_audio": True, "pool": 2} if TOWERS[fields["model_type"]] else {}
    plain = {
        next((n.removeprefix(p) for p in TOWER_NAMES if n.startswith(p)), n): tensor
        for n, tensor in state.items()
    }
    return shape | ours, {f"whisper.{name}": tensor for name, tensor in plain.items()}


def _refuse(folder: Path, fields: Mapping[str, Any]) -> None:
    """Raise EncoderError: the folder holds something else."""
    name = fields["model_type"]
    if fields.get("auto_map"):
        raise EncoderError(
            f"the model in '{folder}' is a '{name}', which only code beside its weights can open, and such "
            "code is not run"
        )
    kinds = sorted({*ENCODERS, *KINDS, *PARTS, *TOWERS, *DASHENG_FOLDERS, MERT})
    raise EncoderError(f"the model in '{folder}' is a '{name}'; encoders are opened of: {', '.join(kinds)}")


def _missing(folder: Path) -> str:
    names = ("config.json", "model.safetensors or pytorch_model.bin")
    return next((name for name in names if not (folder / name).is_file()), "weights")


def _dasheng(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config, state = import_dasheng(path)
    return config.to_diff_dict() | {"model_type": DashengConfig.model_type}, state


def _released_eat(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config, state = import_eat(folder)
    return config.to_diff_dict() | {"model_type": EATConfig.model_type}, state
