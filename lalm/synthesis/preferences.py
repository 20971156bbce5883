"""Preference pairs from a model's own replies: several per prompt, judged, the best against the worst.

The paper has people choose (section 2, direct preference optimisation); here an LLM that knows what is in
the recording rates replies, or the number does that the sample's task is evaluated by: word errors of a
transcript, a question answered right or wrong. The pairs train with ``dpo`` in the recipe.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeAlias

from lalm.data.readers import Reading, read_manifest
from lalm.data.sample import Sample
from lalm.errors import LalmError
from lalm.inference.final_answer import without_reasoning
from lalm.synthesis.completions import Completion, Sampling, Writer
from lalm.synthesis.judging import RATE, SYSTEM, known, rating_chat, read_rating
from lalm.synthesis.resumable_rows import Counts, write_rows

# Replies to samples, one each, drawn with a seed.
Draw: TypeAlias = Callable[[Sequence[Sample], int], list[Completion]]
# How good replies are, higher is better; None for one that could not be judged.
Rate: TypeAlias = Callable[[Sequence[tuple[Sample, str]]], list[float | None]]

RATING = Sampling(temperature=0.0, max_new_tokens=8)

log = logging.getLogger("lalm.judge")


class PreferenceError(LalmError, ValueError):
    """A manifest or option that no pairs can be made with."""


@dataclass(frozen=True)
class Judge:
    """Who rates, by the name written beside the pairs. ``lacks``: what a sample lacks to be judged."""

    name: str
    rate: Rate
    lacks: Callable[[Sample], str]


@dataclass(frozen=True)
class Prompt:
    """A sample that replies are drawn to."""

    sample: Sample
    row_id: str


@dataclass(frozen=True)
class Judged:
    """A reply and its rating."""

    reply: Completion
    rating: float


def write_pairs(
    prompts: Sequence[Prompt],
    out: Path,
    draw: Draw,
    judge: Judge,
    *,
    made: Mapping[str, object],
    replies: int = 4,
    margin: float = 0.0,
    seed: int = 0,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Counts:
    """Write ``out``: a ``chosen`` and a ``rejected`` reply to each of the prompts.

    Of ``replies`` draws a prompt the best and the worst become a pair if they are more than ``margin``
    apart; a reply that a token limit cut off is never chosen. Prompts without such a pair are noted in
    ``<out>.dropped``; rows already in ``out`` are kept, so a killed run goes on. ``made`` says what the
    prompts are and how replies are drawn, and stands in ``<out>.json``. Raises PreferenceError naming the
    prompt that cannot be judged.
    """
    if replies < 2:
        raise PreferenceError(f"a pair needs 2 replies or more, not {replies}")
    if margin < 0:
        raise PreferenceError(f"margin must be 0 or more, not {margin}")
    for prompt in prompts:
        if lacking := judge.lacks(prompt.sample):
            raise PreferenceError(f"'{prompt.row_id}' cannot be judged by {judge.name}: it lacks {lacking}")
    settings = {"judge": judge.name, "replies": replies, "margin": margin, "seed": seed, **made}

    def answer(asked: Sequence[Prompt], attempt: int) -> list[list[Judged]]:
        first = hashlib.sha256(f"{seed} {asked[0].row_id}".encode()).digest()
        start = int.from_bytes(first[:6], "big")
        samples = [prompt.sample for prompt in asked]
        draws = [draw(samples, start + take) for take in range(replies)]
        said = [_different([row[place] for row in draws]) for place in range(len(asked))]
        flat = [(s, reply.text) for s, own in zip(samples, said, strict=True) for reply in own]
        ratings = iter(judge.rate(flat))
        rated = [[(reply, next(ratings)) for reply in own] for own in said]
        return [[Judged(reply, r) for reply, r in own if r is not None] for own in rated]

    return write_rows(
        prompts,
        out,
        answer,
        lambda prompt, judged: _pair(prompt, judged, margin),
        settings,
        batch_size=batch_size,
        progress=progress,
    )


def judge_by_llm(writer: Writer) -> Judge:
    """An LLM rates each reply from 1 to 10, knowing in text what is in the recording."""

    def rate(answers: Sequence[tuple[Sample, str]]) -> list[float | None]:
        chats = [rating_chat(sample, text) for sample, text in answers]
        replies = writer.complete(chats, [0] * len(chats), RATING) if chats else []
        ratings = [read_rating(without_reasoning(reply.text)) for reply in replies]
        if replies and not any(ratings):
            log.warning(
                "'%s' gave no rating from 1 to 10 to any of %d answers; it says %r. It has %d tokens: an LLM "
                "that reasons first is no judge here",
                *(writer.name, len(replies), replies[0].text[:60], RATING.max_new_tokens),
            )
        return ratings

    def lacks(sample: Sample) -> str:
        return "" if known(sample, accepted=True) else "origin.transcript, origin.caption or references"

    prompt = hashlib.sha256((SYSTEM + RATE).encode()).hexdigest()[:16]
    return Judge(f"{writer.name}, prompt {prompt}", rate, lacks)


def drawn_from(writer: Writer, sampling: Sampling) -> Draw:
    """Replies of a server that takes OpenAI's messages with ``input_audio`` parts."""

    def draw(samples: Sequence[Sample], seed: int) -> list[Completion]:
        chats = [sample.prompt().to_openai() for sample in samples]
        return writer.complete(chats, [seed + place for place in range(len(samples))], sampling)

    return draw


def described(sampling: Sampling) -> dict[str, object]:
    """The settings of a draw, for ``made``; the seed stands there by itself."""
    return {key: value for key, value in asdict(sampling).items() if key != "seed"}


def read_prompts(manifest: Path, reading: Reading | None = None) -> list[Prompt]:
    """The prompts of a manifest; answers in it are kept for judges. Raises PreferenceError naming the row."""
    prompts: dict[str, Prompt] = {}
    for number, sample in enumerate(read_manifest(manifest, reading), 1):
        place = f"{manifest.name}:{number}"
        name = sample.id or f"{manifest.stem}-{number}"
        messages = sample.prompt().messages
        if not messages or messages[-1]["role"] != "user":
            raise PreferenceError(f"{place}: there is no user turn to reply to")
        if name in prompts or "\n" in name:
            what = "has a line break" if "\n" in name else "belongs to an earlier row too"
            raise PreferenceError(f"{place}: the id '{name}' {what}")
        prompts[name] = Prompt(sample, name)
    if not prompts:
        raise PreferenceError(f"'{manifest}' holds no prompts")
    return list(prompts.values())


def _pair(prompt: Prompt, judged: Sequence[Judged], margin: float) -> Sample | None:
    """The row of a pair, or None where no two replies are far enough apart."""
    whole = [item for item in judged if not item.reply.truncated]
    if not whole:
        return None
    best = max(whole, key=lambda item: item.rating)
    worst = min(judged, key=lambda item: item.rating)
    if best.rating - worst.rating <= margin:
        return None
    ratings = {"chosen_rating": f"{best.rating:g}", "rejected_rating": f"{worst.rating:g}"}
    return replace(
        prompt.sample.prompt(),
        id=prompt.row_id,
        chosen=best.reply.text,
        rejected=worst.reply.text,
        origin={**prompt.sample.origin, **ratings},
    )


def _different(replies: Sequence[Completion]) -> list[Completion]:
    """The replies that say something, the same words once."""
    return list({reply.text: reply for reply in replies if reply.text.strip()}.values())
