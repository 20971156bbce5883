"""Do a GGUF file and its mmproj say in llama.cpp what the model says here? A fresh process tries them."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from lalm.data.sample import ask
from lalm.doctor.exported import ExportError, compared, sounds
from lalm.inference.llamacpp.export import Written
from lalm.inference.llamacpp.library import installed
from lalm.inference.llamacpp.prompt import MARKER

QUESTION = "What do you hear?"
TOKENS_APART = {"F32": 0.01, "F16": 0.02}  # of their spread; convolutions run in float16 there


@torch.no_grad()
def check_gguf(written: Written, exact: bool) -> str:
    """What llama.cpp makes of the files beside what the model makes of two sounds here, in words.

    ``exact``: the LLM was not quantised, so its logits must be the same up to rounding. Raises ExportError
    where the files do not open, do not hear, or give other audio tokens or logits.
    """
    model, processor, llm, projector = written.model, written.processor, written.llm, written.projector
    if not installed():
        return "not run: pip install 'lalm[llamacpp]' and export again to have the files tried in llama.cpp"
    clips = sounds()
    prompt = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": MARKER + QUESTION}],
        chat_template=written.template,
        tokenize=False,
        add_generation_prompt=True,
    )
    with tempfile.TemporaryDirectory() as place:
        asked, found = Path(place) / "asked.npz", Path(place) / "found.npz"
        np.savez(asked, prompt=np.array(prompt), **clips)  # type: ignore[arg-type]
        program = [sys.executable, "-m", "lalm.inference.llamacpp.trial"]
        command = [*program, *map(str, (llm, projector, asked, found))]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
            raise ExportError(f"llama.cpp does not run '{llm}' with '{projector}': {lines[-1]}")
        with np.load(found) as arrays:
            there = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    apart = 0.0
    wanted, logits = [], []
    for name, clip in clips.items():
        batch = processor.batch([ask([clip], QUESTION)])
        tokens = model.get_audio_features(batch["input_values"], batch["audio_lengths"]).pooler_output.float()
        other = there[f"{name} tokens"]
        if other.shape != tokens.shape:
            raise ExportError(
                f"llama.cpp makes {len(other)} audio tokens of a clip and the model {len(tokens)}"
            )
        apart = max(apart, float((other - tokens).square().mean().sqrt() / tokens.std()))
        wanted.append(model(**batch, logits_to_keep=1).logits[0, -1].float())
        logits.append(there[f"{name} logits"])
    limit = TOKENS_APART[projector.stem[-3:]]
    if apart > limit:
        raise ExportError(
            f"llama.cpp hears otherwise: audio tokens are {apart:.2g} of their spread apart, above {limit}. "
            "Its spectrogram has a floor of 6e-8: a model trained with init.options.encoder.mel_floor: "
            "5.960464477539063e-08 hears the same; the files are written, docs/export.md has more"
        )
    said = f"checked in llama.cpp: audio tokens {apart:.1g} of their spread apart"
    if not exact:
        told = _share(torch.stack(logits), torch.stack(wanted))
        return f"{said}, the quantised LLM's logits {told:.1g} of theirs"
    dtype = torch.bfloat16 if llm.stem.endswith("BF16") else torch.float16  # its convolutions always are
    return f"{said}; {compared(llm.parent, torch.stack(logits), torch.stack(wanted), dtype)}"


def _share(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """How far logits (2, V) lie apart, as a share of their spread."""
    return float((found[:, : wanted.shape[1]] - wanted).square().mean().sqrt() / wanted.std())
