"""Function calling: tools are told to the model in words, and a grammar holds its call to their schemas.

The models here were not trained to call functions, so which function they choose is their best guess; that a
call is well formed is certain.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, Field

from lalm.serve.async_engine import new_id
from lalm.serve.guidance import Guide, schema_guide

Delta: TypeAlias = dict[str, Any]


class Function(BaseModel):
    """A function's name, what it is for, and the JSON schema of its arguments."""

    name: str = Field(pattern=r"^[\w.-]{1,64}$")
    description: str | None = Field(None, max_length=20_000)
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The schema of its arguments: those it names and no others, unless it says so itself."""
        schema = self.parameters or {"type": "object", "properties": {}}
        return {"additionalProperties": False, **schema} if "properties" in schema else schema


class Tool(BaseModel):
    """A tool in OpenAI's format."""

    type: Literal["function"] = "function"
    function: Function


class FunctionName(BaseModel):
    """The name of a function."""

    name: str


class NamedTool(BaseModel):
    """``tool_choice`` of one function."""

    type: Literal["function"] = "function"
    function: FunctionName


Choice: TypeAlias = Literal["none", "auto", "required"] | NamedTool


@dataclass(frozen=True)
class ToolUse:
    """The functions that an answer may call: ``only`` one, or any; it must call one if ``required``.

    ``named`` is whether the request names that one, in which case OpenAI ends the answer with ``stop``.
    """

    functions: tuple[Function, ...]
    required: bool
    only: Function | None = None
    named: bool = False

    @classmethod
    def of(cls, tools: list[Tool] | None, choice: Choice | None) -> "ToolUse | None":
        """What a request allows; None if nothing. Raises ValueError for a choice that is not among them."""
        functions = tuple(tool.function for tool in tools or [])
        if isinstance(choice, NamedTool):
            named = [one for one in functions if one.name == choice.function.name]
            if not named:
                raise ValueError(
                    f"tool_choice names '{choice.function.name[:64]}', which is not among the tools"
                )
            return cls(functions, True, named[0], named=True)
        if not functions and choice == "required":
            raise ValueError("tool_choice is required, and there are no tools")
        if choice == "required" and len(functions) == 1:
            return cls(functions, True, functions[0])
        return cls(functions, choice == "required") if functions and choice != "none" else None

    def guide(self) -> Guide:
        """The grammar of the answer."""
        if self.only is not None:
            return schema_guide(self.only.arguments)
        calls: dict[str, Any] = {"anyOf": [_call_schema(function) for function in self.functions]}
        if self.required:
            return schema_guide(calls)
        calls["x-guidance"] = {"whitespace_flexible": False}
        text = r"TEXT: /\s*[^{\s](.|\n)*/"  # what begins with a brace is a call
        return Guide("lark", f"start: TEXT | call\n{text}\ncall: %json {json.dumps(calls)}\n")

    def told(self) -> str:
        """What the model is told."""
        if self.only is not None:
            about = f" ({self.only.description})" if self.only.description else ""
            return (
                f"Call the function {self.only.name}{about}: answer with its arguments as JSON. "
                f"Their schema: {json.dumps(self.only.arguments)}"
            )
        lines = [
            f"- {one.name}: {one.description or 'no description'} Arguments: {json.dumps(one.arguments)}"
            for one in self.functions
        ]
        how = "Call one" if self.required else "To call one"
        example = '{"name": ..., "arguments": {...}}'
        return (
            "You have these functions:\n" + "\n".join(lines) + f"\n{how}: answer with JSON alone, {example}"
        )


def _call_schema(function: Function) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": function.name}, "arguments": function.arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


