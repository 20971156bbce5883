"""No paper's model: any encoder, any connector of ``lalm.models.connectors``, any LLM.

    waveform --encoder--> frames (T, layers x W) --layer mix--> (T, W) --connector--> tokens (K, D) --> LLM

With ``layer_mix`` the encoder's layers are added up with weights that are learned (a softmax over layers, all
equal at first) in place of standing side by side. A connector with queries reads each layer by itself, and
every query has weights of its own (DeSTA2.5-Audio, arXiv 2507.02768, section 3). Of two encoders each has its
layers added up by itself, with one set of weights, before the two stand side by side. The weights belong to
the connector, so frames of all layers can be cached.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from lalm.encoders import build_encoder, encoder_config
from lalm.encoders.pair import PairConfig, widths
from lalm.models.config import AudioLMConfig
from lalm.models.connectors import connector_class
from lalm.models.connectors.contract import Shape
from lalm.models.modeling import AudioLMForConditionalGeneration, AudioLMModel


class ModularConfig(AudioLMConfig):
    """``connector`` is one of ``CONNECTORS`` or of an own file's, ``connector_options`` are its own.

    ``layer_mix`` adds the encoder's ``layers`` up. ``instruction`` and ``instruction_tokens`` are as APT's,
    for a connector that hears instructions.
    """

    model_type = "lalm_modular"
    sub_configs = {"text_config": AutoConfig, "audio_config": AutoConfig}  # noqa: RUF012

    def __init__(
        self,
        audio_config: PreTrainedConfig | dict[str, Any] | None = None,
        connector: str = "mlp",
        connector_options: dict[str, Any] | None = None,
        layer_mix: bool = False,
        instruction: str = "own",
        instruction_tokens: int = 128,
        **kwargs: Any,
    ) -> None:
        self.audio_config = encoder_config(audio_config)
        self.connector = connector
        self.connector_options = dict(connector_options or {})
        self.layer_mix = layer_mix
        self.instruction = instruction
        self.instruction_tokens = instruction_tokens
        found = connector_class(connector)
        if odd := sorted(set(self.connector_options) - set(found.options())):
            raise ValueError(
                f"the connector '{connector}' has no option '{odd[0]}'; it has: {', '.join(found.options())}"
            )
        if layer_mix and max(self.layer_counts) < 2:
            raise ValueError(
                "layer_mix adds up layers, and the encoder gives one: name its 'layers' in the options of "
                "'encoder'"
            )
        super().__init__(**kwargs)

    @property
    def hears_instructions(self) -> bool:  # type: ignore[override]
        """Whether the connector reads the text that goes with each clip."""
        return connector_class(self.connector).hears_instructions

    @property
    def layer_counts(self) -> list[int]:
        """Layers that stand side by side in a frame, of each encoder."""
        pair = isinstance(self.audio_config, PairConfig)
        encoders = [self.audio_config.first, self.audio_config.second] if pair else [self.audio_config]
        return [len(getattr(encoder, "layers", None) or [0]) for encoder in encoders]

    @property
    def shape(self) -> Shape:
        """What the connector stands between."""
        width = self.audio_config.width
        if self.layer_mix:
            parts = zip(widths(self.audio_config), self.layer_counts, strict=True)
            width = sum(part // count for part, count in parts)
        return Shape(width, self.embedding_width, float(self.audio_config.frames_per_second))

    def num_frames(self, num_samples: int) -> int:
        """Encoder frames of one clip."""
        return int(self.audio_config.num_frames(num_samples))

    def num_tokens(self, num_frames: int) -> int:
        """The connector's own formula."""
        rate = float(self.audio_config.frames_per_second)
        return connector_class(self.connector).num_tokens(num_frames, rate, **self.connector_options)

    @property
    def token_groups(self) -> tuple[int, int, int] | None:
        """The connector's groups, where it has some."""
        rate = float(self.audio_config.frames_per_second)
        return connector_class(self.connector).groups(rate, **self.connector_options)


