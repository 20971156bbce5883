"""The engine with llama.cpp as its LLM: encoder and connector here, their tokens handed over as embeddings.

So every system runs, whatever projectors llama.cpp has. The LLM's GGUF file (LoRA merged) is made once and
kept in the cache. ``lalm ask --engine llamacpp`` and ``lalm chat`` open it.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn
from transformers import StoppingCriteriaList

from lalm.inference.answer import Answer
from lalm.inference.device import pick_dtype
from lalm.inference.engine import Engine
from lalm.inference.generation import Progress, processors_of
from lalm.inference.llamacpp.gguf_file import FLOATS
from lalm.inference.llamacpp.language_model import check_llm, write_llm
from lalm.inference.llamacpp.library import library
from lalm.inference.llamacpp.running import Llama
from lalm.inference.options import Options
from lalm.models import SMALL
from lalm.models.alone import each_clip
from lalm.models.load import load_model, model_folder, model_name
from lalm.models.lora import merge_lora
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.prefill import PrefixCache
from lalm.models.processing import AudioLMProcessor
from lalm.weights.fetch import cache_root

CONTEXT = 8192  # positions of prompt and answer, or the LLM's own where it has fewer
KINDS = {"int8": "q8_0", "int4": "q4_k_m"}


class LlamaCppEngine(Engine):
    """Answers as ``Engine`` does, one question at a time. Beams and a LoRA scale are refused."""

    def __init__(
        self,
        model: AudioLMForConditionalGeneration,
        processor: AudioLMProcessor,
        name: str,
        llm: Path,
        exact: bool = False,
    ) -> None:
        """``llm``: the GGUF file of the model's LLM; what the model holds of it is let go.

        ``exact``: keys, values and attention in float32, as ``Llama`` has it.
        """
        super().__init__(model, processor, name)
        self.threads, self.encodes_ahead = None, 0  # llama.cpp has its own, and takes one question at a time
        self.model.model.language_model = nn.Identity()
        self.model.lm_head = nn.Identity()
        self._known: list[Any] = []  # what the LLM holds: token ids, and audio tokens as bytes
        context = min(CONTEXT, int(model.config.context_length))
        self.llama = Llama(llm, context=context, threads=torch.get_num_threads(), exact=exact)

    @classmethod
    def open(
        cls, model: str | None = None, dtype: str | None = None, transcript: str | None = None
    ) -> "LlamaCppEngine":
        """Open a folder or Hub id, or the embedded default (None), on the CPU.

        ``dtype`` is that of all weights: float32, bfloat16, float16; None: as ``Engine.load`` has it. With
        int8 (llama.cpp's q8_0) and int4 (q4_k_m) the LLM's are packed. Raises ValueError in one sentence.
        """
        library()  # what is missing is said before anything is read
        given = model if model is not None else SMALL
        dtype = None if dtype == "auto" else dtype
        precision = getattr(torch, dtype) if dtype in FLOATS else pick_dtype(torch.device("cpu"))
        options = {} if transcript is None else {"transcript": transcript}
        kind = KINDS.get(dtype or "", dtype or str(precision).removeprefix("torch."))
        file = _kept(given, kind)
        with FileLock(f"{file}.lock"):
            known = file.is_file()
            opened, processor = load_model(given, dtype=precision, options=options, hollow=known)
            check_llm(opened.config.text_config, str(given))
            if not known:
                _make(opened, processor, file, kind, given)
        return cls(opened, processor, model_name(given), file, exact=kind == "float32")

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
        check_options(options)
        return [self._answer_one(question, options, clock, hear) for question in questions]

    def _answer_one(
        self, question: Any, options: Options, clock: Any, hear: Callable[[str], None] | None
    ) -> Answer:
        tokenizer = self.processor.tokenizer
        batch = self.processor.batch([question.sample], audios=[question.clips])
        ids = batch["input_ids"][0]
        self.check_length(question.clips, len(ids), options)
        if len(ids) + options.most_tokens > self.llama.context_length:
            raise ValueError(
                f"the prompt's {len(ids)} tokens and {options.most_tokens} for the answer are more than "
                f"the {self.llama.context_length} that llama.cpp has room for: leave --engine llamacpp out"
            )
        progress = Progress(1, options, self.ends(), tokenizer, hear)
        ended = StoppingCriteriaList([clock, progress])
        with self._lock, torch.inference_mode():
            rules = processors_of([ids], self.llama.num_tokens, self.ends(), options, progress)
            logits, said = self._read(self._pieces_of(ids, self._heard(batch))), list[int]()
            while True:
                token = self._chosen(logits, said, rules)
                said.append(token)
                if bool(ended(torch.tensor([said]), torch.empty(1, 0))[0]):
                    return progress.answers[0]
                logits = self.llama.read([token])
                self._known.append(token)

    def _read(self, pieces: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """Read a prompt's pieces after what they begin with and the last prompt did too -> logits (V,)."""
        marks = [row if piece.ndim == 1 else row.tobytes() for piece in pieces for row in piece]
        same = next(
            (i for i, (a, b) in enumerate(zip(marks, self._known, strict=False)) if a != b), len(self._known)
        )
        same = min(same, len(self._known), len(marks) - 1)
        self._known = []  # nothing is known of where an error would leave it
        self.llama.keep(same)
        for piece in pieces:
            unread = piece[min(same, len(piece)) :]
            same -= len(piece) - len(unread)
            if len(unread):
                logits = self.llama.read(unread)
        self._known = marks
        return logits

    def _chosen(self, logits: np.ndarray[Any, Any], said: Sequence[int], rules: Any) -> int:
        """The next token of an answer; an LLM never says a slot."""
        scores = torch.from_numpy(logits)[None]
        if self.model.config.audio_token_id < scores.shape[1]:
            scores[0, self.model.config.audio_token_id] = -torch.inf
        return int(rules(torch.tensor([said], dtype=torch.long), scores).argmax())

    def _heard(self, batch: Any) -> Tensor:
        """The audio tokens of a prompt, (K, D) float32."""
        if "input_values" not in batch:
            return torch.empty(0, self.llama.width)
        told = (batch.get("instruction_ids"), batch.get("instruction_mask"))
        clips = each_clip(batch["input_values"], batch["audio_lengths"], None, None, *told)
        found = [
            self.model.get_audio_features(values, lengths, ids, mask).pooler_output.float()
            for values, lengths, _, _, ids, mask in clips
        ]
        return torch.cat(found)

    def _pieces_of(self, ids: Tensor, tokens: Tensor) -> list[np.ndarray[Any, Any]]:
        """ids: (L,), tokens: (K, D) -> runs of token ids (n,) and of audio tokens (n, D), in order."""
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


def check_options(options: Options) -> None:
    """Raise ValueError for what llama.cpp does not do here."""
    if options.beams > 1:
        raise ValueError("llama.cpp answers without beams here: leave --beams out, or --engine llamacpp")
    if options.lora_scale is not None:
        raise ValueError(
            "LoRA is part of llama.cpp's weights, so its scale cannot be set: leave --engine llamacpp out"
        )


def _kept(name: str | Path, kind: str) -> Path:
    """Where the GGUF file of a model's LLM is kept: another one once the folder's files change."""
    folder = model_folder(name).resolve()
    files = [folder / part for part in ("config.json", "model.safetensors", "adapter_model.safetensors")]
    seen = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    mark = hashlib.sha256(repr(seen).encode()).hexdigest()[:16]
    place = cache_root() / "gguf"
    place.mkdir(parents=True, exist_ok=True)
    return place / f"{folder.name}-{mark}-{kind}.gguf"


def _make(
    model: AudioLMForConditionalGeneration,
    processor: AudioLMProcessor,
    file: Path,
    kind: str,
    name: str | Path,
) -> None:
    """Write the LLM, LoRA merged; a file that is not whole never has the file's name."""
    if model.config.lora:
        merge_lora(model)
    unfinished = file.with_suffix(f".{os.getpid()}")
    write_llm(model, processor, unfinished, kind, str(processor.chat_template), model_name(name))
    unfinished.rename(file)
