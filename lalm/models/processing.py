"""The processor: renders conversations with the chat template, expands audio slots, makes tensors.

Training, evaluation, ``ask`` and the server all call ``AudioLMProcessor.batch``, so one conversation
always becomes the same tokens. Works with the chat template of any LLM; for the ChatML and Llama-3
families our own bare template is used, because theirs insert a system text nobody asked for.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BatchFeature,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Wav2Vec2FeatureExtractor,
)

from lalm.audio.load import SAMPLE_RATE
from lalm.data.audio_inputs import CachedFrames, Clip, padded_waves
from lalm.data.messages import part_recording
from lalm.data.sample import Sample
from lalm.models.chat_template import VICUNA, bare_parts, bare_template, has_token, new_template
from lalm.models.conditioning import instructions, tokenised, told_in
from lalm.models.config import AudioLMConfig
from lalm.models.modeling import IGNORE_INDEX
from lalm.models.transcript import with_transcripts, written
from lalm.models.user_text import MarkerTokens, guarded_content, shifted, texts_of

AUDIO_TOKEN = "<|audio|>"
INSTRUCTIONS = "instructions"  # folder of the connector's own tokenizer in a checkpoint


def waveforms() -> Wav2Vec2FeatureExtractor:
    """transformers' extractor that leaves a waveform as it is."""
    return Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=SAMPLE_RATE, padding_value=0.0, do_normalize=False
    )


