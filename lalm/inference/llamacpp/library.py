"""llama.cpp's own library, as the wheel ``xllamacpp`` brings it: its C functions through ctypes.

The wheel's Python classes offer a server; what is used here (embeddings as input, the encoder of an mmproj
file, packing of weights) is only in the C interface, which the same file exports. Its structures change
between releases, so their defaults are compared with those of the release they were written from.
"""

import ctypes
import importlib.metadata
import importlib.util
from collections import deque
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int8, c_int32, c_size_t, c_uint32, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES

from lalm.errors import LalmError

PACKAGE, WRITTEN_FOR = "xllamacpp", "2026.10.11549"


class LibraryError(LalmError, ValueError):
    """llama.cpp's library is not there, or not the one that is known here."""


class ModelParams(ctypes.Structure):
    """``llama_model_params`` of include/llama.h."""

    _fields_ = (
        *[(name, c_void_p) for name in ("devices", "tensor_buft_overrides")],
        *[(name, c_int32) for name in ("n_gpu_layers", "split_mode", "load_mode", "lazy_mode", "main_gpu")],
        *[(name, c_void_p) for name in ("tensor_split", "progress", "progress_data", "kv_overrides")],
        *[
            (name, c_bool)
            for name in ("vocab_only", "check", "extra_bufts", "no_host", "no_alloc", "load_mtp")
        ],
    )


