"""Any audio encoder of transformers behind a waveform: one adapter for the families in ``KINDS``.

    waveform --windows--> each alone, without padding --the folder's own features--> module --> frames

A window is encoded with others of exactly its length, or alone: there is no padding that a normalisation, a
convolution or attention could hear, so a clip's frames are the same in every batch, for every family.
"""

from typing import Any, ClassVar

import numpy as np
import soxr
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from lalm.audio.features import SAMPLE_RATE
from lalm.encoders.contract import Encoder, chosen_layers
from lalm.encoders.pair import at_times_of
from lalm.encoders.transformers_kinds import KINDS, Kind

GRANITE = "GraniteSpeechFeatureExtractor"


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
                f"layers: those of a {self.encoder.model_type} cannot be had beside its output: leave it out"
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
        return int(getattr(self.encoder, self.kind.depth))

    @property
    def layer_width(self) -> int:
        """Width of one layer's frames."""
        return int(getattr(self.encoder, self.kind.width))

    @property
    def width(self) -> int:
        """Width of a frame."""
        if self.layers is not None:
            return len(self.layers) * self.layer_width
        given = [getattr(self.encoder, name, None) for name in self.kind.out]
        return int(next((width for width in given if width), self.layer_width))

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
        rate, kind = self.config.rate_hz, self.config.kind
        self._features = self._features or feature_extractor(self.config.features)
        made = []
        for window in windows.detach().float().cpu().numpy():
            samples = window
            if rate != SAMPLE_RATE:
                samples = soxr.resample(window, SAMPLE_RATE, rate)
                size = resampled_length(len(window), rate)
                samples = np.pad(samples, (0, max(0, size - len(samples))))[:size]
            samples = np.pad(samples, (0, kind.silence))
            made.append(self._features(samples, sampling_rate=rate, return_tensors="pt", **kind.settings))
        tensors = {n: torch.cat([m[n] for m in made]) for n in made[0] if isinstance(made[0][n], Tensor)}
        return kind.given(self.config.encoder, tensors, resampled_length(windows.shape[1], rate))

    def _in_time_order(self, states: Tensor, num_windows: int) -> Tensor:
        """A module's output as frames in time order, bands of one moment beside each other: (W, T, width)."""
        return self.config.kind.ordered(self.config.encoder, states, num_windows)


def new_module(config: PreTrainedConfig) -> nn.Module:
    """A randomly initialised encoder of that config, without what is around it."""
    kind = KINDS[config.model_type]
    opener = kind.opened_by
    whole: nn.Module = opener._from_config(config) if opener else AutoModel.from_config(config)
    return whole.get_submodule(kind.part) if kind.part else whole


def feature_extractor(settings: dict[str, Any]) -> Any:
    """A feature extractor of transformers from what its preprocessor_config.json says."""
    name = str(settings.get("feature_extractor_type"))
    if name == GRANITE:
        return GraniteFeatures(settings)
    kind = getattr(transformers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, SequenceFeatureExtractor)):
        raise ValueError(f"transformers has no feature extractor '{name}'")
    return kind(**{key: value for key, value in settings.items() if key != "feature_extractor_type"})


class GraniteFeatures:
    """Granite Speech's spectrogram; transformers' own needs torchaudio for these few lines.

    Log-mel of a power spectrum (HTK's triangles of height 1), at most 8 below its largest, divided by 4, plus
    1; two neighbouring frames beside each other.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        settings = {**settings, **settings.get("melspec_kwargs", {})}
        self.rate = int(settings.get("sampling_rate", SAMPLE_RATE))
        self.n_fft, self.window = int(settings.get("n_fft", 512)), int(settings.get("win_length", 400))
        self.hop = int(settings.get("hop_length", 160))
        bins = int(settings.get("n_mels") or settings.get("feature_size") or 80)
        limits = {"min_frequency": 0.0, "max_frequency": self.rate / 2, "sampling_rate": self.rate}
        shape = {"num_frequency_bins": self.n_fft // 2 + 1, "num_mel_filters": bins}
        filters = mel_filter_bank(**shape, **limits, norm=None, mel_scale="htk")
        self.filters = torch.from_numpy(filters).float()  # (F, M)

    def __call__(self, samples: Any, **settings: Any) -> dict[str, Tensor]:
        """samples: (N,) -> {"input_features": (1, T, 2 M)}."""
        window = torch.hann_window(self.window)
        audio = torch.from_numpy(np.asarray(samples, dtype=np.float32))
        spectrum = torch.stft(audio, self.n_fft, self.hop, self.window, window, return_complex=True)
        log = (spectrum.abs().square().T @ self.filters).clamp(min=1e-10).log10()  # (T, M)
        log = torch.maximum(log, log.max() - 8.0) / 4 + 1
        return {"input_features": log[: len(log) // 2 * 2].reshape(1, -1, 2 * log.shape[1])}
