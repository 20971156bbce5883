"""BEATs files of the authors' model class, read by lalm, give the authors' frames.

Fixture ``beats/``: microsoft/unilm's beats with tiny random models; see README.md there.
"""

import json

import pytest
import torch
from parity_fixtures import FIXTURES, signal, unpack
from safetensors.torch import load_file

from lalm.encoders import load_encoder

HERE = FIXTURES / "beats"
FACTS = json.loads((HERE / "outputs.json").read_text("utf-8"))
WANTED = load_file(HERE / "outputs.safetensors")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beats")
    names = ("pretrained", "finetuned")
    return {name: load_encoder(unpack(f"beats/{name}.pt", folder / name)) for name in names}


@pytest.mark.parametrize("output", WANTED)
def test_frames_are_the_authors(output, encoders):
    clip, name = output.split(".")
    samples = signal(FACTS[clip]["samples"], FACTS[clip]["seed"])
    audio = torch.from_numpy(samples.astype("float32") / 32768)[None]
    with torch.no_grad():
        frames, lengths = encoders[name](audio, torch.tensor([audio.shape[1]]))
    assert lengths.tolist() == [FACTS[clip]["frames"]]
    torch.testing.assert_close(frames[0, ::4], WANTED[output], atol=5e-4, rtol=1e-3)
