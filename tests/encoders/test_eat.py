"""EAT against a plain re-computation on numbers, its documented shapes, and the importers on files in
both released layouts at a tiny width."""

import argparse
import json
import math
import os
import pickle

import kaldi_native_fbank
import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from lalm.encoders import build_encoder, load_encoder, save_encoder
from lalm.encoders.eat import EATConfig, EATEncoder, position_table
from lalm.encoders.eat_import import EATImportError, check_eat, import_eat

TEN_S = 163_840  # 10.24 s
FEWER = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny(**fields) -> EATEncoder:
    torch.manual_seed(0)
    encoder = build_encoder(EATConfig(**(FEWER | fields))).eval()
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


def plain_fbank(samples: np.ndarray, num_frames: int) -> np.ndarray:
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.window_type = "hanning"
    options.mel_opts.num_bins = 128
    options.use_energy = False
    computer = kaldi_native_fbank.OnlineFbank(options)
    computer.accept_waveform(16_000, (samples - samples.mean()).tolist())
    computer.input_finished()
    rows = [computer.get_frame(i) for i in range(computer.num_frames_ready)]
    mel = np.zeros((num_frames, 128))
    mel[: len(rows)] = np.array(rows)
    return (mel + 4.268) / (2 * 4.569)


def plain_eat(encoder: EATEncoder, samples: np.ndarray, num_frames: int) -> np.ndarray:
    return plain_encode(encoder, plain_fbank(samples.astype(np.float64), num_frames))


