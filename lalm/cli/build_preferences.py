"""``lalm build preferences``: a model's own replies, judged, become pairs."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

from lalm.cli.respond import Sampling, progress_bar, writer
from lalm.cli.weights import fetch_for
from lalm.data.sample import Sample
from lalm.synthesis.completions import Completion, EndpointWriter
from lalm.synthesis.preferences import (
    Draw,
    described,
    drawn_from,
    judge_by_llm,
    judge_by_metric,
    read_prompts,
    write_pairs,
)

__all__ = ["Job", "Judging", "Sampling", "run"]


@dataclass(frozen=True)
class Job:
    """What is read and written; see ``lalm.synthesis.preferences.write_pairs``."""

    manifest: Path
    out: Path
    replies: int = 4
    margin: float = 0.0
    seed: int = 0
    batch_size: int = 16


@dataclass(frozen=True)
class Judging:
    """Who judges; ``llm`` and ``url`` are those of the LLM judge."""

    way: Literal["llm", "metric"]
    llm: str
    url: str | None


def run(job: Job, sampling: Sampling, *, model: str | None, device: str | None, judge: Judging) -> None:
    """Write the pairs and print how many came of it."""
    if not job.manifest.is_file():
        raise ValueError(f"there is no manifest '{job.manifest}'")
    prompts = read_prompts(job.manifest)  # what is wrong with them is said before anything heavy is loaded
    served = model is not None and model.startswith(("http://", "https://"))
    draw, name = _server(str(model), sampling) if served else _engine(model, device, sampling)
    rated = judge_by_metric() if judge.way == "metric" else judge_by_llm(writer(judge.llm, judge.url))
    with progress_bar("prompts") as progress:
        counts = write_pairs(
            prompts,
            job.out,
            draw,
            rated,
            made={"manifest": job.manifest.name, "model": name, **described(sampling)},
            replies=job.replies,
            margin=job.margin,
            seed=job.seed,
            batch_size=job.batch_size,
            progress=progress,
        )
    print(
        f"{job.out}: {counts.written} pairs written, {counts.already} were there already, "
        f"{counts.dropped} prompts gave no two replies that far apart"
    )


def _engine(model: str | None, device: str | None, sampling: Sampling) -> tuple[Draw, str]:
    """Replies of a model here."""
    from lalm.inference.engine import Engine, Options

    fetch_for(model)
    engine = Engine.load(model, device)

    def draw(samples: Sequence[Sample], seed: int) -> list[Completion]:
        options = Options(
            sampling.max_new_tokens, temperature=sampling.temperature, top_p=sampling.top_p, seed=seed
        )
        replies = engine.reply(samples, options)
        return [Completion(reply.text, reply.num_tokens >= sampling.max_new_tokens) for reply in replies]

    return draw, engine.name


def _server(url: str, sampling: Sampling) -> tuple[Draw, str]:
    """Replies of the first model that a server lists."""
    key = os.environ.get("OPENAI_API_KEY", "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        found = httpx.get(f"{url.rstrip('/')}/models", headers=headers, timeout=30.0)
        name = str(found.raise_for_status().json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0] if isinstance(error, httpx.HTTPError) else "no list of models"
        raise ValueError(f"{url} does not say which models it serves: {reason}") from None
    return drawn_from(EndpointWriter(url, name, key, bare=False), sampling), name
