"""``--engine llamacpp``: encoder and connector as ever, the LLM in llama.cpp's library."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from lalm.inference.engine import Engine
    from lalm.inference.options import Options

EngineName = Annotated[
    Literal["lalm", "llamacpp"],
    typer.Option(
        "--engine", help="Who runs the LLM; llamacpp: llama.cpp on the CPU (pip install 'lalm[llamacpp]')."
    ),
]


def open_llamacpp(
    model: str | None, device: str | None, dtype: str | None, transcript: bool | None, options: "Options"
) -> "Engine":
    """The model with llama.cpp as its LLM; options that it does not have are refused before it is opened."""
    from lalm.cli.opening import silence_transformers, transcript_mode
    from lalm.cli.weights import fetch_for
    from lalm.inference.llamacpp.engine import LlamaCppEngine, check_options

    if device not in (None, "cpu"):
        raise ValueError(f"--engine llamacpp answers on the CPU, not on '{device}'")
    check_options(options)
    fetch_for(model, transcript) if transcript is not None else fetch_for(model)
    silence_transformers()
    return LlamaCppEngine.open(model, dtype, transcript_mode(transcript))
