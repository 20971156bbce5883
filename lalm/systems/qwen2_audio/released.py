"""Reads and writes Qwen2-Audio's released layout (Qwen/Qwen2-Audio-7B and -Instruct on the Hub).

On disk: ``audio_tower.*``, ``multi_modal_projector.linear.*``, ``language_model.{model.*,lm_head.weight}`` in
sharded safetensors, config.json with model_type qwen2_audio, the tokenizer, and the chat template of the
Instruct model, in one of four places (``find_template``). The base model is asked in plain text: audio, then
the task's sentence.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from jinja2 import TemplateError
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    WhisperFeatureExtractor,
)

from lalm.encoders.whisper import WhisperEncoderConfig
from lalm.errors import refuse_pickled_code
from lalm.models import adapter
from lalm.models.chat_template import bare_parts
from lalm.models.load import model_folder
from lalm.models.processing import AudioLMProcessor, waveforms
from lalm.systems.qwen2_audio.model import Qwen2AudioLM, Qwen2AudioLMConfig
from lalm.systems.qwen2_audio.prompts import AUDIO_TOKEN, CHAT, PRETRAIN

MODEL_TYPE = "qwen2_audio"
PROCESSOR = "Qwen2AudioProcessor"
FROM_DISK = {  # a name on disk, as a regular expression -> ours
    r"^audio_tower\.": "model.audio_tower.whisper.",
    r"^multi_modal_projector\.": "model.connector.",
    r"^language_model\.model\.": "model.language_model.",
    r"^language_model\.lm_head\.": "lm_head.",
}
TO_DISK = {
    "model.audio_tower.whisper.": "audio_tower.",
    "model.connector.": "multi_modal_projector.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}
FROM_TREE = (  # a module's name in the trees that transformers has built, as a regular expression -> ours
    (r"^(?:model\.)?audio_tower\.", "model.audio_tower.whisper."),
    (r"^(?:model\.)?multi_modal_projector\.", "model.connector."),
    (r"^(?:language_model\.)?lm_head(?=\.|$)", "lm_head"),
    (r"^(?:language_model\.model|model\.language_model)\.", "model.language_model."),
)
TO_TREE = (  # ours -> the tree of transformers 5, which is what PEFT names its tensors after
    ("model.language_model.", "model.language_model."),
    ("model.connector.", "model.multi_modal_projector."),
)
ENCODER_FIELDS = (
    *("num_mel_bins", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "encoder_layerdrop"),
    *("d_model", "dropout", "attention_dropout", "activation_function", "activation_dropout"),
    *("scale_embedding", "max_source_positions"),
)


def read_config(fields: Mapping[str, Any]) -> Qwen2AudioLMConfig:
    """Our config from the fields of a released config.json."""
    try:
        theirs = Qwen2AudioConfig(**{k: v for k, v in fields.items() if k != "model_type"})
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"config.json is no Qwen2-Audio configuration: {_line(error)}") from None
    audio = theirs.audio_config.to_dict()
    text = theirs.text_config.to_dict()
    return Qwen2AudioLMConfig(
        audio_config=WhisperEncoderConfig(
            **Qwen2AudioLMConfig.encoder_options, **{name: audio[name] for name in ENCODER_FIELDS}
        ),
        # the head is stored in full, whatever the LLM it began as did
        text_config=AutoConfig.for_model(**{**text, "tie_word_embeddings": False}),
        audio_token_id=theirs.audio_token_id,
    )


def load(
    folder: Path, fields: Mapping[str, Any], dtype: torch.dtype
) -> tuple[Qwen2AudioLM, AudioLMProcessor]:
    """Open a folder in the released layout; every tensor must be there, and no other."""
    config = read_config(fields)
    try:
        with refuse_pickled_code(f"the weights in '{folder}'"):
            model, report = Qwen2AudioLM.from_pretrained(
                folder,
                config=config,
                key_mapping=FROM_DISK,
                dtype=dtype,
                output_loading_info=True,
                trust_remote_code=False,
            )
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"the weights in '{folder}' cannot be read: {_line(error)}") from None
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if odd := sorted(str(name) for name in report[kind]):
            raise ValueError(
                f"the weights in '{folder}' do not fit its config.json: "
                f"{len(odd)} {kind.replace('_', ' ')}, e.g. {odd[0]}"
            )
    return model, read_processor(folder, model.config)


def read_processor(folder: Path, config: Qwen2AudioLMConfig) -> AudioLMProcessor:
    """The folder's tokenizer and chat template over the same slot formula.

    Notes in ``config.role_markers`` whether the folder is the base model, and in ``template_from`` of the
    result how that is known. Raises ValueError for a template that gives a recording no place.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.convert_tokens_to_ids(AUDIO_TOKEN) != config.audio_token_id:
        raise ValueError(f"the tokenizer in '{folder}' does not have {AUDIO_TOKEN} as its config.json says")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    template, origin = find_template(folder, tokenizer)
    config.role_markers = "<|im_start|>" in template
    processor = AudioLMProcessor(
        waveforms(), tokenizer, chat_template=template, audio_token=AUDIO_TOKEN, parts=True, config=config
    )
    processor.template_from = origin
    if (slots := written_slots(tokenizer, template)) != 1:
        raise ValueError(
            f"the chat template of '{folder}' ({origin}) writes {slots} places for one recording: "
            f"it must write {AUDIO_TOKEN} once for a part of the type 'audio'"
        )
    return processor


