"""The LLM's GGUF file: llama, mistral, qwen2 and qwen3 families, under llama.cpp's names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import MODEL_ARCH
from gguf import GGMLQuantizationType as Type
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lalm.inference.llamacpp.gguf_file import FILE_TYPES, FLOATS, Entry, GGUFError, mixed_type, write_file
from lalm.inference.llamacpp.vocabulary import add_vocabulary
from lalm.models.answer_end import llm_ends, written_end
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.processing import AudioLMProcessor

FAMILIES = {
    "llama": MODEL_ARCH.LLAMA,
    "mistral": MODEL_ARCH.LLAMA,
    "qwen2": MODEL_ARCH.QWEN2,
    "qwen3": MODEL_ARCH.QWEN3,
}


def check_llm(config: Any, folder: str) -> None:
    """Raise GGUFError for an LLM (its config) that is not written here, saying what is not."""
    if config.model_type not in FAMILIES:
        raise GGUFError(
            f"the LLM of '{folder}' is a '{config.model_type}'; written for llama.cpp are "
            f"{', '.join(FAMILIES)}"
        )
    windows = {kind for kind in getattr(config, "layer_types", None) or [] if kind != "full_attention"}
    if windows or (config.model_type == "mistral" and config.sliding_window):
        raise GGUFError(f"the LLM of '{folder}' looks back over a sliding window, which is not written here")
    rope = config.rope_parameters["rope_type"]
    if rope not in ("default", "llama3"):
        raise GGUFError(f"the LLM of '{folder}' scales its positions by '{rope}', which is not written here")
    if config.model_type == "qwen3" and config.attention_bias:
        raise GGUFError(f"the LLM of '{folder}' is a qwen3 with biases in attention, which llama.cpp has not")
    if config.hidden_act != "silu":
        raise GGUFError(f"the LLM of '{folder}' has the activation '{config.hidden_act}', not SiLU")


def _interleaved(weight: Tensor, num_heads: int) -> Tensor:
    """weight: (heads * width, ...) -> (heads, width / 2, 2, ...): llama.cpp turns neighbouring numbers of a
    llama's queries and keys, transformers those of the two halves."""
    return weight.unflatten(0, (num_heads, 2, -1)).transpose(1, 2)


def tensors(model: AudioLMForConditionalGeneration) -> Iterator[tuple[str, Tensor, tuple[int, ...]]]:
    """Name in the file, values and shape there of every tensor. Raises GGUFError for one without a name."""
    config: Any = model.config.text_config
    arch = FAMILIES[config.model_type]
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    turned = {".attn_q.": config.num_attention_heads, ".attn_k.": config.num_key_value_heads}
    own = model.model.language_model.state_dict()
    for key, values in own.items():
        name = names.get_name(f"model.{key}", try_suffixes=(".weight", ".bias"))
        if name is None:
            raise GGUFError(f"llama.cpp has no tensor for the LLM's '{key}'")
        shape = tuple(values.shape)
        heads = next((n for part, n in turned.items() if part in name), None)
        if arch == MODEL_ARCH.LLAMA and heads:
            values = _interleaved(values, heads)
        yield name, values, shape
    head: Any = model.lm_head
    if head.weight is not model.get_input_embeddings().weight:
        yield "output.weight", head.weight, tuple(head.weight.shape)
    if config.rope_parameters["rope_type"] == "llama3":
        slowed, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
        plain = config.rope_parameters["rope_theta"] ** (-torch.arange(len(slowed)) / len(slowed))
        yield "rope_freqs.weight", plain / slowed, (len(slowed),)


def _numbers(writer: gguf.GGUFWriter, config: Any) -> None:
    """What llama.cpp must know of the LLM beside its tensors."""
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


@torch.no_grad()
def write_llm(
    model: AudioLMForConditionalGeneration,
    processor: AudioLMProcessor,
    path: Path,
    kind: str,
    template: str,
    name: str,
) -> None:
    """Write the LLM, its tokenizer and ``template`` to ``path``. ``kind`` is one of ``FILE_TYPES``.

    LoRA must be merged before. Raises GGUFError for what is not written here.
    """
    config: Any = model.config.text_config
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[FAMILIES[config.model_type]])
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(int(FILE_TYPES[kind]))
    _numbers(writer, config)
    end = written_end(processor.tokenizer, str(processor.chat_template))
    ends = [end, *sorted(llm_ends(processor.tokenizer, model.generation_config) - {end})]
    found = list(tensors(model))
    rows = next(shape[0] for tensor, _, shape in found if tensor == "token_embd.weight")
    add_vocabulary(writer, processor, rows, ends, template)
    tied = not any(tensor == "output.weight" for tensor, _, _ in found)
    entries = []
    for tensor, values, shape in found:
        mixed = (
            FLOATS[kind]
            if kind in FLOATS
            else mixed_type(tensor, shape, kind, config.num_hidden_layers, tied)
        )
        entries.append(Entry(tensor, values, mixed if len(shape) > 1 else Type.F32, shape))
    write_file(path, writer, entries)
