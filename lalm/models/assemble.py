"""A new model of a system, put together from an LLM and one or two encoders."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoTokenizer

from lalm.encoders import load_encoder, load_pair
from lalm.models.answer_end import settle_ends
from lalm.models.classes import ModelError, classes_of
from lalm.models.config import AudioLMConfig
from lalm.models.llm_check import check_same_logits, text_config_of
from lalm.models.llm_sketch import embedding_sketch
from lalm.models.lora import add_lora
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.processing import AudioLMProcessor
from lalm.weights import fetch as weights
from lalm.weights.identity import identities
from lalm.weights.llm import load_causal_lm, load_tokenizer

ENCODER_OPTIONS = ("encoder", "encoder_2")


def build_model(
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
    ``dtype`` is that of the frozen parts; the connector and LoRA are float32. The connector is new: with
    weights drawn at random.

    Raises ValueError for an unknown system or option and for parts that do not fit, WeightsError for parts
    that are neither here nor to be fetched.
    Example: ``build_model("modular", encoder="whisper-base", llm="smollm2-135m-instruct")``.
    """
    classes = classes_of(system)
    named = {"encoder": encoder, "encoder_2": encoder_2, "aligner": aligner, "llm": llm}
    parts = {role: name for role, name in named.items() if name}
    asked = {**classes.config.encoder_options, **((options or {}).get("encoder") or {})}
    tower = load_tower(parts, {**(options or {}), "encoder": asked}, dtype)
    language_model = load_causal_lm(str(weights.resolve(llm)), dtype=dtype)
    config = classes.config(
        audio_config=tower.config,
        text_config=text_config_of(language_model),
        parts=parts,
        **_own_options(system, options or {}),
    )
    if config.hears_instructions != bool(aligner):
        needs = (
            "needs an 'aligner', a BERT that its connector starts from" if not aligner else "has no aligner"
        )
        raise ModelError(f"{system} {needs}")
    config.frozen_parts = identities({role: weights.resolve(name) for role, name in parts.items()})
    config.llm_sketch = embedding_sketch(language_model)
    model = classes.model.assemble(config, tower, language_model)
    check_same_logits(model, language_model, llm)
    processor = build_processor(config, classes.question_prompt)
    if aligner:
        model.model.connector.start(weights.resolve(aligner))
    if lora:
        add_lora(model, lora)
    settle_ends(model, processor)
    return model.eval(), processor


def _own_options(system: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are the system's own; refuses those that neither it nor the encoders have."""
    own = {key: value for key, value in options.items() if key not in ENCODER_OPTIONS}
    known = set(classes_of(system).config().to_dict()) - set(AudioLMConfig().to_dict())
    for key in own:
        if key not in known:
            raise ModelError(
                f"{system} has no option '{key}'; it has: {', '.join([*ENCODER_OPTIONS, *sorted(known)])}"
            )
    return own


def build_processor(config: AudioLMConfig, question_prompt: Mapping[str, str]) -> AudioLMProcessor:
    """The processor of a model that is put together from the parts its config names."""
    tokenizer = load_tokenizer(weights.resolve(config.parts["llm"]))
    aligner = config.parts.get("aligner")
    instructions = (
        AutoTokenizer.from_pretrained(weights.resolve(aligner), trust_remote_code=False) if aligner else None
    )
    return AudioLMProcessor.build(tokenizer, config, question_prompt, instructions)


def load_tower(parts: Mapping[str, str], options: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """The encoder that ``parts`` names, or both, with the options under the same names."""
    folder, first = weights.resolve(parts["encoder"]), options.get("encoder")
    if "encoder_2" in parts:
        pair = load_pair(folder, weights.resolve(parts["encoder_2"]), first, options.get("encoder_2"))
        return pair.to(dtype)
    if options.get("encoder_2"):
        raise ModelError("there are options for encoder_2, but no encoder_2")
    return load_encoder(folder, first).to(dtype)
