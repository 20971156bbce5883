"""Parity of the features with their reference implementations, and independence of padding."""

from pathlib import Path

import kaldi_native_fbank
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor

from lalm.audio.features import fbank, fbank_frames, log_mel, log_mel_frames
from lalm.audio.load import load_audio

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """Real sounds, noise, silence and a clip below one window, (N,) float32 each."""
    noise = np.random.default_rng(0).standard_normal(20_123).astype(np.float32) * 0.1
    real = [load_audio(SAMPLES / name) for name in ("train.ogg", "bell.flac", "water.ogg")]
    return [*real, noise, np.zeros(5_000, np.float32), noise[:321], noise[:7]]


@pytest.fixture(scope="module")
def batch(clips: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """The clips padded, with noise where the padding is: it must not matter."""
    lengths = torch.tensor([len(clip) for clip in clips])
    audio = torch.rand(len(clips), int(lengths.max()) + 777, generator=torch.Generator().manual_seed(0))
    for row, clip in zip(audio, clips, strict=True):
        row[: len(clip)] = torch.from_numpy(clip)
    return audio, lengths


@pytest.mark.parametrize("num_mels", [80, 128])
def test_log_mel_is_whispers(num_mels: int, clips: list[np.ndarray], batch: tuple[Tensor, Tensor]) -> None:
    extractor = WhisperFeatureExtractor(feature_size=num_mels)
    reference = np.array(extractor(clips, sampling_rate=16_000)["input_features"])
    ours = log_mel(*batch, num_mels=num_mels, pad_to=480_000)
    assert ours.shape == (len(clips), num_mels, 3_000)
    np.testing.assert_allclose(ours.numpy(), reference, atol=1e-5)


@pytest.mark.parametrize("num_mels", [80, 128])
def test_trimmed_log_mel(num_mels: int, clips: list[np.ndarray], batch: tuple[Tensor, Tensor]) -> None:
    together = log_mel(*batch, num_mels=num_mels)
    full = log_mel(*batch, num_mels=num_mels, pad_to=480_000)
    assert together.shape == (len(clips), num_mels, log_mel_frames(max(map(len, clips))))
    for n, clip in enumerate(clips):
        alone = log_mel(torch.from_numpy(clip)[None], num_mels=num_mels)[0]
        frames = log_mel_frames(len(clip))
        assert frames % 2 == 0 and 0 <= 160 * frames - len(clip) < 320
        assert alone.shape == (num_mels, frames)
        torch.testing.assert_close(together[n, :, :frames], alone, atol=1e-6, rtol=0)
        torch.testing.assert_close(alone, full[n, :, :frames], atol=1e-6, rtol=0)  # zeros follow in both
        assert not together[n, :, frames:].any()


def test_log_mel_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="a clip has 1000 samples, more than the window of 800"):
        log_mel(torch.zeros(1, 1_000), pad_to=800)
    with pytest.raises(ValueError, match=r"audio of shape \(2, 9\) cannot hold clips of \[9, 10\] samples"):
        log_mel(torch.zeros(2, 9), torch.tensor([9, 10]))


@pytest.mark.parametrize("num_mels", [80, 128])
@pytest.mark.parametrize("window", ["hanning", "povey"])
def test_fbank_is_kaldis(
    window: str, num_mels: int, clips: list[np.ndarray], batch: tuple[Tensor, Tensor]
) -> None:
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = window
    options.mel_opts.num_bins = num_mels
    options.use_energy = False
    options.htk_compat = True
    ours, lengths = fbank(*batch, num_mels=num_mels, window=window)  # type: ignore[arg-type]
    errors = []
    for n, clip in enumerate(clips):
        kaldi = kaldi_native_fbank.OnlineFbank(options)
        kaldi.accept_waveform(16_000, clip.tolist())
        kaldi.input_finished()
        frames = kaldi.num_frames_ready
        assert lengths[n] == fbank_frames(len(clip)) == frames
        assert not ours[n, frames:].any()
        if frames:
            reference = np.array([kaldi.get_frame(t) for t in range(frames)])
            errors.append(np.abs(ours[n, :frames].numpy() - reference).ravel())
    difference = np.concatenate(errors)  # natural logarithm; values span about -16 to 5
    assert difference.mean() < 3e-5 and np.quantile(difference, 0.999) < 1e-3 and difference.max() < 1e-2


def test_fbank_alone_and_in_a_batch(clips: list[np.ndarray], batch: tuple[Tensor, Tensor]) -> None:
    together, lengths = fbank(*batch)
    assert together.shape == (len(clips), fbank_frames(max(map(len, clips))), 128)
    for n, clip in enumerate(clips):
        alone, length = fbank(torch.from_numpy(clip)[None])
        assert length.item() == lengths[n] == alone.shape[1]
        torch.testing.assert_close(together[n, : int(length)], alone[0], atol=1e-6, rtol=1e-6)
    nothing, none = fbank(torch.zeros(2, 100))
    assert nothing.shape == (2, 0, 128) and none.tolist() == [0, 0]


def test_features_stay_float32(batch: tuple[Tensor, Tensor]) -> None:
    audio, lengths = batch[0][:1], batch[1][:1]
    mel, bank = log_mel(audio, lengths), fbank(audio, lengths)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(log_mel(audio, lengths), mel)
        assert torch.equal(fbank(audio, lengths)[0], bank)
    assert mel.dtype == bank.dtype == torch.float32


@pytest.mark.parametrize("num_samples", [1, 700, 16_000, 16_159, 479_700, 480_000])
def test_the_first_frames_are_those_of_the_whole_window(num_samples):
    samples = torch.from_numpy(np.random.default_rng(1).standard_normal((1, num_samples)).astype(np.float32))
    whole = log_mel(samples, pad_to=480_000)
    first = -(-num_samples // 160) + 2
    part = log_mel(samples, pad_to=480_000, first=first)
    assert part.shape[2] == min(first, 3000)
    torch.testing.assert_close(part, whole[..., :first], atol=1e-5, rtol=0)
