"""The systems by name, and the two ways to get a model: ``assemble`` from parts, ``load`` from a folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from lalm.encoders import load_encoder, load_pair
from lalm.encoders.pair import PairConfig
from lalm.models.modeling import AudioLMConfig, AudioLMForConditionalGeneration, AudioLMModel
from lalm.models.processing import AudioLMProcessor
from lalm.systems.acdc.model import ACDCConfig, ACDCForConditionalGeneration, ACDCModel
from lalm.systems.acdc.prompts import QUESTION_PROMPT
from lalm.systems.apt.model import APTConfig, APTForConditionalGeneration, APTModel
from lalm.systems.apt.prompts import PROMPT as APT_PROMPT
from lalm.systems.qwen2_audio import released as released_qwen2_audio
from lalm.systems.qwen2_audio.model import Qwen2AudioLM, Qwen2AudioLMConfig, Qwen2AudioLMModel
from lalm.systems.qwen2_audio.prompts import PROMPT as QWEN2_AUDIO_PROMPT
from lalm.systems.salmonn import prompts as salmonn_prompts
from lalm.systems.salmonn.model import SALMONNConfig, SALMONNForConditionalGeneration, SALMONNModel
from lalm.weights import fetch as weights
from lalm.weights.llm import load_causal_lm

SYSTEMS: dict[
    str,
    tuple[type[AudioLMConfig], type[AudioLMModel], type[AudioLMForConditionalGeneration], Mapping[str, str]],
] = {
    "acdc": (ACDCConfig, ACDCModel, ACDCForConditionalGeneration, QUESTION_PROMPT),
    "apt": (APTConfig, APTModel, APTForConditionalGeneration, APT_PROMPT),
    "qwen2-audio": (Qwen2AudioLMConfig, Qwen2AudioLMModel, Qwen2AudioLM, QWEN2_AUDIO_PROMPT),
    "salmonn": (
        *(SALMONNConfig, SALMONNModel, SALMONNForConditionalGeneration),
        salmonn_prompts.QUESTION_PROMPT,
    ),
}

ENCODER_OPTIONS = ("encoder", "encoder_2")

for _config, _model, _whole, _ in SYSTEMS.values():
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _model)
    AutoModelForMultimodalLM.register(_config, _whole)
    AutoProcessor.register(_config, AudioLMProcessor)


def assemble(
    system: str,
    *,
    encoder: str,
    encoder_2: str | None = None,
    aligner: str | None = None,
    llm: str,
    options: Mapping[str, Any] | None = None,
    lora: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[AudioLMForConditionalGeneration, AudioLMProcessor]:
    """A new model of ``system`` from an LLM and one or two encoders: pinned names, folders or Hub ids.

    ``aligner`` is the BERT with whose tokenizer and weights a connector that hears instructions starts.
    ``options`` are the system config's own fields, and the encoders' under "encoder" and "encoder_2";
    ``lora`` is {"rank", "alpha", "dropout", "targets"}.
    ``dtype`` is that of the frozen parts; the connector and LoRA are float32.
    """
    config_class, _, model_class, question_prompt = _system(system)
    if config_class.hears_instructions != bool(aligner):
        needs = (
            "needs an 'aligner', a BERT that its connector starts from" if not aligner else "has no aligner"
        )
        raise ValueError(f"{system} {needs}")
    named = {"encoder": encoder, "encoder_2": encoder_2, "aligner": aligner, "llm": llm}
    parts = {role: name for role, name in named.items() if name}
    asked = {**config_class.encoder_options, **((options or {}).get("encoder") or {})}
    tower = _load_tower(parts, {**(options or {}), "encoder": asked}, dtype)
    llm_folder = weights.resolve(llm)
    language_model = load_causal_lm(str(llm_folder), dtype=dtype)
    own = {key: value for key, value in (options or {}).items() if key not in ENCODER_OPTIONS}
    known = set(config_class().to_dict()) - set(AudioLMConfig().to_dict())
    for key in own:
        if key not in known:
            raise ValueError(
                f"{system} has no option '{key}'; it has: {', '.join([*ENCODER_OPTIONS, *sorted(known)])}"
            )
    config = config_class(
        audio_config=tower.config,
        text_config=language_model.config,
        parts=parts,
        **own,
    )
    model = model_class.assemble(config, tower, language_model)
    processor = _processor(config, question_prompt)
    if aligner:
        model.model.connector.start(weights.resolve(aligner))
    if lora:
        add_lora(model, lora)
    return model.eval(), processor


def _processor(config: AudioLMConfig, question_prompt: Mapping[str, str]) -> AudioLMProcessor:
    """The processor of a model that is put together from the parts its config names."""
    tokenizer = load_tokenizer(weights.resolve(config.parts["llm"]))
    aligner = config.parts.get("aligner")
    instructions = AutoTokenizer.from_pretrained(weights.resolve(aligner)) if aligner else None
    return AudioLMProcessor.build(tokenizer, config, question_prompt, instructions)


def _load_tower(parts: Mapping[str, str], options: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """The encoder that ``parts`` names, or both, with the options under the same names."""
    folder, first = weights.resolve(parts["encoder"]), options.get("encoder")
    if "encoder_2" in parts:
        pair = load_pair(folder, weights.resolve(parts["encoder_2"]), first, options.get("encoder_2"))
        return pair.to(dtype)
    if options.get("encoder_2"):
        raise ValueError("there are options for encoder_2, but no encoder_2")
    return load_encoder(folder, first).to(dtype)


def _load_named_tower(config: Any, dtype: torch.dtype) -> Any:
    """The encoder that a slim checkpoint's config names, with the options it was trained with."""
    audio = config.audio_config
    configs = [audio.first, audio.second] if isinstance(audio, PairConfig) else [audio]
    options = {name: c.to_diff_dict() for name, c in zip(ENCODER_OPTIONS, configs, strict=False)}
    return _load_tower(config.parts, options, torch.float32 if config.trained_encoder else dtype)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of an LLM folder or ``.gguf`` file."""
    if folder.suffix == ".gguf":
        return AutoTokenizer.from_pretrained(folder.parent, gguf_file=folder.name)
    return AutoTokenizer.from_pretrained(folder)


def add_lora(model: AudioLMForConditionalGeneration, lora: Mapping[str, Any]) -> None:
    """Put LoRA matrices (float32) into the LLM and note their settings in the config."""
    from peft import LoraConfig, inject_adapter_in_model

    settings = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora.get("dropout", 0.0),
        target_modules=list(lora["targets"]),
    )
    inject_adapter_in_model(settings, model.model.language_model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    model.config.lora = dict(lora)


def set_lora_scale(model: AudioLMForConditionalGeneration, scale: float | None) -> None:
    """Set how strongly LoRA acts: a layer's weight is W + scale * B A (SALMONN section 5.2), with no reload.

    ``scale`` is the factor itself, and training had alpha / rank, SALMONN 32 / 8 = 4.0: there
    4.0 is the model as trained, 2.0 half of what LoRA learned, 1.0 a quarter, and 0 the LLM alone. None goes
    back to alpha / rank. Raises ValueError for a model without LoRA, unless None is asked.
    """
    if not model.config.lora:
        if scale is None:
            return
        raise ValueError("this model has no LoRA, so there is no LoRA scale to set")
    from peft.tuners.lora import LoraLayer  # takes seconds to import

    value = trained_lora_scale(model.config) if scale is None else scale
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.scaling.update(dict.fromkeys(module.scaling, value))


def trained_lora_scale(config: AudioLMConfig) -> float | None:
    """The LoRA scale that training had, alpha / rank; None for a model without LoRA."""
    return config.lora["alpha"] / config.lora["rank"] if config.lora else None


def merge_lora(model: AudioLMForConditionalGeneration) -> None:
    """Add the LoRA matrices to the weights they sit beside, in place; the model has no LoRA afterwards."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    model.config.lora = None


