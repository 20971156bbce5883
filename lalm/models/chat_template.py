"""Exports a conversation format as one complete Jinja chat template, for programs that know only templates.

``AudioLMProcessor`` puts a question in a system's words and leaves role markers to a bare template. A folder
that is to be opened by vLLM or transformers alone carries both in one template.
"""

import json
from collections.abc import Mapping
from importlib import resources


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
