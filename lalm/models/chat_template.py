"""Chat templates: the one that a new model uses, and a conversation format exported as one.

``AudioLMProcessor`` puts a question in a system's words and leaves role markers to a bare template. A folder
that is to be opened by vLLM or transformers alone carries both in one template.
"""

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from transformers import PreTrainedTokenizerBase

from lalm.models.transcript import written

OTHER_END = "<|endoftext|>"  # what a template ends answers with that names it; else the tokenizer's own end
VICUNA = "ASSISTANT:"  # in a chat template: the family that talks as USER and ASSISTANT


def has_token(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    """Whether the vocabulary has a token; listing a whole one takes a tenth of a second."""
    number = tokenizer.convert_tokens_to_ids(token)
    return number is not None and tokenizer.convert_ids_to_tokens(number) == token


def bare_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """A chat template that adds role markers and nothing else (AC/DC section 2.2, "no instruction").

    Vicuna's tokenizer comes without a template, or with one that inserts a system text.
    """
    for marker, name in (("<|im_start|>", "chatml"), ("<|start_header_id|>", "llama3")):
        if has_token(tokenizer, marker):
            return (resources.files("lalm.models") / "templates" / f"{name}.jinja").read_text()
    template = str(tokenizer.chat_template or "")
    its_tokens = (has_token(tokenizer, token) for token in ("<s>", "</s>", "<0x0A>"))
    if VICUNA in template or (not template and all(its_tokens)):
        return (resources.files("lalm.models") / "templates" / "vicuna.jinja").read_text()
    if not template:
        raise ValueError(
            f"the tokenizer of '{tokenizer.name_or_path}' has no chat template, so it is a base model: take "
            "its chat version (-Instruct, -Chat)"
        )
    return template


def new_template(
    tokenizer: PreTrainedTokenizerBase, prompt: dict[str, str], *, markers: bool
) -> tuple[str, bool]:
    """A new model's chat template, and whether it writes audio parts itself; its keys leave ``prompt``."""
    own = {name: prompt.pop(name, "") for name in ("template", "plain", "marks")}
    template = own["template" if markers else "plain"]
    for mark in own["marks"].split():
        template = template if has_token(tokenizer, mark) else template.replace(mark, "")
    if not has_token(tokenizer, OTHER_END):
        template = template.replace(f'"{OTHER_END}"', "eos_token")
    if template and (not markers or has_token(tokenizer, "<|im_start|>")):
        return template, True
    if markers:
        return bare_template(tokenizer), False
    return (resources.files("lalm.models") / "templates" / "plain.jinja").read_text(), False


def bare_parts(content: str | list[Any]) -> str | list[dict[str, str]]:
    """A turn's content as chat templates take it: audio parts without their audio.

    Templates know an audio part by its type or by one of two keys, according to their age.
    """
    if isinstance(content, str):
        return content
    audio = {"type": "audio", "audio": "", "audio_url": ""}
    parts: list[dict[str, str]] = []
    for part in content:
        parts.append(audio if part["type"] == "audio" else {"type": "text", "text": part["text"]})
        if part["type"] == "audio" and (said := written(part)):
            parts.append({"type": "text", "text": said})
    return parts


def with_parts(template: str, question_prompt: Mapping[str, str], audio_token: str) -> str:
    """``template`` behind a part that writes turns of audio and text as ``question_prompt`` says.

    The result takes messages whose content is text or parts of the types "text" and "audio".
    """
    said = {
        "audio_token": audio_token,
        "slot": question_prompt.get("slot", "{audio}"),
        "user": question_prompt.get("user", ""),
        "system": question_prompt.get("system", ""),
    }
    names = "\n".join(f"{{%- set {name} = {json.dumps(text)} -%}}" for name, text in said.items())
    return f"{names}\n{(resources.files('lalm.models') / 'templates' / 'parts.jinja').read_text()}{template}"
