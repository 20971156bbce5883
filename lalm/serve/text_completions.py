"""``/v1/completions``, ``/tokenize`` and ``/detokenize``: the LLM without a conversation around it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import torch
from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lalm.data.sample import Sample
from lalm.inference.engine import Engine, Options
from lalm.serve import chat_completions as chat
from lalm.serve.async_engine import (
    AnswerStream,
    AsyncEngine,
    SamplingParams,
    cancel_on_disconnect,
    new_id,
    seed_for,
)
from lalm.serve.chat_completions import STREAM_HEADERS
from lalm.serve.error_responses import error_body, error_message, error_status
from lalm.serve.guidance import Guided
from lalm.serve.prompts import Prompt
from lalm.serve.protocol import Checked, Drawing, StopTexts, StreamOptions

PATH = "/v1/completions"
PROMPTS = 16


class CompletionRequest(Guided, StopTexts, Drawing, Checked):
    """A request to ``/v1/completions``: one prompt or several, each text or token ids."""

    path: ClassVar = PATH

    prompt: str | list[str] | list[int] | list[list[int]]
    model: str | None = None
    max_tokens: int | None = Field(16, ge=1)
    n: int | None = Field(1, ge=1, le=8)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    lora_scale: float | None = Field(None, ge=0, le=100)

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt. Raises ValueError for none, and for too many."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        if not 0 < len(self.prompt) <= PROMPTS:
            raise ValueError(f"there may be 1 to {PROMPTS} prompts, not {len(self.prompt)}")
        return [*self.prompt]


class TokenizeRequest(BaseModel):
    """A request to ``/tokenize``: a prompt as it is, or a conversation in the model's format."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool | None = False

    @model_validator(mode="after")
    def _one_of_them(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give a prompt, or messages")
        return self


class DetokenizeRequest(BaseModel):
    """A request to ``/detokenize``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tokens: list[int] = Field(max_length=200_000)
    model: str | None = None


def ids_of(engine: Engine, prompt: str | list[int], *, special: bool = True) -> list[int]:
    """Token ids of a text, behind what the tokenizer begins every text with; ids are checked."""
    tokenizer: Any = engine.processor.tokenizer
    if isinstance(prompt, list):
        size = int(engine.model.config.text_config.vocab_size)
        if odd := [id for id in prompt if not 0 <= id < size or id == engine.processor.audio_token_id]:
            raise ValueError(f"{odd[0]} is no token of a text: tokens are numbers from 0 to {size - 1}")
        return prompt
    begin = list(tokenizer("")["input_ids"]) if special else []
    return [id for id in begin if id != tokenizer.eos_token_id] + engine.processor.markers.plain_ids(prompt)


def _prompt(engine: Engine, given: str | list[int], options: Options) -> Prompt:
    ids = ids_of(engine, given)
    if not ids:
        raise ValueError("the prompt is empty")
    engine.check_length([], len(ids), options)
    return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}


async def complete_text(async_engine: AsyncEngine, request: Request, asked: CompletionRequest) -> Response:
    """Respond to one request to ``/v1/completions``."""
    async_engine.check_model(asked.model)
    answers = await cancel_on_disconnect(request, _start(async_engine, asked))
    head = {"id": new_id("cmpl-"), "object": "text_completion", "created": int(time.time())}
    head["model"] = async_engine.engine.name
    if asked.stream:
        pieces = chat.merge(answers)
        first = await cancel_on_disconnect(request, anext(pieces, None))
        events = _events(asked, head, answers, first, pieces)
        return StreamingResponse(events, media_type="text/event-stream", headers=STREAM_HEADERS)
    try:
        found = await cancel_on_disconnect(request, _all(answers))
    finally:
        for answer in answers:
            answer.job.cancelled = answer.end is None
    choices = [_choice(n, text, answers[n]) for n, text in enumerate(found)]
    return JSONResponse({**head, "choices": choices, "usage": _usage(asked, answers)})


async def _all(answers: list[AnswerStream]) -> list[str]:
    found = await asyncio.gather(*[answer.collect() for answer in answers])
    return ["".join(piece.text for piece in pieces) for pieces in found]


async def _start(async_engine: AsyncEngine, asked: CompletionRequest) -> list[AnswerStream]:
    """The answers to all prompts, n to each; all are queued, or none."""
    prompts, guide = asked.prompts, asked.guide()
    async_engine.check_text(sum(len(prompt) for prompt in prompts))
    answers: list[AnswerStream] = []
    try:
        for prompt in prompts:
            requested = [
                SamplingParams(
                    Options(
                        asked.max_tokens or 16,
                        temperature=asked.temperature or 0.0,
                        top_p=asked.top_p or 1.0,
                        seed=seed_for(asked.seed, number),
                        lora_scale=asked.lora_scale,
                        stop=asked.stops,
                        **asked.drawing,
                    ),
                    grammar=await async_engine.grammar(guide),
                )
                for number in range(asked.n or 1)
            ]
            made = await async_engine.in_thread(_prompt, async_engine.engine, prompt, requested[0].options)
            asking = Sample(({"role": "user", "content": "" if isinstance(prompt, list) else prompt},))
            answers += async_engine.queue(asking, [], made, requested)
    except BaseException:
        for answer in answers:
            answer.job.cancelled = True
        raise
    return answers


def _choice(number: int, text: str, answer: AnswerStream | None = None) -> dict[str, Any]:
    end = answer.end if answer is not None else None
    return {"index": number, "text": text, "logprobs": None, "finish_reason": end.reason if end else None}


def _usage(asked: CompletionRequest, answers: list[AnswerStream]) -> dict[str, int]:
    ends = [answer.end for answer in answers if answer.end is not None]
    read = sum(end.prompt_tokens for end in ends[:: asked.n or 1])
    said = sum(end.new_tokens for end in ends)
    return {"prompt_tokens": read, "completion_tokens": said, "total_tokens": read + said}


async def _events(
    asked: CompletionRequest,
    head: dict[str, Any],
    answers: list[AnswerStream],
    first: Any,
    pieces: AsyncIterator[Any],
) -> AsyncIterator[str]:
    def event(**body: Any) -> str:
        return f"data: {json.dumps({**head, **body}, ensure_ascii=False)}\n\n"

    try:
        if first is not None:
            yield event(choices=[_choice(first[0], first[1].text)])
        async for number, piece in pieces:
            yield event(choices=[_choice(number, piece.text)])
    except Exception as error:  # the status was sent already, so the stream carries the error
        yield f"data: {json.dumps(error_body(error_status(error), error_message(error)))}\n\n"
        return
    for number, answer in enumerate(answers):
        yield event(choices=[_choice(number, "", answer)])
    if asked.stream_options is not None and asked.stream_options.include_usage:
        yield event(choices=[], usage=_usage(asked, answers))
    yield "data: [DONE]\n\n"


async def tokenize(async_engine: AsyncEngine, asked: TokenizeRequest) -> dict[str, Any]:
    """The tokens of a prompt, or of a conversation with its recordings, as the model reads them."""
    async_engine.check_model(asked.model)
    engine = async_engine.engine
    if asked.messages is not None:
        sample, clips = await chat.sample_of(async_engine, asked.messages)
        batch = await async_engine.in_thread(lambda: engine.processor.batch([sample], audios=[clips]))
        ids = batch["input_ids"][0].tolist()
    else:
        text = asked.prompt or ""
        async_engine.check_text(len(text))
        ids = await async_engine.in_thread(lambda: ids_of(engine, text, special=asked.add_special_tokens))
    names = engine.processor.tokenizer.convert_ids_to_tokens(ids) if asked.return_token_strs else None
    window = engine.model.config.context_length
    return {"count": len(ids), "max_model_len": window, "tokens": ids, "token_strs": names}


async def detokenize(async_engine: AsyncEngine, asked: DetokenizeRequest) -> dict[str, str]:
    """The text of tokens."""
    async_engine.check_model(asked.model)
    size = len(async_engine.engine.processor.tokenizer)
    if odd := [id for id in asked.tokens if not 0 <= id < size]:
        raise ValueError(f"{odd[0]} is no token: tokens are numbers from 0 to {size - 1}")
    tokenizer: Any = async_engine.engine.processor.tokenizer
    return {"prompt": await async_engine.in_thread(tokenizer.decode, asked.tokens)}
