"""``/v1/chat/completions``: whole answers and streams."""

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
from lalm.serve.async_engine import Answer, Desk, Wish, drawn_seed, new_id, unless_gone
from lalm.serve.error_responses import body_of, sentence_of, status_of
from lalm.serve.jobs import Piece, Score
from lalm.serve.protocol import ChatRequest
from lalm.serve.url_fetch import public_client, with_fetched

STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@dataclass(frozen=True)
class Reply:
    """What all answers to one request share."""

    desk: Desk
    asked: ChatRequest
    clips: list[Clip]
    answers: list[Answer]
    id: str
    created: int

    def head(self, kind: str) -> dict[str, Any]:
        """The fields every object of this reply begins with."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.desk.engine.name}

    def usage(self) -> dict[str, Any]:
        """Tokens read and written."""
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

    def additions(self) -> dict[str, Any]:
        """What OpenAI's form has no place for."""
        first = max(answer.first_text_s for answer in self.answers)
        return {"heard": self.desk.heard(self.clips), "first_text_s": round(first, 3)}


async def complete(desk: Desk, request: Request, asked: ChatRequest) -> Response:
    """The answer to one request."""
    desk.check_model(asked.model)
    reply = await unless_gone(request, _asked(desk, asked))
    if not asked.stream:
        return JSONResponse(await unless_gone(request, _whole(reply)))
    pieces = _merged(reply.answers)
    first = await unless_gone(request, anext(pieces, None))  # what is refused is refused before the stream
    return StreamingResponse(
        _events(reply, first, pieces), media_type="text/event-stream", headers=STREAM_HEADERS
    )


async def sample_of(desk: Desk, messages: list[dict[str, Any]]) -> tuple[Sample, list[Clip]]:
    """OpenAI chat messages as a sample, its audio decoded."""
    if desk.settings.fetch:
        async with public_client() as client:
            messages = await with_fetched(messages, desk.settings.body_bytes, client)
    # Clients send answers back as they came, with fields of theirs that are null.
    bare = [{k: v for k, v in message.items() if v is not None} for message in messages]
    sample = Sample.from_openai(bare)
    return sample, await desk.clips([part["audio"] for part in sample.audios])


async def _asked(desk: Desk, asked: ChatRequest) -> Reply:
    sample, clips = await sample_of(desk, asked.messages)
    if sample.messages[-1]["role"] != "user":
        raise ValueError("the last message must be the user's")
    top = asked.top_logprobs or 0 if asked.logprobs else None
    wishes = []
    for number in range(asked.n or 1):
        options = Options(
            asked.new_tokens,
            temperature=asked.temperature or 0.0,
            top_p=asked.top_p or 1.0,
            seed=drawn_seed(asked.seed, number),
            lora_scale=asked.lora_scale,
        )
        schema = asked.response_format.schema_wanted if asked.response_format is not None else None
        wishes.append(Wish(options, asked.stops, top, shape=await desk.shape(schema)))
    answers = desk.ask(sample, clips, wishes)
    return Reply(desk, asked, clips, answers, new_id("chatcmpl-"), int(time.time()))


async def _whole(reply: Reply) -> dict[str, Any]:
    try:
        found = await asyncio.gather(*[answer.whole() for answer in reply.answers])
    finally:
        _let_go(reply.answers)
    choices = []
    for number, (answer, pieces) in enumerate(zip(reply.answers, found, strict=True)):
        assert answer.end is not None
        text = "".join(piece.text for piece in pieces)
        scores = [score for piece in pieces for score in piece.scores]
        choices.append(
            {
                "index": number,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": _logprobs(reply, scores),
                "finish_reason": answer.end.reason,
            }
        )
    return {
        **reply.head("chat.completion"),
        "choices": choices,
        "usage": reply.usage(),
        "lalm": reply.additions(),
    }


async def _merged(answers: Sequence[Answer]) -> AsyncIterator[tuple[int, Piece]]:
    """Pieces of several answers, with whose they are, as they come."""
    coming: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue()

    async def read(number: int, answer: Answer) -> None:
        try:
            async for piece in answer:
                coming.put_nowait((number, piece))
            coming.put_nowait((number, None))
        except Exception as error:  # raised where the pieces are read
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
        _let_go(answers)
        for reader in readers:
            reader.cancel()


def _let_go(answers: Sequence[Answer]) -> None:
    for answer in answers:
        answer.job.cancelled = answer.end is None


async def _events(
    reply: Reply, first: tuple[int, Piece] | None, pieces: AsyncIterator[tuple[int, Piece]]
) -> AsyncIterator[str]:
    """Server-sent events."""
    head = reply.head("chat.completion.chunk")

    def chunk(number: int, delta: dict[str, Any], **more: Any) -> str:
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": None, **more}
        return _event({**head, "choices": [choice]})

    def said(number: int, piece: Piece) -> str:
        return chunk(number, {"content": piece.text}, logprobs=_logprobs(reply, piece.scores))

    try:
        for number in range(len(reply.answers)):
            yield chunk(number, {"role": "assistant", "content": ""})
        if first is not None:
            yield said(*first)
        async for number, piece in pieces:
            yield said(number, piece)
    except Exception as error:  # the status is sent already: tell in the stream
        yield _event(body_of(status_of(error), sentence_of(error)))
        return
    finally:
        _let_go(reply.answers)
    for number, answer in enumerate(reply.answers):
        assert answer.end is not None
        yield chunk(number, {}, finish_reason=answer.end.reason)
    options = reply.asked.stream_options
    usage = {"usage": reply.usage()} if options is not None and options.include_usage else {}
    yield _event({**head, "choices": [], **usage, "lalm": reply.additions()})
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _logprobs(reply: Reply, scores: Sequence[Score]) -> dict[str, Any] | None:
    if not reply.asked.logprobs:
        return None
    tokenizer = reply.desk.engine.processor.tokenizer

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = str(tokenizer.decode([token]))
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}

    content = [
        {**entry(score.token, score.logprob), "top_logprobs": [entry(*pair) for pair in score.top]}
        for score in scores
    ]
    return {"content": content, "refusal": None}
