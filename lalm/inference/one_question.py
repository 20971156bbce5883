"""The engine with another library running its LLM: one question at a time, LoRA merged into its weights.

Encoder and connector stay here, so every system runs; the library reads token ids and audio tokens. What it
opens is a copy of the LLM, made once and kept in the cache.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import StoppingCriteriaList

from lalm.inference.answer import Answer
from lalm.inference.engine import Engine, TooLongError
from lalm.inference.generation import Progress, processors_of
from lalm.inference.options import Options
from lalm.inference.threads import taking, usable
from lalm.models.alone import each_clip
from lalm.models.load import model_folder
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.prefill import PrefixCache
from lalm.models.processing import AudioLMProcessor
from lalm.weights.fetch import cache_root

Piece = np.ndarray[Any, Any]
"""A run of token ids (n,), or of audio tokens (n, D)."""
DECIDING = ("config.json", "adapter_config.json", "*.safetensors", "*.bin", "*.pt", "*.pth")  # of a folder


class OneQuestionEngine(Engine):
    """Answers as ``Engine`` does, one question at a time. Beams and a LoRA scale are refused."""

    library: str  # its name
    option: str  # of ``--engine``

    def __init__(
        self,
        model: AudioLMForConditionalGeneration,
        processor: AudioLMProcessor,
        name: str,
        context: int,
    ) -> None:
        """``context``: the positions that the library has room for."""
        super().__init__(model, processor, name)
        # The library has threads of its own, and takes one question at a time.
        self.threads, self.encodes_ahead = None, 0
        self.context = context
        self._known: list[Any] = []  # what the LLM holds: token ids, and audio tokens as bytes

    @property
    @abstractmethod
    def num_tokens(self) -> int:
        """Numbers in the logits."""

    @abstractmethod
    def read(self, pieces: Sequence[Piece]) -> Piece:
        """Read pieces, of which there is at least one, after what is held -> logits (V,) of the last."""

    @abstractmethod
    def keep(self, length: int) -> None:
        """Forget all positions behind the first ``length``."""

    @classmethod
    def check_options(cls, options: Options) -> None:
        """Raise ValueError for what the library does not do here."""
        if options.beams > 1:
            raise ValueError(
                f"{cls.library} answers without beams here: leave --beams out, or --engine {cls.option}"
            )
        if options.lora_scale is not None:
            raise ValueError(
                f"LoRA is part of {cls.library}'s weights, so its scale cannot be set: "
                f"leave --engine {cls.option} out"
            )

    def _generate(
        self,
        questions: Sequence[Any],
        options: Options,
        clock: Any,
        hear: Callable[[str], None] | None = None,
        prefix_cache: PrefixCache | None = None,
        inputs: Any = None,
    ) -> list[Answer]:
        """One answer a question. What a conversation said before is known, so its cache is not needed."""
        self.check_options(options)
        return [self._answer_one(question, options, clock, hear) for question in questions]

    def _answer_one(
        self, question: Any, options: Options, clock: Any, hear: Callable[[str], None] | None
    ) -> Answer:
        tokenizer = self.processor.tokenizer
        batch = self.processor.batch([question.sample], audios=[question.clips])
        ids = batch["input_ids"][0]
        self.check_length(question.clips, len(ids), options)
        if len(ids) + options.most_tokens > self.context:
            raise TooLongError(
                f"the prompt's {len(ids)} tokens and {options.most_tokens} for the answer are more than "
                f"the {self.context} that {self.library} has room for: leave --engine {self.option} out"
            )
        progress = Progress(1, options, self.ends(), tokenizer, hear)
        ended = StoppingCriteriaList([clock, progress])
        with self._lock, torch.inference_mode(), taking(usable()):
            rules = processors_of([ids], self.num_tokens, self.ends(), options, progress)
            logits, said = self._begun(self._pieces_of(ids, self._heard(batch))), list[int]()
            while True:
                token = self._chosen(logits, said, rules)
                said.append(token)
                if bool(ended(torch.tensor([said]), torch.empty(1, 0))[0]):
                    return progress.answers[0]
                logits = self.read([np.array([token])])
                self._known.append(token)

    def _begun(self, pieces: Sequence[Piece]) -> Piece:
        """Read a prompt's pieces after what they begin with and the last prompt did too -> logits (V,)."""
        marks = [row if piece.ndim == 1 else row.tobytes() for piece in pieces for row in piece]
        same = next(
            (i for i, (a, b) in enumerate(zip(marks, self._known, strict=False)) if a != b), len(self._known)
        )
        same = min(same, len(self._known), len(marks) - 1)
        self._known = []  # nothing is known of where an error would leave it
        self.keep(same)
        unread = []
        for piece in pieces:
            unread.append(piece[min(same, len(piece)) :])
            same -= len(piece) - len(unread[-1])
        logits = self.read([piece for piece in unread if len(piece)])
        self._known = marks
        return logits

    def _chosen(self, logits: Piece, said: Sequence[int], rules: Any) -> int:
        """The next token of an answer; an LLM never says a slot."""
        scores = torch.from_numpy(logits)[None]
        if self.model.config.audio_token_id < scores.shape[1]:
            scores[0, self.model.config.audio_token_id] = -torch.inf
        return int(rules(torch.tensor([said], dtype=torch.long), scores).argmax())

    def _heard(self, batch: Any) -> Tensor:
        """The audio tokens of a prompt, (K, D) float32."""
        if "input_values" not in batch:
            return torch.empty(0, int(self.model.config.text_config.hidden_size))
        told = (batch.get("instruction_ids"), batch.get("instruction_mask"))
        clips = each_clip(batch["input_values"], batch["audio_lengths"], None, None, *told)
        found = [
            self.model.get_audio_features(values, lengths, ids, mask).pooler_output.float()
            for values, lengths, _, _, ids, mask in clips
        ]
        return torch.cat(found)

    def _pieces_of(self, ids: Tensor, tokens: Tensor) -> list[Piece]:
        """ids: (L,), tokens: (K, D) -> runs of token ids and of audio tokens, in order."""
        slots = ids == self.model.config.audio_token_id
        if int(slots.sum()) != len(tokens):
            raise ValueError(f"the text has {int(slots.sum())} audio slots for {len(tokens)} audio tokens")
        cuts = (slots[1:] != slots[:-1]).nonzero()[:, 0] + 1
        pieces, taken = [], 0
        for run, is_audio in zip(
            ids.tensor_split(cuts.tolist()), slots.tensor_split(cuts.tolist()), strict=True
        ):
            if bool(is_audio[0]):
                pieces.append(tokens[taken : taken + len(run)].numpy())
                taken += len(run)
            else:
                pieces.append(run.numpy())
        return pieces


def kept_llm(name: str | Path, kind: str, place: str, ending: str) -> Path:
    """Where a library's copy of a model's LLM is kept: another file once those of the folder change."""
    folder = model_folder(name).resolve()
    files = sorted(file for pattern in DECIDING for file in folder.glob(pattern))
    seen = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    mark = hashlib.sha256(repr(seen).encode()).hexdigest()[:16]
    return cache_root() / place / f"{folder.name}-{mark}-{kind}{ending}"
