"""``--protocol`` and ``--prompts``: asking a model as a paper, or its authors' code, does."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lalm.data.sample import Sample
    from lalm.inference.engine import Engine
    from lalm.inference.protocols import Protocol

ProtocolName = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        metavar="NAME",
        help="Ask, hear and compute as a paper does: acdc, apt, salmonn, qwen2_audio, qwen2_audio_instruct.",
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="The authors' wording, from your copy of SALMONN's prompts/test_prompt.json.",
    ),
]


def chosen(name: str | None, prompts: Path | None) -> "Protocol | None":
    """The protocol of that name, with the authors' wording if their file was given."""
    if name is None and prompts is None:
        return None
    from lalm.inference.protocols import ProtocolError, find_protocol, with_prompts

    if name is None:
        raise ProtocolError("--prompts goes with a --protocol that takes its wording from there: salmonn")
    protocol = find_protocol(name)
    return protocol if prompts is None else with_prompts(protocol, prompts)


def say(name: str, sentence: str) -> None:
    """A line on standard error about what a protocol does; of several processes the first one says it."""
    if os.environ.get("RANK", "0") != "0":
        return
    print(f"lalm: protocol {name}: {sentence}", file=sys.stderr)


def open_under(
    protocol: "Protocol | None",
    model: str | None,
    device: str | None,
    dtype: str | None = None,
    transcript: bool | None = None,
) -> "Engine":
    """The model, hearing and computing as the protocol says; ``dtype`` goes before the protocol's.

    ``transcript``: whether Whisper's stands beside the audio tokens; None: as the model's config says.
    """
    from lalm.cli.opening import open_engine

    if protocol is None:
        return open_engine(model, device, dtype, transcript)
    from lalm.inference.protocol_run import follow, weights_format
    from lalm.models import SMALL

    format_ = weights_format(protocol, model or SMALL)
    precision = dtype or (str(format_).removeprefix("torch.") if format_ else None)
    engine = open_engine(model, device, precision, transcript)
    for sentence in follow(engine, protocol):
        say(protocol.name, sentence)
    return engine


def generation(protocol: "Protocol", model: str | Path | None) -> dict[str, Any]:
    """How the protocol has answers generated, as fields of ``Options``; says what is unlike lalm's own.

    ``model`` is None for answers that do not come from a folder here.
    """
    from lalm.inference.protocol_run import folder_settings, unlike_ours

    own = folder_settings(model) if protocol.folder_generation and model is not None else {}
    found = {**own, **protocol.generation}
    if odd := unlike_ours(found):
        say(protocol.name, f"answers are generated with {odd}")
    return found


def warn_of_folder_settings(model: str | Path | None) -> None:
    """Say it when a released folder asks for other settings than lalm's, and nobody asked for them."""
    from lalm.inference.protocol_run import folder_settings, unlike_ours
    from lalm.models.load import model_folder

    if model is None:
        return
    folder = model_folder(model)
    try:
        kind = str(json.loads((folder / "config.json").read_text()).get("model_type", ""))
    except (OSError, ValueError, AttributeError, RecursionError):
        return
    if not kind.startswith("lalm_") and (odd := unlike_ours(folder_settings(model))):
        print(
            f"lalm: {folder.name}'s generation_config.json asks for {odd}; it is left aside here, and "
            "--protocol qwen2_audio_instruct takes it",
            file=sys.stderr,
        )


def ask_by_name(
    sample: "Sample", protocol: "Protocol | None", prompts: Path | None, name: str | None
) -> "Sample":
    """The sample asked by a protocol's kind of question, or by a prompt of the authors' file, by its name."""
    from lalm.inference.protocols import ProtocolError, asked, prompt_called, put, read_prompts

    known: Mapping[str, Any] = protocol.kinds if protocol is not None else {}
    if name is None or name in known:
        return sample if protocol is None else asked(replace(sample, task=name or "audio_qa"), protocol)
    if prompts is None:
        names = ", ".join(known) or "none without --protocol"
        raise ProtocolError(f"there is no prompt '{name}': kinds of questions are {names}; or give --prompts")
    return put(sample, prompt_called(read_prompts(prompts), name, prompts.name))
