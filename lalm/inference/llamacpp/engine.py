"""The engine with llama.cpp as its LLM: encoder and connector here, their tokens handed over as embeddings.

The LLM's GGUF file (LoRA merged) is made once and kept in the cache. ``lalm ask --engine llamacpp`` and
``lalm chat`` open it.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from filelock import FileLock
from torch import nn

from lalm.inference.device import pick_dtype
from lalm.inference.llamacpp.gguf_file import FLOATS
from lalm.inference.llamacpp.language_model import check_llm, write_llm
from lalm.inference.llamacpp.library import library
from lalm.inference.llamacpp.running import Llama
from lalm.inference.one_question import OneQuestionEngine, Piece, kept_llm
from lalm.models import SMALL
from lalm.models.load import load_model, model_name
from lalm.models.lora import merge_lora
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.processing import AudioLMProcessor

CONTEXT = 8192  # positions of prompt and answer, or the LLM's own where it has fewer
KINDS = {"int8": "q8_0", "int4": "q4_k_m"}


class LlamaCppEngine(OneQuestionEngine):
    """Answers as ``Engine`` does, one question at a time. Beams and a LoRA scale are refused."""

    library, option = "llama.cpp", "llamacpp"

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
        context = min(CONTEXT, int(model.config.context_length))
        super().__init__(model, processor, name, context)
        self.model.model.language_model = nn.Identity()
        self.model.lm_head = nn.Identity()
        self.llama = Llama(llm, context=context, threads=torch.get_num_threads(), exact=exact)

    @classmethod
    def open(
        cls,
        model: str | None = None,
        dtype: str | None = None,
        transcript: str | None = None,
        told: Callable[[str], None] | None = None,
    ) -> "LlamaCppEngine":
        """Open a folder or Hub id, or the embedded default (None), on the CPU.

        ``dtype`` is that of all weights: float32, bfloat16, float16; None: as ``Engine.load`` has it. With
        int8 (llama.cpp's q8_0) and int4 (q4_k_m) the LLM's are packed. ``told`` gets a sentence when the
        file is made now. Raises ValueError in one sentence.
        """
        library()  # what is missing is said before anything is read
        given = model if model is not None else SMALL
        dtype = None if dtype == "auto" else dtype
        precision = getattr(torch, dtype) if dtype in FLOATS else pick_dtype(torch.device("cpu"))
        options = {} if transcript is None else {"transcript": transcript}
        kind = KINDS.get(dtype or "", dtype or str(precision).removeprefix("torch."))
        file = kept_llm(given, kind, "gguf", ".gguf")
        with FileLock(f"{file}.lock"):
            known = file.is_file()
            opened, processor = load_model(given, dtype=precision, options=options, hollow=known)
            check_llm(opened.config.text_config, str(given))
            if not known:
                if told:
                    told(f"writing the LLM for llama.cpp in {kind}, once")
                _make(opened, processor, file, kind, given)
        return cls(opened, processor, model_name(given), file, exact=kind == "float32")

    @property
    def num_tokens(self) -> int:
        """Numbers in the logits."""
        return self.llama.num_tokens

    def read(self, pieces: Sequence[Piece]) -> Piece:
        """Pieces after what is held -> logits (V,) of the last position."""
        for piece in pieces:
            logits = self.llama.read(piece)
        return logits

    def keep(self, length: int) -> None:
        """Forget all positions behind the first ``length``."""
        self.llama.keep(length)


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