def find_template(folder: Path, tokenizer: Any) -> tuple[str, str]:
    """A released folder's chat template, and where it was found, for people.

    Releases of transformers have kept it in a file of its own, in JSON, or with the tokenizer. Where none of
    them has one, transformers puts questions in its default, the Instruct model's format; a folder whose
    answers end at the LLM's end of text, and not at ChatML's, is the base model's.
    """
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8"), file.name
    for name in ("chat_template.json", "processor_config.json"):
        if template := _read_fields(folder / name).get("chat_template"):
            return _one(template), name
    if tokenizer.chat_template:
        template = _one(tokenizer.chat_template)
        if written_slots(tokenizer, template) == 1:  # else it is an LLM's, made for text alone
            return template, "tokenizer_config.json"
    ends = _read_fields(folder / "generation_config.json").get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    if tokenizer.convert_tokens_to_ids("<|im_end|>") in ends:
        found = "the folder has no template, and its answers end with <|im_end|>: transformers' default"
        return CHAT, found
    return PRETRAIN, "the folder has no template, and its answers do not end with <|im_end|>"


def written_slots(tokenizer: Any, template: str) -> int:
    """How many places for audio ``template`` writes for a turn of one recording and a question."""
    turn = bare_parts([{"type": "audio", "audio": ""}, {"type": "text", "text": "What is it?"}])
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": turn}], chat_template=template, tokenize=False
        )
    except (TemplateError, TypeError):
        return 0
    return str(text).count(AUDIO_TOKEN)


def _one(template: str | Mapping[str, str] | list[Mapping[str, str]]) -> str:
    """The default of several named templates, or the only one."""
    if isinstance(template, list):
        template = {row["name"]: row["template"] for row in template}
    if isinstance(template, str):
        return template
    return template.get("default") or next(iter(template.values()))


def _read_fields(file: Path) -> dict[str, Any]:
    """A JSON object in a file; empty when there is no such file. Raises ValueError naming a damaged one."""
    if not file.is_file():
        return {}
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{file}' is damaged: {error}") from None
    return fields if isinstance(fields, dict) else {}


def put_adapter(model: Qwen2AudioLM, folder: Path) -> bool:
    """Apply a PEFT adapter; see ``lalm.models.adapter.put_in``."""
    return adapter.put_in(model, folder, FROM_TREE)


