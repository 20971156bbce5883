"""An LLM's graph run by ONNX Runtime on the CPU: embeddings in, logits out, positions are kept."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as states

from lalm.errors import LalmError
from lalm.inference.onnxruntime.graph import Graph

AT_ONCE = 512  # positions that are read in one call: bounds the scores of a long prompt
ROOM = 512  # positions at first; twice as many each time they are full
REFUSED = (
    *(states.Fail, states.InvalidArgument, states.InvalidGraph, states.InvalidProtobuf),
    *(states.NoSuchFile, states.NotImplemented, states.RuntimeException),
)
Rows = np.ndarray[Any, Any]


class RunningLLM:
    """One LLM with one sequence."""

    def __init__(self, graph: Path | Graph, *, threads: int) -> None:
        """``graph``: its file, or the graph itself. Raises RunningError for a file that is not one."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_cpu_mem_arena = False  # it keeps what a long prompt needed
        options.log_severity_level = 4  # what is wrong is raised
        # A thread that waits in a loop is a tenth faster alone, and a third slower beside a busy program.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        given: str | bytes = str(graph)
        if isinstance(graph, Graph):
            given, weights = graph.model.SerializeToString(), BytesIO()
            graph.write_weights(weights)
            inside = weights.getvalue()  # ONNX Runtime reads it while the session is made
            options.add_external_initializers_from_files_in_memory([graph.place], [inside], [graph.size])
        try:
            self._session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
        except REFUSED as error:
            raise RunningError(
                f"ONNX Runtime cannot open '{graph}': {str(error).strip().splitlines()[-1]}"
            ) from None
        shapes = {one.name: one.shape for one in (*self._session.get_inputs(), *self._session.get_outputs())}
        self._buffers = {
            name: np.zeros((1, shape[1], 0, shape[3]), np.float32)
            for name, shape in shapes.items()
            if name.startswith(("keys.", "values."))
        }
        self.num_tokens = int(shapes["logits"][-1])
        self._logits = np.empty((1, 1, self.num_tokens), np.float32)
        self._last, self._count = np.zeros((1, 1), np.int32), np.zeros((), np.int32)
        self._binding = self._session.io_binding()
        self.room = self.length = 0  # positions that there is room for, and that are held

    def read(self, embeds: Rows) -> Rows:
        """embeds: (L, D) float32 after what is held -> logits (V,) float32 of the last."""
        whole = np.ascontiguousarray(embeds[None])
        for part in np.split(whole, range(AT_ONCE, len(embeds), AT_ONCE), axis=1):
            self._make_room(self.length + part.shape[1])
            self._bind("inputs_embeds", part)
            self._count[...] = self.length + part.shape[1]
            self._last[...] = self._count - 1
            self._session.run_with_iobinding(self._binding)
            self.length += part.shape[1]
        return self._logits[0, 0].copy()

    def keep(self, length: int) -> None:
        """Forget all positions behind the first ``length``."""
        self.length = length

    def _make_room(self, needed: int) -> None:
        """Buffers for so many positions, with those that are held."""
        if needed <= self.room:
            return
        self.room = max(ROOM, self.room)
        while self.room < needed:
            self.room *= 2
        self._binding = self._session.io_binding()
        for name, before in self._buffers.items():
            _, pairs, _, size = before.shape
            buffer = self._buffers[name] = np.zeros((1, pairs, self.room, size), np.float32)
            buffer[:, :, : self.length] = before[:, :, : self.length]
            self._bind(name, buffer)
            self._bind_output(f"all_{name}", buffer)  # the same, so that nothing is copied
        self._bind("last", self._last)
        self._bind("count", self._count)
        self._bind_output("logits", self._logits)

    def _bind(self, name: str, values: Rows) -> None:
        """The memory of ``values`` as that input; it must stay until the graph has run."""
        self._binding.bind_input(name, "cpu", 0, values.dtype, values.shape, values.ctypes.data)

    def _bind_output(self, name: str, values: Rows) -> None:
        self._binding.bind_output(name, "cpu", 0, values.dtype, values.shape, values.ctypes.data)


class RunningError(LalmError, ValueError):
    """What ONNX Runtime refused."""
