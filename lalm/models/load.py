"""Opening model folders: whole ones, slim ones (what was trained, names of the rest) and released ones."""

import json
import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lalm.encoders.pair import PairConfig
from lalm.errors import refuse_pickled_code
from lalm.models import SMALL
from lalm.models.adapter import base_of, is_adapter
from lalm.models.answer_end import settle_ends
from lalm.models.assemble import ENCODER_OPTIONS, build_processor, load_tower
from lalm.models.classes import ModelError, ReleasedFormat, classes_of
from lalm.models.config import AudioLMConfig
from lalm.models.hollow_llm import hollow_of_folder
from lalm.models.int4 import Fine, multiplies
from lalm.models.int4_weights import kept_codes
from lalm.models.int8 import make_int8
from lalm.models.int8_weights import waiting_llm
from lalm.models.llm_sketch import embedding_sketch
from lalm.models.lora import add_lora, merge_lora
from lalm.models.modeling import AudioLMForConditionalGeneration, AudioLMModel
from lalm.models.next_position import FAMILIES, general_because
from lalm.models.opening_memory import no_collection, release_free_memory
from lalm.models.processing import AudioLMProcessor
from lalm.models.save import found_name, trained_names
from lalm.models.transcript import check_mode
from lalm.systems import System, UnknownSystemError, of_model_type
from lalm.weights import fetch as weights
from lalm.weights.identity import check_parts
from lalm.weights.llm import load_causal_lm, load_tokenizer

log = logging.getLogger("lalm.load")
NO_PART = f"only LLMs that are a part by themselves, of the families {', '.join(FAMILIES)}, decode in 4 bits"
LARGE = 2**22  # layers times width squared: rounding the input rows of smaller LLMs costs what it saves


@no_collection()
def load_model(
    folder: str | Path,
    *,
    dtype: torch.dtype | Literal["int8", "int4"] = torch.float32,
    device: str | torch.device | None = None,
    options: Mapping[str, Any] | None = None,
    told: Callable[[str], None] | None = None,
    hollow: bool = False,
) -> tuple[AudioLMForConditionalGeneration, AudioLMProcessor]:
    """Open a whole, slim or released checkpoint folder, a PEFT adapter, or a Hub id with one of them.

    ``options`` take the place of fields of a slim checkpoint's config; its tensors must fit them still.
    ``role_markers`` can be changed in any: a base model becomes one that is asked in a chat, or back;
    ``transcript`` too (``lalm.models.transcript``). With "int8" the LLM's layers are ``lalm.models.int8``'s
    and all else is bfloat16; with "int4" some decode in 4 bits (``lalm.models.int4``). ``told`` gets a
    sentence if weights are rounded for the first time; a warning says that "int8" is taken where "int4"
    cannot be.
    ``hollow``: an LLM that is a part by itself is not read where it need not be, for who has another copy.
    Raises ModelError naming what is wrong with the folder.
    """
    name, folder, options = str(folder), model_folder(folder), dict(options or {})
    markers, transcript = options.pop("role_markers", None), options.pop("transcript", None)
    if isinstance(dtype, str):
        model, processor = _open_int8(folder, options, told, dtype == "int4")
    else:
        llm = _hollow_part(folder) if hollow else None
        opened = _load_slim(folder, dtype, options, llm) if llm else _open(folder, dtype, options)
        model, processor = opened
    if markers is not None and markers != model.config.role_markers:
        model.config.role_markers = markers
        processor = _asked_otherwise(model.config, processor)
    if transcript is not None:
        model.config.transcript = check_mode(transcript)
    if model.config.parts == {"model": str(folder.resolve())} and not Path(name).exists():
        model.config.parts = {"model": name}  # a Hub id means the same elsewhere
    settle_ends(model, processor)
    release_free_memory()  # before the weights are packed, which is when memory is highest
    return model.to(device or "cpu").eval(), processor