class ContextParams(ctypes.Structure):
    """``llama_context_params`` of include/llama.h."""

    _fields_ = (
        *[(name, c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq")],
        *[(name, c_uint32) for name in ("n_outputs_max", "n_outputs_max_per_seq")],
        *[(name, c_int32) for name in ("n_threads", "n_threads_batch", "ctx_type", "rope_scaling_type")],
        *[(name, c_int32) for name in ("pooling_type", "attention_type", "flash_attn_type")],
        *[(name, c_float) for name in ("rope_base", "rope_scale", "yarn_ext", "yarn_attn")],
        *[(name, c_float) for name in ("yarn_fast", "yarn_slow")],
        ("yarn_orig_ctx", c_uint32),
        ("defrag", c_float),
        *[(name, c_void_p) for name in ("eval", "eval_data")],
        *[(name, c_int32) for name in ("type_k", "type_v")],
        ("moe_cache", c_size_t),
        *[(name, c_void_p) for name in ("abort", "abort_data")],
        *[
            (name, c_bool)
            for name in ("embeddings", "offload_kqv", "no_perf", "op_offload", "swa", "unified")
        ],
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("other", c_void_p),
    )


class Batch(ctypes.Structure):
    """``llama_batch``: tokens, or embeddings in their place."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


class ProjectorParams(ctypes.Structure):
    """``mtmd_context_params`` of tools/mtmd/mtmd.h."""

    _fields_ = (
        ("use_gpu", c_bool),
        ("device", c_void_p),
        ("print_timings", c_bool),
        ("n_threads", c_int32),
        ("image_marker", c_char_p),
        ("media_marker", c_char_p),
        ("flash_attn_type", c_int32),
        ("warmup", c_bool),
        *[(name, c_int32) for name in ("image_min_tokens", "image_max_tokens")],
        *[(name, c_void_p) for name in ("eval", "eval_data")],
        ("batch_max_tokens", c_int32),
        *[(name, c_void_p) for name in ("progress", "progress_data")],
    )


class InputText(ctypes.Structure):
    """``mtmd_input_text``: a prompt with a marker for every clip."""

    _fields_ = (("text", c_char_p), ("length", c_size_t), ("add_special", c_bool), ("parse_special", c_bool))


_LOG, _ERROR = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p), 4


class _Log:
    """Keeps the errors that llama.cpp reports and drops the rest."""

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=8)
        self.call = _LOG(self._take)

    def _take(self, level: int, text: bytes, data: Any) -> None:
        if level == _ERROR:
            self.errors.append(text.decode(errors="replace").strip())

    def why(self) -> str:
        """The first error since the last call, to stand behind a sentence."""
        told = f": {self.errors[0]}" if self.errors else ""
        self.errors.clear()
        return told


_RETURNS: dict[str, Any] = {
    "llama_model_default_params": ModelParams,
    "llama_context_default_params": ContextParams,
    "mtmd_context_params_default": ProjectorParams,
    "llama_model_load_from_file": c_void_p,
    "llama_init_from_model": c_void_p,
    "llama_model_get_vocab": c_void_p,
    "llama_get_memory": c_void_p,
    "llama_get_logits_ith": POINTER(c_float),
    "mtmd_init_from_file": c_void_p,
    "mtmd_bitmap_init_from_audio": c_void_p,
    "mtmd_input_chunks_init": c_void_p,
    "mtmd_input_chunks_get": c_void_p,
    "mtmd_input_chunks_size": c_size_t,
    "mtmd_input_chunk_get_n_tokens": c_size_t,
    "mtmd_input_chunk_get_tokens_text": POINTER(c_int32),
    "mtmd_get_output_embd": POINTER(c_float),
    "ggml_quantize_chunk": c_size_t,
    "llama_memory_seq_rm": c_bool,
    "llama_vocab_is_eog": c_bool,
}
_PLAIN = (
    *("llama_model_free", "llama_free", "llama_decode", "llama_memory_clear", "llama_vocab_n_tokens"),
    *("llama_model_n_embd", "llama_set_n_threads", "llama_log_set", "mtmd_log_set", "mtmd_free"),
    *("mtmd_bitmap_free", "mtmd_input_chunks_free", "mtmd_tokenize", "mtmd_encode_chunk"),
    *("mtmd_input_chunk_get_type", "llama_backend_init"),
)


def installed() -> bool:
    """Whether the wheel is there."""
    return importlib.util.find_spec(PACKAGE) is not None


@cache
def library() -> Any:
    """The library with its functions declared, quiet. Raises LibraryError."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.origin:
        raise LibraryError(
            f"llama.cpp's library is not there: pip install 'lalm[llamacpp]' (it is {PACKAGE})"
        )
    files = sorted(Path(found.origin).parent.glob(f"{PACKAGE}*.so")) or sorted(
        Path(found.origin).parent.glob(f"{PACKAGE}*.pyd")
    )
    try:
        own: Any = ctypes.CDLL(str(files[0]))
        for name, kind in _RETURNS.items():
            getattr(own, name).restype = kind
        for name in _PLAIN:
            getattr(own, name).restype = c_int32
    except (OSError, IndexError, AttributeError) as error:
        raise LibraryError(f"{_version()} cannot be used: {error}; {_way_out()}") from None
    own.log = _Log()  # as long as the library, which calls it
    own.llama_log_set(own.log.call, None)
    own.mtmd_log_set(own.log.call, None)
    _check(own)
    own.llama_backend_init()
    return own


def _version() -> str:
    return f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"


def _way_out() -> str:
    return f"pip install {PACKAGE}=={WRITTEN_FOR}"


def _check(own: Any) -> None:
    """Compare the defaults of the structures with those that are known."""
    context, projector = own.llama_context_default_params(), own.mtmd_context_params_default()
    of_model = own.llama_model_default_params()
    seen = (
        *(context.n_ctx, context.n_batch, context.n_ubatch, context.n_seq_max),
        *(context.rope_scaling_type, context.flash_attn_type, context.type_k, context.type_v),
        *(context.abort, context.samplers, context.n_samplers, context.other),
        *(projector.image_min_tokens, projector.image_max_tokens, projector.batch_max_tokens),
        *(of_model.main_gpu, of_model.kv_overrides, of_model.vocab_only),
    )
    known = (
        512,
        2048,
        512,
        1,
        -1,
        -1,
        Type.F16,
        Type.F16,
        *[None] * 2,
        0,
        None,
        -1,
        -1,
        1024,
        0,
        None,
        False,
    )
    if seen != known:
        raise LibraryError(f"{_version()} has other structures than {WRITTEN_FOR}: {_way_out()}")


def quantized_rows(values: np.ndarray[Any, Any], kind: Type) -> np.ndarray[Any, Any]:
    """values: (..., width) float32 -> (..., bytes) uint8, packed as llama.cpp packs ``kind``.

    Raises LibraryError without the library: Python's gguf packs no blocks of 256.
    """
    block, of_block = GGML_QUANT_SIZES[kind]
    *rows, width = values.shape
    flat = np.ascontiguousarray(values, dtype=np.float32)
    packed = np.empty((*rows, width // block * of_block), np.uint8)
    if width % block:
        raise ValueError(f"rows of {width} numbers do not divide into blocks of {block}")
    count = ctypes.c_int64(flat.size // width)
    written = library().ggml_quantize_chunk(
        c_int32(kind),
        c_void_p(flat.ctypes.data),
        c_void_p(packed.ctypes.data),
        ctypes.c_int64(0),
        count,
        ctypes.c_int64(width),
        c_void_p(None),
    )
    if written != packed.nbytes:
        raise LibraryError(
            f"{_version()} packed {written} bytes where {packed.nbytes} were due; {_way_out()}"
        )
    return packed
