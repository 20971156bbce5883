"""Any audio encoder of transformers behind a waveform: one adapter for the families in ``KINDS``.

    waveform --windows--> each alone, without padding --the folder's own features--> module --> frames

A window is encoded with others of exactly its length, or alone: there is no padding that a normalisation, a
convolution or attention could hear, so a clip's frames are the same in every batch, for every family.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import soxr
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, SequenceFeatureExtractor
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder

from lalm.audio.features import SAMPLE_RATE
from lalm.encoders.contract import Encoder, chosen_layers
from lalm.encoders.pair import at_times_of

WINDOW_S = 30.0
FBANK_FRAME = 400  # samples of a window of a Kaldi spectrogram: 25 ms at 16 kHz
HOP = 160
CLAP_STEPS = 32  # HTSAT's last stage: steps in time of 10 s, two bands each
MOONSHINE = ((127, 64), (7, 3), (3, 2))  # kernels and strides of its convolutions

Frames = Callable[[Any, int], int]  # config, samples at the encoder's own rate -> frames


@dataclass(frozen=True)
class Kind:
    """How one family is opened and read. ``part`` leads from what AutoModel opens to the encoder."""

    frames: Frames
    rate: Callable[[Any], float]  # frames a second
    part: str = ""
    settings: dict[str, Any] = field(default_factory=dict)  # for the feature extractor's call
    longest_s: float = WINDOW_S
    bands: Callable[[Any], int] = lambda config: 1  # frames of one moment, from low to high frequencies
    layered: bool = True  # whether each of its layers can be had


def _chain(num_samples: int, layers: Any) -> int:
    for kernel, stride in layers:
        num_samples = (num_samples - kernel) // stride + 1 if num_samples >= kernel else 0
    return num_samples


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
    return ((n - FBANK_FRAME) // HOP + 1) // 2 if n >= FBANK_FRAME else 0


def _subsampled(config: Any, n: int) -> int:
    """Fast-Conformer: three convolutions, each of which halves the frames and counts a last odd one."""
    frames = n // HOP
    for _ in range(int(np.log2(config.subsampling_factor))):
        frames = -(-frames // config.subsampling_conv_stride)
    return frames if n // HOP > 1 else 0  # one frame has no variance to be normalised by


def _patch_steps(config: Any, n: int) -> int:
    """AST: patches in time of which a clip fills some, each of ``bands``."""
    frames = (n - FBANK_FRAME) // HOP + 1 if n >= FBANK_FRAME else 0
    last = (config.max_length - config.patch_size) // config.time_stride + 1
    return min(-(-frames // config.time_stride), last) * _ast_bands(config)


def _ast_bands(config: Any) -> int:
    return int((config.num_mel_bins - config.patch_size) // config.frequency_stride + 1)


def _omni(config: Any, n: int) -> int:
    """Qwen2.5-Omni: 10 ms, halved by a convolution and by a mean, which drops a last odd one."""
    mels = -(-n // HOP)
    return ((mels - 1) // 2 + 1) // 2


def _clap(config: Any, n: int) -> int:
    return -(-n * CLAP_STEPS // (10 * 48_000)) * 2


_speech = Kind(_convolved, _strided)
_parakeet = Kind(_subsampled, lambda c: 1 / (HOP * c.subsampling_factor))
KINDS: dict[str, Kind] = {
    **dict.fromkeys(
        ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio", "wav2vec2-conformer"),
        _speech,
    ),
    **dict.fromkeys(("sew", "sew-d"), _speech),
    "wav2vec2-bert": Kind(_stacked_fbank, lambda c: 1 / (2 * HOP)),
    "moonshine": Kind(lambda c, n: _chain(n, MOONSHINE), lambda c: 1 / 384, part="encoder"),
    "parakeet_encoder": _parakeet,
    "audio-spectrogram-transformer": Kind(
        _patch_steps,
        lambda c: _ast_bands(c) / (HOP * c.time_stride),
        longest_s=10.24,
        bands=_ast_bands,
    ),
    "clap_audio_model": Kind(
        _clap, lambda c: 2 * CLAP_STEPS / (10 * 48_000), longest_s=10.0, bands=lambda c: 2, layered=False
    ),
    "qwen2_5_omni_audio_encoder": Kind(
        _omni, lambda c: 1 / (4 * HOP), settings={"padding": "longest", "truncation": False}
    ),
}


class TransformersAudioConfig(PreTrainedConfig):
    """The encoder's own config, its feature extractor's settings, and some choices of ours.

    ``layers``: hidden states to return side by side, each a frame wide: 0 before the first layer, n after
    layer n; "all" is every one. Absent: what the encoder itself gives. ``window_s``: a longer clip is encoded
    in pieces of that length, joined in time order.
    """

    model_type = "lalm_transformers"
    sub_configs: ClassVar[dict[str, Any]] = {"encoder": AutoConfig}
    has_no_defaults_at_init = True

    def __init__(
        self,
        encoder: PreTrainedConfig | dict[str, Any] | None = None,
        features: dict[str, Any] | None = None,
        layers: list[int] | str | None = None,
        window_s: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.encoder: Any = AutoConfig.for_model(**encoder) if isinstance(encoder, dict) else encoder
        self.encoder = self.encoder or AutoConfig.for_model("wav2vec2")
        if self.encoder.model_type not in KINDS:
            raise ValueError(
                f"there is no way to read a '{self.encoder.model_type}' as an audio encoder; there is one "
                f"for {', '.join(sorted(KINDS))}"
            )
        self.features = dict(features or {"feature_extractor_type": "Wav2Vec2FeatureExtractor"})
        if layers is not None and not self.kind.layered:
            raise ValueError(
                f"layers: those of a {self.encoder.model_type} have other shapes than its output: "
                "leave it out"
            )
        self.layers = chosen_layers(layers, self.depth)
        longest = self.kind.longest_s
        self.window_s = longest if window_s is None else window_s
        if not 1 <= self.window_s <= longest:
            raise ValueError(f"window_s: this encoder hears 1 to {longest:g} s at once, not {window_s}")
        super().__init__(**kwargs)

    @property
    def kind(self) -> Kind:
        """How the family is read."""
        return KINDS[self.encoder.model_type]

    @property
    def depth(self) -> int:
        """Layers of the encoder."""
        names = ("encoder_layers", "encoder_num_hidden_layers", "num_hidden_layers")
        return int(next(getattr(self.encoder, name) for name in names if hasattr(self.encoder, name)))

    @property
    def layer_width(self) -> int:
        """Width of one layer's frames."""
        names = ("d_model",) if hasattr(self.encoder, "d_model") else ("hidden_size",)
        return int(getattr(self.encoder, names[0]))

    @property
    def width(self) -> int:
        """Width of a frame."""
        if self.layers is not None:
            return len(self.layers) * self.layer_width
        given = getattr(self.encoder, "output_dim", None) or getattr(self.encoder, "output_hidden_size", None)
        return int(given or self.layer_width)

    @property
    def rate_hz(self) -> int:
        """The sampling rate of the encoder."""
        return int(self.features.get("sampling_rate", SAMPLE_RATE))

    @property
    def frames_per_second(self) -> float:
        """Of the encoder's own rate."""
        return float(self.kind.rate(self.encoder) * self.rate_hz)

    @property
    def window_samples(self) -> int:
        """Samples at 16 kHz of one window."""
        return round(self.window_s * SAMPLE_RATE)

    def num_frames(self, num_samples: int) -> int:
        """Frames of one clip: those of its whole windows and of the rest."""
        windows, rest = divmod(num_samples, self.window_samples)
        return windows * self._frames_of(self.window_samples) + self._frames_of(rest)

    def _frames_of(self, num_samples: int) -> int:
        samples = resampled_length(num_samples, self.rate_hz)
        return self.kind.frames(self.encoder, samples) if num_samples else 0


