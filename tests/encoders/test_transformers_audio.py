"""Audio encoders of transformers: counts, batches, layers, windows, and what is refused."""

import json

import numpy as np
import pytest
import torch
from parity_fixtures import signal
from tiny_encoders import FAMILIES, INSIDE, audio_encoder_folder
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)
from transformers.models.audioflamingo3.modeling_audioflamingo3 import AudioFlamingo3Encoder
from transformers.models.voxtral.modeling_voxtral import VoxtralEncoder

from lalm.encoders import build_encoder, encoder_config, load_encoder, read_config, save_encoder
from lalm.encoders.transformers_audio import GraniteFeatures, TransformersAudioEncoder

LENGTHS = [1600, 16_000, 16_001, 29_123]
WHOLE_WINDOWS = ("audio-spectrogram-transformer", "clap")  # always padded to one window by their extractors
WHISPERS = ("qwen2_audio_encoder", "voxtral_encoder", "audioflamingo3_encoder")
OF_THE_ADAPTER = [k for k in FAMILIES if k not in (*WHOLE_WINDOWS, *WHISPERS, "clap-fused")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, made = tmp_path_factory.mktemp("encoders"), {}

    def folder(kind):
        if kind not in made:
            made[kind] = audio_encoder_folder(kind, root / kind)
        return made[kind]

    return folder


def noise(num_samples, seed=0):
    return torch.randn(num_samples, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize("kind", FAMILIES)
@torch.no_grad()
def test_a_batch_gives_what_each_clip_gives_alone(folders, kind, tmp_path):
    encoder = load_encoder(folders(kind))
    clips = [noise(length, i) for i, length in enumerate(LENGTHS)]
    frames, counts = encoder(torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), torch.tensor(LENGTHS))
    assert frames.shape[2] == encoder.width
    assert counts.tolist() == [encoder.num_frames(length) for length in LENGTHS]
    for clip, row, count in zip(clips, frames, counts.tolist(), strict=True):
        alone, _ = encoder(clip[None], torch.tensor([len(clip)]))
        torch.testing.assert_close(alone[0], row[:count], atol=2e-5, rtol=1e-4)
    config = read_config(folders(kind))
    assert (config.width, config.num_frames(16_001)) == (encoder.width, encoder.num_frames(16_001))
    again = load_encoder(save_encoder(encoder, tmp_path / "saved"))
    torch.testing.assert_close(again(clips[1][None], torch.tensor([16_000]))[0][0], frames[1, : counts[1]])


@pytest.mark.parametrize("kind", OF_THE_ADAPTER)
@torch.no_grad()
def test_the_formula_counts_what_the_module_gives(folders, kind):
    encoder = load_encoder(folders(kind))
    assert isinstance(encoder, TransformersAudioEncoder)
    counted = 0
    longest = 4_000 if kind == "pe_audio_encoder" else 20_000  # it hears 48 kHz
    for length in np.random.default_rng(0).integers(2_400, longest, 200).tolist():
        inputs = encoder._inputs(noise(length)[None])
        given = encoder._in_time_order(encoder.encoder(**inputs).last_hidden_state, 1)
        assert given.shape[1:] == (encoder.num_frames(length), encoder.width), length
        counted += 1
    assert counted == 200


@pytest.mark.parametrize("kind", WHOLE_WINDOWS)
@torch.no_grad()
def test_frames_of_a_padded_window_are_those_of_the_clip(folders, kind):
    encoder = load_encoder(folders(kind))
    full = encoder.config.window_samples
    inputs = encoder._inputs(noise(full)[None])
    given = encoder._in_time_order(encoder.encoder(**inputs).last_hidden_state, 1)
    assert given.shape[1] == encoder.num_frames(full)
    counts = [encoder.num_frames(n) for n in range(0, full + 1, 997)]
    assert counts == sorted(counts) and counts[-1] <= given.shape[1]
    assert encoder.num_frames(2 * full + 9_000) == 2 * given.shape[1] + encoder.num_frames(9_000)


@torch.no_grad()
def test_the_frames_are_those_of_the_released_pipeline(folders):
    sound = noise(20_000).numpy()
    for kind in ("wav2vec2", "wav2vec2-bert", "moonshine", "audio-spectrogram-transformer"):
        features = AutoFeatureExtractor.from_pretrained(folders(kind))
        model = AutoModel.from_pretrained(folders(kind)).eval()
        model = model.encoder if kind == "moonshine" else model
        inputs = features(sound, sampling_rate=16_000, return_tensors="pt")
        theirs = model(**inputs).last_hidden_state[0]
        frames, count = load_encoder(folders(kind))(torch.from_numpy(sound)[None], torch.tensor([20_000]))
        if kind == "audio-spectrogram-transformer":  # band by band, behind two tokens of its own
            theirs = theirs[2:].unflatten(0, (12, -1)).transpose(0, 1).flatten(0, 1)
        size = int(count[0])
        torch.testing.assert_close(frames[0, :size], theirs[:size], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", [kind for kind in INSIDE if not kind.startswith("seamless")])
@torch.no_grad()
def test_an_encoder_is_taken_out_of_the_larger_model(folders, kind, tmp_path):
    audio, length = noise(9_000)[None], torch.tensor([9_000])
    alone, _ = load_encoder(folders(kind))(audio, length)
    inside, _ = load_encoder(audio_encoder_folder(kind, tmp_path, inside=True))(audio, length)
    torch.testing.assert_close(inside, alone)


@torch.no_grad()
def test_whispers_of_other_models_hear_as_their_own_modules(folders):
    sound, length = noise(29_123), torch.tensor([29_123])
    features = WhisperFeatureExtractor(feature_size=128)
    inputs = features(sound.numpy(), sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
    theirs = VoxtralEncoder.from_pretrained(folders("voxtral_encoder")).eval()(inputs.input_features)
    ours, _ = load_encoder(folders("voxtral_encoder"), {"pad_to_window": True})(sound[None], length)
    torch.testing.assert_close(ours, theirs.last_hidden_state, atol=1e-4, rtol=1e-3)
    flamingo = AudioFlamingo3Encoder.from_pretrained(folders("audioflamingo3_encoder")).eval()
    theirs = flamingo(inputs.input_features, inputs.attention_mask)
    ours, _ = load_encoder(folders("audioflamingo3_encoder"))(sound[None], length)
    torch.testing.assert_close(ours, theirs.last_hidden_state[:, : ours.shape[1]], atol=1e-4, rtol=1e-3)


def test_granites_features_are_those_of_torchaudio():
    """transformers' extractor with torchaudio 2.11 gave these numbers for the test signal."""
    given = GraniteFeatures({})(signal(3_200, 5).astype("float32") / 32768)["input_features"]
    wanted = [
        [1.0190023, 0.7919480, 0.5069727, 1.0023687],
        [0.1493872, 0.9814655, 0.3814248, 1.0688947],
        [0.2999054, 0.6531327, 0.6099921, 0.8471729],
    ]
    torch.testing.assert_close(given[0, ::4, ::40], torch.tensor(wanted), atol=1e-4, rtol=1e-4)
    assert given.shape == (1, 10, 160)


@torch.no_grad()
def test_layers_stand_side_by_side_and_the_last_is_the_output(folders):
    for kind in ("wav2vec2", "hubert", "sew", "audio-spectrogram-transformer", "parakeet_ctc"):
        audio, lengths = noise(16_000)[None], torch.tensor([16_000])
        given, _ = load_encoder(folders(kind))(audio, lengths)
        every, _ = load_encoder(folders(kind), {"layers": "all"})(audio, lengths)
        some, _ = load_encoder(folders(kind), {"layers": [2, 0]})(audio, lengths)
        width = given.shape[2]
        assert every.shape == (1, given.shape[1], 3 * width)
        torch.testing.assert_close(every[..., 2 * width :], given, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(some, torch.cat([every[..., 2 * width :], every[..., :width]], 2))
        assert not torch.allclose(every[..., :width], every[..., width : 2 * width], atol=1e-2)
    with pytest.raises(ValueError, match="layers: this encoder has layers 0 to 2, or 'all', not \\[3\\]"):
        load_encoder(folders("wav2vec2"), {"layers": [3]})
    with pytest.raises(ValueError, match="those of a clap_audio_model cannot be had beside"):
        load_encoder(folders("clap"), {"layers": "all"})
    for kind in ("glmasr_encoder", "qwen3_omni_moe_audio_encoder", "speech_to_text", "lasr_encoder"):
        every, _ = load_encoder(folders(kind), {"layers": "all"})(audio, lengths)
        assert every.shape[2] == 3 * 16
    with pytest.raises(ValueError, match="has no option 'pool'; it has: layers, window_s"):
        load_encoder(folders("wav2vec2"), {"pool": 2})


SHAPE = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
OURS = {
    "lalm_eat": SHAPE,
    "lalm_audio_mae": SHAPE,
    "lalm_beats": SHAPE
    | {"intermediate_size": 32, "embed_size": 8, "conv_positions": 8, "conv_position_groups": 4},
    "lalm_whisper": {
        **{"d_model": 16, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 32},
        "num_mel_bins": 80,
    },
}


@pytest.mark.parametrize("kind", OURS)
@torch.no_grad()
def test_lalms_own_encoders_give_any_layers_too(kind):
    torch.manual_seed(0)
    fields = {"model_type": kind, **OURS[kind]}
    usual = build_encoder(encoder_config(fields)).eval()
    every = build_encoder(encoder_config(fields | {"layers": "all"})).eval()
    every.load_state_dict(usual.state_dict())
    audio, lengths = noise(16_000)[None], torch.tensor([16_000])
    given, all_of_them = usual(audio, lengths)[0], every(audio, lengths)[0]
    assert every.width == all_of_them.shape[2] == 4 * usual.width
    torch.testing.assert_close(all_of_them[..., -16:], given)
    assert not torch.allclose(all_of_them[..., 16:32], given, atol=1e-3)
    with pytest.raises(ValueError, match="this encoder has layers 0 to 3, or 'all', not"):
        encoder_config(fields | {"layers": [4]})


@torch.no_grad()
def test_long_clips_are_windows_in_time_order(folders):
    encoder = load_encoder(folders("wav2vec2"), {"window_s": 1.0})
    sound = noise(40_000)
    frames, count = encoder(sound[None], torch.tensor([40_000]))
    pieces = [encoder(piece[None], torch.tensor([len(piece)]))[0][0] for piece in sound.split(16_000)]
    assert int(count[0]) == encoder.num_frames(40_000) == sum(map(len, pieces))
    torch.testing.assert_close(frames[0], torch.cat(pieces))


def test_mert_is_a_hubert_at_24_khz_without_running_its_code(tmp_path):
    shape = FAMILIES["hubert"][0]
    torch.manual_seed(0)
    model = HubertModel(HubertConfig(**shape)).eval()
    model.save_pretrained(tmp_path)
    raw = {"feature_size": 1, "sampling_rate": 24_000, "padding_value": 0.0, "do_normalize": True}
    Wav2Vec2FeatureExtractor(**raw).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    fields |= {"model_type": "mert_model", "feature_extractor_cqt": False, "deepnorm": False}
    fields["attention_relax"] = 32.0  # the same softmax, computed otherwise
    fields["auto_map"] = {"AutoModel": "modeling_MERT.MERTModel"}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    encoder = load_encoder(tmp_path)
    assert encoder.frames_per_second == 75
    frames, count = encoder(noise(16_000)[None], torch.tensor([16_000]))
    assert int(count[0]) == (24_000 - 400) // 320 + 1 == frames.shape[1]
    fields["feature_extractor_cqt"] = True
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="has feature_extractor_cqt, which HuBERT has not"):
        load_encoder(tmp_path)


def test_what_cannot_be_opened_is_said_in_a_sentence(folders, tmp_path):
    for fields, told in (
        (
            {"model_type": "ced", "auto_map": {"AutoModel": "x.Y"}},
            "only code beside its weights can open",
        ),
        ({"model_type": "bert"}, "is a 'bert'; encoders are opened of: "),
    ):
        (tmp_path / "config.json").write_text(json.dumps(fields))
        with pytest.raises(ValueError, match=told):
            load_encoder(tmp_path)
    bare = audio_encoder_folder("wavlm", tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="does not say how sound becomes features"):
        load_encoder(bare)
