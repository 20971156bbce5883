"""An LLM's graph compiled by OpenVINO for the CPU: embeddings in, logits out, positions are kept."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino

from lalm.errors import LalmError

AT_ONCE = 1024  # positions that are read in one call: bounds the scores of a long prompt
Rows = np.ndarray[Any, Any]


class CompiledLLM:
    """One LLM with one sequence."""

    def __init__(self, graph: Path | Any, *, threads: int, exact: bool = False) -> None:
        """``graph``: its file, or the ``openvino.Model``. ``exact``: float32 all the way, where OpenVINO
        takes the CPU's fastest format otherwise. Raises RunningError for a file that is not a graph."""
        core = openvino.Core()
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # a pinned thread waits for a busy neighbour
            "KV_CACHE_PRECISION": "f32" if exact else "f16",  # OpenVINO's own choice is 8 bits
        }
        if exact:
            settings |= {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
        try:
            model = core.read_model(graph) if isinstance(graph, Path) else graph
            self._request = core.compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise RunningError(
                f"OpenVINO cannot open '{graph}': {str(error).strip().splitlines()[-1]}"
            ) from None
        self.num_tokens = int(model.output(0).partial_shape[-1].get_length())
        self.length = 0  # positions that are held

    def read(self, embeds: Rows) -> Rows:
        """embeds: (L, D) float32 after what is held -> logits (V,) float32 of the last."""
        for part in np.split(embeds, range(AT_ONCE, len(embeds), AT_ONCE)):
            positions = np.arange(self.length, self.length + len(part))[None]
            given = {
                "inputs_embeds": part[None],
                "position_ids": positions,
                "beam_idx": np.zeros(1, np.int32),
            }
            self._request.infer(given, share_inputs=True)
            self.length += len(part)
        return np.array(self._request.get_output_tensor(0).data[0, 0])

    def keep(self, length: int) -> None:
        """Forget all positions behind the first ``length``."""
        if length == 0:
            self._request.reset_state()
        elif length < self.length:
            for state in self._request.query_state():
                state.state = openvino.Tensor(np.ascontiguousarray(state.state.data[:, :, :length]))
        self.length = length


class RunningError(LalmError, ValueError):
    """What OpenVINO refused."""
