"""APT-BLIP-2 (section 4.4): a vision-language model given audio tokens, without further training.

    image, or each frame of a video --vision encoder, Q-Former--> 32 tokens x D --+
    clip --Audio-MAE, APT's connector--> [AUDIO] [32 tokens] x D -----------------+--> frozen LLM --> answer
    text --> embeddings ----------------------------------------------------------+

The connector was trained beside the same LLM that the BLIP-2 or InstructBLIP of transformers carries; both
are used as they are. Parts of a prompt stand where they were put; pictures that open it stand before the
begin-of-sentence token, as InstructBLIP learned it. There are no role markers, which it does not know either.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    BlipImageProcessorPil,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)

from lalm.audio.images import load_image, video_frames
from lalm.data.audio_inputs import Clip
from lalm.data.messages import message_text
from lalm.data.sample import Sample
from lalm.errors import refuse_pickled_code
from lalm.inference.engine import Heard, Options, Reply
from lalm.inference.generation import Progress, processors_of, settings_of
from lalm.models.answer_end import llm_ends
from lalm.models.conditioning import instructions, tokenised
from lalm.models.finite import FiniteScores
from lalm.models.llm_sketch import check_same_llm
from lalm.models.load import load_hearing
from lalm.models.processing import AudioLMProcessor, pad_audio
from lalm.models.user_text import MarkerTokens

VISION_MODELS = ("blip-2", "instructblip")
VIDEO_FRAMES = 8  # of a video; not stated, ours


class APTBlip2:
    """A frozen BLIP-2 or InstructBLIP with a trained APT connector beside its own vision encoder.

    Example: ``APTBlip2.load("instructblip-vicuna-7b", "runs/apt-2").reply([sample])`` with a sample of one
    user message of text, audio, image and video parts in any order.
    """

    def __init__(
        self,
        vlm: Any,
        tokenizer: PreTrainedTokenizerBase,
        images: Any,
        hearing: Any,
        instruction_tokenizer: PreTrainedTokenizerBase,
        question_tokenizer: PreTrainedTokenizerBase | None = None,
        name: str = "apt-blip-2",
    ) -> None:
        """``question_tokenizer`` is that of InstructBLIP's Q-Former, which reads the question as well."""
        self.name = name
        self.vlm = vlm.eval()
        self.tokenizer = tokenizer
        self.images = images
        self.hearing = hearing.eval()
        self.instruction_tokenizer = instruction_tokenizer
        self.question_tokenizer = question_tokenizer
        width, own = vlm.config.text_config.hidden_size, hearing.config.text_config.hidden_size
        if width != own:
            raise ValueError(f"the connector was trained for an LLM {own} wide, and this one is {width} wide")
        check_same_llm(vlm.language_model, vlm.config.text_config, hearing.config)

    @classmethod
    def load(
        cls, vlm: str | Path, apt: str | Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
    ) -> "APTBlip2":
        """Open a BLIP-2 or InstructBLIP folder in the Hub's layout and a slim APT checkpoint.

        Raises ValueError when either is something else.
        """
        try:
            kind = AutoConfig.from_pretrained(vlm, trust_remote_code=False).model_type
        except OSError:
            raise ValueError(f"'{vlm}' is not a model folder") from None
        if kind not in VISION_MODELS:
            raise ValueError(f"'{vlm}' is a {kind}, and only {' and '.join(VISION_MODELS)} see for APT")
        hearing, instruction_tokenizer = load_hearing(apt, dtype=dtype)
        if instruction_tokenizer is None:
            raise ValueError(f"'{apt}' is no APT: its connector hears no instructions")
        with refuse_pickled_code(f"the weights in '{vlm}'"):
            vision_model: Any = AutoModelForImageTextToText.from_pretrained(
                vlm, dtype=dtype, trust_remote_code=False
            )
        return cls(
            vision_model.to(device),
            AutoTokenizer.from_pretrained(vlm, trust_remote_code=False),
            BlipImageProcessorPil.from_pretrained(vlm, trust_remote_code=False),
            hearing.to(device),
            instruction_tokenizer,
            AutoTokenizer.from_pretrained(vlm, subfolder="qformer_tokenizer", trust_remote_code=False)
            if kind == "instructblip"
            else None,
            f"{Path(vlm).resolve().name} with {Path(apt).resolve().name}",
        )

    @torch.no_grad()
    def reply(self, samples: Sequence[Sample], options: Options | None = None) -> list[Reply]:
        """Answer every sample, one after the other. Raises ValueError for what cannot be asked."""
        return [self._reply(sample.prompt(), options or Options()) for sample in samples]

    def _reply(self, sample: Sample, options: Options) -> Reply:
        began = time.perf_counter()
        clips = AudioLMProcessor.clips(sample)
        embeds = self.embed(sample, clips)
        self._check_length(embeds.shape[1], options)
        torch.manual_seed(options.seed)
        llm = self.vlm.language_model
        ends = llm_ends(self.tokenizer, llm.generation_config)
        written = self.tokenizer(message_text(sample.messages[0]), return_tensors="pt")["input_ids"][0]
        rules = processors_of([written.to(self._device)], llm.config.vocab_size, ends, options)
        progress = Progress(1, options, ends, self.tokenizer)
        settings = settings_of(options, ends, self.tokenizer.pad_token_id)
        settings.decoder_start_token_id = llm.generation_config.decoder_start_token_id  # T5 has one
        ids = llm.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device),
            generation_config=settings,
            logits_processor=LogitsProcessorList([FiniteScores(self.vlm), *rules]),
            stopping_criteria=StoppingCriteriaList([progress]),
        )
        (answer,) = progress.read(ids)
        total_s, count = time.perf_counter() - began, len(answer.tokens)
        heard = tuple(_heard(clip) for clip in clips)
        text, reason = answer.text(self.tokenizer), answer.reason or "stop"
        return Reply(text, heard, total_s, total_s, count / total_s, count, reason)

    def embed(self, sample: Sample, clips: Sequence[Clip] | None = None) -> Tensor:
        """The prompt of one sample as embeddings, (1, L, D); ``clips`` are its recordings, if decoded."""
        if len(sample.messages) != 1 or sample.messages[0]["role"] != "user":
            raise ValueError(
                f"{sample.id or 'sample'}: APT-BLIP-2 answers one user message, not a conversation"
            )
        (message,) = sample.messages
        content = message["content"]
        parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else [*content]
        heard = iter(self.hear(sample, clips))
        pieces: list[Tensor] = []
        begun = False
        for part in parts:
            if part["type"] in ("image", "video"):
                pieces.append(self.see(part, message_text(message)))
                continue
            if not begun and self.tokenizer.bos_token_id is not None:
                pieces.append(self._words([self.tokenizer.bos_token_id]))
            begun = True
            if part["type"] == "audio":
                pieces.append(next(heard))
            else:
                pieces.append(self._words(MarkerTokens(self.tokenizer).plain_ids(part["text"])))
        return torch.cat(pieces)[None]

    def see(self, part: Any, question: str) -> Tensor:
        """The tokens of an image, or of a video's frames one after the other: (32 frames, D)."""
        kind = part["type"]
        pictures = [load_image(part[kind])] if kind == "image" else video_frames(part[kind], VIDEO_FRAMES)
        asked: dict[str, Tensor] = {}
        if self.question_tokenizer is not None:
            ids = self.question_tokenizer(
                [question] * len(pictures), return_tensors="pt", split_special_tokens=True
            )
            asked = {
                f"qformer_{name}": ids[name].to(self._device) for name in ("input_ids", "attention_mask")
            }
        pixels = self.images(pictures, return_tensors="pt")["pixel_values"].to(self._device)
        seen: Tensor = self.vlm.get_image_features(pixels, return_dict=True, **asked).pooler_output
        return seen.flatten(0, 1)

    def hear(self, sample: Sample, clips: Sequence[Clip] | None = None) -> list[Tensor]:
        """The tokens of every clip in reading order, (33, D) each up to 10.24 s."""
        clips = AudioLMProcessor.clips(sample) if clips is None else clips
        if not clips:
            return []
        config = self.hearing.config
        audio = {name: value.to(self._device) for name, value in pad_audio(clips).items()}
        frames, lengths = self.hearing.encode(**audio)
        told = tokenised(
            instructions(sample, config.instruction), self.instruction_tokenizer, config.instruction_tokens
        )
        tokens = self.hearing.connect(
            frames,
            lengths,
            told["instruction_ids"].to(self._device),
            told["instruction_mask"].to(self._device),
        )
        counts = [config.num_tokens(length) for length in lengths.tolist()]
        return list(tokens.to(self.vlm.dtype).split(counts))

    @property
    def _device(self) -> torch.device:
        device: torch.device = next(self.vlm.parameters()).device
        return device

    def _words(self, ids: list[int]) -> Tensor:
        """Text embeddings, (L, D)."""
        embed = self.vlm.language_model.get_input_embeddings()
        words: Tensor = embed(torch.tensor(ids, dtype=torch.long, device=self._device))
        return words

    def _check_length(self, length: int, options: Options) -> None:
        window = self.vlm.config.text_config.to_dict().get("max_position_embeddings")  # T5 has no limit
        if window and length + options.max_new_tokens > window:
            raise ValueError(
                f"the prompt makes {length} tokens, and with {options.max_new_tokens} for the answer that is "
                f"more than the model's {window}"
            )


def _heard(clip: Clip) -> Heard:
    """All of a clip reaches the LLM."""
    account = replace(clip.account, heard_s=clip.seconds) if clip.account else None
    return Heard(clip.name, clip.seconds, clip.seconds, account)
