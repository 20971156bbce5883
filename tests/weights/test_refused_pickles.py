"""A pickle that would run something runs nowhere, and is refused in a sentence wherever weights are read."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from lalm.errors import LalmError
from lalm.evaluate.metrics.embeddings import SentenceEncoder, broken
from lalm.models.adapter import _tensors
from lalm.weights.convert import aisfx
from lalm.weights.llm import load_causal_lm


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def test_no_pickle_runs_and_each_is_told(tmp_path, tiny, tiny_bert, tiny_folders):
    ran = tmp_path / "ran"

    def with_trap(source: Path, name: str = "pytorch_model.bin") -> Path:
        folder = tmp_path / source.name
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        torch.save({"weight": Trap(ran)}, folder / name)
        return folder

    bert, llm = with_trap(tiny_bert), with_trap(tiny_folders[1])
    (tmp_path / "lora").mkdir()
    torch.save({"weight": Trap(ran)}, tmp_path / "lora" / "adapter_model.bin")
    torch.save(({"weight": Trap(ran)}, 3), tmp_path / "aisfx.pth")
    aligner = tiny("apt")[0].model.connector
    openers = {
        "a sentence encoder": lambda: SentenceEncoder(bert),
        "an error checker": lambda: broken(bert, ["a dog barks"]),
        "an aligner's BERT": lambda: aligner.start(bert),
        "an LLM": lambda: load_causal_lm(str(llm)),
        "LoRA": lambda: _tensors(tmp_path / "lora", {}, {}),
        "aiSFX": lambda: aisfx(tmp_path / "aisfx.pth", tmp_path),
    }
    for opened, opens in openers.items():
        with pytest.raises(LalmError, match="which may run code") as error:
            opens()
        assert str(error.value).count("\n") == 0 and "mkdir" in str(error.value), opened
    assert not ran.exists()