def has_parts(config: AudioLMConfig) -> bool:
    """True when everything but connector and LoRA can be found again by name."""
    return {"encoder", "llm"} <= set(config.parts) or "model" in config.parts


def trained_names(model: AudioLMForConditionalGeneration) -> list[str]:
    """Names of the tensors a slim checkpoint holds: the connector's and LoRA's, and a trained encoder's."""
    own = ("model.connector.", *(["model.audio_tower."] if model.config.trained_encoder else []))
    return [name for name in model.state_dict() if name.startswith(own) or "lora_" in name]


def save(
    model: AudioLMForConditionalGeneration,
    processor: AudioLMProcessor,
    folder: Path,
    *,
    slim: bool,
    state: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write a checkpoint folder: whole, or slim (trained tensors plus the names of the frozen parts).

    ``state`` takes the place of the model's own tensors, for one whose tensors are sharded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not slim:
        if model.config.lora:
            raise ValueError("merge the LoRA matrices before saving a whole checkpoint")
        model.save_pretrained(folder, state_dict=dict(state) if state is not None else None)
        processor.save_pretrained(folder)
        return
    if not has_parts(model.config):
        raise ValueError("a slim checkpoint needs the names of its encoder and LLM; this model has none")
    state = state if state is not None else model.state_dict()
    path = folder / "model.safetensors"
    save_file({name: state[name].detach().contiguous() for name in trained_names(model)}, path)
    path.chmod(0o644)  # safetensors makes files that only their owner may read
    config = {"lalm_slim": True, **json.loads(model.config.to_json_string(use_diff=False))}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load(
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[AudioLMForConditionalGeneration, AudioLMProcessor]:
    """Open a whole, slim or released checkpoint folder. Raises ValueError naming what is wrong with it.

    ``options`` take the place of fields of a slim checkpoint's config; its tensors must fit them still.
    """
    folder = Path(folder)
    fields = _read_config(folder)
    if fields.get("lalm_slim"):
        model, processor = _load_slim(folder, dtype, options or {})
        return model.to(device or "cpu").eval(), processor
    if options:
        raise ValueError(f"'{folder}' is not a slim checkpoint, whose options could be changed")
    if fields["model_type"] == released_qwen2_audio.MODEL_TYPE:
        model, processor = released_qwen2_audio.load(folder, fields, dtype)
    else:
        model = AutoModelForMultimodalLM.from_pretrained(folder, dtype=dtype)
        processor = AudioLMProcessor.from_pretrained(folder)
        processor.config = model.config
    model.config.parts = {"model": str(folder.resolve())}  # what LoRA and a new connector would be added to
    return model.to(device or "cpu").eval(), processor


def open_processor(folder: str | Path) -> AudioLMProcessor:
    """The processor of a model folder, without reading its weights. Raises ValueError as ``load`` does."""
    folder = Path(folder)
    fields = _read_config(folder)
    if fields.get("lalm_slim"):
        name, config = read_config(folder)
        if "model" in config.parts:
            return open_processor(weights.resolve(config.parts["model"]))
        tokenizer = load_tokenizer(weights.resolve(config.parts["llm"]))
        return AudioLMProcessor.build(tokenizer, config, SYSTEMS[name][3])
    if fields["model_type"] == released_qwen2_audio.MODEL_TYPE:
        return load(folder)[1]
    return AudioLMProcessor.from_pretrained(folder)


def read_config(folder: Path) -> tuple[str, AudioLMConfig]:
    """The system of a model folder and its config; no weights are read."""
    fields = _read_config(folder)
    if fields["model_type"] == released_qwen2_audio.MODEL_TYPE:
        return "qwen2-audio", released_qwen2_audio.read_config(fields)
    name = next(name for name, row in SYSTEMS.items() if row[0].model_type == fields["model_type"])
    own = {key: value for key, value in fields.items() if key not in ("lalm_slim", "transformers_version")}
    return name, SYSTEMS[name][0].from_dict(own)


def _system(name: str) -> tuple[Any, Any, Any, Mapping[str, str]]:
    if name not in SYSTEMS:
        raise ValueError(f"there is no system '{name}'; the systems are: {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


def _read_config(folder: Path) -> dict[str, Any]:
    """The fields of a model folder's config.json. Raises ValueError when it is none of lalm's."""
    if not folder.is_dir():
        raise ValueError(f"there is no model folder '{folder}'")
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"'{folder}' is not a model folder: it has no config.json")
    try:
        fields = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"'{path}' is damaged: {error}") from None
    types = {released_qwen2_audio.MODEL_TYPE, *(row[0].model_type for row in SYSTEMS.values())}
    if not isinstance(fields, dict) or fields.get("model_type") not in types:
        raise ValueError(
            f"'{path}' is not a lalm model: its model_type is none of {', '.join(sorted(types))}"
        )
    return fields


def _load_slim(
    folder: Path, dtype: torch.dtype, options: Mapping[str, Any]
) -> tuple[AudioLMForConditionalGeneration, AudioLMProcessor]:
    name, config = read_config(folder)
    for key, value in options.items():
        if "model" in config.parts or key in ENCODER_OPTIONS or not hasattr(config, key):
            raise ValueError(f"the model in '{folder}' has no option '{key}' that could be changed")
        setattr(config, key, value)
    _, _, model_class, question_prompt = SYSTEMS[name]
    if "model" in config.parts:
        model, processor = load(weights.resolve(config.parts["model"]), dtype=dtype)
        model.config.parts = config.parts
        if config.lora:
            add_lora(model, config.lora)
        load_trained(model, folder)
        return model, processor
    tower = _load_named_tower(config, dtype)
    llm_folder = weights.resolve(config.parts["llm"])
    language_model = load_causal_lm(str(llm_folder), dtype=dtype)
    model = model_class.assemble(config, tower, language_model)
    processor = _processor(config, question_prompt)
    if config.lora:
        add_lora(model, config.lora)
    load_trained(model, folder)
    return model, processor


def load_hearing(
    folder: str | Path, *, dtype: torch.dtype = torch.float32
) -> tuple[AudioLMModel, PreTrainedTokenizerBase | None]:
    """Encoder and connector of a slim checkpoint without the LLM, and the tokenizer of its instructions.

    Only ``encode`` and ``connect`` of the result can be used. Raises ValueError for any other checkpoint,
    and for one whose connector was trained beside LoRA.
    """
    folder = Path(folder)
    if not _read_config(folder).get("lalm_slim"):
        raise ValueError(f"'{folder}' is not a slim checkpoint, whose connector could be taken by itself")
    name, config = read_config(folder)
    if config.lora or "encoder" not in config.parts:
        raise ValueError(f"the connector in '{folder}' was trained beside an LLM that LoRA or a run changed")
    with torch.device("meta"):
        model = SYSTEMS[name][2](config)
    model.model.audio_tower = _load_named_tower(config, dtype)
    with torch.device("cpu"):
        model.model.connector = model.model.build_connector()
    load_trained(model, folder)
    hearing: AudioLMModel = model.model
    del hearing.language_model
    aligner = config.parts.get("aligner")
    return hearing, AutoTokenizer.from_pretrained(weights.resolve(aligner)) if aligner else None


def load_trained(model: AudioLMForConditionalGeneration, folder: Path) -> None:
    """Fill the trained tensors of ``model`` from a slim checkpoint; every name and shape must match."""
    path = folder / "model.safetensors"
    wanted = set(trained_names(model))
    state = model.state_dict()
    try:
        with safe_open(path, "pt") as file:
            found = set(file.keys())
            if found != wanted:
                odd = sorted(found ^ wanted)
                raise ValueError(
                    f"'{path}' does not fit its config.json: {len(odd)} tensors differ, e.g. {odd[0]}"
                )
            for name in sorted(found):
                tensor = file.get_tensor(name)
                if tensor.shape != state[name].shape:
                    raise ValueError(
                        f"'{path}': {name} has shape {tuple(tensor.shape)}, "
                        f"expected {tuple(state[name].shape)}"
                    )
                state[name].copy_(tensor)
    except FileNotFoundError:
        raise ValueError(f"'{folder}' has no model.safetensors") from None
    except SafetensorError as error:
        raise ValueError(f"'{path}' is damaged or cut short ({error})") from None
