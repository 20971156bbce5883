"""``/v1/chat/completions``: complete and streamed responses."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from lalm.data.audio_inputs import Clip
from lalm.data.sample import Sample
from lalm.inference.engine import Options
from lalm.serve.async_engine import (
    AnswerStream,
    AsyncEngine,
    SamplingParams,
    cancel_on_disconnect,
    new_id,
    seed_for,
)
from lalm.serve.error_responses import error_body, error_message, error_status
from lalm.serve.jobs import Piece, TokenLogprob
from lalm.serve.logprobs import chat_logprobs
from lalm.serve.prompts import text_length
from lalm.serve.protocol import ChatRequest
from lalm.serve.tools import ToolAnswer, ToolUse, with_tools
from lalm.serve.url_fetch import fetch_audio_urls, public_client

STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@dataclass(frozen=True)
class Reply:
    """A request with its answers, of which it may ask for several."""

    async_engine: AsyncEngine
    chat: ChatRequest
    use: ToolUse | None
    clips: list[Clip]
    answers: list[AnswerStream]
    id: str
    created: int

    def head(self, kind: str) -> dict[str, Any]:
        """The fields that every JSON object of this reply begins with."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.async_engine.engine.name,
        }

    def usage(self) -> dict[str, Any]:
        """Token counts of the prompt and of the answers."""
        ends = [answer.end for answer in self.answers if answer.end is not None]
        read, said = ends[0].prompt_tokens, sum(end.new_tokens for end in ends)
        return {
            "prompt_tokens": read,
            "completion_tokens": said,
            "total_tokens": read + said,
            "prompt_tokens_details": {
                "audio_tokens": ends[0].audio_tokens,
                "cached_tokens": ends[0].cached_tokens,
            },
        }

    def extra_fields(self) -> dict[str, Any]:
        """Fields in addition to OpenAI's format."""
        first = max(answer.first_text_s for answer in self.answers)
        return {"heard": self.async_engine.audio_heard(self.clips), "first_text_s": round(first, 3)}


async def complete(async_engine: AsyncEngine, request: Request, chat: ChatRequest) -> Response:
    """Respond to one request."""
    async_engine.check_model(chat.model)
    reply = await cancel_on_disconnect(request, start(async_engine, chat))
    if not chat.stream:
        return JSONResponse(await cancel_on_disconnect(request, _complete_json(reply)))
    pieces = merge(reply.answers)
    # errors found before the first token become an HTTP status
    first = await cancel_on_disconnect(request, anext(pieces, None))
    return StreamingResponse(
        _events(reply, first, pieces), media_type="text/event-stream", headers=STREAM_HEADERS
    )


async def sample_of(async_engine: AsyncEngine, messages: list[dict[str, Any]]) -> tuple[Sample, list[Clip]]:
    """OpenAI chat messages as a sample, its audio decoded."""
    async_engine.check_text(text_length(messages))
    if async_engine.settings.fetch:
        async with public_client() as client:
            messages = await fetch_audio_urls(messages, async_engine.settings.body_bytes, client)
    # Clients send earlier answers back with all their fields, some of them null.
    bare = [{k: v for k, v in message.items() if v is not None} for message in messages]
    sample = await async_engine.in_thread(Sample.from_openai, bare)
    clips = await async_engine.load_clips(sample.audios)
    return sample, await async_engine.in_thread(async_engine.engine.with_transcripts, clips)


async def start(async_engine: AsyncEngine, chat: ChatRequest) -> Reply:
    """Queue the answers to a request. Raises ValueError for a faulty one, Busy when the queue is full."""
    use, guide = chat.tool_use, chat.guide()
    if use is not None and guide is not None:
        raise ValueError("an answer calls a function or keeps to a format: ask for tools or for the format")
    guide = use.guide() if use is not None else guide
    sample, clips = await sample_of(async_engine, with_tools(chat.messages, use))
    if sample.messages[-1]["role"] != "user":
        raise ValueError("the last message must be the user's")
    top = chat.top_logprobs or 0 if chat.logprobs else None
    requested = []
    for number in range(chat.n or 1):
        options = Options(
            chat.new_tokens,
            temperature=chat.temperature or 0.0,
            top_p=chat.top_p or 1.0,
            seed=seed_for(chat.seed, number),
            lora_scale=chat.lora_scale,
            stop=chat.stops,
            **chat.drawing,
        )
        requested.append(SamplingParams(options, top, grammar=await async_engine.grammar(guide)))
    answers = await async_engine.ask(sample, clips, requested)
    return Reply(async_engine, chat, use, clips, answers, new_id("chatcmpl-"), int(time.time()))


