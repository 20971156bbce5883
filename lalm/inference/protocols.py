"""Papers' protocols as data (``protocols.yaml``): what a paper says around a question, and how it answers.

One entry of the file::

    acdc:
      about: "..."
      generation: {beams: 4, max_new_tokens: 64}     # fields of lalm.inference.options.Options
      folder_generation: false                       # take the model folder's own settings for the others
      hearing: {channel: 0, longest_s: 30}           # what of a recording is heard
      computing: {weights: float32}                  # number formats
      kinds:
        caption: {system: "...", prompts: ["."]}     # by the name of a sample's task

``lalm eval`` and ``lalm ask`` take one by name, evaluation tasks may name one, and so may a recipe for its
validation.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from lalm.data.labels import list_choices
from lalm.data.sample import Message, Part, Sample, message_text
from lalm.errors import LalmError
from lalm.inference.options import Options

FILE = Path(__file__).with_name("protocols.yaml")
SLOT = "<Speech><SpeechHere></Speech>"  # where the authors' file of prompts has the audio; our template too
MAX_PROMPTS_BYTES = 1 << 20
Text = Annotated[str, Field(min_length=1)]
Format = Literal["float32", "float16", "bfloat16"]


class ProtocolError(LalmError, ValueError):
    """A protocol or a prompt that is not there, or a question that does not fit its wording."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Wording(_Section):
    """How one kind of question is asked and scored.

    ``prompts`` stand after the audio in place of the item's own words; they may hold {question}, {choices},
    {options} and {language} (the recording's, ISO code). ``named``: what the prompt is called in the
    authors' file. ``question_from``: the key of ``origin`` that is {question}, where it is not the item's own
    words. ``metrics``, ``judge`` and ``parser`` are those of ``lalm.evaluate.task.Task``, empty where
    the task's own stay.
    """

    system: str = ""
    prompts: tuple[Text, ...] = ()
    named: str = ""
    question_from: str = ""
    metrics: tuple[Text, ...] = ()
    judge: str = ""
    parser: str = ""


class Hearing(_Section):
    """What of a recording is heard: one ``channel`` of it, its first ``longest_s`` seconds, and silence after
    it up to ``shortest_s``."""

    channel: Annotated[int, Field(ge=0)] | None = None
    longest_s: Annotated[float, Field(gt=0)] | None = None
    shortest_s: Annotated[float, Field(ge=0)] = 0.0


class Computing(_Section):
    """Number formats: of the ``weights`` ("folder": as the model's config.json says), of the ``llm``'s own
    where they differ, and of ``autocast``, which a CPU leaves off."""

    weights: Format | Literal["folder", ""] = ""
    llm: Format | Literal[""] = ""
    autocast: Format | Literal[""] = ""


class Protocol(_Section):
    """How a paper, or its authors' code, asks a model."""

    name: Text
    about: Text
    citation: str = ""
    generation: Mapping[str, Any] = {}
    folder_generation: bool = False
    hearing: Hearing = Hearing()
    computing: Computing = Computing()
    kinds: Mapping[str, Wording] = {}

    def wording(self, kind: str, language: str = "") -> Wording | None:
        """How a kind of question is asked; None where the protocol does not say."""
        return self.kinds.get(f"{kind}:{language}") or self.kinds.get(kind)


@cache
def known_protocols() -> Mapping[str, Protocol]:
    """The protocols that come with the package, by name."""
    entries = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    found = {name: Protocol(name=name, **entry) for name, entry in entries.items()}
    for protocol in found.values():
        Options(**protocol.generation)  # its checks
    return found


def find_protocol(name: str) -> Protocol:
    """The protocol of that name. Raises ProtocolError naming those there are."""
    known = known_protocols()
    if name not in known:
        near = get_close_matches(name.replace("-", "_"), known, 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise ProtocolError(f"there is no protocol '{name}'{meant}; there are {', '.join(known)}")
    return known[name]


def read_prompts(path: Path) -> dict[str, str]:
    """The prompts of a file as SALMONN's authors publish them, by their names; the first one of several.

    {"asr": "<Speech><SpeechHere></Speech> ...", "QA": "<Speech><SpeechHere></Speech> {}"}: the audio's place
    is taken away, since the chat template has it, and {} becomes {question}. Raises ProtocolError.
    """
    if not path.is_file():
        raise ProtocolError(f"there is no file of prompts '{path}'")
    if path.stat().st_size > MAX_PROMPTS_BYTES:
        raise ProtocolError(f"'{path.name}' is larger than 1 MiB, so it is no file of prompts")
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"'{path.name}' is not JSON: {' '.join(str(error).split())}") from None
    if not isinstance(entries, dict) or not entries:
        raise ProtocolError(f"'{path.name}' is no file of prompts: it is no object of names and prompts")
    found = {}
    for name, value in entries.items():
        first = value[0] if isinstance(value, list) and value else value
        if not isinstance(first, str):
            raise ProtocolError(f"'{path.name}': '{name}' is neither a text nor a list of texts")
        text = " ".join(first.replace(SLOT, " ").split())
        if not text:
            raise ProtocolError(f"'{path.name}': '{name}' asks nothing")
        found[name] = text.replace("{}", "{question}")
    return found