def export_adapter(model: Qwen2AudioLM, folder: Path) -> None:
    """Write LoRA and connector as a PEFT adapter to the folder or Hub id that the model began as.

    Raises AdapterError for a model that did not begin as one in the released layout, for which there is no
    class of transformers that an adapter could be put into.
    """
    base = model.config.parts.get("model", "")
    if not base or _read_fields(model_folder(base) / "config.json").get("model_type") != MODEL_TYPE:
        raise adapter.AdapterError(
            "an adapter needs a base in the released layout, and this model did not begin as one: "
            "write it whole with --to transformers (Qwen2-Audio also with --to qwen2-audio)"
        )
    adapter.write(model, folder, base, TO_TREE)


def export(
    model: Qwen2AudioLM, processor: AudioLMProcessor, folder: Path, *, max_shard_size: str = "5GB"
) -> None:
    """Write ``model`` in the released layout, for transformers, vLLM, SGLang and ms-swift.

    An LLM whose embedding table ends before the audio tokens gets rows for them: the mean of the others.
    """
    if not isinstance(model, Qwen2AudioLM):
        raise ValueError(f"only a qwen2-audio model has this layout, not {model.config.model_type}")
    audio_config = model.config.audio_config
    if model.config.lora:
        raise ValueError("merge the LoRA matrices before exporting")
    if audio_config.model_type != WhisperEncoderConfig.model_type or not audio_config.qwen2_audio:
        raise ValueError("only a Whisper encoder with qwen2_audio has this layout")
    if audio_config.pool != 2:
        raise ValueError(f"the released layout pools by 2, this encoder by {audio_config.pool}")
    if not processor.parts:
        raise ValueError("the released layout is for LLMs with a ChatML tokenizer")
    folder.mkdir(parents=True, exist_ok=True)
    text = model.config.text_config.to_dict() | {"tie_word_embeddings": False}
    rows = max(text["vocab_size"], len(processor.tokenizer))
    state = {_on_disk(name): tensor for name, tensor in model.state_dict().items()}
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        state[name] = _with_rows(state[name], rows)
    save_torch_state_dict(state, folder, max_shard_size=max_shard_size, safe_serialization=True)
    text["vocab_size"] = rows
    text["dtype"] = str(next(model.parameters()).dtype).removeprefix("torch.")
    config = Qwen2AudioConfig(
        audio_config=Qwen2AudioEncoderConfig(
            **{name: getattr(audio_config, name) for name in ENCODER_FIELDS}
        ),
        text_config=AutoConfig.for_model(**text),
        audio_token_index=processor.audio_token_id,
        architectures=["Qwen2AudioForConditionalGeneration"],
        dtype=text["dtype"],
    )
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer = copy.deepcopy(processor.tokenizer)
    tokenizer.chat_template = processor.chat_template
    tokenizer.init_kwargs.pop("processor_class", None)
    tokenizer._set_processor_class(PROCESSOR)  # what AutoProcessor goes by, before the feature extractor
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(
        feature_size=audio_config.num_mel_bins,
        chunk_length=audio_config.window_samples // 16_000,
        return_attention_mask=True,
        processor_class=PROCESSOR,
    ).save_pretrained(folder)
    # Where releases before 4.57 look for it. A base model has one too: without, transformers would take
    # its own default, the Instruct model's.
    written = json.dumps({"chat_template": tokenizer.chat_template}, indent=2, ensure_ascii=False)
    (folder / "chat_template.json").write_text(written + "\n", encoding="utf-8")


def _on_disk(name: str) -> str:
    return next(new + name.removeprefix(ours) for ours, new in TO_DISK.items() if name.startswith(ours))


def _with_rows(table: Tensor, rows: int) -> Tensor:
    """A copy of a (V, D) table with mean rows up to ``rows``."""
    extra = table.float().mean(0, keepdim=True).to(table.dtype).expand(rows - len(table), -1)
    return torch.cat([table, extra])


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