class ToolAnswer:
    """One answer as it is written: text, or a call in OpenAI's form. ``add`` its pieces, then ``end`` it."""

    def __init__(self, use: ToolUse | None) -> None:
        self.use = use
        self.text = ""
        self.content = ""
        self.call: dict[str, Any] | None = None

    def add(self, piece: str) -> list[Delta]:
        """What a stream says of this piece of text."""
        self.text += piece
        if self.use is None or (not self.use.required and not self.text.lstrip().startswith("{")):
            self.content += piece
            return [{"content": piece}]
        if self.use.only is None:  # which function it is, is not certain before the end
            return []
        first = self.call is None
        self.call = self.call or _call(self.use.only.name, "")
        self.call["function"]["arguments"] += piece
        begun = [{"tool_calls": [{"index": 0, **_call(self.use.only.name, ""), "id": self.call["id"]}]}]
        return (begun if first else []) + [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}]

    def end(self, reason: str) -> tuple[list[Delta], str]:
        """What a stream says at the end, and the reason in OpenAI's words."""
        if self.use is None or self.content:
            return [], reason
        if self.use.only is not None:
            return [], "tool_calls" if reason == "stop" and not self.use.named else reason
        try:
            said = json.loads(self.text)
            self.call = _call(said["name"], json.dumps(said["arguments"], ensure_ascii=False))
        except (ValueError, KeyError, TypeError, RecursionError):  # cut off before it was whole
            self.content = self.text
            return ([{"content": self.text}] if self.text else []), reason
        return [{"tool_calls": [{"index": 0, **self.call}]}], "tool_calls"

    def message(self) -> dict[str, Any]:
        """The whole answer, once it has ended."""
        said: dict[str, Any] = {"role": "assistant", "content": self.content, "refusal": None}
        if self.call is not None:
            said |= {"content": None, "tool_calls": [self.call]}
        return said


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": new_id("call_"), "type": "function", "function": {"name": name, "arguments": arguments}}


def with_tools(messages: list[dict[str, Any]], use: ToolUse | None) -> list[dict[str, Any]]:
    """Messages of the roles that every model has: calls and their results as text, the tools told last."""
    turns: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for message in messages:
        turn = _plain(message, names)
        results = message.get("role") in ("tool", "function")
        if turns and results and turns[-1].get("role") == "user":
            turns[-1] = {**turns[-1], "content": [*_parts(turns[-1]), *_parts(turn)]}
        else:
            turns.append(turn)
    if use is not None and turns and turns[-1].get("role") == "user":
        told = {"type": "text", "text": ("\n" if _parts(turns[-1]) else "") + use.told()}
        turns[-1] = {**turns[-1], "content": [*_parts(turns[-1]), told]}
    return turns


def _plain(message: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """One message as text; ``names`` collects the functions that were called, by the id of the call."""
    role = message.get("role")
    if role == "assistant":
        kept = {name: message[name] for name in message if name not in ANSWER_FIELDS}
        calls = [call for call in message.get("tool_calls") or [] if isinstance(call, dict)]
        said = [kept["content"]] if isinstance(kept.get("content"), str) and kept["content"] else []
        for call in calls:
            called = call.get("function")
            called = called if isinstance(called, dict) else {}
            names[str(call.get("id"))] = str(called.get("name"))
            written = f'{{"name": {json.dumps(called.get("name"))}, "arguments": {called.get("arguments")}}}'
            said.append(written)
        return {**kept, "content": "\n".join(said)} if calls or "content" not in kept else kept
    if role in ("tool", "function"):
        name = names.get(str(message.get("tool_call_id"))) or str(message.get("name") or "The function")
        text = "\n".join(str(p["text"]) for p in _parts(message) if isinstance(p, dict) and "text" in p)
        return {"role": "user", "content": [{"type": "text", "text": f"{name} returned: {text}\n"}]}
    return message


# Of an answer that a client sends back: what is not its text.
ANSWER_FIELDS = (
    "tool_calls",
    "refusal",
    "annotations",
    "audio",
    "function_call",
    "reasoning",
    "reasoning_content",
)


def _parts(message: dict[str, Any]) -> list[Any]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return [*content] if isinstance(content, list) else []
