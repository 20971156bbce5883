"""``/v1/responses``: OpenAI's newer form of a conversation, put as a chat and answered in that form."""

import json
from collections.abc import AsyncIterator
from typing import Any, ClassVar, Literal

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import Field, ValidationError

from lalm.serve import chat_completions as chat
from lalm.serve.async_engine import AsyncEngine, cancel_on_disconnect
from lalm.serve.chat_completions import STREAM_HEADERS, Reply
from lalm.serve.error_responses import error_body, error_message, error_status, first_error
from lalm.serve.protocol import ChatRequest, Checked, Drawing
from lalm.serve.request_fields import FieldRefused
from lalm.serve.response_output import Output, response_json

PATH = "/v1/responses"


class ResponsesRequest(Drawing, Checked):
    """A request to ``/v1/responses``. Additions: ``seed``, ``stop``, ``lora_scale``, vLLM's drawing."""

    path: ClassVar = PATH

    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stream: bool | None = False
    text: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    structured_outputs: dict[str, Any] | None = None
    lora_scale: float | None = None

    def as_chat(self) -> ChatRequest:
        """The same as a chat. Raises FieldRefused for what a chat has no words for."""
        given = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input
        messages = [{"role": "system", "content": self.instructions}] if self.instructions else []
        messages += [_message(item, f"input {number}") for number, item in enumerate(given, 1)]
        names = (
            "model",
            "temperature",
            "top_p",
            "stream",
            "seed",
            "stop",
            "structured_outputs",
            "lora_scale",
        )
        wish = {name: value for name in names if (value := getattr(self, name)) is not None}
        try:
            return ChatRequest.model_validate(
                {
                    **wish,
                    **self.drawing,
                    "messages": messages,
                    "max_completion_tokens": self.max_output_tokens,
                    "response_format": _format(self.text or {}),
                    "tools": [_tool(tool) for tool in self.tools] if self.tools else None,
                    "tool_choice": _choice(self.tool_choice),
                }
            )
        except ValidationError as error:
            raise FieldRefused(first_error(error.errors())) from None


def _message(item: dict[str, Any], where: str) -> dict[str, Any]:
    """One item of the input as a chat message."""
    match item.get("type", "message"):
        case "message":
            content = item.get("content")
            parts = [_part(part, where) for part in content] if isinstance(content, list) else content
            if item.get("role") == "assistant" and isinstance(parts, list):
                parts = "".join(str(part.get("text", "")) for part in parts)
            return {"role": item.get("role"), "content": parts}
        case "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        case "function_call_output":
            output = item.get("output")
            content = [_part(part, where) for part in output] if isinstance(output, list) else output
            return {"role": "tool", "tool_call_id": item.get("call_id"), "content": content}
        case kind:
            raise FieldRefused(f"{where} has the type {str(kind)[:40]!r}: messages and calls are read")


def _part(part: Any, where: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": part.get("text")}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": part.get("input_audio")}
    if kind == "input_image":
        return {"type": "image_url", "image_url": {"url": part.get("image_url")}}
    raise FieldRefused(f"{where} has a part of the type {str(kind)[:40]!r}: text, audio and images are read")


def _format(text: dict[str, Any]) -> dict[str, Any] | None:
    """``text.format`` as a chat's response_format."""
    for name in text:
        if name != "format" and (name, text[name]) not in (("verbosity", "medium"), ("verbosity", None)):
            raise FieldRefused(f"text.{name[:40]} is not supported: ask for a length in words")
    given = text.get("format")
    if isinstance(given, dict) and given.get("type") == "json_schema":
        inner = {name: given[name] for name in given if name != "type"}
        return {"type": "json_schema", "json_schema": inner}
    return given


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise FieldRefused(
            f"tools of the type {str(tool.get('type'))[:40]!r} are not supported: functions are"
        )
    return {"type": "function", "function": {name: tool[name] for name in tool if name != "type"}}


def _choice(choice: str | dict[str, Any] | None) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


async def respond(async_engine: AsyncEngine, request: Request, asked: ResponsesRequest) -> Response:
    """Respond to one request."""
    async_engine.check_model(asked.model)
    reply = await cancel_on_disconnect(request, chat.start(async_engine, asked.as_chat()))
    output = Output(reply.use)
    if not asked.stream:
        await cancel_on_disconnect(request, _read(reply, output))
        return JSONResponse(response_json(asked.model_dump(), reply, output))
    pieces = chat.merge(reply.answers)
    first = await cancel_on_disconnect(request, anext(pieces, None))
    return StreamingResponse(
        _events(asked, reply, output, first, pieces), media_type="text/event-stream", headers=STREAM_HEADERS
    )


async def _read(reply: Reply, output: Output) -> None:
    async for _, piece in chat.merge(reply.answers):
        output.add(piece.text)
    end = reply.answers[0].end
    assert end is not None
    output.end(end.reason)


async def _events(
    asked: ResponsesRequest, reply: Reply, output: Output, first: Any, pieces: AsyncIterator[Any]
) -> AsyncIterator[str]:
    """The response as OpenAI's events, numbered."""
    number, given = 0, asked.model_dump()

    def event(kind: str, **fields: Any) -> str:
        nonlocal number
        body = {"type": f"response.{kind}", "sequence_number": number, **fields}
        number += 1
        return f"event: response.{kind}\ndata: {json.dumps(body, ensure_ascii=False)}\n\n"

    try:
        for kind in ("created", "in_progress"):
            yield event(kind, response=response_json(given, reply, output))
        if first is not None:
            for kind, fields in output.add(first[1].text):
                yield event(kind, **fields)
        async for _, piece in pieces:
            for kind, fields in output.add(piece.text):
                yield event(kind, **fields)
    except Exception as error:  # the status was sent already, so the stream carries the error
        fault = error_body(error_status(error), error_message(error))["error"]
        failed = {**response_json(given, reply, output), "status": "failed"}
        failed["error"] = {"code": "server_error", "message": fault["message"]}
        yield event("failed", response=failed)
        return
    end = reply.answers[0].end
    assert end is not None
    for kind, fields in output.end(end.reason):
        yield event(kind, **fields)
    done: Literal["completed", "incomplete"] = "completed" if output.complete else "incomplete"
    yield event(done, response=response_json(given, reply, output))
