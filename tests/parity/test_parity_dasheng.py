"""Dasheng's published forms give the frames of the authors' own module.

Fixture ``dasheng/``: the package dasheng of XiaoMi/dasheng, a tiny random model; see README.md there.
"""

import json

import pytest
import torch
from parity_fixtures import FIXTURES, signal, unpack
from safetensors.torch import load_file, save_file

from lalm.encoders import load_encoder, read_config, save_encoder

HERE = FIXTURES / "dasheng"
FACTS = json.loads((HERE / "outputs.json").read_text("utf-8"))
WANTED = load_file(HERE / "outputs.safetensors")
SETTINGS = {"embed_dim": 32, "depth": 3, "num_heads": 2, "mlp_ratio": 2.0, "target_length": 1008}
PATCHES = {"patch_size": [64, 4], "patch_stride": [64, 4]}


def recording(name):
    samples = signal(FACTS[name]["samples"], FACTS[name]["seed"])
    return torch.from_numpy(samples.astype("float32") / 32768)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return unpack("dasheng/dasheng.pt", tmp_path_factory.mktemp("dasheng"))


def as_on_the_hub(released, folder):
    """What the authors' convert_dasheng_original_to_pytorch.py makes of it, with the names of auto_map."""
    folder.mkdir()
    tensors = torch.load(released, weights_only=True)["model"]
    kept = {f"encoder.{key}": t.contiguous() for key, t in tensors.items() if not key.startswith("front_end")}
    save_file(kept, folder / "model.safetensors")
    auto = {"AutoConfig": "configuration_dasheng.DashengConfig", "AutoModel": "modeling_dasheng.DashengModel"}
    fields = {"model_type": "dasheng", "name": "dasheng-base", "loss": "BCELoss", "auto_map": auto}
    (folder / "config.json").write_text(json.dumps({**fields, "encoder_kwargs": SETTINGS | PATCHES}))
    features = {"f_min": 0, "f_max": 8000, "win_size": 512, "n_fft": 512, "hop_size": 160, "center": True}
    (folder / "preprocessor_config.json").write_text(json.dumps({**features, "feature_size": 64}))
    (folder / "modeling_dasheng.py").write_text("raise SystemExit('it was run')")
    return folder


def of_midashenglm(released, folder):
    """The encoder in MiDashengLM: its names are those of vLLM's midashenglm.py."""
    folder.mkdir()
    tensors = torch.load(released, weights_only=True)["model"]
    kept = {
        f"audio_encoder.{k.replace('init_bn.1.', 'init_bn.')}": t.contiguous() for k, t in tensors.items()
    }
    kept["decoder.model.embed_tokens.weight"] = torch.zeros(4, 4)
    save_file(kept, folder / "model.safetensors")
    settings = {
        **SETTINGS,
        **PATCHES,
        "n_mels": 64,
        "hop_length": 160,
        "win_length": 512,
        "sample_rate": 16_000,
    }
    fields = {"model_type": "midashenglm", "audio_encoder_config": settings, "subsample_factor": 5}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@torch.no_grad()
def test_frames_are_the_authors_in_every_form(released, tmp_path):
    folders = [as_on_the_hub(released, tmp_path / "hub"), of_midashenglm(released, tmp_path / "mi")]
    for folder in (released, released.parent, *folders):
        encoder = load_encoder(folder)
        for name, wanted in WANTED.items():
            audio = recording(name)[None]
            frames, lengths = encoder(audio, torch.tensor([audio.shape[1]]))
            assert lengths.tolist() == [len(wanted)]
            torch.testing.assert_close(frames[0], wanted, atol=5e-4, rtol=1e-3)
    config = read_config(folders[0], {"layers": "all"})
    assert (config.width, config.frames_per_second, config.num_frames(16_000)) == (4 * 32, 25.0, 25)


@torch.no_grad()
def test_a_batch_gives_what_each_clip_gives_alone_and_layers_stand_side_by_side(released, tmp_path):
    encoder = load_encoder(released)
    clips = [recording(name) for name in ("long", "short", "odd")] + [torch.zeros(300)]
    lengths = torch.tensor([len(clip) for clip in clips])
    frames, counts = encoder(torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), lengths)
    assert counts.tolist() == [encoder.num_frames(len(clip)) for clip in clips] and counts[3] == 0
    for row, name in enumerate(("long", "short", "odd")):
        torch.testing.assert_close(frames[row, : counts[row]], WANTED[name], atol=5e-4, rtol=1e-3)
    every = load_encoder(released, {"layers": "all"})
    audio = recording("odd")[None]
    states, _ = every(audio, torch.tensor([audio.shape[1]]))
    torch.testing.assert_close(states[0, :, 96:], WANTED["odd"], atol=5e-4, rtol=1e-3)
    assert not torch.allclose(states[..., :32], states[..., 32:64], atol=1e-2)
    again = load_encoder(save_encoder(encoder, tmp_path / "saved"))
    torch.testing.assert_close(
        again(audio, torch.tensor([audio.shape[1]]))[0][0], WANTED["odd"], atol=5e-4, rtol=1e-3
    )


def test_the_formula_counts_what_the_authors_module_gives(released):
    config = load_encoder(released).config
    assert len(FACTS["counts"]) > 200
    assert [config.num_frames(n) for n, _ in FACTS["counts"]] == [count for _, count in FACTS["counts"]]
    assert [config.num_frames(n) for n in (0, 1, 256, 479)] == [0, 0, 0, 0]


def test_what_is_another_or_not_whole_is_refused(released, tmp_path):
    folder = as_on_the_hub(released, tmp_path / "hub")
    fields = json.loads((folder / "config.json").read_text())
    for change, told in (
        ({"pooling": "token"}, "has pooling token"),
        ({"hop_size": 320}, "has hop_size 320"),
    ):
        other = {**fields, "encoder_kwargs": {**fields["encoder_kwargs"], **change}}
        (folder / "config.json").write_text(json.dumps(other))
        with pytest.raises(ValueError, match=told):
            load_encoder(folder)
    (folder / "config.json").write_text(json.dumps(fields))
    tensors = load_file(folder / "model.safetensors")
    save_file({k: t for k, t in tensors.items() if "blocks.2.norm1" not in k}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"no whole Dasheng: it lacks 'blocks\.2\.norm1\.weight'"):
        load_encoder(folder)
    save_file({**tensors, "encoder.odd": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="has 1 tensors that no Dasheng has: odd"):
        load_encoder(folder)
