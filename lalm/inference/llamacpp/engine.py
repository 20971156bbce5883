"""The engine with llama.cpp as its LLM: encoder and connector here, their tokens handed over as embeddings.

The LLM's GGUF file (LoRA merged) is made once and kept in the cache. ``lalm ask --engine llamacpp`` and
``lalm chat`` open it.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from lalm.inference.device import pick_dtype
from lalm.inference.llamacpp.gguf_file import FLOATS
from lalm.inference.llamacpp.language_model import check_llm, write_llm
from lalm.inference.llamacpp.library import LibraryError, library
from lalm.inference.llamacpp.running import Llama
from lalm.inference.one_question import OneQuestionEngine, Piece, kept_llm
from lalm.inference.threads import usable
from lalm.models import SMALL
from lalm.models.load import load_model, model_folder, model_name, read_config
from lalm.models.lora import merge_lora
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.processing import AudioLMProcessor
from lalm.weights.kept_files import Making, made_alone, tell_damaged

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
        llm: Llama,
    ) -> None:
        """``llm``: the model's own; what the model holds of it is let go."""
        super().__init__(model, processor, name, llm.context_length)
        self.model.model.language_model = nn.Identity()
        self.model.lm_head = nn.Identity()
        self.llama = llm

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
        check_llm(read_config(model_folder(given))[1].text_config, str(given))
        dtype = None if dtype == "auto" else dtype
        precision = getattr(torch, dtype) if dtype in FLOATS else pick_dtype(torch.device("cpu"))
        options = {} if transcript is None else {"transcript": transcript}
        kind = KINDS.get(dtype or "", dtype or str(precision).removeprefix("torch."))
        file = kept_llm(given, kind, "gguf", ".gguf")

        def kept(say: Callable[[Path, Exception], None] | None = None) -> "LlamaCppEngine | None":
            if not file.is_file():
                return None
            opened, processor = load_model(given, dtype=precision, options=options, hollow=True)
            try:
                return cls(opened, processor, model_name(given), _opened(file, opened, kind))
            except LibraryError as error:
                if say:
                    say(file, error)
                return None

        if engine := kept():
            return engine
        with made_alone(file, "the LLM's file for llama.cpp", "it is written") as making:
            if engine := kept(tell_damaged):  # another process was faster
                return engine
            opened, processor = load_model(given, dtype=precision, options=options)
            if told:
                told(f"writing the LLM for llama.cpp in {kind}, once")
            llm = _made(opened, processor, making, kind, model_name(given))
        return cls(opened, processor, model_name(given), llm)

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


def _opened(file: Path, model: AudioLMForConditionalGeneration, kind: str) -> Llama:
    """The LLM of that file, with room for what the model can hold."""
    context = min(CONTEXT, int(model.config.context_length))
    return Llama(file, context=context, threads=usable(), exact=kind == "float32")


def _made(
    model: AudioLMForConditionalGeneration,
    processor: AudioLMProcessor,
    making: Making,
    kind: str,
    name: str,
) -> Llama:
    """Write the LLM, LoRA merged, and open it; where it cannot be kept, in a folder that is deleted then (the
    file is mapped)."""
    if model.config.lora:
        merge_lora(model)

    def write(path: Path) -> None:
        write_llm(model, processor, path, kind, str(processor.chat_template), name)

    if making.keep(write):
        return _opened(making.path, model, kind)
    with tempfile.TemporaryDirectory(prefix="lalm-") as place:
        write(Path(place) / making.path.name)
        return _opened(Path(place) / making.path.name, model, kind)
