"""Audio-MAE files that the authors' save_model wrote, read by lalm, give the frames of the authors' models.

Fixture ``audio_mae/``: facebookresearch/AudioMAE with tiny random models; see README.md there.
"""

import json

import pytest
import torch
from parity_fixtures import FIXTURES, signal, unpack
from safetensors.torch import load_file
from torch.nn import functional

from lalm.encoders import load_encoder

HERE = FIXTURES / "audio_mae"
FACTS = json.loads((HERE / "outputs.json").read_text("utf-8"))
WANTED = load_file(HERE / "outputs.safetensors")
CLIPS = [name for name in FACTS if name != "versions"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio_mae")
    return {name: unpack(f"audio_mae/{name}.pth", folder / name) for name in ("finetuned", "pretrained")}


def frames_of(file, clip, tap):
    samples = signal(FACTS[clip]["samples"], FACTS[clip]["seed"])
    audio = torch.from_numpy(samples.astype("float32") / 32768)[None]
    with torch.no_grad():
        frames, lengths = load_encoder(file, {"tap": tap})(audio, torch.tensor([audio.shape[1]]))
    assert lengths.tolist() == [512]
    return frames[0]


@pytest.mark.parametrize("tap", ["last", "penultimate"])
@pytest.mark.parametrize("clip", CLIPS)
def test_finetuned_frames_are_the_authors(clip, tap, files):
    frames = frames_of(files["finetuned"], clip, tap)
    torch.testing.assert_close(frames[::16], WANTED[f"{clip}.finetuned.{tap}"], atol=5e-4, rtol=1e-3)


@pytest.mark.parametrize("clip", CLIPS)
def test_all_frames_pool_to_the_authors_vector(clip, files):
    """The mean of every frame, normalised by the file's fc_norm, is what their forward_features returns."""
    frames = frames_of(files["finetuned"], clip, "last")
    model = torch.load(files["finetuned"], weights_only=False)["model"]
    found = functional.layer_norm(
        frames.mean(0), (len(frames[0]),), model["fc_norm.weight"], model["fc_norm.bias"], 1e-6
    )
    torch.testing.assert_close(found, WANTED[f"{clip}.finetuned.pooled"], atol=5e-4, rtol=1e-3)


def test_pretrained_frames_are_the_authors(files):
    frames = frames_of(files["pretrained"], "two_seconds", "last")
    wanted = WANTED["two_seconds.pretrained.last"]
    torch.testing.assert_close(frames[::16], wanted, atol=5e-4, rtol=1e-3)