def resampled_length(num_samples: int, rate_hz: int) -> int:
    """Samples of a piece of 16 kHz audio at another rate."""
    return round(num_samples * rate_hz / SAMPLE_RATE)


class TransformersAudioEncoder(Encoder):
    """A module of transformers, fed window by window."""

    def __init__(self, config: TransformersAudioConfig, module: nn.Module | None = None) -> None:
        """``module``: the encoder with its weights; random without."""
        super().__init__(config)
        self.encoder = new_module(config.encoder) if module is None else module
        self._features: Any = None  # made when first needed: a model may be laid out without numbers

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """audio: (A, N) float32 16 kHz; audio_lengths: (A,) -> frames (A, T, width), frame_lengths (A,)."""
        size, lengths = self.config.window_samples, audio_lengths.tolist()
        alike: dict[int, list[tuple[int, int]]] = {}  # windows by their length: (clip, start)
        for clip, length in enumerate(lengths):
            for start in range(0, length, size):
                alike.setdefault(min(size, length - start), []).append((clip, start))
        pieces: dict[tuple[int, int], Tensor] = {}
        for length, places in alike.items():
            if self.config.num_frames(length):  # else it is shorter than one frame
                windows = torch.stack([audio[clip, start : start + length] for clip, start in places])
                pieces |= dict(zip(places, self._encode(windows), strict=True))
        weight = next(self.encoder.parameters())
        counts = [self.num_frames(length) for length in lengths]
        frames = torch.zeros(len(audio), max(counts), self.width, dtype=weight.dtype, device=weight.device)
        for clip, length in enumerate(lengths):
            own = [pieces[clip, start] for start in range(0, length, size) if (clip, start) in pieces]
            if own:
                frames[clip, : counts[clip]] = torch.cat(own)
        return frames, torch.tensor(counts, device=audio.device)

    def _encode(self, windows: Tensor) -> Tensor:
        """windows: (W, N) at 16 kHz, none padded -> (W, T, width)."""
        weight = next(self.encoder.parameters())
        inputs = self._inputs(windows)
        inputs = {name: t.to(weight.device) for name, t in inputs.items()}
        inputs = {name: t.to(weight.dtype) if t.is_floating_point() else t for name, t in inputs.items()}
        count = self.config.num_frames(windows.shape[1])
        wanted = self.config.layers
        output = self.encoder(**inputs, output_hidden_states=wanted is not None)
        if wanted is None:
            return self._in_time_order(output.last_hidden_state, len(windows))[:, :count]
        last = output.last_hidden_state  # with the norm that some have behind their last layer
        given = list(output.hidden_states)
        if last.shape[-1] == given[-1].shape[-1]:
            given[-1] = last
        states = [self._in_time_order(given[n], len(windows)) for n in wanted]
        full, aligned = self._in_time_order(last, len(windows)).shape[1], []
        for state in states:  # SEW squeezes time inside, Qwen2.5-Omni takes a mean of two at its end
            if state.shape[1] != full:
                more = state.shape[1] > full
                ratio = round(state.shape[1] / full) if more else 1 / round(full / state.shape[1])
                there = torch.full((len(state),), state.shape[1], device=state.device)
                state = at_times_of(state, there, full, ratio)
            aligned.append(state[:, :count])
        return torch.cat(aligned, dim=2)

    def _inputs(self, windows: Tensor) -> dict[str, Tensor]:
        """What the module takes, by the folder's own feature extractor, each window by itself."""
        rate, kind = self.config.rate_hz, self.config.encoder.model_type
        self._features = self._features or feature_extractor(self.config.features)
        made = []
        for window in windows.detach().float().cpu().numpy():
            samples = window
            if rate != SAMPLE_RATE:
                samples = soxr.resample(window, SAMPLE_RATE, rate)
                size = resampled_length(len(window), rate)
                samples = np.pad(samples, (0, max(0, size - len(samples))))[:size]
            if kind == "qwen2_5_omni_audio_encoder":  # trained with silence behind each clip
                samples = np.pad(samples, (0, 2 * FBANK_FRAME))
            made.append(
                self._features(samples, sampling_rate=rate, return_tensors="pt", **self.config.kind.settings)
            )
        tensors = {n: torch.cat([m[n] for m in made]) for n in made[0] if isinstance(made[0][n], Tensor)}
        if kind == "qwen2_5_omni_audio_encoder":
            mels = -(-windows.shape[1] // HOP)
            lengths = torch.full((len(windows),), mels)
            flat = tensors["input_features"][..., :mels].transpose(0, 1).flatten(1)  # (M, W * mels)
            return {"input_features": flat, "feature_lens": lengths}
        if kind == "parakeet_encoder":  # its last frame is beyond the clip
            return {"input_features": tensors["input_features"][:, : windows.shape[1] // HOP]}
        if kind == "wav2vec2-bert":  # a last odd frame was filled up with padding
            count = self.config.num_frames(windows.shape[1])
            return {"input_features": tensors["input_features"][:, :count]}
        tensors.pop("attention_mask", None)
        return tensors

    def _in_time_order(self, states: Tensor, num_windows: int) -> Tensor:
        """A module's output as frames in time order, bands of one moment beside each other: (W, T, width)."""
        kind, bands = self.config.encoder.model_type, self.config.kind.bands(self.config.encoder)
        if kind == "qwen2_5_omni_audio_encoder":  # windows behind each other
            return states.reshape(num_windows, -1, states.shape[-1])
        if kind == "clap_audio_model":  # (W, D, bands, steps)
            return states.permute(0, 3, 2, 1).flatten(1, 2)
        if bands > 1:  # AST: two tokens of its own, then band by band
            return states[:, 2:].unflatten(1, (bands, -1)).transpose(1, 2).flatten(1, 2)
        return states


def new_module(config: PreTrainedConfig) -> nn.Module:
    """A randomly initialised encoder of that config, without what is around it."""
    if config.model_type == "qwen2_5_omni_audio_encoder":
        return Qwen2_5OmniAudioEncoder._from_config(config)
    if config.model_type == "clap_audio_model":
        return transformers.ClapAudioModel._from_config(config)
    whole = AutoModel.from_config(config)
    part = KINDS[config.model_type].part
    return whole.get_submodule(part) if part else whole


def feature_extractor(settings: dict[str, Any]) -> Any:
    """A feature extractor of transformers from what its preprocessor_config.json says."""
    kind = getattr(transformers, str(settings.get("feature_extractor_type")), None)
    if not (isinstance(kind, type) and issubclass(kind, SequenceFeatureExtractor)):
        raise ValueError(f"transformers has no feature extractor '{settings.get('feature_extractor_type')}'")
    return kind(**{key: value for key, value in settings.items() if key != "feature_extractor_type"})
