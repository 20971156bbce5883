"""The chat template of a GGUF file: llama.cpp gives it text with a marker where a clip is to be heard.

A turn of clips and text comes as one text: the marker of each clip ("<__media__>", in the server with letters
of its own) and the texts, joined. What the template writes is compared with what the processor writes.
"""

from importlib import resources
from typing import Any

from jinja2 import TemplateError

from lalm.data.sample import Sample
from lalm.inference.llamacpp.gguf_file import GGUFError
from lalm.models.processing import AudioLMProcessor

MARKER = "<__media__>"
_CLIP = {"type": "audio", "audio": "clip.wav"}
_SAID: list[list[tuple[str, Any]]] = [
    [("user", [_CLIP, "What do you hear?"])],
    [("user", [_CLIP, _CLIP, "Which is louder?"])],
    [("user", "Hello"), ("assistant", "Hi."), ("user", [_CLIP, "What is it?"])],
    [("user", [_CLIP, "What is it?"]), ("assistant", "A dog."), ("user", [_CLIP, "And now?"])],
    [("system", "Be brief."), ("user", [_CLIP, "What is it?"])],
    [("user", "Hello")],
]


def _sample(said: list[tuple[str, Any]]) -> Sample:
    messages: Any = [{"role": role, "content": _parts(content)} for role, content in said]
    return Sample(messages)


def _parts(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]


def _as_llama_cpp_joins(said: list[tuple[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "role": role,
            "content": content
            if isinstance(content, str)
            else "".join(part if isinstance(part, str) else MARKER for part in content),
        }
        for role, content in said
    ]


def template_for(processor: AudioLMProcessor, marks: tuple[str, str], folder: str) -> str:
    """The template with which llama.cpp writes what the processor writes.

    ``marks`` stand before and behind every clip already, written by llama.cpp. Raises GGUFError where that
    cannot be.
    """
    before, behind = marks
    wanted = []
    for said in _SAID:
        text, _ = processor.render(_sample(said))
        slot = before + processor.audio_token + behind
        if text.count(processor.audio_token) != text.count(slot):
            raise GGUFError(
                f"llama.cpp writes {before} and {behind} around every clip for this projector, and "
                f"'{folder}' was trained without: its LLM's tokenizer has no such tokens"
            )
        wanted.append(text.replace(slot, MARKER))
    plain = str(processor.chat_template)
    slot = before + processor.audio_token + behind
    marked = _prelude() + plain.replace(slot, '" ~ given.marker ~ "')  # it stands in a string of the template
    for template in (plain, marked):
        if [_written(processor, template, said) for said in _SAID] == wanted:
            return template
    raise GGUFError(f"the chat template of '{folder}' cannot be put so that llama.cpp writes the same")


def _prelude() -> str:
    return (resources.files("lalm.inference.llamacpp") / "markers.jinja").read_text()


def _written(processor: AudioLMProcessor, template: str, said: list[tuple[str, Any]]) -> str | None:
    try:
        return str(
            processor.tokenizer.apply_chat_template(
                _as_llama_cpp_joins(said), chat_template=template, tokenize=False, add_generation_prompt=True
            )
        )
    except TemplateError:
        return None
