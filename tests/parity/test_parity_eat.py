"""EAT files that fairseq's own Trainer wrote give the frames of the authors' feature_extract.py.

Fixture ``eat/``: cwx-worst-one/EAT over facebookresearch/fairseq, tiny random models; see README.md there.
"""

import json

import pytest
import torch
from parity_fixtures import FIXTURES, signal, unpack
from safetensors.torch import load_file

from lalm.encoders import load_encoder

HERE = FIXTURES / "eat"
FACTS = json.loads((HERE / "outputs.json").read_text("utf-8"))
WANTED = load_file(HERE / "outputs.safetensors")
FILES = {"finetune": "finetuned.pt", "pretrain": "pretrained.pt"}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eat")
    return {mode: load_encoder(unpack(f"eat/{name}", folder / mode)) for mode, name in FILES.items()}


@pytest.mark.parametrize("output", WANTED)
def test_frames_are_the_authors(output, encoders):
    name, mode = output.split(".")
    samples = signal(FACTS[name]["samples"], FACTS[name]["seed"])
    audio = torch.from_numpy(samples.astype("float32") / 32768)[None]
    with torch.no_grad():
        frames, lengths = encoders[mode](audio, torch.tensor([audio.shape[1]]))
    assert lengths.tolist() == [513]
    torch.testing.assert_close(frames[0, ::16], WANTED[output], atol=5e-4, rtol=1e-3)


def test_the_two_files_are_told_apart(encoders):
    """The student's weights are read, not its teacher's (_ema), and the fine-tuned file's are others."""
    first, second = (encoders[mode].state_dict()["blocks.0.qkv.weight"] for mode in FILES)
    assert not torch.equal(first, second)