def plain_encode(encoder: EATEncoder, mel: np.ndarray) -> np.ndarray:
    state = {name: tensor.double().numpy() for name, tensor in encoder.state_dict().items()}
    width = encoder.width
    tokens = [state["cls"][0, 0]]
    for step in range(len(mel) // 16):
        for band in range(8):
            patch = mel[16 * step : 16 * step + 16, 16 * band : 16 * band + 16]
            token = (state["patch.weight"][:, 0] * patch).sum((1, 2)) + state["patch.bias"]
            angles = [[i * 10_000 ** (-k / (width // 4)) for k in range(width // 4)] for i in (band, step)]
            waves = [[f(a) for a in row] for row in angles for f in (math.sin, math.cos)]
            tokens.append(token + np.concatenate(waves))
    x = plain_norm(np.array(tokens), state["norm.weight"], state["norm.bias"])
    for n in range(encoder.config.num_hidden_layers):
        p = {
            key.removeprefix(f"blocks.{n}."): v for key, v in state.items() if key.startswith(f"blocks.{n}.")
        }
        q, k, v = np.split(x @ p["qkv.weight"].T + p["qkv.bias"], 3, axis=1)
        heads = []
        for h in range(width // 64):
            s = slice(64 * h, 64 * h + 64)
            scores = np.exp(q[:, s] @ k[:, s].T / 8.0)
            heads.append(scores / scores.sum(1, keepdims=True) @ v[:, s])
        x = x + np.concatenate(heads, axis=1) @ p["proj.weight"].T + p["proj.bias"]
        x = plain_norm(x, p["norm1.weight"], p["norm1.bias"])
        inner = torch.nn.functional.gelu(torch.from_numpy(x @ p["fc1.weight"].T + p["fc1.bias"])).numpy()
        x = x + inner @ p["fc2.weight"].T + p["fc2.bias"]
        x = plain_norm(x, p["norm2.weight"], p["norm2.bias"])
    return x


@pytest.mark.parametrize(("num_samples", "num_frames"), [(32_000, 1024), (TEN_S + 2500, 1040)])
def test_it_equals_a_plain_recomputation(num_samples, num_frames):
    encoder = tiny()
    found = run(encoder, clip(num_samples))[0].numpy()
    expected = plain_eat(encoder, clip(num_samples).numpy(), num_frames)
    assert found.shape == expected.shape == (1 + num_frames // 2, 128)
    np.testing.assert_allclose(found, expected, atol=3e-4)


def test_base_and_large_have_the_documented_shapes():
    with torch.device("meta"):
        base, large = EATEncoder(EATConfig()), EATEncoder(EATConfig.large())
    assert (base.width, base.num_frames(TEN_S), base.frames_per_second) == (768, 513, 50.0)
    assert base.num_frames(16_000) == 513 and base.num_frames(TEN_S) // 5 == 102
    assert (large.width, len(large.blocks), large.blocks[0].num_heads) == (1024, 24, 16)
    blocks = {name for name, _ in base.named_parameters() if name.startswith("blocks.11.")}
    assert len(blocks) == 12 and "blocks.12.norm1.weight" not in dict(base.named_parameters())
    # patch 16*16*768 + 768, CLS 768, norm 2*768, 12 blocks of 12 D^2 + 13 D
    assert sum(p.numel() for p in base.parameters()) == 256 * 768 + 4 * 768 + 12 * (12 * 768**2 + 13 * 768)


def test_ten_seconds_at_full_width_give_513_times_768():
    torch.manual_seed(0)
    encoder = EATEncoder(EATConfig(num_hidden_layers=1)).eval()
    assert run(encoder, clip(TEN_S))[0].shape == (513, 768)


def test_positions_encode_band_then_step():
    table = position_table(768, 8, 768)
    assert table.shape == (6144, 768) and table.dtype == np.float32
    np.testing.assert_array_equal(table[0], np.tile(np.repeat([0.0, 1.0], 192), 2))  # sin 0, cos 0
    row = table[8 * 5 + 3]  # step 5, band 3
    waves = np.array([math.sin(3), math.cos(3), math.sin(5), math.cos(5)])
    np.testing.assert_allclose(row[[0, 192, 384, 576]], waves, rtol=1e-6)
    np.testing.assert_allclose(row[191], math.sin(3 * 10_000 ** (-191 / 192)), rtol=1e-5)
    np.testing.assert_array_equal(position_table(64, 8, 768), table[:512])


def test_silence_and_padding_have_the_documented_value():
    encoder = tiny()
    mel = encoder.spectrogram([clip(8000)], 1024)
    assert mel.shape == (1, 1024, 128)
    assert float(mel[0, 48:].min()) == float(mel[0, 48:].max()) == pytest.approx(0.467, abs=5e-4)
    assert float((mel[0, :48] - mel[0, -1]).abs().max()) > 0.1


def test_a_constant_offset_is_not_heard():
    encoder = tiny()
    torch.testing.assert_close(
        run(encoder, clip(20_000) + 0.3)[0], run(encoder, clip(20_000))[0], atol=2e-3, rtol=1e-3
    )


@pytest.mark.parametrize("fields", [{}, {"pad_to_frames": 0}, {"keep_cls": False}])
def test_a_padded_batch_equals_single_runs(fields):
    encoder = tiny(**fields)
    clips = [clip(n, i) for i, n in enumerate([1, 399, 16_000, TEN_S + 9000, 40_001, TEN_S])]
    for together, one in zip(run(encoder, *clips), clips, strict=True):
        torch.testing.assert_close(together, run(encoder, one)[0], atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("fields", [{}, {"pad_to_frames": 0}, {"pad_to_frames": 0, "keep_cls": False}])
@pytest.mark.parametrize("num_samples", [1, 399, 400, 2800, 2960, TEN_S, TEN_S + 400, 500_000])
def test_num_frames_is_exact(fields, num_samples):
    encoder = tiny(**fields)
    frames = run(encoder, clip(num_samples))[0]
    assert len(frames) == encoder.num_frames(num_samples)
    assert torch.isfinite(frames).all()


def test_without_cls_the_patches_stay_the_same():
    with_cls, without = run(tiny(), clip(9000))[0], run(tiny(keep_cls=False), clip(9000))[0]
    torch.testing.assert_close(with_cls[1:], without)


def test_beyond_the_position_table_windows_are_joined():
    encoder = tiny(max_frames=320, pad_to_frames=0, keep_cls=False)
    samples = clip(800 * 160 + 240) - clip(800 * 160 + 240).mean()
    pieces = [samples[start * 160 : (min(start + 320, 800)) * 160 + 240] for start in (0, 320, 640)]
    apart = torch.cat([run(encoder, piece - 0.0)[0] for piece in pieces])
    found = run(encoder, samples)[0]
    assert len(found) == encoder.num_frames(len(samples)) == 400
    torch.testing.assert_close(found, apart, atol=5e-2, rtol=1e-2)  # each piece has its own small mean
    marked = run(tiny(max_frames=320, pad_to_frames=0), samples)[0]
    assert len(marked) == 401
    torch.testing.assert_close(marked[1:], found)


def test_windows_equal_a_plain_recomputation_in_a_batch_too():
    encoder = tiny(max_frames=320, pad_to_frames=160)
    samples, short = clip(790 * 160 + 240), clip(9000, 1)
    mel = plain_fbank(samples.double().numpy(), 800)  # 790 frames, then zeros to a whole patch
    windows = [plain_encode(encoder, mel[start : start + 320]) for start in (0, 320, 640)]
    expected = np.concatenate([windows[0], windows[1][1:], windows[2][1:]])  # one CLS, the first window's
    found, beside = run(encoder, samples, short)
    np.testing.assert_allclose(found.numpy(), expected, atol=3e-4)
    np.testing.assert_allclose(beside.numpy(), plain_eat(encoder, short.numpy(), 160), atol=3e-4)


@pytest.mark.parametrize(
    ("num_samples", "num_frames"),
    [(12_288 * 160 + 240, 6145), (12_289 * 160 + 240, 6153)],
)
def test_beyond_122_9_seconds_with_the_default_table(num_samples, num_frames):
    encoder = tiny(hidden_size=64, num_hidden_layers=1, num_attention_heads=1)
    samples = clip(num_samples)
    found = run(encoder, samples)[0]
    assert len(found) == encoder.num_frames(num_samples) == num_frames
    mel = encoder.spectrogram([samples - samples.mean()], 16 * (num_frames // 8))
    with torch.no_grad():
        parts = [encoder.encode(part, torch.tensor([part.shape[1]]))[0] for part in mel.split(12_288, dim=1)]
    joined = torch.cat([parts[0], *(part[1:] for part in parts[1:])])
    torch.testing.assert_close(found, joined, atol=5e-5, rtol=1e-4)


def test_bfloat16_is_near_float32():
    exact, rough = run(tiny(), clip(32_000))[0], run(tiny().bfloat16(), clip(32_000))[0]
    assert rough.dtype == torch.bfloat16
    assert float((rough.float() - exact).abs().mean() / exact.abs().mean()) < 0.05


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"pad_to_frames": 1000}, "pad_to_frames must be a multiple of 16, not 1000"),
        ({"max_frames": 512}, "pad_to_frames 1024 exceeds max_frames 512"),
        ({"hidden_size": 130}, "hidden_size 130 must divide by 4"),
    ],
)
def test_impossible_shapes_are_refused(fields, text):
    with pytest.raises(ValueError, match=text):
        EATConfig(**(FEWER | fields))


# The released layouts. ``released`` names our tensors as the two families of files do.


def released(encoder: EATEncoder, layout: str, *, prefix: str) -> dict[str, torch.Tensor]:
    modality = "" if layout == "hub" else "modality_encoders.IMAGE."
    norm = "pre_norm" if layout == "hub" else modality + "context_encoder.norm"
    renamed = {"cls": modality + "extra_tokens"}
    for leaf in ("weight", "bias"):
        renamed[f"patch.{leaf}"] = f"{modality}local_encoder.proj.{leaf}"
        renamed[f"norm.{leaf}"] = f"{norm}.{leaf}"
    state = {}
    for name, tensor in encoder.state_dict().items():
        for ours, theirs in (
            ("qkv", "attn.qkv"),
            ("proj", "attn.proj"),
            ("fc1", "mlp.fc1"),
            ("fc2", "mlp.fc2"),
        ):
            if f".{ours}." in name:
                name = name.replace(f".{ours}.", f".{theirs}.")
        state[prefix + renamed.get(name, name)] = tensor.clone()
    table = torch.from_numpy(position_table(64, 8, encoder.width))[None]
    state[prefix + modality + "fixed_positional_encoder.positions"] = table
    return state


def fairseq_file(path, encoder, *, finetuned: bool, extra: dict | None = None):
    state = released(encoder, "fairseq", prefix="model." if finetuned else "")
    prefix = "model." if finetuned else ""
    if finetuned:
        width = encoder.width
        state |= {"fc_norm.weight": torch.ones(width), "fc_norm.bias": torch.zeros(width)}
        state |= {"head.weight": torch.zeros(527, width), "head.bias": torch.zeros(527)}
    else:
        state["_ema"] = {"0.norm1.weight": torch.ones(3)}
        state["modality_encoders.IMAGE.decoder.proj.weight"] = torch.ones(3, 3)
        state["recon_proj.weight"] = torch.ones(3, 3)
    content = {
        "args": argparse.Namespace(arch="data2vec_multi"),
        "cfg": {"model": {"_name": "mae_image_classification", "depth": 2}},
        "model": state | {prefix + k: v for k, v in (extra or {}).items()},
        "optimizer_history": [{"num_updates": 400_000}],
        "extra_state": {"epoch": 30},
        "last_optimizer_state": None,
    }
    torch.save(content, path)
    return path


@pytest.mark.parametrize("finetuned", [True, False])
def test_fairseq_checkpoints_load(tmp_path, finetuned):
    encoder = tiny()
    path = fairseq_file(tmp_path / "EAT-base_epoch30_ft.pt", encoder, finetuned=finetuned)
    config, state = import_eat(path)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (128, 2, 2)
    copy = EATEncoder(config).eval()
    copy.load_state_dict(state)
    torch.testing.assert_close(run(copy, clip(20_000)), run(encoder, clip(20_000)))
    folder = save_encoder(load_encoder(path), tmp_path / "converted")
    for loaded in (load_encoder(folder), load_encoder(tmp_path)):  # the folder with the .pt itself too
        torch.testing.assert_close(run(loaded, clip(20_000)), run(encoder, clip(20_000)))


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_the_hub_port_loads(tmp_path, file):
    encoder = tiny()
    state = released(encoder, "hub", prefix="model.")
    state |= {"model.fc_norm.weight": torch.ones(128), "model.fc_norm.bias": torch.zeros(128)}
    state |= {"model.head.weight": torch.zeros(527, 128), "model.head.bias": torch.zeros(527)}
    if file.endswith(".bin"):
        torch.save(state, tmp_path / file)
    else:
        save_file(state, tmp_path / file)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "eat", "architectures": ["EATModel"]}))
    loaded = load_encoder(tmp_path, {"keep_cls": False})
    torch.testing.assert_close(run(loaded, clip(20_000))[0], run(encoder, clip(20_000))[0][1:])


@pytest.mark.parametrize(("width", "heads", "mlp_ratio"), [(768, 12, 0.25), (1024, 16, 0.5)])
def test_shapes_are_read_from_the_tensors(tmp_path, width, heads, mlp_ratio):
    with torch.device("meta"):
        encoder = EATEncoder(
            EATConfig(hidden_size=width, num_hidden_layers=2, num_attention_heads=heads, mlp_ratio=mlp_ratio)
        )
    encoder = encoder.half().to_empty(device="cpu")
    for parameter in encoder.parameters():
        parameter.data.zero_()
    save_file(released(encoder, "hub", prefix="model."), tmp_path / "model.safetensors")
    config, _ = import_eat(tmp_path)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (width, 2, heads)
    assert (config.mlp_ratio, config.patch_size) == (mlp_ratio, 16)


def test_a_missing_block_is_noticed(tmp_path):
    state = released(tiny(), "hub", prefix="model.")
    renamed = {name.replace("blocks.1.", "blocks.7."): tensor for name, tensor in state.items()}
    save_file(renamed, tmp_path / "model.safetensors")
    with pytest.raises(EATImportError, match="it has 2 blocks up to 7"):
        import_eat(tmp_path)


def test_half_precision_files_load_as_float32(tmp_path):
    state = {name: t.half() for name, t in released(tiny(), "hub", prefix="model.").items()}
    save_file(state, tmp_path / "model.safetensors")
    _, loaded = import_eat(tmp_path)
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}


def test_an_unknown_tensor_is_named(tmp_path):
    path = fairseq_file(tmp_path / "odd.pt", tiny(), finetuned=True, extra={"alibi_scale": torch.ones(1)})
    with pytest.raises(EATImportError, match=r"'odd.pt' has 1 tensors that no EAT has: model.alibi_scale"):
        import_eat(path)


@pytest.mark.parametrize(
    ("key", "change", "text"),
    [
        ("model.blocks.1.mlp.fc2.bias", None, "it lacks 'blocks.1.fc2.bias'"),
        (
            "model.blocks.1.mlp.fc2.bias",
            torch.zeros(7),
            r"'blocks.1.fc2.bias' has shape \(7,\), not \(128,\)",
        ),
        ("model.blocks.0.norm1.weight", None, "it lacks 'blocks.0.norm1.weight'"),
        ("model.local_encoder.proj.weight", None, "no usable 'patch.weight'"),
        ("model.local_encoder.proj.weight", torch.zeros(100, 1, 16, 16), "width 100 is no multiple of 64"),
        (
            "model.fixed_positional_encoder.positions",
            torch.zeros(1, 512, 128),
            "positions differ by 1 from EAT's",
        ),
        (
            "model.fixed_positional_encoder.positions",
            torch.zeros(1, 512, 64),
            "positions are 64 wide, not 128",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, key, change, text):
    state = released(tiny(), "hub", prefix="model.")
    del state[key]
    if change is not None:
        state[key] = change
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(EATImportError, match=text):
        import_eat(tmp_path)


class Trap:
    """Would make a file when unpickled carelessly."""

    def __init__(self, target) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_a_malicious_pickle_is_refused(tmp_path):
    target = tmp_path / "made"
    path = tmp_path / "evil.pt"
    torch.save({"model": released(tiny(), "fairseq", prefix="model.") | {"model.x": Trap(target)}}, path)
    with pytest.raises(EATImportError, match=r"^'evil.pt' is not opened, because it asks for '\w+.mkdir'"):
        import_eat(path)
    path.write_bytes(pickle.dumps({"model": Trap(target)}, protocol=2))
    with pytest.raises(EATImportError, match=r"'evil.pt' (is not opened|cannot be read)"):
        import_eat(path)
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_damaged_files_are_refused(tmp_path, content):
    for name in ("model.safetensors", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(EATImportError, match=f"'{name}' (cannot be read|is not opened)"):
            import_eat(tmp_path / name)
    with pytest.raises(EATImportError, match=r"holds no model\.safetensors"):
        import_eat(tmp_path / "nowhere")


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save([torch.ones(3)], tmp_path / "list.pt")
    with pytest.raises(EATImportError, match="holds no tensors by name"):
        import_eat(tmp_path / "list.pt")
    torch.save({"model": {"a": torch.ones(3)}}, tmp_path / "other.pt")
    with pytest.raises(EATImportError, match="tensors that no EAT has: a"):
        import_eat(tmp_path / "other.pt")


def test_the_golden_check_measures_the_difference(tmp_path):
    encoder = tiny()
    folder = save_encoder(encoder, tmp_path / "eat")
    samples = clip(16_000) * 0.5
    soundfile.write(tmp_path / "test.wav", samples.numpy(), 16_000, subtype="FLOAT")
    golden = run(encoder, samples)[0].numpy()
    np.save(tmp_path / "same.npy", golden)
    np.save(tmp_path / "other.npy", golden + 0.25)
    np.save(tmp_path / "shape.npy", golden[:-1])
    assert check_eat(folder, tmp_path / "test.wav", tmp_path / "same.npy") < 1e-5
    assert check_eat(folder, tmp_path / "test.wav", tmp_path / "other.npy") == pytest.approx(0.25, abs=1e-3)
    with pytest.raises(EATImportError, match=r"\(512, 128\), EAT gives \(513, 128\)"):
        check_eat(folder, tmp_path / "test.wav", tmp_path / "shape.npy")
