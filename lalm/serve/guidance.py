"""What an answer is held to: a JSON schema, one of some choices, a regular expression or a grammar.

OpenAI's ``response_format`` and vLLM's ``structured_outputs`` and ``guided_*`` all become one ``Guide``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

CHARACTERS = 50_000  # of a schema or grammar
NAMES = {"json": "JSON schema", "regex": "regular expression", "lark": "grammar"}


@dataclass(frozen=True)
class Guide:
    """A JSON schema, a regular expression or a Lark grammar, as text."""

    kind: Literal["json", "regex", "lark"]
    text: str

    def __post_init__(self) -> None:
        if len(self.text) > CHARACTERS:
            raise ValueError(f"the {NAMES[self.kind]} has more than {CHARACTERS} characters")


def schema_guide(schema: dict[str, Any] | str) -> Guide:
    """The guide to a JSON schema, given as an object or as its text."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError):
            raise ValueError("the JSON schema is not JSON") from None
    return Guide("json", json.dumps(schema))


def choice_guide(choices: Sequence[str]) -> Guide:
    """The guide to one of some texts."""
    if not choices or not all(choices):
        raise ValueError("a choice needs texts to choose from, none of them empty")
    return Guide("lark", "start: " + " | ".join(json.dumps(one, ensure_ascii=False) for one in choices))


def grammar_guide(text: str) -> Guide:
    """The guide to a grammar, in Lark's notation or llama.cpp's (GBNF)."""
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return Guide("lark", any_to_lark(text))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the grammar cannot be read: {' '.join(str(error).split())[:200]}") from None
    except Exception as error:  # GbnfToLarkError is a plain Exception
        raise ValueError(f"the grammar cannot be read: {' '.join(str(error).split())[:200]}") from None


class JsonSchema(BaseModel):
    """A JSON schema in OpenAI's format; answers always keep to it, so ``strict`` changes nothing."""

    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    of: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """The answer's format: text, any JSON object, or JSON that matches a schema."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema.schema must be there for the type 'json_schema', and for no other")
        return self

    def guide(self) -> Guide | None:
        """What the answer is held to; nothing for text."""
        if self.json_schema is not None:
            return schema_guide(self.json_schema.of)
        return schema_guide({"type": "object"}) if self.type == "json_object" else None


class StructuredOutputs(BaseModel):
    """vLLM's ``structured_outputs``: one of its kinds."""

    model_config = ConfigDict(extra="forbid")

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None

    def guides(self) -> list[Guide]:
        """What is asked for; more than one cannot be kept at a time."""
        found = [schema_guide(self.json_)] if self.json_ is not None else []
        found += [Guide("regex", self.regex)] if self.regex is not None else []
        found += [choice_guide(self.choice)] if self.choice is not None else []
        found += [grammar_guide(self.grammar)] if self.grammar is not None else []
        return found + ([schema_guide({"type": "object"})] if self.json_object else [])


class Guided(BaseModel):
    """The fields of a request that hold its answer to something."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None

    def guide(self) -> Guide | None:
        """The one thing the answer is held to. Raises ValueError where there are several."""
        old = StructuredOutputs(
            json=self.guided_json,
            regex=self.guided_regex,
            choice=self.guided_choice,
            grammar=self.guided_grammar,
        )
        formatted = self.response_format.guide() if self.response_format is not None else None
        found = [*old.guides(), *(self.structured_outputs.guides() if self.structured_outputs else [])]
        found += [formatted] if formatted is not None else []
        if len(found) > 1:
            raise ValueError("an answer keeps to one schema, choice, regex or grammar, not to several")
        return found[0] if found else None
