"""``lalm respond``: a manifest of captions becomes a manifest of the LLM's replies."""

import os
from pathlib import Path
from typing import Any, get_args

from lalm.commands.terminal import fetch_parts, progress_bar, quiet
from lalm.completions import EndpointWriter, LocalWriter, Sampling, Writer
from lalm.engine import pick_dtype
from lalm.systems.acdc.continuation import Mode, respond


def writer(mode: str, llm: str, endpoint: str | None) -> Writer | None:
    """Who answers: nobody in caption mode, an OpenAI-compatible endpoint, or a local model."""
    if mode not in get_args(Mode):
        raise ValueError(f"there is no mode '{mode}'; the modes are: {', '.join(get_args(Mode))}")
    if mode == "caption":
        return None
    if endpoint is not None:
        if not endpoint.startswith(("http://", "https://")):
            raise ValueError(f"--endpoint must be an http URL, not '{endpoint}'")
        return EndpointWriter(endpoint, llm, os.environ.get("OPENAI_API_KEY", ""))
    import torch

    from lalm import weights

    quiet()
    fetch_parts([llm])
    return LocalWriter(weights.resolve(llm), llm, pick_dtype(torch.device("cpu")))


def run(
    captions: Path, out: Path, answers: Writer | None, *, mode: str, drawing: dict[str, Any], **how: Any
) -> None:
    """Write ``out`` and print what was done."""
    with progress_bar() as tell:
        counts = respond(
            captions,
            out,
            answers,
            mode=mode,  # type: ignore[arg-type]  # writer() has checked it
            sampling=Sampling(**drawing),
            progress=lambda done, total: tell("replies", done, total),
            **how,
        )
    print(
        f"{out}: {counts.written} rows written, {counts.already} were there, "
        f"{counts.truncated} cut off by the token limit, {counts.dropped} dropped"
    )