def _open_int8(
    folder: Path, options: Mapping[str, Any], told: Callable[[str], None] | None, in_4_bits: bool
) -> tuple[AudioLMForConditionalGeneration, AudioLMProcessor]:
    """The model with int8 layers: from kept weights where it is a slim one beside an LLM of its own."""
    waiting = None
    if not is_adapter(folder) and _read_config(folder)[1].get("lalm_slim"):
        parts = read_config(folder)[1].parts
        waiting = waiting_llm(weights.resolve(parts["llm"]), told) if "llm" in parts else None
    if waiting is None:
        if in_4_bits:
            log.warning("int8 is taken instead of int4: %s", NO_PART)
        model, processor = _open(folder, torch.bfloat16, options)
        make_int8(model)
        return model, processor
    llm, kept = waiting
    model, processor = _load_slim(folder, torch.bfloat16, options, llm)
    make_int8(model, kept, _fine(weights.resolve(parts["llm"]), llm, told) if in_4_bits else None)
    return model, processor


def _fine(folder: Path, llm: Any, told: Callable[[str], None] | None) -> Fine | None:
    """What gives the LLM of that folder 4-bit weights; None, with a sentence, where it cannot have them."""
    because = general_because(llm.get_decoder())
    if not multiplies():
        because = "torch has no fast product of 4-bit weights for this CPU"
    if not because:
        return kept_codes(folder, told)
    log.warning("int8 is taken instead of int4: %s", because)
    return None


def _hollow_part(folder: Path) -> Any:
    """The LLM that a slim model names, without its linear layers' weights; None where that cannot be."""
    if is_adapter(folder) or not _read_config(folder)[1].get("lalm_slim"):
        return None
    parts = read_config(folder)[1].parts
    return hollow_of_folder(weights.resolve(parts["llm"])) if "llm" in parts else None


def keeps_int8(model: str | Path) -> bool:
    """Whether a model's int8 weights are kept (``lalm.models.int8_weights``) and worth it: its LLM is a part
    by itself, of a family that decodes fast, and not a tiny one."""
    folder = model_folder(model)
    if is_adapter(folder) or not _read_config(folder)[1].get("lalm_slim"):
        return False
    config = read_config(folder)[1]
    text: Any = config.text_config
    return (
        "llm" in config.parts
        and not config.parts["llm"].endswith(".gguf")
        and text.model_type in FAMILIES
        and text.num_hidden_layers * text.hidden_size**2 > LARGE
    )


def model_folder(name: str | Path) -> Path:
    """A model's folder: itself, the snapshot of a Hub id ("org/name"), from the cache when offline, or of
    "small" the embedded model."""
    if str(name) == SMALL.name and not Path(name).exists():
        return SMALL
    pieces = str(name).split("/")
    is_id = len(pieces) == 2 and all(pieces) and not str(name).startswith((".", "~"))
    return weights.resolve(str(name)) if is_id and not Path(name).exists() else Path(name).expanduser()


def model_name(name: str | Path) -> str:
    """What a model is called: a Hub id as it was given, else the folder's name."""
    folder = Path(name).expanduser()
    return folder.resolve().name if folder.exists() or folder == model_folder(name) else str(name)


def _open(
    folder: Path, dtype: torch.dtype, options: Mapping[str, Any]
) -> tuple[AudioLMForConditionalGeneration, AudioLMProcessor]:
    """The model and its processor as the folder has them; ``options`` as for ``load_model``."""
    if is_adapter(folder):
        return _load_adapter(folder, dtype)
    system, fields = _read_config(folder)
    if fields.get("lalm_slim"):
        return _load_slim(folder, dtype, options)
    if options:
        raise ModelError(f"'{folder}' is not a slim checkpoint, whose options could be changed")
    classes = classes_of(system.name)
    if released := _released(system, fields):
        model, processor = released.load(folder, fields, dtype)
    else:
        with refuse_pickled_code(f"the weights in '{folder}'", ModelError):
            model = classes.model.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
        processor = AudioLMProcessor.from_pretrained(folder, trust_remote_code=False)
        processor.config = model.config
    model.config.parts = {"model": str(folder.resolve())}  # what LoRA and a new connector would be added to
    return model, processor


def _asked_otherwise(config: AudioLMConfig, processor: AudioLMProcessor) -> AudioLMProcessor:
    """The processor that a new model of this config would have, over the same tokenizer."""
    name = of_model_type(config.model_type).name
    prompt = classes_of(name).question_prompt
    return AudioLMProcessor.build(processor.tokenizer, config, prompt, processor.instructions)