def prompt_called(prompts: Mapping[str, str], name: str, file: str) -> str:
    """The prompt of that name. Raises ProtocolError naming those that the file has."""
    if name not in prompts:
        raise ProtocolError(f"'{file}' has no prompt '{name}'; it has {', '.join(prompts)}")
    return prompts[name]


def with_prompts(protocol: Protocol, path: Path) -> Protocol:
    """The protocol with the wording that the authors' file has for its kinds of questions.

    Raises ProtocolError for a protocol that names no prompts, or a file that has none of them.
    """
    prompts = read_prompts(path)
    if not any(wording.named for wording in protocol.kinds.values()):
        raise ProtocolError(f"the protocol '{protocol.name}' has its wording; it takes no file of prompts")
    kinds = {
        kind: wording.model_copy(update={"prompts": (prompts[wording.named],)})
        for kind, wording in protocol.kinds.items()
        if wording.named in prompts
    }
    if not kinds:
        raise ProtocolError(f"'{path.name}' has none of the prompts that '{protocol.name}' names")
    return protocol.model_copy(update={"kinds": {**protocol.kinds, **kinds}})


def fill(prompt: str, question: str, choices: Sequence[str], language: str = "") -> str:
    """The prompt with its places filled. Raises ProtocolError naming a place for which there is nothing."""
    lettered = "\n".join(f"{chr(ord('A') + i)}. {text}" for i, text in enumerate(choices))
    values = {
        "question": question,
        "choices": list_choices(choices),
        "options": lettered,
        "language": language,
    }
    for place, value in values.items():
        if f"{{{place}}}" in prompt and not value:
            raise ProtocolError(f"nothing to put in the prompt's {{{place}}}")
    return re.sub("|".join(f"{{{place}}}" for place in values), lambda m: values[m[0][1:-1]], prompt)


def put(
    sample: Sample, prompt: str, system: str = "", question_from: str = "", *, instead: bool = False
) -> Sample:
    """The sample asked with ``prompt`` after the audio of its last user turn, under ``system`` unless it
    brings its own (with ``instead`` in place of its own); empty ones leave it as it is. {question} is what it
    asks by itself, or what its ``origin`` has under ``question_from``. Raises ProtocolError."""
    messages = list(sample.messages)
    if prompt:
        at = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=-1)
        if at < 0:
            raise ProtocolError(f"sample '{sample.id}' has no user turn")
        content = messages[at]["content"]
        question = sample.origin.get(question_from) or message_text(messages[at]).strip()
        language = sample.origin.get("language", "en")
        try:
            text = fill(prompt, question, sample.choices, language)
        except ProtocolError as error:
            raise ProtocolError(f"sample '{sample.id}' has {error}") from None
        kept = [] if isinstance(content, str) else [part for part in content if part["type"] != "text"]
        parts: list[Part] = [*kept, {"type": "text", "text": text}]
        messages[at] = {"role": "user", "content": parts}
    if system and instead:
        messages = [message for message in messages if message["role"] != "system"]
    if system and not any(message["role"] == "system" for message in messages):
        told: Message = {"role": "system", "content": system}
        messages.insert(0, told)
    return replace(sample, messages=tuple(messages))


def asked(sample: Sample, protocol: Protocol) -> Sample:
    """The sample as the protocol asks its kind of question; as it is where the protocol does not say."""
    wording = protocol.wording(sample.task, sample.origin.get("language", ""))
    if wording is None:
        return sample
    prompt = wording.prompts[0] if wording.prompts else ""
    return put(sample, prompt, wording.system, wording.question_from, instead=True)
