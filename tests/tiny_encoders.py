"""Random audio encoders of many families in the Hub's layout, with their feature extractors' settings."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CONFIG_MAPPING,
    ASTFeatureExtractor,
    AutoModel,
    ClapFeatureExtractor,
    Gemma3nAudioFeatureExtractor,
    LasrFeatureExtractor,
    ParakeetFeatureExtractor,
    PeAudioFeatureExtractor,
    SeamlessM4TFeatureExtractor,
    Speech2TextFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from lalm.encoders.transformers_kinds import KINDS

SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SPEECH = {
    **SHAPE,
    **{"conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2},
    **{"mask_time_prob": 0.0, "vocab_size": 8},
}
RAW: dict[str, Any] = {"feature_size": 1, "sampling_rate": 16_000, "padding_value": 0.0, "do_normalize": True}
WHISPER = {
    **{"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32},
    **{"num_mel_bins": 128, "max_source_positions": 1500},
}
CLAP = {
    **{"patch_embeds_hidden_size": 8, "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]},
    **{"hidden_size": 64, "projection_dim": 16},
}
SEAMLESS = {
    **{"hidden_size": 16, "speech_encoder_layers": 2, "speech_encoder_attention_heads": 2},
    **{"speech_encoder_intermediate_size": 32, "vocab_size": 8, "num_conv_pos_embeddings": 16},
    **{"num_conv_pos_embedding_groups": 2},
}
# The larger model whose folder has it, what its config calls it, and how the names of its weights begin.
INSIDE = {
    "voxtral_encoder": ("voxtral", "audio_config", "audio_tower."),
    "audioflamingo3_encoder": ("audioflamingo3", "audio_config", "model.audio_tower."),
    "gemma3n_audio": ("gemma3n", "audio_config", "model.audio_tower."),
    "glmasr_encoder": ("glmasr", "audio_config", "model.audio_tower."),
    "granite_speech_encoder": ("granite_speech", "encoder_config", "model.encoder."),
    "lasr_encoder": ("lasr_ctc", "encoder_config", "encoder."),
    "pe_audio_encoder": ("pe_audio", "audio_config", "audio_encoder."),
    "qwen3_omni_moe_audio_encoder": ("qwen3_omni_moe_thinker", "audio_config", "audio_tower."),
    "qwen3_asr_encoder": ("qwen3_asr", "audio_config", "model.audio_tower."),
    "seamless_m4t": ("seamless_m4t", "", "speech_encoder."),
    "seamless_m4t_v2": ("seamless_m4t_v2", "", "speech_encoder."),
    "speech_to_text": ("speech_to_text", "", "model.encoder."),
}
GRANITE_FEATURES = {
    **{
        "feature_extractor_type": "GraniteSpeechFeatureExtractor",
        "sampling_rate": 16_000,
        "feature_size": 80,
    },
    **{"melspec_kwargs": {"hop_length": 160, "n_fft": 512, "n_mels": 80, "win_length": 400}},
}
FAMILIES: dict[str, tuple[dict[str, Any], Any]] = {
    "wav2vec2": (SPEECH | {"feat_extract_norm": "group"}, Wav2Vec2FeatureExtractor(**RAW)),
    "hubert": (
        SPEECH | {"feat_extract_norm": "layer", "do_stable_layer_norm": True},
        Wav2Vec2FeatureExtractor(**RAW),
    ),
    "wavlm": (SPEECH, Wav2Vec2FeatureExtractor(**RAW | {"do_normalize": False})),
    "unispeech": (SPEECH, Wav2Vec2FeatureExtractor(**RAW)),
    "unispeech-sat": (SPEECH, Wav2Vec2FeatureExtractor(**RAW)),
    "data2vec-audio": (
        SPEECH | {"conv_pos_kernel_size": 3, "num_conv_pos_embeddings": 2},
        Wav2Vec2FeatureExtractor(**RAW),
    ),
    "wav2vec2-conformer": (SPEECH, Wav2Vec2FeatureExtractor(**RAW)),
    "wav2vec2-bert": (
        SHAPE | {"feature_projection_input_dim": 160, "add_adapter": False, "output_hidden_size": 16},
        SeamlessM4TFeatureExtractor(),
    ),
    "sew": (
        SHAPE
        | {
            **{"conv_dim": (8,) * 13, "squeeze_factor": 2, "num_conv_pos_embeddings": 16},
            **{"num_conv_pos_embedding_groups": 2},
        },
        Wav2Vec2FeatureExtractor(**RAW),
    ),
    "audio-spectrogram-transformer": (SHAPE | {"max_length": 1024}, ASTFeatureExtractor()),
    "clap": (
        {
            "audio_config": {
                **{
                    "patch_embeds_hidden_size": 8,
                    "depths": [1, 1, 1, 1],
                    "num_attention_heads": [1, 1, 2, 2],
                },
                **{"hidden_size": 64, "projection_dim": 16, "enable_fusion": False},
            },
            "text_config": SHAPE | {"vocab_size": 8, "projection_dim": 16},
        },
        ClapFeatureExtractor(truncation="rand_trunc"),
    ),
    "moonshine": (
        {
            **{"hidden_size": 16, "intermediate_size": 32, "vocab_size": 8},
            **{"encoder_num_hidden_layers": 2, "decoder_num_hidden_layers": 1},
            **{"encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2},
            **{"encoder_num_key_value_heads": 2, "decoder_num_key_value_heads": 2},
        },
        Wav2Vec2FeatureExtractor(**RAW | {"do_normalize": False}),
    ),
    "parakeet_ctc": (
        {
            "vocab_size": 8,
            "encoder_config": SHAPE | {"subsampling_conv_channels": 8, "num_mel_bins": 80},
        },
        ParakeetFeatureExtractor(),
    ),
    "sew-d": (
        SHAPE
        | {
            **{"conv_dim": (8,) * 13, "squeeze_factor": 2, "num_conv_pos_embeddings": 16},
            **{"num_conv_pos_embedding_groups": 2, "position_buckets": 16, "max_position_embeddings": 64},
        },
        Wav2Vec2FeatureExtractor(**RAW),
    ),
    "clap-fused": (
        {
            "audio_config": CLAP | {"enable_fusion": True},
            "text_config": SHAPE | {"vocab_size": 8, "projection_dim": 16},
        },
        ClapFeatureExtractor(truncation="fusion"),
    ),
    "seamless_m4t": (SEAMLESS, SeamlessM4TFeatureExtractor()),
    "seamless_m4t_v2": (SEAMLESS, SeamlessM4TFeatureExtractor()),
    "speech_to_text": (
        {
            **{"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32},
            **{"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "conv_channels": 16},
            **{"vocab_size": 8, "input_feat_per_channel": 80},
        },
        Speech2TextFeatureExtractor(),
    ),
    "lasr_encoder": (SHAPE | {"subsampling_conv_channels": 8, "num_mel_bins": 128}, LasrFeatureExtractor()),
    "granite_speech_encoder": (
        {
            **{"hidden_dim": 16, "num_layers": 2, "num_heads": 2, "output_dim": 6, "context_size": 20},
            **{"max_pos_emb": 32, "conv_kernel_size": 7},
        },
        None,
    ),
    "pe_audio_encoder": (
        {
            **SHAPE,
            **{
                "head_dim": 8,
                "dac_config": {"encoder_hidden_size": 2, "codebook_dim": 4, "decoder_hidden_size": 16},
            },
        },
        PeAudioFeatureExtractor(),
    ),
    "gemma3n_audio": (
        {
            **{"hidden_size": 16, "conf_num_hidden_layers": 2, "conf_num_attention_heads": 2},
            **{"sscp_conv_channel_size": (4, 4), "conf_attention_context_left": 5, "input_feat_size": 128},
        },
        Gemma3nAudioFeatureExtractor(),
    ),
    "glmasr_encoder": (
        SHAPE | {"num_mel_bins": 128, "head_dim": 8},
        WhisperFeatureExtractor(feature_size=128),
    ),
    "qwen3_omni_moe_audio_encoder": (
        WHISPER | {"output_dim": 24, "downsample_hidden_size": 4},
        WhisperFeatureExtractor(feature_size=128, chunk_length=300),
    ),
    "qwen3_asr_encoder": (WHISPER | {"downsample_hidden_size": 4}, WhisperFeatureExtractor(feature_size=128)),
    "qwen2_5_omni_audio_encoder": (
        WHISPER | {"n_window": 100, "output_dim": 24},
        WhisperFeatureExtractor(feature_size=128, chunk_length=300),
    ),
    "voxtral_encoder": (WHISPER, WhisperFeatureExtractor(feature_size=128)),
    "audioflamingo3_encoder": (WHISPER, WhisperFeatureExtractor(feature_size=128)),
    "qwen2_audio_encoder": (WHISPER, WhisperFeatureExtractor(feature_size=128)),
}


def audio_encoder_folder(kind: str, folder: Path, inside: bool = False) -> Path:
    """A tiny random encoder of that family, alone or ``inside`` the larger model that it is part of."""
    fields, features = FAMILIES[kind]
    torch.manual_seed(4)
    config = CONFIG_MAPPING[kind.removesuffix("-fused")](**fields)
    own = KINDS[kind].opened_by if kind in KINDS else None
    model = own(config) if own else AutoModel.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "positional" not in name:
                weight.normal_(0, 0.2)
    model.save_pretrained(folder)
    if inside or kind.startswith("seamless"):
        whole, part, prefix = INSIDE[kind]
        larger = {part: config.to_dict(), "model_type": whole} if part else config.to_dict()
        (folder / "config.json").write_text(json.dumps(larger))
        state = load_file(folder / "model.safetensors")
        save_file({prefix + name: tensor for name, tensor in state.items()}, folder / "model.safetensors")
    if features is None:
        (folder / "preprocessor_config.json").write_text(json.dumps(GRANITE_FEATURES))
    else:
        features.save_pretrained(folder)
    return folder