def _load_adapter(
    folder: Path, dtype: torch.dtype
) -> tuple[AudioLMForConditionalGeneration, AudioLMProcessor]:
    base = model_folder(base_of(folder))
    model, processor = load_model(base, dtype=dtype)
    if model.config.lora or not (
        released := classes_of(of_model_type(model.config.model_type).name).released
    ):
        raise ModelError(f"the adapter in '{folder}' is for '{base}', and only Qwen2-Audio's can be opened")
    if not released.put_adapter(model, folder):
        model.config.parts = {"model": str(folder.resolve())}
    return model, processor


def open_processor(folder: str | Path) -> AudioLMProcessor:
    """The processor of a model folder, without reading its weights. Raises ModelError as ``load`` does."""
    folder = model_folder(folder)
    if is_adapter(folder):
        return open_processor(base_of(folder))
    system, fields = _read_config(folder)
    classes = classes_of(system.name)
    if fields.get("lalm_slim"):
        _, config = read_config(folder)
        if "model" in config.parts:
            processor = open_processor(weights.resolve(config.parts["model"]))
            same = processor.config.role_markers == config.role_markers
            return processor if same else _asked_otherwise(config, processor)
        tokenizer = load_tokenizer(weights.resolve(config.parts["llm"]))
        return AudioLMProcessor.build(tokenizer, config, classes.question_prompt)
    if released := _released(system, fields):
        return released.read_processor(folder, released.read_config(fields))
    return AudioLMProcessor.from_pretrained(folder, trust_remote_code=False)


def read_config(folder: Path) -> tuple[str, AudioLMConfig]:
    """The system of a model folder and its config; no weights are read."""
    folder = model_folder(folder)
    if is_adapter(folder):
        return read_config(model_folder(base_of(folder)))
    system, fields = _read_config(folder)
    if released := _released(system, fields):
        return system.name, released.read_config(fields)
    own = {key: value for key, value in fields.items() if key not in ("lalm_slim", "transformers_version")}
    if isinstance(own.get("parts"), dict):
        own["parts"] = {role: found_name(str(name), folder) for role, name in own["parts"].items()}
    return system.name, classes_of(system.name).config.from_dict(own)


def asked_as(folder: str | Path) -> tuple[bool, str]:
    """Whether a model is asked in the turns of a chat, else in plain text, and where that is said.

    A released folder does not say it in its config.json, so its chat template is looked for.
    """
    folder = model_folder(folder)
    if is_adapter(folder):
        return asked_as(base_of(folder))
    system, fields = _read_config(folder)
    if _released(system, fields):
        processor = open_processor(folder)
        return processor.config.role_markers, processor.template_from
    return read_config(folder)[1].role_markers, "config.json"


def in_words(chat: bool, origin: str) -> str:
    """What ``asked_as`` found, for people."""
    return f"{'chat model, in turns' if chat else 'base model, in plain text'} ({origin})"


def _released(system: System, fields: Mapping[str, Any]) -> ReleasedFormat | None:
    """Who opens a folder with this config.json if it has the authors' own layout."""
    ours = fields["model_type"] == system.model_type
    return None if ours else classes_of(system.name).released


def load_hearing(
    folder: str | Path, *, dtype: torch.dtype = torch.float32
) -> tuple[AudioLMModel, PreTrainedTokenizerBase | None]:
    """Encoder and connector of a slim checkpoint without the LLM, and the tokenizer of its instructions.

    Only ``encode`` and ``connect`` of the result can be used. Raises ModelError for any other checkpoint,
    and for one whose connector was trained beside LoRA.
    """
    folder = model_folder(folder)
    if not _read_config(folder)[1].get("lalm_slim"):
        raise ModelError(f"'{folder}' is not a slim checkpoint, whose connector could be taken by itself")
    name, config = read_config(folder)
    if config.lora or "encoder" not in config.parts:
        raise ModelError(f"the connector in '{folder}' was trained beside an LLM that LoRA or a run changed")
    check_frozen(folder, config, without=("llm",))
    with torch.device("meta"):
        model = classes_of(name).model(config)
    model.model.audio_tower = _load_named_tower(config, dtype)
    with torch.device("cpu"):
        model.model.connector = model.model.build_connector()
    load_trained(model, folder)
    hearing: AudioLMModel = model.model
    del hearing.language_model
    aligner = config.parts.get("aligner")
    if not aligner:
        return hearing, None
    return hearing, AutoTokenizer.from_pretrained(weights.resolve(aligner), trust_remote_code=False)


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
                raise ModelError(
                    f"'{path}' does not fit its config.json: {len(odd)} tensors differ, e.g. {odd[0]}"
                )
            for name in sorted(found):
                tensor = file.get_tensor(name)
                if tensor.shape != state[name].shape:
                    raise ModelError(
                        f"'{path}': {name} has shape {tuple(tensor.shape)}, "
                        f"expected {tuple(state[name].shape)}"
                    )
                state[name].copy_(tensor)
    except FileNotFoundError:
        raise ModelError(f"'{folder}' has no model.safetensors: the copy is not whole") from None
    except SafetensorError as error:
        raise ModelError(f"'{path}' is damaged or cut short ({error}): copy it again") from None


