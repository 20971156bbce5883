"""``lalm info``: what a model is made of, counted on shapes alone.

A system's name means the paper's full-size model: its shapes are built on torch's meta device, which
allocates nothing, so an 8-billion-parameter LLM is counted on any machine.
"""

import json
import textwrap
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from lalm.cli.options import Json

if TYPE_CHECKING:
    from lalm.models.config import AudioLMConfig
    from lalm.models.modeling import AudioLMForConditionalGeneration
    from lalm.training.recipe import Recipe


class PaperModel(NamedTuple):
    """A paper's full-size model: the recipe that trains it and its LLM's published shape."""

    recipe: str
    llm: dict[str, Any]
    licences: dict[str, str]
    encoder: dict[str, Any] = {}  # noqa: RUF012 - its shape, where the system has no default


LLAMA_3_8B = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14_336,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
VICUNA_13B = {
    "model_type": "llama",
    "vocab_size": 32_000,
    "hidden_size": 5120,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
    "intermediate_size": 13_824,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
VICUNA_7B = VICUNA_13B | {  # v1.5; v1.1 has a context of 2,048
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "intermediate_size": 11_008,
    "max_position_embeddings": 4096,
}
QWEN_05B = {
    "model_type": "qwen2",
    "vocab_size": 151_936,
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": True,
}
WHISPER_BASE = {
    "model_type": "lalm_whisper",
    "d_model": 512,
    "encoder_layers": 6,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
}
QWEN_7B = {  # the released model's text_config
    "model_type": "qwen2",
    "vocab_size": 156_032,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "intermediate_size": 11_008,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
PAPER_MODELS = {
    "acdc": PaperModel("acdc/train", LLAMA_3_8B, {"encoder": "MIT", "llm": "Meta Llama 3 Community License"}),
    "apt": PaperModel(
        "apt/0_align", VICUNA_7B, {"encoder": "CC-BY-NC-4.0", "llm": "Llama 2 Community License"}
    ),
    "salmonn": PaperModel(
        "salmonn/1_pretrain",
        VICUNA_13B,
        {"encoder": "MIT", "encoder_2": "MIT", "llm": "LLaMA licence (non-commercial)"},
    ),
    "qwen2-audio": PaperModel(
        "qwen2-audio/1_pretrain", QWEN_7B, {"encoder": "Apache-2.0", "llm": "Tongyi Qianwen"}
    ),
    "modular": PaperModel("modular/small", QWEN_05B, {"encoder": "MIT", "llm": "Apache-2.0"}, WHISPER_BASE),
}
UNKNOWN = "see its source"


@dataclass(frozen=True)
class PartInfo:
    """One part of a model: what it is, where it comes from, how large it is."""

    role: str
    name: str
    licence: str
    source: str
    parameters: int


@dataclass(frozen=True)
class Info:
    """What ``lalm info --json`` prints."""

    name: str
    system: str
    parts: list[PartInfo]
    parameters: int
    trainable_parameters: int
    audio_tokens_per_second: float
    asked: str
    transcript: str = "none"


def info(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL or SYSTEM]",
            help="A model folder or Hub id (default: the embedded small model), or a system such as acdc.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a model's parts, licences, sizes and audio token rate.

    Everything is counted from the configuration; no weights are loaded.
    """
    from lalm.models import SMALL
    from lalm.systems import SYSTEMS

    found = of_system(name) if name in SYSTEMS else of_folder(SMALL if name is None else name)
    print(json.dumps(asdict(found), indent=2) if as_json else table(found))


def table(found: Info) -> str:
    """The facts for reading, in 80 columns: a line a part, below it where that comes from."""
    wrap = partial(textwrap.wrap, width=80, break_long_words=False, break_on_hyphens=False)
    lines = [f"{found.name}: {found.system}, {found.audio_tokens_per_second:g} audio tokens a second"]
    lines += wrap(f"  asked      {found.asked}", subsequent_indent=" " * 13)
    if found.transcript != "none":
        lines.append(
            f"  reads      a transcript of each recording beside its audio tokens ({found.transcript})"
        )
    place = " " * 29
    for part in found.parts:
        lines.append(f"  {part.role:<10} {part.parameters:>14,}  {part.name}")
        lines += wrap(f"{part.licence}; {part.source}", initial_indent=place, subsequent_indent=place)
    lines.append(f"  {'total':<10} {found.parameters:>14,}")
    lines.append(f"  {'trainable':<10} {found.trainable_parameters:>14,}  at the recipe's setting")
    return "\n".join(lines)


def of_system(name: str) -> Info:
    """The paper's full-size model of a system."""
    from transformers import AutoConfig

    from lalm.models.classes import classes_of
    from lalm.models.load import in_words
    from lalm.training import recipe

    paper = PAPER_MODELS[name]
    settings = recipe.load(paper.recipe)
    fields = dict(settings.init.options)
    encoder = paper.encoder | (
        fields.pop("encoder", None) or {}
    )  # of one encoder; a system of two has its own default
    given: dict[str, Any] = {"audio_config": encoder} if encoder else {}
    classes = classes_of(name)
    config = classes.config(
        **given,
        text_config=AutoConfig.for_model(**paper.llm),
        parts=settings.init.model_dump(include={"encoder", "encoder_2", "aligner", "llm"}, exclude_none=True),
        lora=settings.lora.settings if settings.lora else None,
        **fields,
    )
    if settings.transcript is not None:
        config.transcript = settings.transcript
    asked = in_words(config.role_markers, "the recipe")
    return _info(name, name, config, classes.model, settings, paper.licences, asked)


def of_folder(model: str | Path) -> Info:
    """A model folder or Hub id; no weights are read."""
    from lalm.models.classes import classes_of
    from lalm.models.load import model_folder, model_name, read_config
    from lalm.training import recipe

    folder = model_folder(model)
    system, config = read_config(folder)
    settings = recipe.load(folder) if (folder / "recipe.yaml").is_file() else None
    return _info(model_name(model), system, config, classes_of(system).model, settings, {}, _asked(folder))


def _asked(folder: Path) -> str:
    """How the model in a folder is asked, and where that is said."""
    from lalm.models.load import asked_as, in_words

    try:
        return in_words(*asked_as(folder))
    except (ValueError, OSError) as error:
        return f"not known: {error}"


def _info(
    name: str,
    system: str,
    config: "AudioLMConfig",
    model_class: "type[AudioLMForConditionalGeneration]",
    settings: "Recipe | None",
    licences: dict[str, str],
    asked: str,
) -> Info:
    from lalm.audio.load import SAMPLE_RATE

    model = _shapes(config, model_class)
    patterns = list(settings.trainable) if settings else ["connector"]
    trainable = set(model.set_trainable([*patterns, *(["*lora_*"] if config.lora else [])]))
    counts = {"encoder": 0, "encoder_2": 0, "connector": 0, "llm": 0, "lora": 0}
    learning = 0
    for parameter_name, parameter in model.named_parameters():
        counts[_role(parameter_name)] += parameter.numel()
        learning += parameter.numel() if parameter_name in trainable else 0
    parts = []
    for role, count in counts.items():
        if count:
            given = config.parts.get(role, "")
            licence, source = _origin(given, licences.get(role, UNKNOWN))
            if role in ("connector", "lora"):
                given, licence, source = f"{system} {role}", "Apache-2.0", "trained by a recipe"
            parts.append(PartInfo(role, given or "in this folder", licence, source, count))
    rate = config.num_audio_tokens(100 * SAMPLE_RATE) / 100
    return Info(name, system, parts, sum(counts.values()), learning, rate, asked, config.transcript)


def _shapes(
    config: "AudioLMConfig", model_class: "type[AudioLMForConditionalGeneration]"
) -> "AudioLMForConditionalGeneration":
    """The model without memory behind its parameters; a tied head counts once."""
    import torch

    from lalm.models.lora import add_lora

    text: Any = config.text_config
    with torch.device("meta"):
        model = model_class(config)
        if text.tie_word_embeddings:
            model.get_output_embeddings().weight = model.get_input_embeddings().weight
        if config.lora:
            add_lora(model, config.lora)
    return model


def _role(parameter: str) -> str:
    if "lora_" in parameter:
        return "lora"
    if parameter.startswith("model.connector."):
        return "connector"
    if parameter.startswith("model.audio_tower.second."):
        return "encoder_2"
    return "llm" if parameter.startswith(("model.language_model.", "lm_head.")) else "encoder"


def _origin(name: str, licence: str) -> tuple[str, str]:
    """Licence and source of a part by its name: pinned, a folder, or a Hub id."""
    from lalm.weights import fetch as weights

    if name in weights.PARTS:
        return weights.PARTS[name].licence, "; ".join(weights.PARTS[name].sources)
    if not name:
        return licence, "this folder"
    return licence, f"folder {name}" if Path(name).is_dir() else f"https://huggingface.co/{name}"
