"""The model every system shares: waveform -> encoder -> connector -> the LLM's embeddings -> LLM.

A system (one folder under ``lalm/systems``) adds its encoder(s) and connector and says how audio
becomes tokens (``encode`` and ``connect``); everything else lives here. Letters used in shapes:
B conversations, L row tokens, A audios of the batch in reading order, N samples, T encoder frames,
K audio tokens of the batch, D LLM width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import (
    GenerationMixin,
    PreTrainedModel,
)
from transformers.cache_utils import Cache
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)

from lalm.models.alone import each_clip
from lalm.models.config import AudioLMConfig
from lalm.models.decode_loop import decode, generate_because
from lalm.models.finite import check_finite
from lalm.models.generate import generate
from lalm.models.llm_body import (
    Tail,
    body_of,
    embedding_name,
    new_head,
    new_llm,
    read,
)
from lalm.models.loss import row_numbers, summed_cross_entropy

IGNORE_INDEX = -100


class AudioLMModel(PreTrainedModel):
    """Headless model: audio encoder, connector and the LLM's body (``language_model``).

    A system's subclass sets ``audio_tower`` and ``connector`` in ``__init__`` and defines ``encode``,
    ``connect`` and ``build_connector``.
    """

    config_class: type[AudioLMConfig] = AudioLMConfig
    base_model_prefix = "model"
    input_modalities = ("audio", "text")
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules: list[str] = []  # noqa: RUF012

    def __init__(self, config: AudioLMConfig) -> None:
        super().__init__(config)
        self.language_model: Any
        self.language_model, llm = new_llm(config.text_config)
        self._llm = [llm]  # in a list, so that its parameters are not ours twice

    def build_connector(self) -> nn.Module:
        """A freshly initialised connector for ``self.config``."""
        raise TypeError(f"{type(self).__name__} is not a system: it has no connector")

    audio_tower: Any
    connector: Any

    def encode(self, input_values: Tensor, audio_lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """input_values: (A, N) float32 16 kHz; audio_lengths: (A,) -> frames (A, T, W), lengths (A,)."""
        frames, lengths = self.audio_tower(input_values, audio_lengths)
        return frames, lengths

    def connect(
        self,
        frames: Tensor,
        frame_lengths: Tensor | None,
        instruction_ids: Tensor | None = None,
        instruction_mask: Tensor | None = None,
    ) -> Tensor:
        """frames: (A, T, W); frame_lengths: (A,) -> the valid audio tokens of all clips in order, (K, D).

        instruction_ids, instruction_mask: (A, I) int64, for a connector that hears instructions.
        """
        heard = (instruction_ids, instruction_mask) if self.config.hears_instructions else ()
        tokens, lengths = self.connector(frames, frame_lengths, *heard)  # (A, K_max, D), (A,)
        valid = torch.arange(tokens.shape[1], device=tokens.device)[None] < lengths[:, None]
        return tokens[valid]

    def get_audio_features(
        self,
        input_values: Tensor,
        audio_lengths: Tensor,
        instruction_ids: Tensor | None = None,
        instruction_mask: Tensor | None = None,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """The audio tokens of clips, flat and valid only, in ``.pooler_output`` (K, D)."""
        frames, frame_lengths = self.encode(input_values, audio_lengths)
        tokens = self.connect(frames, frame_lengths, instruction_ids, instruction_mask)
        return BaseModelOutputWithPooling(last_hidden_state=frames, pooler_output=tokens)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def embed(
        self,
        input_ids: Tensor,
        input_values: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        frames: Tensor | None = None,
        frame_lengths: Tensor | None = None,
        instruction_ids: Tensor | None = None,
        instruction_mask: Tensor | None = None,
    ) -> Tensor:
        """Text embeddings with every audio slot filled, (B, L, D).

        input_ids: (B, L) int64. Audio comes as input_values (A, N) + audio_lengths (A,), or as cached
        frames (A, T, W) + frame_lengths (A,); instructions (A, I) as for ``connect``. Raises ValueError when
        slots and audio tokens differ.
        """
        slots = input_ids == self.config.audio_token_id  # (B, L)
        # The slot token may lie outside the LLM's embedding table: look up any valid id in its place.
        embeds = self.get_input_embeddings()(input_ids.masked_fill(slots, 0))  # (B, L, D)
        audio = (input_values, audio_lengths, frames, frame_lengths, instruction_ids, instruction_mask)
        num_slots = int(slots.sum())
        if torch.is_grad_enabled() or embeds.device.type != "cpu":
            tokens = self._audio_tokens(*audio)
        else:  # alone, a clip's tokens do not depend on the clips beside it to the last bit
            clips = [self._audio_tokens(*clip) for clip in each_clip(*audio)]
            tokens = torch.cat([clip for clip in clips if clip is not None]) if clips else None
        tokens = embeds.new_zeros(0, embeds.shape[-1]) if tokens is None else tokens.to(embeds.dtype)
        if num_slots != len(tokens):
            raise ValueError(
                f"the text has {num_slots} audio slots but the audio gives {len(tokens)} audio tokens: "
                "processor and model disagree, or an audio was left out"
            )
        return embeds.masked_scatter(slots[..., None].expand_as(embeds), tokens)

    def _audio_tokens(
        self,
        input_values: Tensor | None,
        audio_lengths: Tensor | None,
        frames: Tensor | None,
        frame_lengths: Tensor | None,
        instruction_ids: Tensor | None,
        instruction_mask: Tensor | None,
    ) -> Tensor | None:
        """The tokens of all clips, (K, D); None without a clip. Arguments as for ``embed``."""
        if frames is None and input_values is not None and len(input_values):
            frames, frame_lengths = self.encode(input_values, audio_lengths)
        if frames is None or not len(frames):
            return None
        return self.connect(frames, frame_lengths, instruction_ids, instruction_mask)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_values: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        frames: Tensor | None = None,
        frame_lengths: Tensor | None = None,
        instruction_ids: Tensor | None = None,
        instruction_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """The LLM body over text and audio: last_hidden_state (B, L, D)."""
        if inputs_embeds is None:
            assert input_ids is not None, "give input_ids or inputs_embeds"
            audio = (input_values, audio_lengths, frames, frame_lengths)
            inputs_embeds = self.embed(input_ids, *audio, instruction_ids, instruction_mask)
        body = self.language_model
        output: BaseModelOutputWithPast = read(
            body, inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs
        )
        return output


class AudioLMForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """The whole model: ``model`` (encoder, connector, LLM body) and the LLM's ``lm_head``.

    ``generate`` embeds text and audio once and then runs the LLM on embeddings, so beams are right with
    any number of audios per row. With ``labels`` the forward computes logits only where a label is.
    """

    config_class: type[AudioLMConfig] = AudioLMConfig
    model_class: type[AudioLMModel] = AudioLMModel
    base_model_prefix = "model"
    input_modalities = ("audio", "text")
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: AudioLMConfig) -> None:
        super().__init__(config)
        self.model: Any = self.model_class(config)
        llm = self.model._llm.pop()
        self.lm_head = new_head(config.text_config, llm)
        self._tail = Tail(llm) if llm else None
        table = f"model.language_model.{embedding_name(self.model.language_model)}"
        self._tied_weights_keys = {"lm_head.weight": table}
        self.post_init()

    @classmethod
    def assemble(cls, config: AudioLMConfig, encoder: nn.Module, llm: nn.Module) -> Self:
        """Put pretrained parts together; only the connector is new (float32, random).

        ``llm`` is a transformers causal LM; its body and head are used as they are, without a copy.
        """
        with torch.device("meta"):
            model = cls(config)
        model.model.audio_tower = encoder
        whole: Any = llm
        model.model.language_model = body_of(whole)
        model.lm_head = whole.get_output_embeddings()
        with torch.device("cpu"):
            model.model.connector = model.model.build_connector()
        model.generation_config = whole.generation_config
        return model

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: else transformers leaves buffers uncomputed that stand in no file (Falcon-H1's)."""
        return False

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_audio_features(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See ``AudioLMModel.get_audio_features``."""
        return self.model.get_audio_features(*args, **kwargs)

    def train(self, mode: bool = True) -> Self:
        """As usual, but children without a trainable parameter stay in eval mode (no dropout when frozen)."""
        super().train(mode)
        if mode:
            for module in self.modules():
                if module is not self and not any(p.requires_grad for p in module.parameters()):
                    module.training = False
        return self

    def set_trainable(self, patterns: Sequence[str]) -> list[str]:
        """Train the parameters whose name matches one of the patterns (``*`` wildcard), freeze the rest.

        A tied head has both names. Returns what trains; ValueError for a pattern that matches nothing.
        """
        named = list(self.named_parameters(remove_duplicate=False))
        for pattern in patterns:
            if not any(name_matches(name, pattern) for name, _ in named):
                raise ValueError(f"trainable: no parameter is called '{pattern}' (try 'connector')")
        learning = {id(p) for name, p in named if any(name_matches(name, pattern) for pattern in patterns)}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in learning)
        self.train(self.training)
        return sorted(name for name, p in self.named_parameters() if p.requires_grad)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: (..., D) -> logits (..., V) in float32."""
        hidden = hidden.contiguous()  # a slice makes this product fifty times slower on a CPU in bfloat16
        logits = self._tail.logits(hidden, self.lm_head) if self._tail else self.lm_head(hidden)
        return logits.float()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        input_values: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        frames: Tensor | None = None,
        frame_lengths: Tensor | None = None,
        instruction_ids: Tensor | None = None,
        instruction_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        answer_loss: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """One pass. labels: (B, L) int64, -100 where nothing is learned; position_ids: (B, L) int64.

        With labels, ``loss`` is the cross-entropy per target token (over ``num_items_in_batch`` when the
        trainer accumulates) and ``logits`` is None; without labels, logits are (B, kept, V) float32.
        ``answer_loss`` makes another loss of the hidden states (P, D) from which the P labelled tokens
        follow, of these tokens (P,), and of the rows (P,) they are in.
        """
        if labels is not None:
            kwargs.setdefault("use_cache", False)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            input_values=input_values,
            audio_lengths=audio_lengths,
            frames=frames,
            frame_lengths=frame_lengths,
            instruction_ids=instruction_ids,
            instruction_mask=instruction_mask,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        hidden = outputs.last_hidden_state  # (B, L, D)
        loss, logits = None, None
        if labels is not None:
            targets = labels[:, 1:]
            keep = targets != IGNORE_INDEX
            if answer_loss is not None:
                rows = row_numbers(labels, position_ids)[:, 1:][keep]
                return CausalLMOutputWithPast(loss=answer_loss(hidden[:, :-1][keep], targets[keep], rows))
            vocabulary = self.config.text_config.vocab_size
            loss = summed_cross_entropy(self.logits, hidden[:, :-1][keep], targets[keep], vocabulary)
            count = num_items_in_batch if num_items_in_batch is not None else int(keep.sum())
            loss = loss / count
        else:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.logits(hidden[:, kept])
            if not torch.is_grad_enabled():
                check_finite(logits[:, -1], self)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.get("past_key_values"),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        input_values: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        frames: Tensor | None = None,
        frame_lengths: Tensor | None = None,
        instruction_ids: Tensor | None = None,
        instruction_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Only the new ids, (B, new). Options are those of transformers' ``generate``.

        ``past_key_values`` holds the first positions of input_ids; audio is then that of the rest. Where
        it can, lalm's own loop makes them (``lalm.models.decode_loop``).
        """
        heard = (input_values, audio_lengths, frames, frame_lengths, instruction_ids, instruction_mask)
        if not generate_because(self.model.language_model, kwargs) and attention_mask is not None:
            return decode(self, input_ids, attention_mask, past_key_values, heard, **kwargs)
        return generate(self, input_ids, attention_mask, past_key_values, heard, **kwargs)


def name_matches(name: str, pattern: str) -> bool:
    """True for the parameter itself, anything below a module of that name, or a wildcard match."""
    bare = pattern.removeprefix("model.")
    for candidate in (name, name.removeprefix("model.")):
        if candidate == bare or candidate.startswith(bare + ".") or fnmatchcase(candidate, bare):
            return True
    return False
