"""One answer of a realtime session as OpenAI's events."""

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias

from lalm.inference.engine import Options
from lalm.serve.async_engine import Answer, Desk, Gone, Wish, drawn_seed, new_id
from lalm.serve.error_responses import body_of, sentence_of, status_of
from lalm.serve.realtime_conversation import Item, Talk
from lalm.serve.session_options import SessionOptions

Send: TypeAlias = Callable[..., Awaitable[None]]
Reason: TypeAlias = Literal["turn_detected", "client_cancelled"]


class Response:
    """The model's next message in ``talk``: ``run`` it once; ``cancel`` keeps what was said so far."""

    def __init__(self, desk: Desk, talk: Talk, options: SessionOptions, send: Send, metadata: Any) -> None:
        self.id = new_id("resp_")
        self.desk = desk
        self.talk = talk
        self.options = options
        self.send = send
        self.metadata = metadata
        self.item = Item("assistant", [""], "in_progress")
        self.status = "in_progress"
        self.details: dict[str, Any] | None = None
        self.answer: Answer | None = None
        self._reason: Reason | None = None

    def ask(self) -> None:
        """Queue the answer. Raises ValueError where there is nothing to answer, Busy without a place."""
        sample, clips = self.talk.prompt(self.options.instructions)
        longest = self.options.max_output_tokens
        options = Options(
            self.desk.settings.max_new_tokens if longest == "inf" else longest,
            temperature=self.options.temperature,
            top_p=self.options.top_p,
            seed=drawn_seed(self.options.seed, 0),
            lora_scale=self.options.lora_scale,
        )
        [self.answer] = self.desk.ask(sample, clips, [Wish(options, memory=self.talk.memory)])
        self.talk.items.append(self.item)

    def cancel(self, reason: Reason) -> None:
        """Say no more."""
        if self.answer is not None and self._reason is None:
            self._reason = reason
            self.answer.stop()

    async def run(self) -> None:
        """Send every event of the answer but the last, ``response.done``, whatever becomes of it."""
        assert self.answer is not None
        before = self.talk.before(self.item)
        await self.send("response.created", response=self.to_json())
        shown = {**self.item.to_json(), "content": []}
        await self._tell("output_item.added", output_index=0, item=shown)
        for kind in ("added", "created"):
            await self.send(f"conversation.item.{kind}", previous_item_id=before, item=shown)
        await self._tell("content_part.added", **self._place(), part={"type": "text", "text": ""})
        said = ""
        try:
            async for piece in self.answer:
                said += piece.text
                self.item.parts = [said]
                await self._tell("output_text.delta", **self._place(), delta=piece.text)
            assert self.answer.end is not None
            self._ended("completed" if self.answer.end.reason == "stop" else "incomplete")
        except Gone:
            self._ended("cancelled")
        except Exception as error:
            fault = body_of(status_of(error), sentence_of(error))["error"]
            self._ended("failed", error={k: fault[k] for k in ("message", "type", "code")})
        await self._tell("output_text.done", **self._place(), text=said)
        await self._tell("content_part.done", **self._place(), part={"type": "text", "text": said})
        await self._tell("output_item.done", output_index=0, item=self.item.to_json())
        await self.send("conversation.item.done", previous_item_id=before, item=self.item.to_json())

    def _ended(self, status: str, **details: Any) -> None:
        reasons = {"incomplete": "max_output_tokens", "cancelled": self._reason}
        if status in reasons:
            details["reason"] = reasons[status]
        self.status = status
        self.details = {"type": status, **details} if status != "completed" else None
        self.item.status = "completed" if status == "completed" else "incomplete"

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.item.id, "output_index": 0, "content_index": 0}

    async def _tell(self, kind: str, **fields: Any) -> None:
        await self.send(f"response.{kind}", response_id=self.id, **fields)

    def to_json(self) -> dict[str, Any]:
        """OpenAI's form of a response."""
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
