"""vLLM's requests -> tensors of ``lalm.vllm.model``: 16 kHz audio, slots by the system's formula."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import AudioProcessorItems, MultiModalDataParser
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
)

from lalm.audio.load import SAMPLE_RATE, load_audio
from lalm.models.conditioning import instructions_in, tokenised
from lalm.models.config import AudioLMConfig

TOLD = "told"  # in the settings of a request: what the connector reads beside each clip
MARK = "\N{CURRENCY SIGN}"  # a user's turn, to see what a template puts around it
DUMMY_S = 30  # seconds of the clip that vLLM measures memory with


class Waveforms(MultiModalDataParser):
    """Clips mixed down and resampled as everywhere in lalm, so that the model hears the same samples."""

    def _get_audio_with_sr(self, audio: Any) -> Any:
        array, rate = super()._get_audio_with_sr(audio)
        channels_last = array.T if array.ndim == 2 else array
        return load_audio(channels_last, rate=round(rate or SAMPLE_RATE)), None


class Info(BaseProcessingInfo):
    """What vLLM asks before any request comes."""

    def get_data_parser(self) -> Waveforms:
        return Waveforms(expected_hidden_size=self._get_expected_hidden_size())

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"audio": None}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        config: AudioLMConfig = self.get_hf_config()
        return {"audio": min(seq_len, config.num_audio_tokens(DUMMY_S * SAMPLE_RATE))}


class Dummies(BaseDummyInputsBuilder[Info]):
    """A request that is as large as they come."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return str(self.info.get_hf_processor().audio_token) * mm_counts.get("audio", 0)

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> Any:
        count, asked = mm_counts.get("audio", 0), mm_options.get("audio")
        return {
            "audio": self._get_dummy_audios(length=DUMMY_S * SAMPLE_RATE, num_audios=count, overrides=asked)
        }


class Processor(BaseMultiModalProcessor[Info]):
    """Each slot of the prompt becomes as many as its clip makes tokens.

    For a connector that hears instructions, they are read from the prompt, and a clip counts as known only
    together with its instruction.
    """

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """The request with its slots and tensors."""
        if self.info.get_hf_config().hears_instructions:
            told = self._told(inputs.prompt)
            settings = {**inputs.hf_processor_mm_kwargs, TOLD: told}
            inputs = replace(inputs, hf_processor_mm_kwargs=settings)
        return super().apply(inputs, timing_ctx)

    def _told(self, prompt: list[int]) -> list[str]:
        processor: Any = self.info.get_hf_processor()
        asked = [{"role": "user", "content": MARK}]
        around = processor.tokenizer.apply_chat_template(
            asked, chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True
        )
        before, _, after = around.partition(MARK)
        turn = (before.removeprefix(processor.tokenizer.bos_token or ""), after)
        text = processor.tokenizer.decode(prompt, skip_special_tokens=False)
        if not turn[1]:
            text = text.removeprefix(processor.tokenizer.bos_token or "")
        if not turn[1] and processor.tokenizer.eos_token in text:
            raise ValueError(
                "this model was trained without role markers, so vLLM cannot tell an earlier answer from a "
                "question: send one question at a time, or serve it with `lalm serve`"
            )
        return instructions_in(text, processor.audio_token, turn, self.info.get_hf_config().instruction)

    def _get_mm_hashes(self, inputs: Any) -> Any:
        settings = dict(inputs.hf_processor_mm_kwargs)
        told = settings.pop(TOLD, None)
        hashes = super()._get_mm_hashes(replace(inputs, hf_processor_mm_kwargs=settings))
        if told is None:
            return hashes
        return {
            "audio": [
                hashlib.sha256(f"{known} {text}".encode()).hexdigest()
                for known, text in zip(hashes.get("audio", []), told, strict=True)
            ]
        }

    def _get_cache_missing_processor_kwargs(self, inputs: Any, mm_is_cached: Any) -> Mapping[str, object]:
        settings = dict(inputs.hf_processor_mm_kwargs)
        if TOLD in settings:
            known = mm_is_cached.get("audio", [])
            settings[TOLD] = [
                text for text, is_known in zip(settings[TOLD], known, strict=True) if not is_known
            ]
        return settings

    def _call_hf_processor(self, hf_data: Mapping[str, Any], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        """input_values: a (N,) float32 of each clip; audio_lengths: (A,); instruction_ids: (I,) of each."""
        clips = [torch.as_tensor(clip, dtype=torch.float32) for clip in hf_data["audio"]]
        data: dict[str, Any] = {
            "input_values": clips,
            "audio_lengths": torch.tensor([len(clip) for clip in clips]),
        }
        told: Any = hf_kwargs.get(TOLD)
        if told is not None:
            processor: Any = self.info.get_hf_processor()
            limit = self.info.get_hf_config().instruction_tokens
            read = [tokenised([text], processor.instructions, limit) for text in told]
            data["instruction_ids"] = [one["instruction_ids"][0] for one in read]
        return BatchFeature(data)

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {name: MultiModalFieldConfig.batched("audio") for name in hf_inputs}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        config: AudioLMConfig = self.info.get_hf_config()
        slot = config.audio_token_id

        def slots(item: int) -> list[int | None]:
            size = mm_items.get_items("audio", AudioProcessorItems).get_audio_length(item)
            count = config.num_audio_tokens(size)
            if count < 1:
                raise ValueError(
                    f"audio {item + 1}: {size / SAMPLE_RATE:.3f} s is too short for one audio token"
                )
            return [slot] * count

        return [PromptReplacement(modality="audio", target=[slot], replacement=slots)]