class AudioLMProcessor(ProcessorMixin):
    """Tokenizer, waveform padder and the model's slot formula.

    ``question_prompt`` says how a turn is put ("user" with {audio} and {question}, "system") and how one
    audio is ("slot" with {audio} and {number}). With ``parts`` the chat template writes audio parts itself.
    Example: ``batch = processor.batch([ask(["dog.wav"], "What is this?")])``.
    """

    attributes = ["feature_extractor", "tokenizer"]  # noqa: RUF012

    def __init__(
        self,
        feature_extractor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        audio_token: str = AUDIO_TOKEN,
        question_prompt: Mapping[str, str] | None = None,
        parts: bool = False,
        config: Any = None,
    ) -> None:
        self.audio_token = audio_token
        self.audio_token_id = tokenizer.convert_tokens_to_ids(audio_token)
        self.question_prompt = dict(question_prompt or {})
        self.parts = parts
        if VICUNA in (chat_template or "") and isinstance(
            tokenizer.backend_tokenizer.pre_tokenizer, pre_tokenizers.Metaspace
        ):  # each text between special tokens starts like a text of its own, as SALMONN tokenises its pieces
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
                prepend_scheme="always", split=False
            )
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)
        self.config = config
        self.instructions: PreTrainedTokenizerBase | None = None
        self.template_from = "the model's own"  # where its chat template was found, for people
        self.markers = MarkerTokens(tokenizer)

    @classmethod
    def build(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        config: AudioLMConfig,
        question_prompt: Mapping[str, str] | None = None,
        instruction_tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> "AudioLMProcessor":
        """A processor for a new model: adds the audio token to the tokenizer and notes it in ``config``.

        Beside the turns, ``question_prompt`` may name the "audio_token", and a "template" that writes audio
        parts itself and takes the place of the bare one for ChatML tokenizers; "plain" is such a one for a
        config without role markers. Their "marks" are left out where they are no tokens.
        ``instruction_tokenizer`` is for what a connector reads beside each clip.
        """
        prompt = dict(question_prompt or {})
        try:
            bare_template(tokenizer)
        except ValueError:  # a base model is asked in plain text
            config.role_markers = False
        audio_token = prompt.pop("audio_token", AUDIO_TOKEN)
        template, parts = new_template(tokenizer, prompt, markers=config.role_markers)
        if not has_token(tokenizer, audio_token):
            tokenizer.add_tokens([audio_token], special_tokens=True)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        config.audio_token_id = tokenizer.convert_tokens_to_ids(audio_token)
        processor = cls(
            waveforms(),
            tokenizer,
            chat_template=template,
            audio_token=audio_token,
            question_prompt={} if parts else prompt,
            parts=parts,
            config=config,
        )
        processor.instructions = instruction_tokenizer
        return processor

    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs: Any) -> "AudioLMProcessor":
        kwargs |= {"trust_remote_code": False}
        processor = super().from_pretrained(folder, **kwargs)
        if processor.config is None:
            processor.config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if processor.config.hears_instructions:
            processor.instructions = AutoTokenizer.from_pretrained(
                folder, subfolder=INSTRUCTIONS, trust_remote_code=False
            )
        return processor

    def save_pretrained(self, folder: str | Path, **kwargs: Any) -> Any:
        if self.instructions is not None:
            self.instructions.save_pretrained(Path(folder) / INSTRUCTIONS)
        return super().save_pretrained(folder, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        fields = super().to_dict()
        for name in ("config", "instructions", "markers", "template_from"):  # known from files beside this
            fields.pop(name, None)
        return fields

    def __call__(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """transformers' own call: rendered texts and clips, as ``batch`` makes them of conversations."""
        found: BatchFeature = super().__call__(*args, **{"add_special_tokens": False} | kwargs)
        return found | told_in(self, kwargs.get("text") or args[1]) if "audio_lengths" in found else found

    def _process_audio(self, audio: Sequence[Any], **kwargs: Any) -> tuple[dict[str, Tensor], list[str]]:
        """Clips (N,) at 16 kHz padded, and what stands in the text for each (transformers' own hook)."""
        if kwargs.get("sampling_rate") not in (None, SAMPLE_RATE):
            raise ValueError(f"clips must have {SAMPLE_RATE} Hz, not {kwargs['sampling_rate']}")
        found = padded_waves([torch.as_tensor(clip, dtype=torch.float32) for clip in audio])
        return found, [
            self.audio_token * self.config.num_audio_tokens(int(n)) for n in found["audio_lengths"]
        ]

    @staticmethod
    def clips(sample: Sample) -> list[Clip]:
        """Decode the sample's audios, in reading order. Raises AudioError naming the clip."""
        return [Clip.of(part_recording(part), part.get("transcript")) for part in sample.audios]

    def batch(
        self,
        samples: Sequence[Sample],
        *,
        labels: bool = False,
        audios: Sequence[Sequence[Clip | CachedFrames]] | None = None,
        padding_side: str | None = None,
    ) -> BatchFeature:
        """Render, expand and pad conversations.

        Returns input_ids and attention_mask (B, L), and for audio either input_values (A, N) float32 with
        audio_lengths (A,), or frames (A, T, W) with frame_lengths (A,) when ``audios`` holds cached frames;
        instruction_ids and instruction_mask (A, I) for a system that hears them.
        With ``labels``, a final assistant turn is kept and labels (B, L) mark every assistant turn's text and
        end; without, the prompt ends where the answer begins. Padding is left, with labels right.
        Raises ValueError for a conversation with labels that is longer than the LLM's context.
        """
        if audios is None:
            audios = [self.clips(sample) for sample in samples]
        rows = [self._row(s, a, labels) for s, a in zip(samples, audios, strict=True)]
        side = padding_side or ("right" if labels else "left")
        length = max(len(ids) for ids, _ in rows)
        pad = self.tokenizer.pad_token_id

        def padded(values: list[int], fill: int) -> list[int]:
            gap = [fill] * (length - len(values))
            return gap + values if side == "left" else values + gap

        data: dict[str, Tensor] = {
            "input_ids": torch.tensor([padded(ids, pad) for ids, _ in rows]),
            "attention_mask": torch.tensor([padded([1] * len(ids), 0) for ids, _ in rows]),
        }
        if labels:
            data["labels"] = torch.tensor([padded(targets, IGNORE_INDEX) for _, targets in rows])
        data |= pad_audio([clip for row in audios for clip in row])
        if self.instructions is not None:
            texts = [t for sample in samples for t in instructions(sample, self.config.instruction)]
            data |= tokenised(texts, self.instructions, self.config.instruction_tokens) if texts else {}
        return BatchFeature(data)

    def _row(
        self, sample: Sample, clips: Sequence[Clip | CachedFrames], labels: bool
    ) -> tuple[list[int], list[int]]:
        """Token ids of one conversation and its labels (-100 outside assistant text)."""
        sample = with_transcripts(sample, clips, getattr(self.config, "transcript", "none"))
        guard = self.markers.guard(texts_of(sample.messages))
        text = self.render(sample, labels=labels, guard=guard)
        pieces = text[0].split(self.audio_token)
        if len(pieces) - 1 != len(clips):
            raise ValueError(
                f"{sample.id or 'sample'}: {len(clips)} audios but {len(pieces) - 1} audio places in the text"
            )
        counts = [self._num_tokens(clip) for clip in clips]
        expanded = pieces[0]
        shifts = [(0, 0)]  # (position in the unexpanded text, characters added up to there)
        at, added = len(pieces[0]), 0
        for count, piece in zip(counts, pieces[1:], strict=True):
            expanded += self.audio_token * count + piece
            at += len(self.audio_token)
            added += (count - 1) * len(self.audio_token)
            shifts.append((at, added))
            at += len(piece)
        ids, starts = self.markers.encode(expanded, guard)
        if not labels:  # the engine, which knows how long the answer may be, refuses what is too long
            return ids, []
        window = self.config.context_length
        if len(ids) > window:
            raise ValueError(
                f"{sample.id or 'sample'}: {len(clips)} audios in {sum(counts)} tokens and the text make "
                f"{len(ids)} tokens, more than the {window} that the LLM takes: "
                "data.filters.duration_s leaves out long recordings"
            )
        spans = [(shifted(a, shifts), shifted(b, shifts)) for a, b in text[1]]
        targets = [
            token if any(a <= start < b for a, b in spans) else IGNORE_INDEX
            for token, start in zip(ids, starts, strict=True)
        ]
        return ids, targets

    def _num_tokens(self, clip: Clip | CachedFrames) -> int:
        if isinstance(clip, CachedFrames):
            return self.config.num_tokens(len(clip.frames))
        count = self.config.num_audio_tokens(len(clip.audio))
        if count < 1:
            raise ValueError(f"{clip.name}: {clip.seconds:.3f} s is too short to give one audio token")
        return count

    def render(
        self, sample: Sample, *, labels: bool = False, guard: str = ""
    ) -> tuple[str, list[tuple[int, int]]]:
        """The chat as text with one ``<|audio|>`` a clip, and the character spans of assistant text.

        A user turn of audio and question gets the system's question prompt, unless there is a system turn.
        ``guard`` stands in what only looks like a marker (``lalm.models.user_text``).
        """
        messages = self._flat(sample, guard)
        if not labels:
            if messages and messages[-1]["role"] == "assistant":
                raise ValueError(f"{sample.id or 'sample'}: the conversation already ends with an answer")
            return self._template(messages, generation=True), []
        if not any(m["role"] == "assistant" for m in messages):
            raise ValueError(
                f"{sample.id or 'sample'}: there is no assistant turn to learn from: its "
                "messages end with the answer"
            )
        text = self._template(messages, generation=False)
        spans = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            start = len(self._template(messages[:i], generation=True))
            if sample.truncated and i == len(messages) - 1:
                said = message["content"].strip()
                end = text.index(said, start) + len(said)
            else:
                end = len(self._template(messages[: i + 1], generation=False).rstrip("\n"))
            spans.append((start, end))
        return text, spans

    def _flat(self, sample: Sample, guard: str) -> list[dict[str, Any]]:
        """Messages whose content is plain text, audio parts replaced by the audio token.

        With ``self.parts`` the parts stay, for the chat template to write.
        """
        turns = [(m["role"], guarded_content(m["content"], self.markers, guard)) for m in sample.messages]
        if self.parts:
            return [{"role": role, "content": bare_parts(content)} for role, content in turns]
        messages: list[dict[str, Any]] = []
        slots = itertools.count(1)
        bare = not any(m["role"] == "system" for m in sample.messages)
        for role, content in turns:
            if isinstance(content, str):
                messages.append({"role": role, "content": content})
                continue
            written = [self._slot(part, slots) for part in content]
            heard = [text for text, part in zip(written, content, strict=True) if part["type"] != "text"]
            question = " ".join(part["text"] for part in content if part["type"] == "text").strip()
            audio_first = all(part["type"] == "text" for part in content[len(heard) :])
            asks = role == "user" and bare and heard and question and audio_first
            if asks and self.question_prompt.get("user"):
                if not messages and self.question_prompt.get("system"):
                    messages.append({"role": "system", "content": self.question_prompt["system"]})
                text = self.question_prompt["user"].format(audio="".join(heard), question=question)
            else:
                text = "".join(written)
            messages.append({"role": role, "content": text})
        return messages

    def _slot(self, part: Mapping[str, Any], numbers: Iterator[int]) -> str:
        """An audio part as text; the text of a text, or of a caption in an audio's place."""
        if part["type"] in ("image", "video"):
            raise ValueError(f"the conversation has an {part['type']}, and this model takes audio and text")
        if part["type"] != "audio":
            return str(part["text"])
        slot = self.question_prompt.get("slot", "{audio}")
        return slot.format(audio=self.audio_token, number=next(numbers)) + written(part)

    def _template(self, messages: list[dict[str, Any]], *, generation: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                messages,
                chat_template=self.chat_template,
                tokenize=False,
                add_generation_prompt=generation,
            )
        )

    def seconds_heard(self, num_samples: int) -> float:
        """Seconds of a clip of ``num_samples`` samples that reach the LLM."""
        return self.config.samples_heard(num_samples) / SAMPLE_RATE

    def decode_new(self, ids: Tensor) -> list[str]:
        """ids: (B, new) as ``generate`` returns them -> answers without special tokens."""
        texts: list[str] = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts]


def pad_audio(clips: Sequence[Clip | CachedFrames]) -> dict[str, Tensor]:
    """Right-pad the clips of a batch with zeros."""
    if not clips:
        return {}
    if cached := [clip.frames for clip in clips if isinstance(clip, CachedFrames)]:
        if len(cached) != len(clips):
            raise ValueError("a batch holds either audio or cached frames, not both")
        return {
            "frames": torch.nn.utils.rnn.pad_sequence(cached, batch_first=True),
            "frame_lengths": torch.tensor([len(f) for f in cached]),
        }
    return padded_waves([torch.from_numpy(clip.audio) for clip in clips if isinstance(clip, Clip)])
