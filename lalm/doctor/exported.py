"""Does an exported folder work elsewhere? A fresh process opens it by the ecosystem's own classes.

Two sounds must give other logits there, and each the logits that lalm has: a folder that opens and is deaf,
or that puts the question in other words, answers fluently and wrongly.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from lalm.data.sample import ask
from lalm.doctor.checks import ROUNDING, knocks, siren
from lalm.doctor.outside import QUESTION
from lalm.errors import LalmError
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.processing import AudioLMProcessor

PROGRAM = Path(__file__).with_name("outside.py")


class ExportError(LalmError, ValueError):
    """An export that others cannot use; the text says what they find."""


def sounds() -> dict[str, np.ndarray]:
    """The clips that are compared, (N,) float32 at 16 kHz each, of one length: only the sound differs."""
    return {"knocks": knocks(2.0), "siren": siren(2.0)}


@torch.no_grad()
def expected(model: AudioLMForConditionalGeneration, processor: AudioLMProcessor) -> Tensor:
    """What lalm's model gives for the sounds: next-token logits (2, V)."""
    rows = []
    for clip in sounds().values():
        batch = processor.batch([ask([clip], QUESTION)]).to(model.device)
        rows.append(model(**batch, logits_to_keep=1).logits[0, -1].float().cpu())
    return torch.stack(rows)


def check_export(kind: str, folder: Path, wanted: Tensor, dtype: torch.dtype) -> str:
    """What was found, in words; ``wanted`` is ``expected`` of the model that was written in ``dtype``.

    ``kind`` is one of ``lalm.doctor.outside``. Raises ExportError where the folder does not open, does not
    hear, or says otherwise than lalm does.
    """
    with tempfile.TemporaryDirectory() as place:
        clips, logits = Path(place) / "clips.npz", Path(place) / "logits.npy"
        np.savez(clips, **sounds())  # type: ignore[arg-type]
        _elsewhere(kind, folder, clips, logits)
        found = torch.from_numpy(np.load(logits))  # (2, V or more)
    where = "a process of its own" if kind != "transformers" else "a process of its own, by lalm's classes"
    return f"checked in {where}: {compared(folder, found, wanted, dtype)}"


def check_released(file: Path, llm: PreTrainedConfig, found: Tensor, wanted: Tensor) -> str:
    """What was found of an export that the authors' own code alone can run (SALMONN's), in words.

    ``found`` is ``expected`` of a model that took what it learned from the written ``file``, ``wanted`` that
    of the one that was written. A process without lalm reads the file, and compares its LoRA with PEFT's on
    an LLM of that configuration. Raises ExportError as ``check_export`` does.
    """
    with tempfile.TemporaryDirectory() as place:
        llm.save_pretrained(place)
        _elsewhere("salmonn", file, place)
    told = compared(file.parent, found, wanted, torch.float32)
    return f"read again from the file, {told}; a process of its own finds PEFT's LoRA in it"


def _elsewhere(*words: object) -> None:
    """Run ``lalm.doctor.outside`` in a process of its own."""
    command = [sys.executable, str(PROGRAM), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason was given"]
        raise ExportError(f"the export in '{words[1]}' does not open elsewhere: {lines[-1]}")


def compared(folder: Path, found: Tensor, wanted: Tensor, dtype: torch.dtype) -> str:
    """How far two sounds lie apart in ``found``, in words; found: (2, V or more), wanted: (2, V) logits.

    Raises ExportError where they are the same, or are not those wanted.
    """
    found = found[:, : wanted.shape[1]]
    spread = float(wanted.std(correction=0).clamp(min=1e-12))
    limit = ROUNDING.get(dtype, ROUNDING[torch.bfloat16])
    moved = float((found[0] - found[1]).square().mean().sqrt()) / spread
    away = float((found - wanted).square().mean().sqrt()) / spread
    own = float((wanted[0] - wanted[1]).square().mean().sqrt()) / spread
    if not moved or (own > limit >= moved):
        raise ExportError(f"the export in '{folder}' opens elsewhere but is deaf: two sounds give the same")
    if away > limit:
        raise ExportError(
            f"the export in '{folder}' opens elsewhere but answers otherwise: its logits lie {away:.2g} of "
            "their spread from lalm's"
        )
    return f"another sound moves the logits by {moved:.2g} of their spread"
