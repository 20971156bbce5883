"""What ``/v1/responses`` says of one answer: the output item, the events of the stream, the response."""

from typing import Any, TypeAlias

from lalm.serve.async_engine import new_id
from lalm.serve.chat_completions import Reply
from lalm.serve.tools import ToolAnswer, ToolUse

Events: TypeAlias = list[tuple[str, dict[str, Any]]]


class Output:
    """The one output item of a response, a message or a function call, as it is written."""

    def __init__(self, use: ToolUse | None) -> None:
        self.id = new_id("resp_")
        self.written = ToolAnswer(use)
        self.item: dict[str, Any] | None = None
        self.status = "in_progress"

    @property
    def complete(self) -> bool:
        """Whether the answer ended by itself."""
        return self.status == "completed"

    def add(self, piece: str) -> Events:
        """The events of a piece of text."""
        return [event for delta in self.written.add(piece) for event in self._delta(delta)]

    def end(self, reason: str) -> Events:
        """The events at the end of the answer."""
        deltas, _ = self.written.end(reason)
        events = [event for delta in deltas for event in self._delta(delta)]
        self.status = "incomplete" if reason == "length" else "completed"
        if self.item is None:  # an answer without a word
            events += self._delta({"content": ""})
        assert self.item is not None
        self.item["status"] = self.status
        place = {"item_id": self.item["id"], "output_index": 0}
        if self.item["type"] == "function_call":
            arguments = {"arguments": self.item["arguments"], "name": self.item["name"]}
            events.append(("function_call_arguments.done", {**place, **arguments}))
        else:
            [part] = self.item["content"]
            at = {**place, "content_index": 0}
            events.append(("output_text.done", {**at, "text": part["text"], "logprobs": []}))
            events.append(("content_part.done", {**at, "part": dict(part)}))
        events.append(("output_item.done", {"output_index": 0, "item": self.item}))
        return events

    def _delta(self, delta: dict[str, Any]) -> Events:
        """The events of a chat's delta."""
        events: Events = []
        if "tool_calls" in delta:
            [call] = delta["tool_calls"]
            if self.item is None:
                self.item = _call(call)
                events.append(("output_item.added", {"output_index": 0, "item": dict(self.item)}))
            arguments = call["function"].get("arguments") or ""
            if arguments:
                self.item["arguments"] += arguments
                place = {"item_id": self.item["id"], "output_index": 0}
                events.append(("function_call_arguments.delta", {**place, "delta": arguments}))
            return events
        if self.item is None:
            self.item = _message()
            events.append(("output_item.added", {"output_index": 0, "item": {**self.item, "content": []}}))
            at = {"item_id": self.item["id"], "output_index": 0, "content_index": 0}
            events.append(("content_part.added", {**at, "part": dict(self.item["content"][0])}))
        if delta["content"]:
            self.item["content"][0]["text"] += delta["content"]
            at = {"item_id": self.item["id"], "output_index": 0, "content_index": 0}
            events.append(("output_text.delta", {**at, "delta": delta["content"], "logprobs": []}))
        return events


def _message() -> dict[str, Any]:
    content = [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]
    head = {"id": new_id("msg_"), "type": "message", "role": "assistant", "status": "in_progress"}
    return {**head, "content": content}


def _call(call: dict[str, Any]) -> dict[str, Any]:
    head = {"id": new_id("fc_"), "type": "function_call", "status": "in_progress"}
    return {**head, "call_id": call["id"], "name": call["function"]["name"], "arguments": ""}


def response_json(asked: dict[str, Any], reply: Reply, output: Output) -> dict[str, Any]:
    """The response in OpenAI's format; ``asked`` are the fields of the request."""
    ended = reply.answers[0].end is not None and output.status != "in_progress"
    cut = {"reason": "max_output_tokens"} if output.status == "incomplete" else None
    return {
        "id": output.id,
        "object": "response",
        "created_at": reply.created,
        "status": output.status,
        "error": None,
        "incomplete_details": cut,
        "instructions": asked["instructions"],
        "max_output_tokens": asked["max_output_tokens"],
        "model": reply.async_engine.engine.name,
        "output": [output.item] if ended else [],
        "parallel_tool_calls": False,
        "previous_response_id": None,
        "store": False,
        "temperature": asked["temperature"] or 0.0,
        "text": asked["text"] or {"format": {"type": "text"}},
        "tool_choice": asked["tool_choice"] or "auto",
        "tools": asked["tools"] or [],
        "top_p": asked["top_p"] or 1.0,
        "truncation": "disabled",
        "metadata": {},
        "usage": _usage(reply) if ended else None,
        **({"lalm": reply.extra_fields()} if ended else {}),
    }


def _usage(reply: Reply) -> dict[str, Any]:
    counts = reply.usage()
    return {
        "input_tokens": counts["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": counts["prompt_tokens_details"]["cached_tokens"]},
        "output_tokens": counts["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counts["total_tokens"],
    }
