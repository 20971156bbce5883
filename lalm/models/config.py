"""What a checkpoint needs to be rebuilt, and the formula of how many audio tokens a clip becomes."""

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from lalm.models.llm_body import UNLIMITED
from lalm.models.transcript import check_mode


class AudioLMConfig(PreTrainedConfig):
    """What a checkpoint needs to be rebuilt: the LLM's config, the slot token, and named frozen parts.

    ``parts`` maps "encoder" and "llm" to a pinned name or folder; a slim checkpoint is loaded from them.
    ``frozen_parts`` says by role which weights those are: {"sha256", "revision" of the Hub}
    (``lalm.weights.identity``); ``llm_sketch`` a few numbers of the LLM's embedding table.
    ``lora`` holds the LoRA settings ({"rank", "alpha", "dropout", "targets"}, perhaps "rank_pattern" and
    "alpha_pattern") when the LLM carries one.
    ``trained_encoder``: the encoder's weights are no longer those of the part it is named after.
    ``encoder_options`` are what a system asks of any encoder it is given; ``hears_instructions`` says that
    its connector also reads the text that goes with each clip. Without ``role_markers`` a conversation is put
    as plain text, and the answer goes on where it ends. ``transcript`` ("none", "given", "whisper") says
    whether what is said in a clip is read as text beside its audio tokens (``lalm.models.transcript``);
    ``transcribes`` and ``compares`` that the system's own training includes writing down speech, and
    questions about two recordings.
    """

    model_type = "lalm"
    hears_instructions: ClassVar[bool] = False
    transcribes: ClassVar[bool] = False
    compares: ClassVar[bool] = False
    role_markers = True
    encoder_options: ClassVar[Mapping[str, Any]] = {}
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012
    has_no_defaults_at_init = True

    def __init__(
        self,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        audio_token_id: int | None = None,
        parts: dict[str, str] | None = None,
        lora: dict[str, Any] | None = None,
        trained_encoder: bool = False,
        frozen_parts: dict[str, dict[str, str]] | None = None,
        llm_sketch: list[float] | None = None,
        transcript: str = "none",
        **kwargs: Any,
    ) -> None:
        if isinstance(text_config, dict):
            text_config = AutoConfig.for_model(**text_config)
        self.text_config: Any = text_config if text_config is not None else AutoConfig.for_model("llama")
        self.audio_token_id = audio_token_id
        self.parts = dict(parts or {})
        self.lora = lora
        self.trained_encoder = trained_encoder
        self.frozen_parts = dict(frozen_parts or {})
        self.llm_sketch = llm_sketch
        self.transcript = check_mode(transcript)
        tied: Any = self.text_config
        kwargs.setdefault("tie_word_embeddings", tied.tie_word_embeddings)
        super().__init__(**kwargs)

    @property
    def embedding_width(self) -> int:
        """Width of the LLM's embeddings, D: some have narrower ones than layers (OPT-350m)."""
        text = self.text_config
        return int(text.to_dict().get("word_embed_proj_dim") or text.hidden_size)

    @property
    def context_length(self) -> int:
        """Tokens that the LLM takes; ``UNLIMITED`` of one whose config names no limit."""
        text = self.text_config
        names = ("max_position_embeddings", "max_seq_len", "n_positions", "context_length")
        limits = [getattr(text, name, None) for name in names]
        return next((int(limit) for limit in limits if limit and limit > 0), UNLIMITED)

    def num_frames(self, num_samples: int) -> int:
        """Encoder frames of one clip of ``num_samples`` samples at 16 kHz."""
        raise TypeError(f"{type(self).__name__} is not a system: it has no encoder")

    def num_tokens(self, num_frames: int) -> int:
        """Audio tokens the connector makes of ``num_frames`` encoder frames of one clip."""
        raise TypeError(f"{type(self).__name__} is not a system: it has no connector")

    def num_audio_tokens(self, num_samples: int) -> int:
        """Audio tokens of one clip: the one formula that the processor and the model both use."""
        return self.num_tokens(self.num_frames(num_samples))

    @property
    def token_groups(self) -> tuple[int, int, int] | None:
        """How the connector groups frames: frames of a group, frames from one to the next, tokens of each.

        None for a connector whose tokens see more than a group of their own.
        """
        return None

    def samples_heard(self, num_samples: int) -> int:
        """Samples of the clip that reach the LLM (fewer only where a system cuts or drops, by option)."""
        return num_samples
