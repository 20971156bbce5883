"""Writing one GGUF file: tensors are converted one at a time, so memory holds the model and one tensor more.

Types are llama.cpp's. What stands in one row (a norm, a bias) stays float32; the rest takes the type that is
asked for. ``q4_k_m`` and its kin are llama.cpp's mixes of types (``llama_tensor_get_type`` in its
``src/llama-quant.cpp``): the output table, and in some layers the values and the way down, get more bits.
"""

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES
from torch import Tensor

from lalm.errors import LalmError
from lalm.inference.llamacpp.library import quantized_rows

FLOATS = {"float32": Type.F32, "bfloat16": Type.BF16, "float16": Type.F16}
MIXES = {"q8_0": Type.Q8_0, "q6_k": Type.Q6_K, "q5_k_m": Type.Q5_K, "q4_k_m": Type.Q4_K}
# What general.file_type says of a file (llama.h's llama_ftype).
FILE_TYPES = {
    "float32": gguf.LlamaFileType.ALL_F32,
    "bfloat16": gguf.LlamaFileType.MOSTLY_BF16,
    "float16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q6_k": gguf.LlamaFileType.MOSTLY_Q6_K,
    "q5_k_m": gguf.LlamaFileType.MOSTLY_Q5_K_M,
    "q4_k_m": gguf.LlamaFileType.MOSTLY_Q4_K_M,
}
# Blocks of 256 do not fit every width; llama.cpp then takes these, of blocks of 32.
OF_SHORT_BLOCKS = {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}
WITHOUT_LIBRARY = (Type.F32, Type.BF16, Type.F16, Type.Q8_0, Type.Q5_0, Type.Q5_1)


class GGUFError(LalmError, ValueError):
    """A model that llama.cpp cannot run as it is; the text says why."""


@dataclass(frozen=True)
class Entry:
    """One tensor: its name in the file, its values, its type; its shape where the values have another."""

    name: str
    values: Tensor
    kind: Type
    shape: tuple[int, ...] = field(default=())

    @property
    def dimensions(self) -> tuple[int, ...]:
        """The shape in the file, slowest first."""
        return self.shape or tuple(self.values.shape)

    def data(self) -> np.ndarray[Any, Any]:
        """The bytes or numbers that stand in the file. Raises GGUFError for what the type cannot hold."""
        values = self.values.detach().float().cpu().numpy().reshape(self.dimensions)
        if self.kind == Type.F16 and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
            raise GGUFError(f"'{self.name}' has values that float16 cannot hold: say --dtype float32")
        if self.kind in WITHOUT_LIBRARY:
            return gguf.quants.quantize(values, self.kind)
        return quantized_rows(values, self.kind)

    def size(self) -> tuple[tuple[int, ...], int]:
        """Shape as the writer counts it (bytes where values are packed), and bytes in all."""
        block, of_block = GGML_QUANT_SIZES[self.kind]
        *rows, width = self.dimensions
        if self.kind in (Type.F32, Type.F16):
            return self.dimensions, int(np.prod(self.dimensions)) * of_block
        shape = (*rows, width // block * of_block)
        return shape, int(np.prod(shape))


def float_entry(name: str, values: Tensor, kind: Type) -> Entry:
    """A tensor in ``kind``, or in float32 where it is a single row."""
    return Entry(name, values, kind if values.dim() > 1 else Type.F32)


def mixed_type(name: str, shape: Sequence[int], mix: str, num_layers: int, tied: bool) -> Type:
    """The type that llama.cpp gives a tensor of an LLM without experts under ``mix``."""
    if len(shape) == 1:
        return Type.F32
    kind = MIXES[mix]
    layer = int(name.split(".")[1]) if name.startswith("blk.") else -1
    eighth = num_layers // 8
    more = layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        kind = Type.Q8_0 if kind == Type.Q8_0 else Type.Q6_K
    elif more and mix.endswith("_m") and name.endswith(("attn_v.weight", "ffn_down.weight")):
        kind = Type.Q6_K
    if shape[-1] % GGML_QUANT_SIZES[kind][0]:
        kind = OF_SHORT_BLOCKS.get(kind, Type.F16)
    return kind if not shape[-1] % GGML_QUANT_SIZES[kind][0] else Type.F16


def write_file(path: Path, writer: gguf.GGUFWriter, entries: Sequence[Entry]) -> None:
    """Write what ``writer`` was told, then the tensors. Nothing is left under ``path`` when it fails.

    Raises OSError that names the file where the disk is full.
    """
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for entry in entries:
        shape, size = entry.size()
        packed = entry.kind not in (Type.F32, Type.F16)
        dtype = np.dtype(np.uint8 if packed else np.float32)
        writer.add_tensor_info(entry.name, shape, dtype, size, raw_dtype=entry.kind)
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry in entries:
            writer.write_tensor_data(entry.data())
    except BaseException as error:
        with suppress(OSError):  # what is left to be written finds no room either
            writer.close()
        path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (
            None,
            errno.ENOSPC,
        ):  # None: numpy's, of a short write
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None
        raise
    writer.close()
