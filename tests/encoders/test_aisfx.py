"""aiSFX: its front end against a plain one at 44.1 kHz, its network against a plain one, lengths, padding."""

import numpy as np
import pytest
import soxr
import torch

from lalm.encoders import build_encoder
from lalm.encoders.aisfx import AISFXConfig


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    encoder = build_encoder(AISFXConfig(channels=(4, 6, 8, 10))).eval()
    for name, tensor in encoder.state_dict().items():
        if "running_mean" in name or name.endswith("bias"):
            tensor += 0.1 * torch.randn_like(tensor)
        elif "running_var" in name:
            tensor *= 0.05
    return encoder


def tones(num_samples: int, seed: int = 0) -> np.ndarray:
    """Sixty tones below 6.5 kHz that fade in and out."""
    rng = np.random.default_rng(seed)
    t = np.arange(num_samples) / 16_000
    waves = [rng.uniform(0.01, 0.1) * np.sin(2 * np.pi * f * t) for f in rng.uniform(50, 6500, 60)]
    return (np.sum(waves, axis=0) * np.sin(np.pi * np.arange(num_samples) / num_samples)).astype(np.float32)


def test_spectra_are_those_of_the_clip_at_44_khz(encoder):
    audio = tones(40_000)
    count = 8 * encoder.num_frames(len(audio))
    found = encoder.spectra(torch.from_numpy(audio)[None], torch.tensor([len(audio)]), count)[0].numpy()
    fine = np.pad(soxr.resample(audio.astype(float), 16_000, 44_100, quality="VHQ"), (1024, 20_000))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    power = np.array(
        [np.abs(np.fft.rfft(fine[1024 * m : 1024 * m + 2048] * hann)) ** 2 for m in range(count)]
    )
    mel = 2595 * np.log10(1 + np.arange(1025) * 44_100 / 2048 / 700)
    corners = [mel[-1] * i / 97 for i in range(98)]
    bands = []
    for low, middle, high in zip(corners, corners[1:], corners[2:], strict=False):
        weights = [max(0.0, min((m - low) / (middle - low), (high - m) / (high - middle))) for m in mel]
        bands.append(power @ np.array(weights) / sum(weights))
    plain = np.log10(1 + 10_000 * np.array(bands).T) / 9.4578
    assert plain.max() > 0.5
    np.testing.assert_allclose(found, plain, atol=1e-4)


def test_network_equals_a_plain_one(encoder):
    audio = torch.from_numpy(tones(30_000))[None]
    lengths = torch.tensor([30_000])
    count = 8 * encoder.num_frames(30_000)
    x = encoder.spectra(audio, lengths, count)[:, None]
    state = encoder.state_dict()
    for number in (1, 2, 3, 4):
        for half in (1, 2):
            x = torch.nn.functional.conv2d(x, state[f"conv_block{number}.conv{half}.weight"], padding=1)
            mean, variance, weight, bias = (
                state[f"conv_block{number}.bn{half}.{name}"][:, None, None]
                for name in ("running_mean", "running_var", "weight", "bias")
            )
            x = ((x - mean) / (variance + 1e-5).sqrt() * weight + bias).clamp(min=0)
        if number < 4:
            x = x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
            x = x.unflatten(3, (-1, 2)).amax(4).unflatten(2, (-1, 2)).amax(3)
    with torch.no_grad():
        frames, _ = encoder(audio, lengths)
    torch.testing.assert_close(frames[0], x[0].mean(2).T)


def test_frames_do_not_depend_on_the_batch(encoder):
    clips = [torch.from_numpy(tones(n, n)) for n in (300, 16_000, 33_333)]
    lengths = [len(c) for c in clips]
    with torch.no_grad():
        batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=0.3)
        frames, counts = encoder(batch, torch.tensor(lengths))
        assert counts.tolist() == [encoder.num_frames(n) for n in lengths] == [1, 6, 12]
        for row, clip in enumerate(clips):
            alone, count = encoder(clip[None], torch.tensor([len(clip)]))
            torch.testing.assert_close(frames[row, : int(count)], alone[0], atol=1e-5, rtol=1e-4)
            assert not frames[row, int(count) :].any()


def test_a_long_clip_runs_as_windows(encoder):
    audio = torch.from_numpy(tones(61 * 16_000))[None]
    with torch.no_grad():
        frames, counts = encoder(audio, torch.tensor([audio.shape[1]]))
        short, _ = encoder(audio[:, : 50 * 16_000], torch.tensor([50 * 16_000]))
    assert counts.tolist() == [frames.shape[1]] == [329]
    torch.testing.assert_close(frames[:, :260], short[:, :260])
    assert frames[0, 320:].abs().sum(1).min() > 0
