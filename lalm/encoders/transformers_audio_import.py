"""Opens an audio encoder from a folder as transformers has it, alone or as part of a larger model."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, HubertConfig, HubertModel

from lalm.encoders.transformers_audio import GRANITE, TransformersAudioConfig, TransformersAudioEncoder
from lalm.encoders.transformers_kinds import KINDS
from lalm.errors import LalmError, refuse_pickled_code

CHOICES = ("layers", "window_s")
# Larger models: where their config.json describes the encoder, and how its weights' names may begin.
PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "clap": ("audio_config", ("audio_model.",)),
    "gemma3n": ("audio_config", ("model.audio_tower.", "audio_tower.")),
    "glmasr": ("audio_config", ("audio_tower.", "model.audio_tower.")),
    "granite_speech": ("encoder_config", ("encoder.", "model.encoder.")),
    "lasr_ctc": ("encoder_config", ("encoder.",)),
    "parakeet_ctc": ("encoder_config", ("encoder.",)),
    "parakeet_rnnt": ("encoder_config", ("encoder.",)),
    "parakeet_tdt": ("encoder_config", ("encoder.",)),
    "pe_audio": ("audio_config", ("audio_encoder.", "audio_model.audio_encoder.")),
    "qwen2_5_omni": ("thinker_config.audio_config", ("thinker.audio_tower.",)),
    "qwen2_5_omni_thinker": ("audio_config", ("audio_tower.",)),
    "qwen3_asr": ("audio_config", ("audio_tower.", "model.audio_tower.", "thinker.audio_tower.")),
    "qwen3_omni_moe": ("thinker_config.audio_config", ("thinker.audio_tower.",)),
    "qwen3_omni_moe_thinker": ("audio_config", ("audio_tower.",)),
    "seamless_m4t": ("", ("speech_encoder.",)),
    "seamless_m4t_v2": ("", ("speech_encoder.",)),
    "speech_to_text": ("", ("model.encoder.", "encoder.")),
}
MERT = "mert_model"  # a HuBERT on 24 kHz music, arXiv 2306.00107
RANDOM_IN_RELEASES = ("masked_spec_embed",)  # used in pretraining alone; some folders leave it out


class TransformersAudioError(LalmError, ValueError):
    """A folder whose encoder cannot be opened; the text says why."""


def is_transformers_audio(kind: object) -> bool:
    """Whether this module opens folders whose config.json says so."""
    return kind in KINDS or kind in PARTS or kind == MERT


def config_in(folder: Path, fields: Mapping[str, Any], options: Mapping[str, Any]) -> TransformersAudioConfig:
    """The config of the folder's encoder; ``fields`` are those of config.json. No weights are read."""
    chosen = {name: value for name, value in options.items() if name in CHOICES}
    known = set(TransformersAudioConfig().to_dict()) | {"transformers_version"}
    if odd := sorted(set(options) - known):
        raise TransformersAudioError(
            f"the encoder in '{folder}' has no option '{odd[0]}'; it has: {', '.join(CHOICES)}"
        )
    return TransformersAudioConfig(encoder=_own_config(folder, fields), features=_features(folder), **chosen)


def open_transformers_audio(
    folder: Path, fields: Mapping[str, Any], options: Mapping[str, Any]
) -> TransformersAudioEncoder:
    """The folder's encoder with its weights, float32, in eval mode. Raises TransformersAudioError."""
    config = config_in(folder, fields, options)
    kind, own = str(fields["model_type"]), config.encoder
    settings: dict[str, Any] = {"config": own, "dtype": "float32", "output_loading_info": True}
    opener = HubertModel if kind == MERT else config.kind.opened_by or AutoModel
    if kind in PARTS:
        names = "|".join(re.escape(prefix) for prefix in PARTS[kind][1])
        settings["key_mapping"] = {f"^(?:{names})": ""}
    try:
        with refuse_pickled_code(f"the weights in '{folder}'", TransformersAudioError):
            module, told = opener.from_pretrained(folder, trust_remote_code=False, **settings)
    except (OSError, RuntimeError) as error:
        why = str(error).strip().splitlines()[0]
        raise TransformersAudioError(f"the encoder in '{folder}' cannot be opened: {why}") from None
    part = KINDS[own.model_type].part
    missing = sorted(
        key
        for key in told["missing_keys"]
        if key.startswith(f"{part}." if part else "") and not key.endswith(RANDOM_IN_RELEASES)
    )
    if missing:
        raise TransformersAudioError(
            f"the weights in '{folder}' do not fit its config.json: {len(missing)} are missing, "
            f"e.g. {missing[0]}"
        )
    return TransformersAudioEncoder(config, module.get_submodule(part) if part else module).float().eval()


def _own_config(folder: Path, fields: Mapping[str, Any]) -> Any:
    kind = str(fields["model_type"])
    if kind == MERT:
        return _mert(folder, fields)
    whole: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    for step in (PARTS[kind][0] if kind in PARTS else "").split("."):
        whole = getattr(whole, step) if step else whole
    return whole


def _mert(folder: Path, fields: Mapping[str, Any]) -> HubertConfig:
    """MERT's config as HuBERT's, where it is one; ``attention_relax`` only computes a softmax another way."""
    for name, plain in (("feature_extractor_cqt", False), ("deepnorm", False)):
        if fields.get(name, plain) != plain:
            raise TransformersAudioError(
                f"the MERT in '{folder}' has {name}, which HuBERT has not and only its own code could run"
            )
    known = set(HubertConfig().to_dict()) - {"model_type", "architectures", "transformers_version"}
    return HubertConfig(**{name: value for name, value in fields.items() if name in known})


def _said(folder: Path) -> dict[str, Any]:
    """What preprocessor_config.json says, or the part of processor_config.json about it; {} where none is."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        try:
            said = json.loads((folder / name).read_text())
            return dict(said.get("feature_extractor") or said)
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            continue
    return {}


def _features(folder: Path) -> dict[str, Any]:
    """The settings of the folder's feature extractor that make it again."""
    if GRANITE in (settings := _said(folder)).values():
        return settings
    try:
        extractor: Any = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        why = str(error).strip().splitlines()[0]
        raise TransformersAudioError(
            f"'{folder}' does not say how sound becomes features (preprocessor_config.json): {why}"
        ) from None
    settings = {"feature_extractor_type": type(extractor).__name__, **extractor.to_dict()}
    plain = (str, int, float, bool, type(None))
    return {
        name: value
        for name, value in json.loads(json.dumps(settings, default=lambda odd: [])).items()
        if isinstance(value, plain) and not name.startswith(("_", "processor_class"))
    }
