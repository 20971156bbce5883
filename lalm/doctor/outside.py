"""Opens an exported folder as anybody else would; run as a program of its own, by ``lalm.doctor.exported``.

    python outside.py KIND FOLDER CLIPS.npz LOGITS.npy
    python outside.py salmonn FILE LLM

KIND is "qwen2-audio", "peft" or "transformers". lalm cannot be imported here, but for "transformers", whose
classes are lalm's: there it makes them known to transformers, and no more. The next-token logits of each clip
are written, (clips, V) float32. SALMONN's files run in their authors' code alone: here the file is read as
they read it, and its LoRA must be that of PEFT on the LLM in the folder LLM.
A fault is one line on standard error and the exit code 1.
"""

import json
import sys
from pathlib import Path
from typing import Any

QUESTION = "What do you hear?"


def opened(kind: str, folder: Path) -> tuple[Any, Any]:
    """Model and processor by the library's own classes, as a config.json or an adapter names them."""
    if kind == "transformers":
        from lalm.models.classes import register_all

        register_all()
    else:
        sys.modules["lalm"] = None  # type: ignore[assignment]
    import transformers

    base = folder
    if kind == "peft":
        base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    config = transformers.AutoConfig.from_pretrained(base, trust_remote_code=False)
    processor = transformers.AutoProcessor.from_pretrained(base, trust_remote_code=False)
    named = getattr(transformers, (config.architectures or ["none"])[0], None)
    model = (named or transformers.AutoModelForMultimodalLM).from_pretrained(base, trust_remote_code=False)
    if kind == "peft":
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder)
    return model.eval(), processor


def heard(model: Any, processor: Any, clip: Any) -> Any:
    """Logits (V,) of the first token of an answer about ``clip``, (N,) float32 at 16 kHz."""
    if not hasattr(processor, "feature_extractor"):
        raise ValueError(f"AutoProcessor gives a {type(processor).__name__}, which takes no audio")
    parts = [{"type": "audio", "audio": "clip"}, {"type": "text", "text": QUESTION}]
    chat = [{"role": "user", "content": parts}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    inputs = processor(text=[text], audio=[clip], sampling_rate=16_000, return_tensors="pt")
    return model(**inputs).logits[0, -1].float()


def check_lora(file: Path, llm: Path) -> None:
    """Raise with the first tensor by which a SALMONN file's LoRA is not PEFT's on this LLM."""
    sys.modules["lalm"] = None  # type: ignore[assignment]
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    content = torch.load(file, map_location="cpu", weights_only=True)
    prefix, settings = "llama_model.", content["config"]["model"]
    loras = {name: x for name, x in content["model"].items() if "lora_" in name}
    own = {name: tuple(x.shape) for name, x in loras.items()}
    with torch.device("meta"):
        bare = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(llm, trust_remote_code=False), trust_remote_code=False
        )
        rank, alpha = settings["lora_rank"], settings["lora_alpha"]
        lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["q_proj", "v_proj"])
        theirs = get_peft_model(bare, lora).state_dict()
    due = {f"{prefix}{name}": tuple(x.shape) for name, x in theirs.items() if "lora_" in name}
    for name in sorted(own.keys() | due.keys()):
        if own.get(name) != due.get(name):
            raise ValueError(f"{name} is {own.get(name, 'absent')} instead of {due.get(name, 'absent')}")


def main(kind: str, folder: str, clips: str, logits: str) -> None:
    """Write the logits of each clip, or raise with what is wrong."""
    import numpy as np
    import torch

    model, processor = opened(kind, Path(folder))
    with np.load(clips) as given, torch.no_grad():
        rows = [heard(model, processor, given[name]) for name in sorted(given)]
    np.save(logits, torch.stack(rows).numpy())


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file, whose modules have names that others may import
    try:
        check_lora(*map(Path, sys.argv[2:])) if sys.argv[1] == "salmonn" else main(*sys.argv[1:])
    except Exception as error:
        lines = str(error).strip().splitlines()
        sys.exit(f"{type(error).__name__}: {lines[0] if lines else ''}")