async def _complete_json(reply: Reply) -> dict[str, Any]:
    try:
        found = await asyncio.gather(*[answer.collect() for answer in reply.answers])
    finally:
        _cancel_unfinished(reply.answers)
    choices = []
    for number, (answer, pieces) in enumerate(zip(reply.answers, found, strict=True)):
        assert answer.end is not None
        written = ToolAnswer(reply.use)
        for piece in pieces:
            written.add(piece.text)
        _, reason = written.end(answer.end.reason)
        scores = [score for piece in pieces for score in piece.scores]
        choices.append(
            {
                "index": number,
                "message": written.message(),
                "logprobs": _logprobs(reply, scores),
                "finish_reason": reason,
            }
        )
    return {
        **reply.head("chat.completion"),
        "choices": choices,
        "usage": reply.usage(),
        "lalm": reply.extra_fields(),
    }


async def merge(answers: Sequence[AnswerStream]) -> AsyncIterator[tuple[int, Piece]]:
    """Pieces of several answers in order of arrival, each with the number of its answer."""
    coming: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue()

    async def read(number: int, answer: AnswerStream) -> None:
        try:
            async for piece in answer:
                coming.put_nowait((number, piece))
            coming.put_nowait((number, None))
        except Exception as error:  # raised again by the reader of the queue
            coming.put_nowait((number, error))

    readers = [asyncio.ensure_future(read(i, answer)) for i, answer in enumerate(answers)]
    try:
        left = len(answers)
        while left:
            number, piece = await coming.get()
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                left -= 1
                continue
            yield number, piece
    finally:
        _cancel_unfinished(answers)
        for reader in readers:
            reader.cancel()


def _cancel_unfinished(answers: Sequence[AnswerStream]) -> None:
    for answer in answers:
        answer.job.cancelled = answer.end is None


async def _events(
    reply: Reply, first: tuple[int, Piece] | None, pieces: AsyncIterator[tuple[int, Piece]]
) -> AsyncIterator[str]:
    """The answers as server-sent events."""
    head = reply.head("chat.completion.chunk")
    options = reply.chat.stream_options
    with_usage = options is not None and bool(options.include_usage)
    usage_later = {"usage": None} if with_usage else {}

    def chunk(number: int, delta: dict[str, Any], lalm: Any = None, **more: Any) -> str:
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": None, **more}
        ours = {"lalm": lalm} if lalm is not None else {}
        return _event({**head, "choices": [choice], **usage_later, **ours})

    written = [ToolAnswer(reply.use) for _ in reply.answers]

    def said(number: int, piece: Piece) -> str:
        scores = _logprobs(reply, piece.scores) if piece.scores else None
        deltas = list(written[number].add(piece.text)) or ([{"content": ""}] if scores else [])
        told = [scores, *[None] * len(deltas)]  # once, whatever the text became
        return "".join(chunk(number, delta, logprobs=own) for delta, own in zip(deltas, told, strict=False))

    try:
        for number in range(len(reply.answers)):
            yield chunk(number, {"role": "assistant", "content": ""})
        if first is not None:
            yield said(*first)
        async for number, piece in pieces:
            yield said(number, piece)
    except Exception as error:  # the status was sent already, so the stream carries the error
        yield _event(error_body(error_status(error), error_message(error)))
        return
    finally:
        _cancel_unfinished(reply.answers)
    for number, answer in enumerate(reply.answers):
        assert answer.end is not None
        deltas, reason = written[number].end(answer.end.reason)
        for delta in deltas:
            yield chunk(number, delta)
        last = number == len(reply.answers) - 1
        yield chunk(number, {}, finish_reason=reason, lalm=reply.extra_fields() if last else None)
    if with_usage:
        yield _event({**head, "choices": [], "usage": reply.usage()})
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _logprobs(reply: Reply, scores: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    if not reply.chat.logprobs:
        return None
    return chat_logprobs(reply.async_engine.engine.processor.tokenizer, scores)
