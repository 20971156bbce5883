"""Whisper's encoder against transformers' own, and against itself on padded, long and short clips."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperModel

from lalm.encoders import build_encoder, load_encoder
from lalm.encoders.whisper import WhisperEncoder, WhisperEncoderConfig
from lalm.weights import fetch as weights

WINDOW = 30 * 16_000


def config(**fields) -> WhisperEncoderConfig:
    shape = {"d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 48}
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 48, "vocab_size": 64}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return WhisperEncoderConfig(**(shape | decoder | tokens | fields))


def tiny(**fields) -> WhisperEncoder:
    torch.manual_seed(0)
    encoder = build_encoder(config(**fields)).eval()
    for parameter in encoder.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)  # biases too
    return encoder


def clip(num_samples: int, seed: int = 0) -> torch.Tensor:
    time = np.arange(num_samples) / 16_000
    noise = np.random.default_rng(seed).standard_normal(num_samples)
    return torch.from_numpy((0.1 * noise + 0.2 * np.sin(2000 * time * (1 + seed))).astype(np.float32))


def run(encoder, *clips: torch.Tensor) -> list[torch.Tensor]:
    lengths = torch.tensor([len(c) for c in clips])
    with torch.no_grad():
        frames, frame_lengths = encoder(torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), lengths)
    return [f[:n] for f, n in zip(frames, frame_lengths.tolist(), strict=True)]


def reference(encoder: WhisperEncoder, samples: torch.Tensor, num_mels: int) -> tuple[torch.Tensor, ...]:
    extractor = WhisperFeatureExtractor(feature_size=num_mels)
    features = extractor(samples.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
    model = WhisperModel(encoder.config).eval()
    model.encoder.load_state_dict(encoder.whisper.state_dict())
    with torch.no_grad():
        output = model.encoder(features, output_hidden_states=True)
    return (*output.hidden_states[:-1], output.last_hidden_state)


@pytest.mark.parametrize("num_mels", [80, 128])
@pytest.mark.parametrize("num_samples", [16_001, WINDOW])
def test_padded_to_its_window_it_equals_transformers(num_mels, num_samples):
    encoder = tiny(num_mel_bins=num_mels, pad_to_window=True, layers=[0, 2, 3])
    samples = clip(num_samples)
    states = reference(encoder, samples, num_mels)
    found = run(encoder, samples)[0]
    assert found.shape == (1500, 3 * 32)
    assert encoder.num_frames(num_samples) == 1500
    assert len(states) == 4
    for part, number in zip(found.split(32, dim=1), [0, 2, 3], strict=True):
        torch.testing.assert_close(part, states[number][0], atol=2e-5, rtol=1e-4)


def test_a_full_window_needs_no_padding():
    plain, padded = tiny(), tiny(pad_to_window=True)
    one, other = run(plain, clip(WINDOW))[0], run(padded, clip(WINDOW))[0]
    # The window's last 10 ms differ: what follows a clip is silence, what follows a window its mirror.
    torch.testing.assert_close(one[:-2], other[:-2], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("fields", [{}, {"layers": [1, 3]}, {"pool": 4}, {"layers": [0], "pool": 3}])
def test_a_padded_batch_equals_single_runs(fields):
    encoder = tiny(**fields)
    clips = [clip(n, i) for i, n in enumerate([1, 319, 321, 16_000, 47_999, WINDOW + 5_000])]
    for together, one in zip(run(encoder, *clips), clips, strict=True):
        torch.testing.assert_close(together, run(encoder, one)[0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "fields", [{}, {"pool": 2}, {"pad_to_window": True}, {"pad_to_window": True, "pool": 7}]
)
@pytest.mark.parametrize(
    "num_samples", [1, 320, 321, 16_000, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 333]
)
def test_num_frames_is_exact(fields, num_samples):
    encoder = tiny(**fields)
    frames = run(encoder, clip(num_samples))[0]
    assert len(frames) == encoder.num_frames(num_samples)
    assert torch.isfinite(frames).all()


def test_fifty_frames_a_second():
    encoder = tiny(layers=[1, 2, 3])
    assert (encoder.num_frames(16_000), encoder.frames_per_second, encoder.width) == (50, 50.0, 96)
    assert tiny(pool=2).frames_per_second == 25.0


def test_long_audio_is_its_windows_one_after_the_other():
    encoder = tiny()
    samples = clip(2 * WINDOW + 40_000)
    parts = [run(encoder, piece)[0] for piece in samples.split(WINDOW)]
    torch.testing.assert_close(run(encoder, samples)[0], torch.cat(parts), atol=2e-5, rtol=1e-4)


def test_pooling_is_the_mean_of_what_is_there():
    frames = run(tiny(), clip(320 * 7))[0]
    pooled = run(tiny(pool=3), clip(320 * 7))[0]
    expected = torch.stack([frames[0:3].mean(0), frames[3:6].mean(0), frames[6]])
    torch.testing.assert_close(pooled, expected)


def test_bfloat16_is_near_float32():
    samples = clip(32_000)
    exact, rough = run(tiny(), samples)[0], run(tiny().bfloat16(), samples)[0]
    assert rough.dtype == torch.bfloat16
    assert float((rough.float() - exact).abs().mean() / exact.abs().mean()) < 0.03


def test_gradients_reach_every_layer_that_is_used():
    encoder = tiny(layers=[2])
    frames, _ = encoder(clip(8000)[None], torch.tensor([8000]))
    frames.sum().backward()
    used = {name for name, p in encoder.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert "whisper.conv1.weight" in used and "whisper.layers.1.fc1.weight" in used
    assert not any(name.startswith(("whisper.layers.2.", "whisper.layer_norm")) for name in used)


@pytest.mark.parametrize(
    ("fields", "text"),
    [({"layers": [4]}, r"layers 0 to 3, or 'all', not \[4\]"), ({"pool": 0}, "pool must be at least 1")],
)
def test_impossible_choices_are_refused(fields, text):
    with pytest.raises(ValueError, match=text):
        config(**fields)


@pytest.mark.parametrize("model_class", [WhisperModel, WhisperForConditionalGeneration])
def test_a_hub_folder_loads_with_options(tmp_path, model_class):
    encoder = tiny()
    own = {"layers", "pool", "pad_to_window", "model_type"}
    fields = {key: value for key, value in encoder.config.to_dict().items() if key not in own}
    model = model_class(WhisperConfig(**fields))
    model.get_encoder().load_state_dict(encoder.whisper.state_dict())
    model.save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert any("decoder." in name for name in names)
    loaded = load_encoder(tmp_path, {"layers": [1, 3]})
    assert loaded.width == 64 and not loaded.training
    torch.testing.assert_close(run(loaded, clip(9000))[0][:, 32:], run(encoder, clip(9000))[0])


def test_weights_that_do_not_fit_are_refused(tmp_path):
    encoder = tiny()
    encoder.config.save_pretrained(tmp_path)
    state = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    del state["whisper.conv2.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"do not fit its config.json: 1 differ, e.g. whisper.conv2.bias"):
        load_encoder(tmp_path)
    state["whisper.conv2.bias"] = torch.zeros(31)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 differ, e\.g\. whisper\.conv2\.bias"):
        load_encoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="is damaged"):
        load_encoder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"it has no model.safetensors"):
        load_encoder(tmp_path)


@pytest.mark.real
def test_real_whisper_base_equals_transformers():
    encoder = load_encoder(weights.fetch("whisper-base"), {"layers": [6], "pad_to_window": True})
    samples = clip(5 * 16_000)
    states = reference(encoder, samples, 80)
    found = run(encoder, samples)[0]
    assert found.shape == (1500, 512)
    torch.testing.assert_close(found, states[-1][0], atol=1e-3, rtol=1e-3)