def _read_config(folder: Path) -> tuple[System, dict[str, Any]]:
    """A model folder's system and the fields of its config.json. Raises ModelError if none of lalm's."""
    if not folder.is_dir():
        raise ModelError(
            f"there is no model folder '{folder}': name a folder, a Hub id (org/name), or "
            "none for the small model"
        )
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"'{folder}' is not a model folder: it has no config.json, as each folder that `lalm train` "
            "writes has"
        )
    try:
        fields = json.loads(path.read_text(), object_hook=_plain_number)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"'{path}' is damaged: {error}") from None
    try:
        return of_model_type(fields.get("model_type") if isinstance(fields, dict) else None), fields
    except UnknownSystemError as error:
        raise ModelError(f"'{path}' is not a lalm model: {error}") from None


def _plain_number(fields: dict[str, Any]) -> Any:
    """Infinity, as transformers writes it in a config.json, as a number."""
    return float(fields["__float__"]) if set(fields) == {"__float__"} else fields


def _load_slim(
    folder: Path, dtype: torch.dtype, options: Mapping[str, Any], llm: Any = None
) -> tuple[AudioLMForConditionalGeneration, AudioLMProcessor]:
    name, config = read_config(folder)
    for key, value in options.items():
        if "model" in config.parts or key in ENCODER_OPTIONS or not hasattr(config, key):
            raise ModelError(f"the model in '{folder}' has no option '{key}' that could be changed")
        setattr(config, key, value)
    check_frozen(folder, config)
    classes = classes_of(name)
    if "model" in config.parts:
        base = weights.resolve(config.parts["model"])
        asked = {"role_markers": config.role_markers, "transcript": config.transcript}
        model, processor = load_model(base, dtype=dtype, options=asked)
        if model.config.lora:
            merge_lora(model)  # of an earlier run, to which this one's was added
        model.config.parts, model.config.frozen_parts = config.parts, config.frozen_parts
        if config.lora:
            add_lora(model, config.lora)
        load_trained(model, folder)
        return model, processor
    tower = _load_named_tower(config, dtype)
    language_model = llm or load_causal_lm(str(weights.resolve(config.parts["llm"])), dtype=dtype)
    config.llm_sketch = embedding_sketch(language_model)
    model = classes.model.assemble(config, tower, language_model)
    processor = build_processor(config, classes.question_prompt)
    if config.lora:
        add_lora(model, config.lora)
    load_trained(model, folder)
    return model, processor


def check_frozen(
    folder: Path, config: AudioLMConfig, *, without: Collection[str] = (), full: bool = False
) -> None:
    """Raise PartChangedError unless the frozen parts are those that the slim model in ``folder`` was trained
    with, all but the roles in ``without``.

    ``full`` compares every byte, else only of files whose size or time has changed since they were read.
    """
    trained = ("encoder", "encoder_2") if config.trained_encoder else ()
    roles = {role for role in config.frozen_parts if role in config.parts} - {*trained, *without}
    names = {role: config.parts[role] for role in roles}
    places = {role: weights.resolve(name) for role, name in names.items()}
    recorded = {role: config.frozen_parts[role] for role in roles}
    check_parts(names, places, recorded, str(folder), full=full)


def _load_named_tower(config: Any, dtype: torch.dtype) -> Any:
    """The encoder that a slim checkpoint's config names, with the options it was trained with."""
    audio = config.audio_config
    configs = [audio.first, audio.second] if isinstance(audio, PairConfig) else [audio]
    options = {name: c.to_diff_dict() for name, c in zip(ENCODER_OPTIONS, configs, strict=False)}
    return load_tower(config.parts, options, torch.float32 if config.trained_encoder else dtype)
