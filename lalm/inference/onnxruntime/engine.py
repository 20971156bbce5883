"""The engine with ONNX Runtime running its LLM: for one answer at a time, on a CPU.

The graph (LoRA merged, weights in int8 unless another format is asked for) is made once and kept in the
cache. ``lalm ask --engine onnxruntime`` and ``lalm chat`` open it.
"""

import errno
import gc
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lalm.inference.device import pick_dtype
from lalm.inference.one_question import OneQuestionEngine, Piece, kept_llm
from lalm.inference.onnxruntime.graph import MOST, Graph, check_config, check_llm, graph_of
from lalm.inference.onnxruntime.running import RunningError, RunningLLM
from lalm.inference.threads import usable
from lalm.models import SMALL
from lalm.models.load import load_model, model_folder, model_name, read_config
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.opening_memory import release_free_memory
from lalm.models.processing import AudioLMProcessor
from lalm.weights.kept_files import made_alone, tell_damaged

KINDS = {None: "int8", "auto": "int8", "int8": "int8", "float32": "float32"}  # of the weights
FORMAT = 2  # of the kept graph: another one is made anew
SPARE = 2**28  # bytes of the disk that stay free


class OnnxRuntimeEngine(OneQuestionEngine):
    """Answers as ``Engine`` does, one question at a time. Beams and a LoRA scale are refused."""

    library, option = "ONNX Runtime", "onnxruntime"

    def __init__(
        self, model: AudioLMForConditionalGeneration, processor: AudioLMProcessor, name: str, llm: RunningLLM
    ) -> None:
        """``llm``: the model's own; what the model holds of it besides its table of embeddings is let go."""
        super().__init__(model, processor, name, min(int(model.config.context_length), MOST))
        self.llm, self._table = llm, model.get_input_embeddings()
        body: Any = self.model.model.language_model
        body.layers, self.model.lm_head = nn.ModuleList(), nn.Identity()

    @classmethod
    def open(
        cls,
        model: str | None = None,
        dtype: str | None = None,
        transcript: str | None = None,
        told: Callable[[str], None] | None = None,
    ) -> "OnnxRuntimeEngine":
        """Open a folder or Hub id, or the embedded default (None), on the CPU.

        ``dtype`` is that of the LLM's weights: int8 (None, "auto") or float32, which is float32 all the way.
        ``told`` gets a sentence when the graph is made now. Raises ValueError in one sentence.
        """
        if dtype not in KINDS:
            raise ValueError(
                f"--engine onnxruntime has no {dtype} weights: say --dtype int8 (its default) or float32"
            )
        given, kind = model if model is not None else SMALL, KINDS[dtype]
        check_config(read_config(model_folder(given))[1].text_config, model_name(given))
        exact = kind == "float32"
        precision = torch.float32 if exact else pick_dtype(torch.device("cpu"))
        options = {} if transcript is None else {"transcript": transcript}
        file = kept_llm(given, f"{kind}-{FORMAT}", "onnxruntime", ".onnx")
        threads = usable()
        with ThreadPoolExecutor(1) as beside:
            starting = beside.submit(_kept, file, threads)  # while the rest of the model is opened
            opened = _opened(given, precision, options) if file.is_file() else None
            llm = starting.result() or _made(given, options, file, kind, threads, told)
        return cls(*(opened or _opened(given, precision, options)), model_name(given), llm)

    @property
    def num_tokens(self) -> int:
        """Numbers in the logits."""
        return self.llm.num_tokens

    def read(self, pieces: Sequence[Piece]) -> Piece:
        """Pieces after what is held -> logits (V,) of the last position."""
        rows = [self._embedded(piece) if piece.ndim == 1 else piece for piece in pieces]
        return self.llm.read(np.concatenate(rows) if len(rows) > 1 else rows[0])

    def keep(self, length: int) -> None:
        """Forget all positions behind the first ``length``."""
        self.llm.keep(length)

    def _embedded(self, ids: Piece) -> Piece:
        """ids: (n,) -> (n, D) float32."""
        found: Piece = self._table(torch.from_numpy(ids)).float().numpy()
        return found


def _kept(file: Path, threads: int, told: bool = False) -> RunningLLM | None:
    """The LLM of a graph that was kept; None where none can be read, with a line if ``told``."""
    if not file.is_file():
        return None
    try:
        return RunningLLM(file, threads=threads)
    except RunningError as error:
        if told:
            tell_damaged(file, error)
        return None


def _opened(name: str | Path, dtype: torch.dtype, options: Mapping[str, Any]) -> tuple[Any, AudioLMProcessor]:
    """The model, without its LLM's layers where that can be."""
    return load_model(name, dtype=dtype, options=options, hollow=True)


def _made(
    name: str | Path,
    options: Mapping[str, Any],
    file: Path,
    kind: str,
    threads: int,
    told: Callable[[str], None] | None,
) -> RunningLLM:
    """Make the graph of a model's LLM, and keep it where that can be."""
    with made_alone(file, "ONNX Runtime's graph of the LLM", "it is made") as making:
        if kept := _kept(file, threads, told=True):  # another process was faster
            return kept
        if told:
            told(f"writing the LLM for ONNX Runtime in {kind}, once")
        graph = _graph(name, options, kind, file)
        if making.keep(lambda draft: _write(graph, draft)):
            del graph
            gc.collect()
            return RunningLLM(file, threads=threads)
    return RunningLLM(graph, threads=threads)


def _graph(name: str | Path, options: Mapping[str, Any], kind: str, file: Path) -> Graph:
    """The graph of the LLM of a model that is opened for that and let go."""
    model, _ = load_model(name, dtype=torch.float32 if kind == "float32" else torch.bfloat16, options=options)
    check_llm(model, model_name(name))
    graph = graph_of(model, kind, file.with_suffix(".bin").name)
    del model
    gc.collect()
    release_free_memory()
    return graph


def _write(graph: Graph, draft: Path) -> None:
    """Write the graph, its weights beside it. Raises OSError, also where the disk would be full."""
    if shutil.disk_usage(draft.parent).free < graph.size + SPARE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    graph.write(draft)
