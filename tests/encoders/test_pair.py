"""Two encoders as one: frames stand at the right times, padding is zero, options and refusals."""

import numpy as np
import pytest
import torch
from tiny_parts import whisper_folder

from lalm.encoders import build_encoder, encoder_config, load_pair
from lalm.encoders.aisfx import AISFXConfig
from lalm.encoders.beats import BEATsConfig
from lalm.encoders.eat import EATConfig
from lalm.encoders.pair import PairConfig, at_times_of, present, widths
from lalm.encoders.whisper import WhisperEncoderConfig

WHISPER = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
FEW = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SECONDS = {
    "beats": BEATsConfig(**FEW, intermediate_size=16, embed_size=8, conv_positions=8, conv_position_groups=4),
    "eat": EATConfig(**FEW, keep_cls=False, pad_to_frames=0),
    "aisfx": AISFXConfig(channels=(2, 2, 2, 4)),
}


def pair(second: str, **options):
    torch.manual_seed(0)
    config = PairConfig(first=WhisperEncoderConfig(**WHISPER, **options), second=SECONDS[second])
    return build_encoder(config).eval()


def noise(num_samples: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(num_samples).standard_normal(num_samples)).float() * 0.1


@pytest.mark.parametrize("second", SECONDS)
@pytest.mark.parametrize("options", [{}, {"pool": 4}, {"pad_to_window": True}], ids=str)
def test_frames_are_the_two_encoders_side_by_side(second, options):
    encoder = pair(second, **options)
    lengths = [1600, 33_000, 16_000]
    clips = torch.nn.utils.rnn.pad_sequence([noise(n) for n in lengths], batch_first=True)
    with torch.no_grad():
        frames, counts = encoder(clips, torch.tensor(lengths))
        assert counts.tolist() == [encoder.num_frames(n) for n in lengths]
        for row, length in enumerate(lengths):
            alone, (count,) = encoder(clips[row : row + 1, :length], torch.tensor([length]))
            torch.testing.assert_close(frames[row, :count], alone[0, :count], atol=1e-5, rtol=1e-4)
            first, _ = encoder.first(clips[row : row + 1, :length], torch.tensor([length]))
            torch.testing.assert_close(alone[0, :count, :16], first[0, :count], atol=1e-5, rtol=1e-4)
    assert frames.shape[2] == encoder.width == sum(widths(encoder.config))


def test_beats_is_paired_by_index_and_its_end_is_zero():
    encoder = pair("beats")
    with torch.no_grad():
        frames, _ = encoder(noise(160_000)[None], torch.tensor([160_000]))
        alone, _ = encoder.second(noise(160_000)[None], torch.tensor([160_000]))
    assert frames.shape == (1, 500, 32) and alone.shape == (1, 496, 16)
    assert torch.equal(frames[:, :496, 16:], alone)
    assert present(frames[..., 16:]).tolist() == [[True] * 496 + [False] * 4]


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (1.0, [0, 1, 2, 3, 4, 9]),
        (0.25, [0, 0, 0, 0, 1, 1]),
        (0.4, [0, 0, 0, 1, 1, 2]),
        (2.0, [0.5, 2.5, 4, 9]),
    ],
)
def test_each_moment_gets_the_frame_of_its_time(ratio, expected):
    frames = torch.arange(5.0)[None, :, None]
    found = at_times_of(frames, torch.tensor([5]), len(expected), ratio)[0, :, 0]
    assert found.tolist() == [0 if e == 9 else e for e in expected]


def test_an_event_stands_at_the_same_time_in_both_parts():
    """A click in silence: aiSFX's channels differ from silence around the click."""
    audio = torch.zeros(1, 64_000)
    audio[0, 32_000:32_400] = noise(400) * 5  # at 2.0 s
    encoder = pair("aisfx")
    with torch.no_grad():
        frames, _ = encoder(audio, torch.tensor([64_000]))
        silence, _ = encoder(torch.zeros(1, 64_000), torch.tensor([64_000]))
    heard = (frames - silence)[0, :, 16:].abs().sum(1)
    changed = heard.nonzero()[:, 0] / 50
    assert 1.8 < (changed.min() + changed.max()) / 2 < 2.2


def test_a_long_clip_keeps_both_parts_in_step():
    encoder = pair("beats")
    audio = noise(65 * 16_000)[None]
    with torch.no_grad():
        frames, counts = encoder(audio, torch.tensor([audio.shape[1]]))
    assert counts.tolist() == [65 * 50]
    assert present(frames[0, :, 16:]).sum() == encoder.config.second.num_frames(audio.shape[1]) == 3248


def test_pair_is_loaded_from_two_folders(tmp_path):
    second = build_encoder(SECONDS["beats"])
    from safetensors.torch import save_file

    (tmp_path / "beats").mkdir()
    save_file(second.state_dict(), tmp_path / "beats" / "model.safetensors")
    second.config.save_pretrained(tmp_path / "beats")
    loaded = load_pair(whisper_folder(tmp_path / "whisper"), tmp_path / "beats", {"pool": 2}, None)
    assert loaded.frames_per_second == 25
    assert torch.equal(loaded.second.relative_bias.weight, second.relative_bias.weight)
    again = encoder_config(loaded.config.to_dict())
    assert isinstance(again, PairConfig) and again.num_frames(16_000) == 25 and again.second.hidden_size == 16


def test_a_frame_without_a_time_is_refused():
    with pytest.raises(ValueError, match="keep_cls: false"):
        PairConfig(first=WhisperEncoderConfig(**WHISPER), second=EATConfig(**FEW))
    with pytest.raises(ValueError, match="part of another pair"):
        PairConfig(first=WhisperEncoderConfig(**WHISPER), second=PairConfig())
