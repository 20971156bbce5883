"""``--engine``: encoder and connector as ever, the LLM in another library."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from lalm.inference.engine import Engine
    from lalm.inference.options import Options

EngineName = Annotated[
    Literal["lalm", "llamacpp", "onnxruntime"],
    typer.Option(
        "--engine",
        help="Who runs the LLM, on the CPU one answer at a time: ONNX Runtime, or llama.cpp "
        "(pip install 'lalm[llamacpp]').",
    ),
]


def open_library(
    engine: Literal["llamacpp", "onnxruntime"],
    model: str | None,
    device: str | None,
    dtype: str | None,
    transcript: bool | None,
    options: "Options",
) -> "Engine":
    """The model with that library running its LLM; options that it does not have are refused before it is
    opened."""
    from lalm.cli.opening import loading, silence_transformers, transcript_mode
    from lalm.cli.weights import fetch_for

    if device not in (None, "cpu"):
        raise ValueError(f"--engine {engine} answers on the CPU, not on '{device}'")
    opening = _engine(engine)
    opening.check_options(options)
    fetch_for(model, transcript) if transcript is not None else fetch_for(model)
    silence_transformers()
    with loading() as told:
        return opening.open(model, dtype, transcript_mode(transcript), told)


def _engine(name: str) -> Any:
    """The class of that engine."""
    if name == "llamacpp":
        from lalm.inference.llamacpp.engine import LlamaCppEngine

        return LlamaCppEngine
    from lalm.inference.onnxruntime.engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine
