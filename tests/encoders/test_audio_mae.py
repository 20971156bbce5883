"""Audio-MAE against a plain re-computation on numbers, its documented shapes, and its importers on files in
both released layouts at a tiny width."""

import argparse
import json
import os

import kaldi_native_fbank
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lalm.encoders import build_encoder, load_encoder, save_encoder
from lalm.encoders.audio_mae import AudioMAEConfig, AudioMAEEncoder
from lalm.encoders.audio_mae_import import AudioMAEImportError, import_audio_mae

TEN_S = 1023 * 160 + 400  # samples of 1,024 frames: 10.255 s
FEWER = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny(**fields) -> AudioMAEEncoder:
    torch.manual_seed(0)
    encoder = build_encoder(AudioMAEConfig(**(FEWER | fields))).eval()
    for parameter in encoder.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return encoder


def clip(num_samples: int, seed: int = 0) -> torch.Tensor:
    noise = np.random.default_rng(seed).standard_normal(num_samples)
    return torch.from_numpy(
        (0.1 + 0.1 * noise + 0.2 * np.sin(0.05 * np.arange(num_samples))).astype(np.float32)
    )


def run(encoder, *clips: torch.Tensor) -> list[torch.Tensor]:
    lengths = torch.tensor([len(c) for c in clips])
    with torch.no_grad():
        frames, frame_lengths = encoder(torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), lengths)
    return [f[:n] for f, n in zip(frames, frame_lengths.tolist(), strict=True)]


# A second writing of the architecture, from its description, one token and one head at a time.


def plain_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * weight + bias


