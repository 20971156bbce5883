"""vLLM's model class for all systems: our encoder and connector, vLLM's own class for the LLM.

clips --encode, connect of lalm.models.modeling--> audio tokens --> vLLM's Llama, Qwen2, ... --> logits
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from vllm.config import VllmConfig
from vllm.model_executor.model_loader.weight_utils import default_weight_loader
from vllm.model_executor.models.interfaces import SupportsMultiModal, SupportsPP
from vllm.model_executor.models.utils import init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY

from lalm.encoders import build_encoder
from lalm.models.classes import classes_of
from lalm.models.config import AudioLMConfig
from lalm.models.modeling import AudioLMModel
from lalm.systems import of_model_type
from lalm.vllm.inputs import Dummies, Info, Processor

OURS = ("model.audio_tower.", "model.connector.")


def build_hearing(config: AudioLMConfig) -> AudioLMModel:
    """A system's model without its LLM: only ``encode`` and ``connect`` can be used."""
    model_class = classes_of(of_model_type(config.model_type).name).headless
    with torch.device("meta"):
        hearing = model_class(config)
    del hearing.language_model
    hearing.audio_tower = build_encoder(config.audio_config)
    hearing.connector = hearing.build_connector().float()  # as everywhere in lalm
    return hearing.eval()


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=Dummies)
class HearingLLM(nn.Module, SupportsMultiModal, SupportsPP):
    """Any system of lalm."""

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """None: the folder's chat template writes audio itself."""
        return None

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.config: Any = vllm_config.model_config.hf_config
        text = self.config.text_config
        vllms: Any = self  # what SupportsMultiModal brings, for type checkers without vllm
        vllms.configure_mm_token_handling(text.vocab_size, [self.config.audio_token_id])
        with vllms._mark_tower_model(vllm_config, "audio"):
            self.hearing = build_hearing(self.config)
        with vllms._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=text,
                prefix=maybe_prefix(prefix, "language_model"),
                architectures=[MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[text.model_type]],
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def embed_multimodal(
        self,
        input_values: Any = None,
        audio_lengths: Any = None,
        instruction_ids: Any = None,
        **kwargs: object,
    ) -> list[Tensor]:
        """The audio tokens of each clip, (K, D) each.

        input_values: (A, N) or a list of (N,) float32 16 kHz; audio_lengths: (A,); instruction_ids: (A, I)
        or a list of (I,) int64, for a connector that hears instructions.
        """
        if input_values is None:
            return []
        heard: tuple[Tensor, ...] = ()
        if instruction_ids is not None:
            masks = [torch.ones_like(ids) for ids in instruction_ids]
            heard = (
                pad_sequence(list(instruction_ids), batch_first=True),  # (A, I); what pads is not attended to
                pad_sequence(masks, batch_first=True),
            )
        audio = pad_sequence(list(input_values), batch_first=True)  # (A, N)
        lengths = audio_lengths.flatten()
        tokens = self.hearing.connect(*self.hearing.encode(audio, lengths), *heard)  # (K, D)
        counts = [self.config.num_audio_tokens(length) for length in lengths.tolist()]
        return list(tokens.to(next(self.language_model.parameters()).dtype).split(counts))

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,
    ) -> Any:
        """The LLM's body; on a later pipeline rank it goes on from ``intermediate_tensors``."""
        embeds = None if intermediate_tensors is not None else inputs_embeds
        return self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds=embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """hidden_states: (rows, D) -> (rows, V); an LLM never says an audio slot."""
        logits: Tensor | None = self.language_model.compute_logits(hidden_states)
        slot = self.config.audio_token_id
        if logits is not None and slot < logits.shape[-1]:
            logits[..., slot] = float("-inf")
        return logits

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Ours by their own names, all others to the LLM. Raises where one of ours is missing."""
        ours: dict[str, Tensor] = {}

        def others() -> Iterator[tuple[str, Tensor]]:
            for name, tensor in weights:
                if name.startswith(OURS):
                    ours[name.removeprefix("model.")] = tensor
                else:
                    yield name.replace("model.language_model.", "model.", 1), tensor

        loaded = {f"language_model.{name}" for name in self.language_model.load_weights(others())}
        own = {**dict(self.hearing.named_parameters()), **dict(self.hearing.named_buffers())}
        expected = self.hearing.state_dict().keys()
        if lost := sorted(expected ^ ours.keys()):
            raise ValueError(f"the weights of encoder and connector do not fit: '{lost[0]}'")
        for name, tensor in ours.items():  # by vLLM's loaders, which alone reach a model that is reloaded
            getattr(own[name], "weight_loader", default_weight_loader)(own[name], tensor)
        return loaded | {f"hearing.{name}" for name, _ in self.hearing.named_parameters()}
