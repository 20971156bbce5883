"""An LLM and an mmproj file opened by llama.cpp's library: tokens or embeddings in, logits out."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Type

from lalm.inference.llamacpp.library import Batch, InputText, LibraryError, library

AUDIO = 2  # mtmd_input_chunk_type
NO_FLASH = 0  # llama_flash_attn_type: float32 all the way, where a cache of float32 is asked for
AT_ONCE = 2048  # positions that are read in one call


class Llama:
    """One LLM with one sequence. ``exact`` keeps keys and values in float32, and attention too."""

    def __init__(self, path: Path, *, context: int = 4096, threads: int = 1, exact: bool = False) -> None:
        """Open the GGUF file at ``path``. Raises LibraryError when llama.cpp cannot."""
        self.own = library()
        self.model: Any = self.own.llama_model_load_from_file(str(path).encode(), self._model_params())
        if not self.model:
            raise LibraryError(f"llama.cpp cannot open '{path}'{self.own.log.why()}")
        self.model = ctypes.c_void_p(self.model)
        params = self.own.llama_context_default_params()
        params.n_ctx, params.n_batch = context, min(context, AT_ONCE)
        params.n_threads = params.n_threads_batch = threads
        if exact:
            params.type_k = params.type_v = int(Type.F32)
            params.flash_attn_type = NO_FLASH
        self.exact, self.threads, self.context_length = exact, threads, context
        self.context = ctypes.c_void_p(self.own.llama_init_from_model(self.model, params))
        if not self.context:
            self.own.llama_model_free(self.model)
            raise LibraryError(f"llama.cpp cannot hold {context} positions for '{path}'{self.own.log.why()}")
        self.vocab = ctypes.c_void_p(self.own.llama_model_get_vocab(self.model))
        self.num_tokens = int(self.own.llama_vocab_n_tokens(self.vocab))
        self.width = int(self.own.llama_model_n_embd(self.model))
        self.length = 0  # positions that are held

    def _model_params(self) -> Any:
        params = self.own.llama_model_default_params()
        params.n_gpu_layers = 0
        return params

    def read(self, given: Sequence[int] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Read token ids (L,) or embeddings (L, D) float32 after what is held -> logits (V,) of the last."""
        embeds = np.ascontiguousarray(given, np.float32) if np.ndim(given) == 2 else None
        ids = None if embeds is not None else np.ascontiguousarray(given, np.int32)
        total = len(given)
        if self.length + total > self.context_length:
            raise LibraryError(
                f"{self.length + total} positions are more than the {self.context_length} of this context"
            )
        for start in range(0, total, AT_ONCE):
            size = min(AT_ONCE, total - start)
            positions = np.arange(self.length, self.length + size, dtype=np.int32)
            wanted = np.zeros(size, np.int8)
            wanted[-1] = 1
            batch = Batch(n_tokens=size)
            batch.pos = positions.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
            batch.logits = wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
            if embeds is not None:
                batch.embd = embeds[start:].ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            elif ids is not None:
                batch.token = ids[start:].ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
            if code := self.own.llama_decode(self.context, batch):
                raise LibraryError(f"llama.cpp could not read {size} positions (code {code})")
            self.length += size
        row = self.own.llama_get_logits_ith(self.context, ctypes.c_int32(-1))
        return np.ctypeslib.as_array(row, (self.num_tokens,)).copy()

    def keep(self, length: int) -> None:
        """Forget all positions behind the first ``length``."""
        memory = ctypes.c_void_p(self.own.llama_get_memory(self.context))
        self.own.llama_memory_seq_rm(memory, ctypes.c_int32(0), ctypes.c_int32(length), ctypes.c_int32(-1))
        self.length = length

    def ends(self, token: int) -> bool:
        """Whether llama.cpp ends an answer at this token."""
        return bool(self.own.llama_vocab_is_eog(self.vocab, ctypes.c_int32(token)))

    def close(self) -> None:
        """Give the memory back."""
        self.own.llama_free(self.context)
        self.own.llama_model_free(self.model)


class Projection:
    """An mmproj file beside its LLM: prompts with clips become token ids and audio tokens."""

    def __init__(self, path: Path, llama: Llama) -> None:
        """Open the mmproj file at ``path``. Raises LibraryError when llama.cpp cannot."""
        self.own, self.llama = llama.own, llama
        params = self.own.mtmd_context_params_default()
        params.use_gpu, params.n_threads, params.warmup = False, llama.threads, False
        if llama.exact:
            params.flash_attn_type = NO_FLASH
        self.context = ctypes.c_void_p(self.own.mtmd_init_from_file(str(path).encode(), llama.model, params))
        if not self.context:
            raise LibraryError(f"llama.cpp cannot open '{path}' beside this LLM{self.own.log.why()}")

    def pieces(self, text: str, clips: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """A prompt with a ``<__media__>`` a clip -> token ids (n,) and audio tokens (K, D), in order.

        clips: (N,) float32 at 16 kHz each. Raises LibraryError.
        """
        waves = [np.ascontiguousarray(clip, np.float32) for clip in clips]
        bitmaps = (ctypes.c_void_p * len(waves))(
            *(
                self.own.mtmd_bitmap_init_from_audio(ctypes.c_size_t(len(w)), ctypes.c_void_p(w.ctypes.data))
                for w in waves
            )
        )
        chunks = ctypes.c_void_p(self.own.mtmd_input_chunks_init())
        written = text.encode()
        given = InputText(written, len(written), True, True)
        try:
            code = self.own.mtmd_tokenize(
                self.context, chunks, ctypes.byref(given), bitmaps, ctypes.c_size_t(len(waves))
            )
            if code:
                raise LibraryError(f"llama.cpp could not read the prompt and its clips (code {code})")
            count = self.own.mtmd_input_chunks_size(chunks)
            return [
                self._piece(self.own.mtmd_input_chunks_get(chunks, ctypes.c_size_t(i))) for i in range(count)
            ]
        finally:
            self.own.mtmd_input_chunks_free(chunks)
            for bitmap in bitmaps:
                self.own.mtmd_bitmap_free(ctypes.c_void_p(bitmap))

    def _piece(self, chunk: Any) -> np.ndarray[Any, Any]:
        chunk = ctypes.c_void_p(chunk)
        count = self.own.mtmd_input_chunk_get_n_tokens(chunk)
        if self.own.mtmd_input_chunk_get_type(chunk) != AUDIO:
            ids = self.own.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(ctypes.c_size_t()))
            return np.ctypeslib.as_array(ids, (count,)).copy()
        if code := self.own.mtmd_encode_chunk(self.context, chunk):
            raise LibraryError(f"llama.cpp could not encode a clip (code {code})")
        tokens = self.own.mtmd_get_output_embd(self.context)
        return np.ctypeslib.as_array(tokens, (count, self.llama.width)).copy()

    def close(self) -> None:
        """Give the memory back."""
        self.own.mtmd_free(self.context)