def plain_fbank(samples: np.ndarray) -> np.ndarray:
    """Normalised, filled up to whole windows of 1,024 frames."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.window_type = "hanning"
    options.mel_opts.num_bins = 128
    options.use_energy = False
    computer = kaldi_native_fbank.OnlineFbank(options)
    computer.accept_waveform(16_000, (samples - samples.mean()).tolist())
    computer.input_finished()
    rows = [computer.get_frame(i) for i in range(computer.num_frames_ready)]
    mel = np.zeros((-(-max(len(rows), 1) // 1024) * 1024, 128))
    mel[: len(rows)] = np.array(rows)
    return (mel + 4.2677393) / (2 * 4.5689974)


def plain_encode(encoder: AudioMAEEncoder, mel: np.ndarray, depth: int) -> np.ndarray:
    state = {name: tensor.double().numpy() for name, tensor in encoder.state_dict().items()}
    tokens = [state["cls"][0, 0] + state["positions"][0]]
    for step in range(64):
        for band in range(8):
            patch = mel[16 * step : 16 * step + 16, 16 * band : 16 * band + 16]
            token = (state["patch.weight"][:, 0] * patch).sum((1, 2)) + state["patch.bias"]
            tokens.append(token + state["positions"][1 + 8 * step + band])
    x = np.array(tokens)
    for n in range(depth):
        p = {
            key.removeprefix(f"blocks.{n}."): v for key, v in state.items() if key.startswith(f"blocks.{n}.")
        }
        y = plain_norm(x, p["norm1.weight"], p["norm1.bias"])
        q, k, v = np.split(y @ p["qkv.weight"].T + p["qkv.bias"], 3, axis=1)
        heads = []
        for h in range(encoder.width // 64):
            s = slice(64 * h, 64 * h + 64)
            scores = np.exp(q[:, s] @ k[:, s].T / 8.0)
            heads.append(scores / scores.sum(1, keepdims=True) @ v[:, s])
        x = x + np.concatenate(heads, axis=1) @ p["proj.weight"].T + p["proj.bias"]
        y = plain_norm(x, p["norm2.weight"], p["norm2.bias"])
        inner = torch.nn.functional.gelu(torch.from_numpy(y @ p["fc1.weight"].T + p["fc1.bias"])).numpy()
        x = x + inner @ p["fc2.weight"].T + p["fc2.bias"]
    return x[1:]


@pytest.mark.parametrize(("tap", "depth"), [("last", 2), ("penultimate", 1)])
def test_it_equals_a_plain_recomputation(tap, depth):
    encoder = tiny(tap=tap)
    found = run(encoder, clip(32_000))[0].numpy()
    assert found.shape == (512, 128)
    expected = plain_encode(encoder, plain_fbank(clip(32_000).double().numpy()), depth)
    np.testing.assert_allclose(found, expected, atol=3e-4)


def test_a_longer_clip_is_windows_in_time_order_the_last_filled_up():
    encoder = tiny()
    found, short = run(encoder, clip(TEN_S + 30_000), clip(9000, 1))
    mel = plain_fbank(clip(TEN_S + 30_000).double().numpy())
    assert len(mel) == 2048 and found.shape == (1024, 128)
    expected = np.concatenate([plain_encode(encoder, mel[i : i + 1024], 2) for i in (0, 1024)])
    np.testing.assert_allclose(found.numpy(), expected, atol=3e-4)
    torch.testing.assert_close(short, run(encoder, clip(9000, 1))[0], atol=5e-5, rtol=1e-4)


def test_positions_are_the_fixed_ones_and_are_not_trained():
    encoder = AudioMAEEncoder(AudioMAEConfig(**FEWER))
    table = encoder.positions
    assert table.shape == (513, 128) and not table[0].any()
    assert "positions" in encoder.state_dict() and "positions" not in dict(encoder.named_parameters())
    row = table[1 + 8 * 5 + 3]  # step 5, band 3: sines and cosines of the band, then of the step
    np.testing.assert_allclose(
        row[[0, 32, 64, 96]], [np.sin(3), np.cos(3), np.sin(5), np.cos(5)], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(row[31], np.sin(3 * 10_000 ** (-31 / 32)), rtol=1e-5)


def test_the_base_model_has_the_counts_of_the_paper():
    with torch.device("meta"):
        base = AudioMAEEncoder(AudioMAEConfig())
    assert (base.width, base.num_frames(TEN_S), base.frames_per_second) == (768, 512, 50.0)
    counted = sum(p.numel() for p in base.parameters())
    fc_norm, head = 2 * 768, 768 * 527 + 527  # of the finetuned model, after the last block
    assert counted + fc_norm + head == 85_659_407  # as the Audio-MAE repository counts, positions apart


@pytest.mark.parametrize("num_samples", [1, 399, 400, 16_000, TEN_S + 159, TEN_S + 160, 500_000])
def test_num_frames_is_exact(num_samples):
    encoder = tiny(num_hidden_layers=1)
    frames = run(encoder, clip(num_samples))[0]
    assert len(frames) == encoder.num_frames(num_samples)
    assert torch.isfinite(frames).all()
    assert encoder.num_frames(TEN_S + 159) == 512 and encoder.num_frames(TEN_S + 160) == 1024


def test_a_padded_batch_equals_single_runs():
    encoder = tiny()
    clips = [clip(n, i) for i, n in enumerate([1, 399, 16_000, TEN_S + 9000, 40_001])]
    for together, one in zip(run(encoder, *clips), clips, strict=True):
        torch.testing.assert_close(together, run(encoder, one)[0], atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"window_frames": 1000}, "window_frames must be a multiple of 16, not 1000"),
        ({"hidden_size": 130}, "hidden_size 130 must divide by 4"),
        ({"tap": "first"}, "tap must be 'last' or 'penultimate', not 'first'"),
    ],
)
def test_impossible_settings_are_refused(fields, text):
    with pytest.raises(ValueError, match=text):
        AudioMAEConfig(**(FEWER | fields))


# The released layouts, which name tensors as timm does.


def released(encoder: AudioMAEEncoder) -> dict[str, torch.Tensor]:
    state = {}
    for name, tensor in encoder.state_dict().items():
        for ours, theirs in ((".qkv.", ".attn.qkv."), (".proj.", ".attn.proj."), (".fc", ".mlp.fc")):
            name = name.replace(ours, theirs)
        name = {"cls": "cls_token", "positions": "pos_embed"}.get(name, name)
        state[name.replace("patch.", "patch_embed.proj.")] = tensor.clone()
    state["pos_embed"] = state["pos_embed"][None]
    return state


def finetuned(encoder: AudioMAEEncoder) -> dict[str, torch.Tensor]:
    width = encoder.width
    return released(encoder) | {
        **{"fc_norm.weight": torch.ones(width), "fc_norm.bias": torch.zeros(width)},
        **{"head.weight": torch.zeros(527, width), "head.bias": torch.zeros(527)},
    }


def pretrained(encoder: AudioMAEEncoder) -> dict[str, torch.Tensor]:
    width = encoder.width
    return released(encoder) | {
        **{"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)},
        **{"mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.zeros(1, 513, 8)},
        "decoder_blocks.0.attn.relative_position_bias_table": torch.zeros(49, 4),
        **{f"decoder_{n}.weight": torch.zeros(8) for n in ("embed", "norm", "pred")},
    }


@pytest.mark.parametrize("state", [finetuned, pretrained])
def test_official_files_load(tmp_path, state):
    encoder = tiny()
    encoder.positions += 0.01  # a checkpoint's own positions are kept
    path = tmp_path / "finetuned.pth"
    torch.save(
        {
            "model": state(encoder),
            "optimizer": {"state": {}},
            "epoch": 3,
            "args": argparse.Namespace(lr=1e-3),
        },
        path,
    )
    expected = run(encoder, clip(20_000))
    for place in (path, tmp_path, save_encoder(load_encoder(path), tmp_path / "converted")):
        torch.testing.assert_close(run(load_encoder(place), clip(20_000)), expected)
    tapped = load_encoder(tmp_path / "converted", {"tap": "penultimate"})
    torch.testing.assert_close(run(tapped, clip(20_000)), run_tapped(encoder))


def run_tapped(encoder):
    encoder.config.tap = "penultimate"
    return run(encoder, clip(20_000))


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_timm_folders_load(tmp_path, file):
    encoder = tiny()
    state = {name: tensor.half() for name, tensor in finetuned(encoder).items()}
    torch.save(state, tmp_path / file) if file.endswith(".bin") else save_file(state, tmp_path / file)
    config = {"architecture": "vit_base_patch16_224", "pretrained_cfg": {"input_size": [1, 1024, 128]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_encoder(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(
        run(loaded, clip(20_000)), run(encoder.half().float(), clip(20_000)), atol=2e-3, rtol=1e-2
    )


def test_shorter_windows_are_read_from_the_positions(tmp_path):
    encoder = tiny(window_frames=512)
    save_file(released(encoder), tmp_path / "model.safetensors")
    config, _ = import_audio_mae(tmp_path)
    assert (config.window_frames, config.num_frames(16_000 * 10)) == (512, 512)


def other(name: str, tensor: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = {key: value for key, value in released(tiny()).items() if key != name}
    return state if tensor is None else state | {name: tensor}


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (other("alibi", torch.ones(1)), "1 tensors that no Audio-MAE has: alibi"),
        (other("blocks.1.mlp.fc2.bias", None), "it lacks 'blocks.1.fc2.bias'"),
        (
            other("blocks.1.mlp.fc2.bias", torch.ones(7)),
            r"'blocks.1.fc2.bias' has shape \(7,\), not \(128,\)",
        ),
        (other("pos_embed", None), "no usable 'positions'"),
        (other("pos_embed", torch.ones(1, 511, 128)), "128 wide, 1 channels, 511 positions"),
        (other("patch_embed.proj.weight", torch.ones(128, 3, 16, 16)), "128 wide, 3 channels"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, state, text):
    torch.save({"model": state}, tmp_path / "odd.pth")
    with pytest.raises(AudioMAEImportError, match=text):
        load_encoder(tmp_path / "odd.pth")


class Trap:
    """Would make a file when unpickled carelessly."""

    def __init__(self, target) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_a_malicious_pickle_is_refused(tmp_path):
    target = tmp_path / "made"
    torch.save({"model": released(tiny()) | {"x": Trap(target)}}, tmp_path / "evil.pth")
    with pytest.raises(AudioMAEImportError, match=r"^'evil.pth' is not opened, because it asks for"):
        load_encoder(tmp_path)
    assert not target.exists()
    (tmp_path / "evil.pth").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(AudioMAEImportError, match=r"'evil.pth' (is not opened|cannot be read)"):
        load_encoder(tmp_path)
