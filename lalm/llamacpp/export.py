"""``lalm export --to gguf``: two files with which llama.cpp and what is built on it run a model."""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from lalm.data.sample import ask
from lalm.llamacpp.gguf_file import GGUFError
from lalm.llamacpp.language_model import check_llm, write_llm
from lalm.llamacpp.library import installed, library
from lalm.llamacpp.projector import check_encoder, projector_of, write_projector
from lalm.llamacpp.prompt import MARKER, template_for
from lalm.models.load import load_model, model_name, read_config
from lalm.models.lora import merge_lora
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.processing import AudioLMProcessor

QUESTION = "What do you hear?"
TOKENS_APART = {"float32": 0.01, "float16": 0.02}  # of their spread; convolutions run in float16 there


@dataclass(frozen=True)
class Exported:
    """The files that were written, and what the check found, in words."""

    llm: Path
    projector: Path
    found: str


def export_gguf(
    name: str, out: Path, dtype: str, quantize: str | None = None, pad_to_window: bool = False
) -> Exported:
    """Write the model folder ``name`` to ``out``: LLM (LoRA merged) and mmproj.

    ``dtype`` is float32, bfloat16 or float16; ``quantize``, for the LLM alone, one of ``gguf_file.MIXES``.
    Raises GGUFError before anything is written where llama.cpp cannot do what the model does.
    """
    _, known = read_config(Path(name))
    config: Any = known
    options = _padded(config, pad_to_window)
    check_encoder(config, name)
    check_llm(config.text_config, name)
    if quantize not in (None, "q8_0"):
        library()
    model, processor = load_model(name)
    model.config.audio_config.pad_to_window = processor.config.audio_config.pad_to_window = options
    model.model.audio_tower.config.pad_to_window = options
    projector = projector_of(model, name)
    template = template_for(processor, projector.marks, name)
    if model.config.lora:
        merge_lora(model)
    if dtype != "float32":
        model.model.language_model.to(getattr(torch, dtype))
        model.lm_head.to(getattr(torch, dtype))
    out.mkdir(parents=True, exist_ok=True)
    title = model_name(name)
    floats = "float32" if dtype == "float32" else "float16"
    llm = out / f"{title}-{_short(quantize or dtype)}.gguf"
    beside = out / f"mmproj-{title}-{_short(floats)}.gguf"
    write_llm(model, processor, llm, quantize or dtype, template, title)
    write_projector(model, projector, beside, floats, title)
    found = check(model, processor, llm, beside, template, exact=quantize is None)
    return Exported(llm, beside, found)


def _padded(config: Any, pad_to_window: bool) -> bool:
    """Whether clips are heard as 30 s: in the config from now on, where ``pad_to_window`` asks for it."""
    encoder = getattr(config, "audio_config", None)
    if encoder is None or encoder.model_type != "lalm_whisper":
        return False
    encoder.pad_to_window = encoder.pad_to_window or pad_to_window
    return bool(encoder.pad_to_window)


def _short(kind: str) -> str:
    return {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}.get(kind, kind.upper())


def read_back(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of a GGUF file by name, unpacked to float32."""
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(
            tuple(int(n) for n in reversed(tensor.shape))
        )
        for tensor in gguf.GGUFReader(path).tensors
    }


@torch.no_grad()
def check(
    model: AudioLMForConditionalGeneration,
    processor: AudioLMProcessor,
    llm: Path,
    projector: Path,
    template: str,
    exact: bool,
) -> str:
    """What llama.cpp makes of the files beside what the model makes of two sounds here, in words.

    ``exact``: the LLM was not quantised, so its logits must be the same up to rounding. Raises GGUFError
    where the files do not open, do not hear, or give other audio tokens or logits.
    """
    from lalm.doctor.exported import compared, sounds

    if not installed():
        return "not run: pip install 'lalm[llamacpp]' and export again to have the files tried in llama.cpp"
    clips = sounds()
    prompt = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": MARKER + QUESTION}],
        chat_template=template,
        tokenize=False,
        add_generation_prompt=True,
    )
    with tempfile.TemporaryDirectory() as place:
        asked, found = Path(place) / "asked.npz", Path(place) / "found.npz"
        np.savez(asked, prompt=np.array(prompt), **clips)  # type: ignore[arg-type]
        command = [sys.executable, "-m", "lalm.llamacpp.outside", *map(str, (llm, projector, asked, found))]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
            raise GGUFError(f"llama.cpp does not run '{llm}' with '{projector}': {lines[-1]}")
        with np.load(found) as arrays:
            there = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    apart = 0.0
    wanted, logits = [], []
    for name, clip in clips.items():
        batch = processor.batch([ask([clip], QUESTION)])
        tokens = model.get_audio_features(batch["input_values"], batch["audio_lengths"]).pooler_output.float()
        other = there[f"{name} tokens"]
        if other.shape != tokens.shape:
            raise GGUFError(
                f"llama.cpp makes {len(other)} audio tokens of a clip and the model {len(tokens)}"
            )
        apart = max(apart, float((other - tokens).square().mean().sqrt() / tokens.std()))
        wanted.append(model(**batch, logits_to_keep=1).logits[0, -1].float())
        logits.append(there[f"{name} logits"])
    limit = TOKENS_APART["float32" if projector.stem.endswith("F32") else "float16"]
    if apart > limit:
        raise GGUFError(
            f"llama.cpp hears otherwise: audio tokens are {apart:.2g} of their spread apart, above {limit}"
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
