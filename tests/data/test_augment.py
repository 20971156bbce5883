"""What augmentation does to a waveform, measured; and that a run draws the same twice."""

from pathlib import Path

import numpy as np
import pytest
from tiny_parts import noise

from lalm.audio.load import SAMPLE_RATE, load_audio
from lalm.data.audio_inputs import Clip
from lalm.data.augment import Augmentation, add, mask_band, mask_time, noise_parts, reverberate, rms, speed
from lalm.training.recipe import Augment


def sine(hz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(
        np.float32
    )


def loudest_hz(audio: np.ndarray) -> float:
    return float(np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE)[np.abs(np.fft.rfft(audio)).argmax()])


def test_speed_changes_length_and_pitch() -> None:
    fast = speed(sine(1000, 2.0), 1.25)
    assert len(fast) == pytest.approx(1.6 * SAMPLE_RATE, abs=2) and fast.dtype == np.float32
    assert loudest_hz(fast) == pytest.approx(1250, abs=2)


def test_noise_comes_at_the_level_asked() -> None:
    rng = np.random.default_rng(0)
    clean = sine(500)
    other = rng.standard_normal(3000)
    for snr_db in (0.0, 20.0):
        noisy = add(clean, other, snr_db, rng)
        assert 20 * np.log10(rms(clean) / rms(noisy - clean)) == pytest.approx(snr_db, abs=0.05)
    assert np.array_equal(add(np.zeros(100, np.float32), other, 10, rng), np.zeros(100, np.float32))


def test_a_room_rings_for_as_long_as_asked() -> None:
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[1000] = 1.0
    heard = reverberate(click, 0.4, np.random.default_rng(1))
    assert len(heard) == len(click) and rms(heard) == pytest.approx(rms(click), rel=1e-3)
    assert not np.any(np.abs(heard[:1000]) > 1e-6) and heard[1000] == pytest.approx(np.abs(heard).max())
    early, late = (rms(heard[1000 + int(s * SAMPLE_RATE) :][:800]) for s in (0.05, 0.25))
    assert 20 * np.log10(early / late) == pytest.approx(30, abs=3)  # half of 60 dB in half of 0.4 s


def test_masks_take_a_gap_and_a_band() -> None:
    rng = np.random.default_rng(3)
    white = rng.standard_normal(SAMPLE_RATE).astype(np.float32)
    gaps = [int((mask_time(white, 0.15, rng) == 0).sum()) for _ in range(40)]
    assert 0.1 * SAMPLE_RATE < max(gaps) <= 0.15 * SAMPLE_RATE
    assert (mask_time(white[:1000], 5.0, rng) == 0).sum() <= 200
    left = [rms(mask_band(white, 0.3, rng)) for _ in range(40)]
    assert max(left) <= rms(white) * 1.0001 and min(left) < 0.95 * rms(white)


def test_a_sample_is_changed_alike_twice_and_otherwise_elsewhere(tmp_path: Path) -> None:
    noise(tmp_path / "noises" / "a.wav", 0.7)
    settings = Augment(
        probability=0.7,
        gain_db=(-6, 6),
        speed=(0.9, 1.1),
        reverb_s=(0.1, 0.4),
        mix_snr_db=(5, 20),
        noise=str(tmp_path / "noises"),
        noise_snr_db=(5, 20),
        masks=2,
    )
    augmentation = Augmentation(**settings.model_dump())
    clip = Clip("a", load_audio("samples/bird.ogg"))

    def changed(*seed: int) -> np.ndarray:
        (made,) = augmentation([clip], np.random.default_rng(seed), lambda rng: sine(300))
        assert isinstance(made, Clip) and np.isfinite(made.audio).all() and made.audio.dtype == np.float32
        return made.audio

    assert np.array_equal(changed(1, 2), changed(1, 2))
    assert len({changed(1, i).tobytes() for i in range(6)}) == 6
    nothing = Augment(probability=1.0)
    (same,) = Augmentation(**nothing.model_dump())([clip], np.random.default_rng(0), lambda rng: sine(300))
    assert isinstance(same, Clip) and np.array_equal(same.audio, clip.audio)


def test_noises_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere"):
        noise_parts(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="noise and noise_snr_db"):
        Augment(noise="x")
    with pytest.raises(ValueError, match="speed"):
        Augment(speed=(1.2, 0.8))
