"""One response of a realtime session, sent as OpenAI's events."""

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias

from lalm.inference.engine import Options
from lalm.serve.async_engine import (
    AnswerStream,
    AsyncEngine,
    ClientDisconnected,
    SamplingParams,
    new_id,
    seed_for,
)
from lalm.serve.error_responses import error_body, error_message, error_status
from lalm.serve.realtime_conversation import Item, RealtimeConversation
from lalm.serve.session_options import SessionOptions

Send: TypeAlias = Callable[..., Awaitable[None]]
Reason: TypeAlias = Literal["turn_detected", "client_cancelled"]


class RealtimeResponse:
    """The model's next message in ``conversation``: ``run`` it once; ``cancel`` keeps the text so far."""

    def __init__(
        self,
        async_engine: AsyncEngine,
        conversation: RealtimeConversation,
        options: SessionOptions,
        send: Send,
        metadata: Any,
    ) -> None:
        self.id = new_id("resp_")
        self.async_engine = async_engine
        self.conversation = conversation
        self.options = options
        self.send = send
        self.metadata = metadata
        self.item = Item("assistant", [""], "in_progress")
        self.status = "in_progress"
        self.details: dict[str, Any] | None = None
        self.answer: AnswerStream | None = None
        self._reason: Reason | None = None

    async def submit(self) -> None:
        """Queue the answer. Raises ValueError if there is nothing to answer, Busy if the queue is full."""
        sample, clips = self.conversation.prompt(self.options.instructions)
        max_tokens = self.options.max_output_tokens
        options = Options(
            self.async_engine.settings.max_new_tokens if max_tokens == "inf" else max_tokens,
            temperature=self.options.temperature,
            top_p=self.options.top_p,
            seed=seed_for(self.options.seed, 0),
            lora_scale=self.options.lora_scale,
        )
        [self.answer] = await self.async_engine.ask(
            sample, clips, [SamplingParams(options, prefix_cache=self.conversation.prefix_cache)]
        )
        self.conversation.items.append(self.item)

    def cancel(self, reason: Reason) -> None:
        """Stop generating, for this reason."""
        if self.answer is not None and self._reason is None:
            self._reason = reason
            self.answer.cancel()

    async def run(self) -> None:
        """Send the answer's events, also if it fails or is cancelled; the caller sends ``response.done``."""
        assert self.answer is not None
        before = self.conversation.before(self.item)
        await self.send("response.created", response=self.to_json())
        shown = {**self.item.to_json(), "content": []}
        await self._send_event("output_item.added", output_index=0, item=shown)
        for kind in ("added", "created"):
            await self.send(f"conversation.item.{kind}", previous_item_id=before, item=shown)
        await self._send_event("content_part.added", **self._location(), part={"type": "text", "text": ""})
        text = ""
        try:
            async for piece in self.answer:
                text += piece.text
                self.item.parts = [text]
                await self._send_event("output_text.delta", **self._location(), delta=piece.text)
            assert self.answer.end is not None
            self._finish("completed" if self.answer.end.reason == "stop" else "incomplete")
        except ClientDisconnected:
            self._finish("cancelled")
        except Exception as error:
            fault = error_body(error_status(error), error_message(error))["error"]
            self._finish("failed", error={k: fault[k] for k in ("message", "type", "code")})
        await self._send_event("output_text.done", **self._location(), text=text)
        await self._send_event("content_part.done", **self._location(), part={"type": "text", "text": text})
        await self._send_event("output_item.done", output_index=0, item=self.item.to_json())
        await self.send("conversation.item.done", previous_item_id=before, item=self.item.to_json())

    def _finish(self, status: str, **details: Any) -> None:
        reasons = {"incomplete": "max_output_tokens", "cancelled": self._reason}
        if status in reasons:
            details["reason"] = reasons[status]
        self.status = status
        self.details = {"type": status, **details} if status != "completed" else None
        self.item.status = "completed" if status == "completed" else "incomplete"

    def _location(self) -> dict[str, Any]:
        return {"item_id": self.item.id, "output_index": 0, "content_index": 0}

    async def _send_event(self, kind: str, **fields: Any) -> None:
        await self.send(f"response.{kind}", response_id=self.id, **fields)

    def to_json(self) -> dict[str, Any]:
        """The response in OpenAI's format."""
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": self.status,
            "status_details": self.details,
            "output": [] if self.status == "in_progress" else [self.item.to_json()],
            "output_modalities": ["text"],
            "max_output_tokens": self.options.max_output_tokens,
            "metadata": self.metadata,
            "usage": self._usage(),
        }

    def _usage(self) -> dict[str, Any] | None:
        end = self.answer.end if self.answer is not None else None
        if end is None:
            return None
        read = {
            "text_tokens": end.prompt_tokens - end.audio_tokens,
            "audio_tokens": end.audio_tokens,
            "cached_tokens": end.cached_tokens,
        }
        return {
            "input_tokens": end.prompt_tokens,
            "output_tokens": end.new_tokens,
            "total_tokens": end.prompt_tokens + end.new_tokens,
            "input_token_details": read,
            "output_token_details": {"text_tokens": end.new_tokens, "audio_tokens": 0},
        }
