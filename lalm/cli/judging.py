"""The LLM that judges, as the command line's options say."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lalm.evaluate.judge import Judge
    from lalm.evaluate.judge_prompt import JudgePrompt


def endpoint(url: str, model: str, option: str) -> Any:
    """An endpoint's model; ``option`` is what gave its address. Raises ValueError for what is none."""
    from lalm.synthesis.completions import EndpointWriter

    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{option} must begin with http:// or https://, not '{url}'")
    key = os.environ.get("OPENAI_API_KEY", "")
    # A wrong address is told of after 7.5 s; an endpoint that once answered is waited for for 5 minutes.
    return EndpointWriter(url, model, key, tries=5, patient_tries=12, bare=False)


def judge_words(
    prompt: str | None, system: str, draws: int, temperature: float | None = None
) -> "JudgePrompt | None":
    """What ``--judge-prompt``, ``--judge-system``, ``--judge-draws`` and ``--judge-temperature`` say. Raises
    PromptError for a file that is none, ValueError for the others alone."""
    from lalm.evaluate.judge_prompt import read_prompt

    if prompt is None:
        if system or draws > 1 or temperature is not None:
            raise ValueError(
                "--judge-system, --judge-draws and --judge-temperature need --judge-prompt, the judge's words"
            )
        return None
    return read_prompt(prompt, system, draws, temperature)


def open_judge(model: str, url: str | None, cache: Path, words: "JudgePrompt | None" = None) -> "Judge":
    """The LLM that judges; it is loaded when the first judgment is not in ``cache``."""
    from lalm.evaluate.judge import Judge

    def load() -> Any:
        if url is not None:
            return endpoint(url, model, "--judge-url")
        from lalm.cli.opening import open_writer

        return open_writer(model, None)

    return Judge(model, load, cache, _judge_weights(model, url), words)


def _judge_weights(model: str, url: str | None) -> str:
    """The hash of a local judge's weights; empty for an endpoint's and for one that is not here."""
    from lalm.evaluate.card import folder_digest
    from lalm.weights import fetch as weights

    if url is not None:
        return ""
    place = weights.where(model) if model in weights.PARTS else Path(model)
    return folder_digest(place) if place and place.is_dir() else ""