class ModularConnector(nn.Module):
    """The chosen connector, the mix of layers before it, and what standardises the frames.

    ``frame_mean`` and ``frame_scale`` start as 0 and 1; a warm start sets both from its data.
    """

    frame_mean: Tensor
    frame_scale: Tensor

    def __init__(self, config: ModularConfig) -> None:
        super().__init__()
        width = int(config.audio_config.width)
        self.register_buffer("frame_mean", torch.zeros(width))
        self.register_buffer("frame_scale", torch.ones(width))
        self.connector = connector_class(config.connector)(config.shape, **config.connector_options)
        self.widths, self.layer_counts = widths(config.audio_config), config.layer_counts
        counts = self.layer_counts if config.layer_mix else []
        one = torch.zeros(self.connector.num_queries, counts[0]) if len(counts) == 1 else None
        self.mix = None if one is None else nn.Parameter(one)  # of one encoder
        two = counts if len(counts) > 1 else []
        self.mixes = nn.ParameterList(nn.Parameter(torch.zeros(1, count)) for count in two)

    @torch.no_grad()
    def standardise(self, mean: Tensor, scale: Tensor) -> None:
        """Take frames as ``(frames - mean) * scale`` from now on; both (W,)."""
        self.frame_mean.copy_(mean)
        self.frame_scale.copy_(scale)

    def start(self, folder: Any) -> None:
        """Begin with the BERT in ``folder``, where the connector hears instructions."""
        starting: Any = self.connector
        starting.start(folder)

    def forward(self, frames: Tensor, frame_lengths: Tensor, *told: Tensor | None) -> tuple[Tensor, Tensor]:
        """frames: (A, T, layers x W), frame_lengths: (A,) -> tokens (A, K, D), lengths (A,)."""
        frames = (frames.to(self.frame_mean.dtype) - self.frame_mean) * self.frame_scale
        frames = frames.to(next(self.connector.parameters()).dtype)
        if self.mixes:
            parts = frames.split(self.widths, 2)
            mixed = [_mixed(part, weights) for part, weights in zip(parts, self.mixes, strict=True)]
            frames = torch.cat(mixed, 2)  # (A, T, W1 + W2)
        if self.mix is None:
            tokens, lengths = self.connector(frames, frame_lengths, *told)
            return tokens, lengths
        if len(self.mix) == 1:
            tokens, lengths = self.connector(_mixed(frames, self.mix), frame_lengths, *told)
            return tokens, lengths
        layers = frames.unflatten(2, (self.layer_counts[0], -1)).unbind(2)  # of (A, T, W) each
        weights = self.mix.softmax(1)  # (Q, layers)
        heard = [self.connector(layer, frame_lengths, *told) for layer in layers]
        stacked = torch.stack([tokens for tokens, _ in heard], -1)  # (A, K, D, layers)
        own = weights.repeat(stacked.shape[1] // len(weights), 1)  # (K, layers): queries come in turn
        return (stacked * own[:, None]).sum(-1), heard[0][1]


def _mixed(frames: Tensor, weights: Tensor) -> Tensor:
    """frames: (A, T, layers x W), weights: (1, layers), not yet a softmax -> their sum (A, T, W)."""
    layers = frames.unflatten(2, (weights.shape[1], -1))  # (A, T, layers, W)
    return layers.transpose(2, 3) @ weights.softmax(1)[0]


class ModularModel(AudioLMModel):
    """Encoder, connector and LLM body."""

    config_class = ModularConfig

    def __init__(self, config: ModularConfig) -> None:
        super().__init__(config)
        self.audio_tower = build_encoder(config.audio_config)
        self.connector = self.build_connector()
        self.post_init()

    def build_connector(self) -> ModularConnector:
        return ModularConnector(self.config)


class ModularForConditionalGeneration(AudioLMForConditionalGeneration):
    """The model with the LLM's head."""

    config_class = ModularConfig
    model_class = ModularModel
