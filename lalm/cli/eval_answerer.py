"""Whose answers ``lalm eval`` scores: a model's, an endpoint's, or those of a file."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lalm.cli.judging import endpoint

if TYPE_CHECKING:
    from lalm.evaluate.answering import Answerer
    from lalm.evaluate.collecting import Share
    from lalm.inference.protocols import Protocol


class Asked(NamedTuple):
    """Whose answers are scored, as ``lalm eval``'s options say."""

    model: str | None
    url: str | None
    vision: str | None
    lora_scale: float | None
    seed: int
    device: str | None
    protocol: "Protocol | None" = None
    dtype: str | None = None
    transcript: bool | None = None


def open_answerer(asked: Asked) -> "tuple[Answerer, Path | None]":
    """Whose answers are scored, and a local model's folder."""
    from lalm.evaluate.answering import Local
    from lalm.evaluate.recorded import Recorded

    own = (asked.vision, asked.url) == (None, None) and not str(asked.model).endswith((".jsonl", ".json"))
    if asked.transcript is not None and not own:
        raise ValueError("--transcript and --no-transcript are for local models")
    if asked.vision is not None:
        return _vision(asked, asked.vision), None
    if asked.url is not None:
        return _served(asked, asked.url), None
    if asked.model is not None and asked.model.startswith(("http://", "https://")):
        raise ValueError("an endpoint is given by --url, beside its model's name: lalm eval NAME --url URL")
    if asked.model is not None and asked.model.endswith((".jsonl", ".json")):
        path = Path(asked.model)
        if not path.is_file():
            raise ValueError(f"there is no file of answers '{path}'")
        if asked.lora_scale is not None:
            raise ValueError("--lora-scale is for local models, and these answers are given already")
        return Recorded(path), None
    if asked.model is not None and asked.model.endswith((".csv", ".tsv", ".txt", ".parquet")):
        raise ValueError(
            f"'{asked.model}': answers made elsewhere are JSON lines (.jsonl) or a JSON list (.json)"
        )
    from lalm.cli.protocol import open_under
    from lalm.inference.speech.clip_transcripts import ClipTranscripts, kept_on_disk
    from lalm.inference.speech.recogniser import shared
    from lalm.models import SMALL
    from lalm.models.load import model_folder

    folder = model_folder(asked.model) if asked.model else SMALL
    engine = open_under(asked.protocol, asked.model, asked.device, asked.dtype, asked.transcript)
    engine.transcripts = ClipTranscripts(shared, kept_on_disk())
    return Local(engine, asked.lora_scale, asked.seed), folder


def _vision(asked: Asked, vision: str) -> "Answerer":
    from lalm.cli.ask_vision import open_vision
    from lalm.evaluate.answering import Vision
    from lalm.models.load import model_folder

    if asked.url is not None or asked.lora_scale is not None:
        raise ValueError("--vision is for a local model, without --url and --lora-scale")
    opened = open_vision(vision, asked.model, asked.device)
    return Vision(opened, (model_folder(vision), model_folder(str(asked.model))), asked.seed)


def _served(asked: Asked, url: str) -> "Answerer":
    from lalm.evaluate.answering import Endpoint

    if asked.model is None:
        raise ValueError("--url needs the endpoint's model: lalm eval NAME --url URL")
    if asked.lora_scale is not None:
        raise ValueError("--lora-scale is for local models; an endpoint has no such setting")
    return Endpoint(endpoint(url, asked.model, "--url"), asked.seed)


def own_share(device: str | None) -> "tuple[Share, str | None]":
    """This process' part and device, when `accelerate launch` started several."""
    from lalm.evaluate.collecting import Share

    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Share(), device
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available())
    return Share(state.process_index, state.num_processes, state.wait_for_everyone), str(state.device)
