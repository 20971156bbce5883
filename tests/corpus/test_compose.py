"""Scenes: onsets to the sample, lengths within bounds, nothing clipped, the same from the same seed."""

import numpy as np
import pytest

from lalm.audio.load import SAMPLE_RATE
from lalm.corpus.compose import (
    Scene,
    Sound,
    bounded,
    crop,
    looped,
    over_bed,
    scaled,
    sequence,
    vary,
    with_noise,
)
from lalm.corpus.wording import in_order, over, repeated, sentence


def buzz(seconds: float, seed: int = 0) -> np.ndarray:
    """Loud from the first sample to the last."""
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], int(seconds * SAMPLE_RATE) // 8)
    return (0.5 * np.repeat(signs, 8)).astype(np.float32)


def sound(seconds: float, name: str = "dog") -> Sound:
    return Sound(buzz(seconds, len(name)), f"animal/{name}", f"a {name} calls")


def quiet(scene: Scene) -> np.ndarray:
    """What lies outside all events."""
    mask = np.ones(len(scene.audio), bool)
    for event in scene.events:
        mask[round(event["onset_s"] * SAMPLE_RATE) : round(event["offset_s"] * SAMPLE_RATE)] = False
    return scene.audio[mask]


@pytest.mark.parametrize("seed", range(12))
def test_onsets_are_exact(seed: int) -> None:
    sounds = [sound(0.4, "dog"), sound(0.8, "cow"), sound(1.3, "horse")]
    scene = sequence(sounds, np.random.default_rng(seed))
    assert [e["caption"] for e in scene.events] == [s.caption for s in sounds]
    noise = np.abs(quiet(scene)).max()
    for event in scene.events:
        at, end = (round(event[edge] * SAMPLE_RATE) for edge in ("onset_s", "offset_s"))
        loudest = np.abs(scene.audio[at:end]).max()
        assert noise < 0.5 * loudest
        for piece in (scene.audio[at : at + 32], scene.audio[end - 32 : end]):  # 2 ms at either end
            assert np.abs(piece).max() > 0.5 * loudest
    ends = [e["offset_s"] for e in scene.events[:-1]]
    gaps = [e["onset_s"] - end for e, end in zip(scene.events[1:], ends, strict=True)]
    assert all(0.0999 <= gap <= 0.5001 for gap in gaps)


@pytest.mark.parametrize("seed", range(6))
def test_lengths_and_levels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for seconds in (0.3, 2.0, 9.0):
        for count in (1, 2, 4):
            scene = sequence([sound(seconds)] * count, rng, same_take=True)
            assert 3.0 <= len(scene.audio) / SAMPLE_RATE <= 10.0
            assert np.abs(scene.audio).max() <= 0.99
            sizes = [e["offset_s"] - e["onset_s"] for e in scene.events]
            assert max(sizes) - min(sizes) < 1e-5


def test_a_bed_lasts_from_start_to_end() -> None:
    scene = over_bed(sound(2.5, "rain"), [sound(0.5), sound(0.5, "cow")], np.random.default_rng(3))
    bed = scene.events[0]
    assert (bed["label"], bed["onset_s"]) == ("animal/rain", 0.0)
    assert bed["offset_s"] == pytest.approx(len(scene.audio) / SAMPLE_RATE)
    middle = scene.audio[SAMPLE_RATE // 10 : -SAMPLE_RATE // 10].reshape(-1)
    assert np.abs(middle[: len(middle) // 160 * 160].reshape(-1, 160)).max(axis=1).min() > 0


def test_same_seed_same_scene() -> None:
    one, two, other = (
        sequence([sound(0.5), sound(0.7, "cow")], np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert np.array_equal(one.audio, two.audio) and one.events == two.events
    assert one.events != other.events


def test_takes_differ_in_speed_and_level() -> None:
    rng = np.random.default_rng(0)
    varied = [vary(buzz(1.0), rng) for _ in range(40)]
    lengths = [len(audio) / SAMPLE_RATE for audio in varied]
    peaks = [float(np.abs(audio).max()) for audio in varied]
    assert 0.90 < min(lengths) < 0.95 and 1.05 < max(lengths) < 1.12
    assert 0.95 * 10 ** (-12.1 / 20) < min(peaks) < 0.4 and 0.7 < max(peaks) <= 0.95001


def test_noise_is_as_quiet_as_said() -> None:
    rng, clean = np.random.default_rng(0), buzz(1.0)
    noises = [with_noise(clean, rng) - clean for _ in range(60)]
    levels = [20 * np.log10(np.sqrt(np.mean(clean**2) / np.mean(n**2))) for n in noises if n.any()]
    assert 15 < len(levels) < 45
    assert min(levels) > 19.5 and max(levels) < 40.5


def test_pieces() -> None:
    rng, audio = np.random.default_rng(0), buzz(1.0)
    assert len(crop(audio, 4000, rng)) == 4000 and crop(audio, 20000, rng) is audio
    assert len(looped(audio, 40001)) == 40001
    assert np.abs(scaled(audio, -6.0)).max() == pytest.approx(0.95 * 10 ** (-6 / 20), rel=1e-5)
    assert not scaled(np.zeros(8, np.float32), 0.0).any()
    assert np.abs(bounded(3 * audio)).max() == pytest.approx(0.99)


def test_captions_name_every_sound_in_order() -> None:
    rng = np.random.default_rng(0)
    captions, names = (
        ["a dog barks", "a cow moos", "rain falls"],
        ["a dog barking", "a cow mooing", "rain falling"],
    )
    found = set()
    for _ in range(80):
        for size in (1, 2, 3):
            text = in_order(captions[:size], names[:size], rng)
            places = [text.index(word) for word in ("dog", "cow", "rain")[:size]]
            assert places == sorted(places)
            found.add(text)
        assert "rain" in over("rain falls", "rain falling", "a dog barks", rng)
    assert len(found) >= 10
    assert {repeated("a dog barks", 3, rng) for _ in range(20)} == {
        "a dog barks three times",
        "a dog barks three times in a row",
    }
    assert sentence("a dog barks") == "A dog barks."
