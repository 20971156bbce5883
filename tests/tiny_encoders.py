"""Random audio encoders of many families in the Hub's layout, with their feature extractors' settings."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    ASTFeatureExtractor,
    AutoModel,
    ClapFeatureExtractor,
    ParakeetFeatureExtractor,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder

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
    "qwen2_5_omni_audio_encoder": (
        WHISPER | {"n_window": 100, "output_dim": 24},
        WhisperFeatureExtractor(feature_size=128, chunk_length=300),
    ),
    "qwen2_audio_encoder": (WHISPER, WhisperFeatureExtractor(feature_size=128)),
}


def audio_encoder_folder(kind: str, folder: Path) -> Path:
    """A tiny random encoder of that family, or the larger model that it is part of."""
    fields, features = FAMILIES[kind]
    torch.manual_seed(4)
    config = CONFIG_MAPPING[kind](**fields)
    omni = kind == "qwen2_5_omni_audio_encoder"
    model = Qwen2_5OmniAudioEncoder(config) if omni else AutoModel.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "positional" not in name:
                weight.normal_(0, 0.2)
    model.save_pretrained(folder)
    features.save_pretrained(folder)
    return folder
