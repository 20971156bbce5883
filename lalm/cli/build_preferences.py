"""``lalm build preferences``: a model's own replies, judged, become pairs."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lalm.cli.opening import reading_of
from lalm.cli.options import (
    WRITER,
    AudioFolder,
    Columns,
    Device,
    Llm,
    Manifest,
    NewManifest,
    Prompt,
    PromptDraw,
    Url,
)

if TYPE_CHECKING:
    from lalm.data.sample import Sample
    from lalm.synthesis.completions import Completion, Sampling
    from lalm.synthesis.preferences import Draw


def preferences(
    source: Manifest,
    out: NewManifest,
    model: Annotated[
        str | None,
        typer.Option(
            help="What replies: a model folder (default: the embedded small model), or the address of an "
            "OpenAI-compatible server that takes audio, such as http://host:8000/v1."
        ),
    ] = None,
    judge: Annotated[
        Literal["llm", "metric"],
        typer.Option(
            help="What is better: an LLM's rating, or the metric that leads the sample's task (asr: word "
            "errors; `lalm tasks`)."
        ),
    ] = "llm",
    llm: Llm = WRITER,
    url: Url = None,
    replies: Annotated[int, typer.Option(min=2, help="Replies drawn per prompt.")] = 4,
    margin: Annotated[
        float, typer.Option(min=0.0, help="Pairs are more than this apart, in the judge's measure.")
    ] = 0.0,
    temperature: Annotated[float, typer.Option(min=0.01, help="Temperature of the replies.")] = 1.0,
    top_p: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Draw from this share of the probability.")
    ] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply, in tokens.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at a time.")] = 16,
    columns: Columns = None,
    prompt: Prompt = None,
    prompt_seed: PromptDraw = 0,
    audio: AudioFolder = None,
    device: Device = None,
) -> None:
    """Prompts -> pairs of a better and a worse reply.

    The model's own replies are judged; `dpo` in a recipe learns from the pairs.

    The same command again goes on where it stopped. Keys of servers are read from OPENAI_API_KEY.
    """
    reading = reading_of(columns, prompt, prompt_seed, audio)
    from lalm.cli.opening import open_writer, progress_bar
    from lalm.evaluate.metric_judge import judge_by_metric
    from lalm.synthesis import preferences as pairs
    from lalm.synthesis.completions import Sampling

    prompts = pairs.read_prompts(source, reading)  # a bad one is refused before a model is loaded
    sampling = Sampling(temperature, top_p, max_new_tokens, seed)
    served = model is not None and model.startswith(("http://", "https://"))
    draw, name = _from_server(str(model), sampling) if served else _from_model(model, device, sampling)
    rated = judge_by_metric() if judge == "metric" else pairs.judge_by_llm(open_writer(llm, url))
    with progress_bar("prompts") as progress:
        counts = pairs.write_pairs(
            prompts,
            out,
            draw,
            rated,
            made={"manifest": source.name, "model": name, **pairs.described(sampling)},
            replies=replies,
            margin=margin,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )
    print(
        f"{out}: {counts.written} pairs written, {counts.existing} were there already, "
        f"{counts.dropped} prompts gave no two replies that far apart"
    )


def _from_model(model: str | None, device: str | None, sampling: "Sampling") -> "tuple[Draw, str]":
    """Draws replies of a model on this machine; and the model's name."""
    from lalm.cli.opening import open_engine
    from lalm.inference.engine import Options
    from lalm.synthesis.completions import Completion

    engine = open_engine(model, device)

    def draw(samples: "Sequence[Sample]", seed: int) -> "list[Completion]":
        options = Options(
            sampling.max_new_tokens, temperature=sampling.temperature, top_p=sampling.top_p, seed=seed
        )
        replies = engine.reply(samples, options)
        return [Completion(reply.text, reply.finish_reason != "stop") for reply in replies]

    return draw, engine.name


def _from_server(url: str, sampling: "Sampling") -> "tuple[Draw, str]":
    """Draws replies of the first model that a server lists; and the model's name."""
    import httpx

    from lalm.synthesis.completions import EndpointWriter
    from lalm.synthesis.preferences import drawn_from

    key = os.environ.get("OPENAI_API_KEY", "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        found = httpx.get(f"{url.rstrip('/')}/models", headers=headers, timeout=30.0)
        name = str(found.raise_for_status().json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0] if isinstance(error, httpx.HTTPError) else "no list of models"
        raise ValueError(f"{url} does not say which models it serves: {reason}") from None
    return drawn_from(EndpointWriter(url, name, key, bare=False), sampling), name
