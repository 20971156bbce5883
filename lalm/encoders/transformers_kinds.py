"""The families of audio encoders in transformers, and how each is opened, fed and read.

What a family needs beside transformers' own classes stands in one ``Kind``: the exact number of frames by the
samples, what its feature extractor is asked for, what its module is given, and in which order it answers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

WINDOW_S = 30.0
FBANK_FRAME = 400  # samples of a window of a Kaldi spectrogram: 25 ms at 16 kHz
HOP = 160
CLAP_STEPS = 32  # HTSAT's last stage: steps in time of 10 s, two bands each
MOONSHINE = ((127, 64), (7, 3), (3, 2))  # kernels and strides of its convolutions
USM_FRAME = 513  # samples of a window of Gemma 3n's spectrogram: 32 ms and one

Inputs = dict[str, Tensor]
Frames = Callable[[Any, int], int]  # config, samples at the encoder's own rate -> frames


def without_mask(config: Any, tensors: Inputs, samples: int) -> Inputs:
    """Nothing is padded, so no mask is needed."""
    return {name: tensor for name, tensor in tensors.items() if name != "attention_mask"}


def as_they_are(config: Any, states: Tensor, num_windows: int) -> Tensor:
    """(W, T, D)."""
    return states


@dataclass(frozen=True)
class Kind:
    """How one family is opened and read.

    ``opener``: "MODULE.Class" in transformers.models where AutoModel does not give the encoder; ``part``
    leads from what is opened to it. ``given`` makes the module's inputs of the extractor's tensors,
    ``ordered`` frames in time order of its output; both get the config first, and last the samples at the
    encoder's own rate or the number of windows.
    """

    frames: Frames
    rate: Callable[[Any], float]  # frames a sample
    opener: str = ""
    part: str = ""
    settings: dict[str, Any] = field(default_factory=dict)  # for the feature extractor's call
    silence: int = 0  # samples behind each window that the extractor sees too
    given: Callable[[Any, Inputs, int], Inputs] = without_mask
    ordered: Callable[[Any, Tensor, int], Tensor] = as_they_are
    longest_s: float = WINDOW_S
    bands: Callable[[Any], int] = lambda config: 1  # frames of one moment, from low to high frequencies
    layered: bool = True  # whether each of its layers can be had
    depth: str = "num_hidden_layers"  # what its config calls the number of layers
    width: str = "hidden_size"  # and the width of one
    out: tuple[str, ...] = ()  # and that of its output, where it is another

    @property
    def opened_by(self) -> Any:
        """The class that opens it; None for AutoModel."""
        if not self.opener:
            return None
        module, _, name = self.opener.partition(".")
        return getattr(import_module(f"transformers.models.{module}.modeling_{module}"), name)


def _chain(num_samples: int, layers: Any) -> int:
    for kernel, stride in layers:
        num_samples = (num_samples - kernel) // stride + 1 if num_samples >= kernel else 0
    return num_samples


def _fbank_frames(n: int) -> int:
    """Whole windows of 25 ms, each 10 ms."""
    return (n - FBANK_FRAME) // HOP + 1 if n >= FBANK_FRAME else 0


def _convolved(config: Any, n: int) -> int:
    """wav2vec 2.0 and its kin: seven convolutions without padding, 400 samples wide, 320 apart."""
    frames = _chain(n, zip(config.conv_kernel, config.conv_stride, strict=True))
    if getattr(config, "add_adapter", False):  # strided convolutions with padding 1 behind the layers
        for _ in range(config.num_adapter_layers):
            frames = (frames + 2 - config.adapter_kernel_size) // config.adapter_stride + 1 if frames else 0
    return frames


def _strided(config: Any) -> float:
    stride = float(np.prod(config.conv_stride))
    if getattr(config, "add_adapter", False):
        stride *= config.adapter_stride**config.num_adapter_layers
    return 1 / stride


def _stacked_fbank(config: Any, n: int) -> int:
    """w2v-BERT: two frames of a Kaldi spectrogram beside each other, 20 ms."""
    return _fbank_frames(n) // 2


def _seamless(config: Any, n: int) -> int:
    """SeamlessM4T: w2v-BERT's frames through strided convolutions."""
    frames = _stacked_fbank(config, n)
    kernel, stride = config.adaptor_kernel_size, config.adaptor_stride
    for _ in range(config.num_adapter_layers if config.add_adapter else 0):
        frames = max(0, (frames + 2 * (stride // 2) - kernel) // stride + 1) if frames else 0
    return frames


def _seamless_rate(config: Any) -> float:
    stride = config.adaptor_stride**config.num_adapter_layers if config.add_adapter else 1
    return float(1 / (2 * HOP * stride))


def _subsampled(config: Any, n: int) -> int:
    """Fast-Conformer: three convolutions, each of which halves the frames and counts a last odd one."""
    frames = n // HOP
    for _ in range(int(np.log2(config.subsampling_factor))):
        frames = -(-frames // config.subsampling_conv_stride)
    return frames if n // HOP > 1 else 0  # one frame has no variance to be normalised by


def _speech_to_text(config: Any, n: int) -> int:
    """Fairseq's S2T: convolutions of stride 2, padded to count a last odd frame."""
    frames = _fbank_frames(n)
    for kernel in config.conv_kernel_sizes:
        frames = (frames + 2 * (kernel // 2) - kernel) // 2 + 1 if frames else 0
    return frames if _fbank_frames(n) > 1 else 0  # one frame has no variance to be normalised by


def _lasr(config: Any, n: int) -> int:
    """LASR: two convolutions without padding over a spectrogram."""
    return _chain(
        _fbank_frames(n), [(config.subsampling_conv_kernel_size, config.subsampling_conv_stride)] * 2
    )


def _patch_steps(config: Any, n: int) -> int:
    """AST: patches in time of which a clip fills some, each of ``bands``."""
    last = (config.max_length - config.patch_size) // config.time_stride + 1
    return min(-(-_fbank_frames(n) // config.time_stride), last) * _ast_bands(config)


def _ast_bands(config: Any) -> int:
    return int((config.num_mel_bins - config.patch_size) // config.frequency_stride + 1)


def _ast_order(config: Any, states: Tensor, num_windows: int) -> Tensor:
    """Two tokens of its own, then band by band."""
    return states[:, 2:].unflatten(1, (_ast_bands(config), -1)).transpose(1, 2).flatten(1, 2)


def _mels(n: int) -> int:
    """Frames of a Whisper spectrogram: each 10 ms begun."""
    return -(-n // HOP)


def _halved(config: Any, n: int) -> int:
    return (_mels(n) - 1) // 2 + 1 if n else 0


def _omni(config: Any, n: int) -> int:
    """Qwen2.5-Omni: 10 ms, halved by a convolution and by a mean, which drops a last odd one."""
    return _halved(config, n) // 2


def _eighths(config: Any, n: int) -> int:
    """Qwen3-Omni and Qwen3-ASR: three convolutions in each chunk of a second; a last odd frame counts."""
    chunk = 2 * config.n_window
    whole, rest = divmod(_mels(n), chunk)
    return whole * _eighth(chunk) + _eighth(rest)


def _eighth(mels: int) -> int:
    for _ in range(3):
        mels = -(-mels // 2)
    return mels


def _eighths_rate(config: Any) -> float:
    return float(_eighth(2 * config.n_window) / (2 * config.n_window * HOP))


def _cut(config: Any, tensors: Inputs, samples: int) -> Inputs:
    """(W, M, T), the silence cut away again."""
    return {"input_features": tensors["input_features"][..., : _mels(samples)]}


def _flat(config: Any, tensors: Inputs, samples: int) -> Inputs:
    """Windows behind each other, with their lengths: (M, W * T)."""
    cut = _cut(config, tensors, samples)["input_features"]
    lengths = torch.full((len(cut),), cut.shape[2])
    return {"input_features": cut.transpose(0, 1).flatten(1), "feature_lens": lengths}


def _unflat(config: Any, states: Tensor, num_windows: int) -> Tensor:
    return states.reshape(num_windows, -1, states.shape[-1])


def _chunks(config: Any, tensors: Inputs, samples: int) -> Inputs:
    """Whole chunks, the last one filled with zeros that a mask marks."""
    mel = _cut(config, tensors, samples)["input_features"]
    more = -mel.shape[2] % (2 * config.n_window)
    mask = torch.ones(len(mel), mel.shape[2], dtype=torch.long)
    return {
        "input_features": torch.nn.functional.pad(mel, (0, more)),
        "input_features_mask": torch.nn.functional.pad(mask, (0, more)),
    }


def _parakeet_inputs(config: Any, tensors: Inputs, samples: int) -> Inputs:
    """Its last frame is beyond the clip."""
    return {"input_features": tensors["input_features"][:, : samples // HOP]}


def _stacked_inputs(config: Any, tensors: Inputs, samples: int) -> Inputs:
    """A last odd frame was filled up with padding."""
    return {"input_features": tensors["input_features"][:, : _stacked_fbank(config, samples)]}


def _clap(config: Any, n: int) -> int:
    return -(-n * CLAP_STEPS // (10 * 48_000)) * 2


def _clap_order(config: Any, states: Tensor, num_windows: int) -> Tensor:
    """(W, D, bands, steps) -> time-major."""
    return states.permute(0, 3, 2, 1).flatten(1, 2)


def _granite(config: Any, n: int) -> int:
    """Granite Speech: two frames beside each other of a spectrogram whose frames stand on 0, 160, ..."""
    return (n // HOP + 1) // 2 if n > FBANK_FRAME else 0


def _granite_inputs(config: Any, tensors: Inputs, samples: int) -> Inputs:
    return {"hidden_states": tensors["input_features"]}


def _usm(config: Any, n: int) -> int:
    """Gemma 3n: two strided convolutions that look back, then every ``conf_reduction_factor``-th frame."""
    frames = (n - USM_FRAME) // HOP + 1 if n >= USM_FRAME else 0
    for stride, _ in config.sscp_conv_stride_size:
        frames = -(-frames // stride)
    return -(-frames // config.conf_reduction_factor)


def _usm_rate(config: Any) -> float:
    strides = np.prod([stride for stride, _ in config.sscp_conv_stride_size])
    return float(1 / (HOP * strides * config.conf_reduction_factor))


def _usm_inputs(config: Any, tensors: Inputs, samples: int) -> Inputs:
    mel = tensors["input_features"]
    return {"audio_mel": mel, "audio_mel_mask": torch.zeros(mel.shape[:2], dtype=torch.bool)}


def _pe(config: Any, n: int) -> int:
    """PE-Audio: its codec's frames, the last one filled up with the clip's mirrored end."""
    return -(-n // config.dac_config.hop_length)


def _pe_inputs(config: Any, tensors: Inputs, samples: int) -> Inputs:
    return {"input_values": tensors["input_values"]}


_SPEECH = Kind(_convolved, _strided)
_WHISPER_LIKE: dict[str, Any] = {
    "settings": {"padding": "longest", "truncation": False},
    "silence": 2 * FBANK_FRAME,  # trained with silence behind each clip
}
_SEAMLESS: dict[str, Any] = {"given": _stacked_inputs, "depth": "speech_encoder_layers"}
KINDS: dict[str, Kind] = {
    **dict.fromkeys(
        ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio", "wav2vec2-conformer"),
        _SPEECH,
    ),
    **dict.fromkeys(("sew", "sew-d"), _SPEECH),
    "wav2vec2-bert": Kind(
        _stacked_fbank, lambda c: 1 / (2 * HOP), given=_stacked_inputs, out=("output_hidden_size",)
    ),
    "seamless_m4t": Kind(
        _seamless, _seamless_rate, opener="seamless_m4t.SeamlessM4TSpeechEncoder", **_SEAMLESS
    ),
    "seamless_m4t_v2": Kind(
        _seamless, _seamless_rate, opener="seamless_m4t_v2.SeamlessM4Tv2SpeechEncoder", **_SEAMLESS
    ),
    "speech_to_text": Kind(
        _speech_to_text,
        lambda c: 1 / (HOP * 2 ** len(c.conv_kernel_sizes)),
        opener="speech_to_text.Speech2TextEncoder",
        depth="encoder_layers",
        width="d_model",
    ),
    "moonshine": Kind(
        lambda c, n: _chain(n, MOONSHINE),
        lambda c: 1 / 384,
        part="encoder",
        depth="encoder_num_hidden_layers",
    ),
    "parakeet_encoder": Kind(_subsampled, lambda c: 1 / (HOP * c.subsampling_factor), given=_parakeet_inputs),
    "lasr_encoder": Kind(
        _lasr, lambda c: 1 / (HOP * c.subsampling_conv_stride**2), opener="lasr.LasrEncoder"
    ),
    "granite_speech_encoder": Kind(
        _granite,
        lambda c: 1 / (2 * HOP),
        opener="granite_speech.GraniteSpeechCTCEncoder",
        given=_granite_inputs,
        depth="num_layers",
        width="hidden_dim",
    ),
    "audio-spectrogram-transformer": Kind(
        _patch_steps,
        lambda c: _ast_bands(c) / (HOP * c.time_stride),
        ordered=_ast_order,
        longest_s=10.24,
        bands=_ast_bands,
    ),
    "clap_audio_model": Kind(
        _clap,
        lambda c: 2 * CLAP_STEPS / (10 * 48_000),
        opener="clap.ClapAudioModel",
        ordered=_clap_order,
        longest_s=10.0,
        bands=lambda c: 2,
        layered=False,
    ),
    "pe_audio_encoder": Kind(
        _pe,
        lambda c: 1 / c.dac_config.hop_length,
        opener="pe_audio.PeAudioEncoder",
        given=_pe_inputs,
        layered=False,  # in its layers a token of its own stands before the frames
    ),
    "gemma3n_audio": Kind(
        _usm,
        _usm_rate,
        opener="gemma3n.Gemma3nAudioEncoder",
        settings={"pad_to_multiple_of": None},
        given=_usm_inputs,
        layered=False,  # its module does not tell them
        depth="conf_num_hidden_layers",
    ),
    "glmasr_encoder": Kind(
        _halved, lambda c: 1 / (2 * HOP), opener="glmasr.GlmAsrEncoder", given=_cut, **_WHISPER_LIKE
    ),
    "qwen2_5_omni_audio_encoder": Kind(
        _omni,
        lambda c: 1 / (4 * HOP),
        opener="qwen2_5_omni.Qwen2_5OmniAudioEncoder",
        given=_flat,
        ordered=_unflat,
        depth="encoder_layers",
        width="d_model",
        out=("output_dim",),
        **_WHISPER_LIKE,
    ),
    "qwen3_omni_moe_audio_encoder": Kind(
        _eighths,
        _eighths_rate,
        opener="qwen3_omni_moe.Qwen3OmniMoeAudioEncoder",
        given=_flat,
        ordered=_unflat,
        depth="encoder_layers",
        width="d_model",
        out=("output_dim",),
        **_WHISPER_LIKE,
    ),
    "qwen3_asr_encoder": Kind(
        _eighths,
        _eighths_rate,
        opener="qwen3_asr.Qwen3ASREncoder",
        given=_chunks,
        ordered=_unflat,
        depth="encoder_layers",
        width="d_model",
        **_WHISPER_LIKE,
    ),
}
