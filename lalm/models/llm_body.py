"""Any causal LM of transformers by its own accessors: body and head, and one way to read every body.

Families differ in what they are given and in what they keep of a prompt: keys and values, a recurrent state,
or nothing at all. ``read`` takes the arguments of the most common kind and gives a body those that it knows.
"""

import copy
import inspect
import re
from collections.abc import Hashable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    DynamicCache,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

from lalm.errors import LalmError

STATES = ("cache_params", "state")  # what bodies without past_key_values call what they keep
AT_ONCE = 1024  # positions of a prompt that are read in one pass, where the rest can follow
UNLIMITED = 10**9  # positions of an LLM whose config names no limit: ALiBi, recurrent ones


class UnfitLLMError(LalmError, ValueError):
    """An LLM that is more than its input embeddings, one body and one linear head, or that sees what comes
    later."""


def body_of(llm: Any) -> Any:
    """The body of a causal LM: what ``get_decoder`` gives, or, where that is its head or itself, the model in
    it that has its table of embeddings."""
    body = llm.get_decoder()
    if body is not llm and isinstance(body, PreTrainedModel):
        return body
    table = llm.get_input_embeddings()
    inner = (child for child in llm.children() if isinstance(child, PreTrainedModel))
    return next((child for child in inner if child.get_input_embeddings() is table), body)


def new_llm(text_config: PreTrainedConfig) -> tuple[nn.Module, Any]:
    """A randomly initialised body for that config, and the causal LM it is part of.

    The text part of some multimodal models has no class with a head: for those the causal LM is None.
    """
    if type(text_config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        if type(text_config) not in MODEL_MAPPING:
            raise UnfitLLMError(
                f"the text part of this model, a '{text_config.model_type}', is no model of its own in "
                "transformers, so it cannot be taken out of it"
            )
        return AutoModel.from_config(text_config), None
    if text_config.model_type == "rwkv":
        text_config.rescale_every = 0  # else it changes its weights in place, and they are saved changed
    llm: Any = AutoModelForCausalLM.from_config(text_config)
    return body_of(llm), llm


def new_head(text_config: PreTrainedConfig, llm: Any) -> Any:
    """The head of ``new_llm``'s causal LM, or a linear one where it has none."""
    text: Any = text_config
    return llm.get_output_embeddings() if llm else nn.Linear(text.hidden_size, text.vocab_size, bias=False)


def embedding_name(body: Any) -> str:
    """The name of the parameter that holds the body's table of embeddings."""
    table = body.get_input_embeddings()
    (name,) = (name for name, module in body.named_modules() if module is table)
    return f"{name}.weight"


class Tail:
    """From the body's output to logits as the family's own class does it: some cap or scale them."""

    def __init__(self, llm: Any) -> None:
        """``llm``: a causal LM, which stays as it is."""
        self._llm, self._head = copy.copy(llm), llm.get_output_embeddings()
        self._llm._modules = dict(llm._modules)
        body = body_of(llm)
        name = next(name for name, child in llm.named_children() if body in child.modules())
        self._llm._modules[name] = _Passing(llm._modules[name])

    def is_more_than(self, head: nn.Module) -> bool:
        """Whether there are weights besides the head's between the body and the logits."""
        self._take(head)
        return any(weight.is_meta for weight in self._llm.parameters())

    def _take(self, head: nn.Module) -> None:
        if self._head is not head:
            self._llm.set_output_embeddings(head)
            self._head = head

    def logits(self, hidden: Tensor, head: nn.Module) -> Tensor:
        """hidden: (..., D) -> (..., V)."""
        self._take(head)
        logits: Tensor = self._llm(inputs_embeds=hidden.reshape(1, -1, hidden.shape[-1])).logits
        return logits.reshape(*hidden.shape[:-1], -1)


class _Passing(nn.Module):
    """Stands where a body was and gives what it is given; else it is as the body was."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self._body = [body]  # in a list, so that its parameters are not counted

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_body"][0], name)

    @property
    def decoder(self) -> nn.Module:
        """Of families whose body has its layers one level deeper."""
        return self

    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> BaseModelOutputWithPast:
        return _Output(last_hidden_state=inputs_embeds)


class _Output(BaseModelOutputWithPast):
    def __getattr__(self, name: str) -> None:  # "cache_params", "router_logits": there are none
        return None


class RowMemory(Cache):
    """What an LLM keeps of each row, read by itself: for those whose state padding or a cut would spoil."""

    def __init__(self, num_rows: int) -> None:
        super().__init__(layers=[])
        self.kept: list[Any] = [None] * num_rows
        self.lengths = [0] * num_rows  # positions read
        self.padded = 0  # positions, padding included

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.padded

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.kept = [copy.deepcopy(self.kept[i]) for i in beam_idx.tolist()]
        self.lengths = [self.lengths[i] for i in beam_idx.tolist()]

    def batch_select_indices(self, indices: Tensor) -> None:
        self.kept = [self.kept[i] for i in indices.tolist()]
        self.lengths = [self.lengths[i] for i in indices.tolist()]

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.reorder_cache(torch.arange(len(self.kept)).repeat_interleave(repeats))


@cache
def _takes(body: Hashable) -> frozenset[str]:
    """Names of the arguments of a body's class."""
    kind: Any = body
    return frozenset(inspect.signature(kind.forward).parameters)


def takes(body: Any) -> frozenset[str]:
    """Names of the arguments that a body takes."""
    return _takes(body.__class__)


@cache
def _has_own_cache(body: Hashable) -> bool:
    """Whether a body's class takes no cache but one of its own kind, as MiniMax does, and makes it itself."""
    kind: Any = body
    said = str(inspect.signature(kind.forward).parameters["past_key_values"].annotation)
    return "Cache" in said and re.search(r"\b(Dynamic|EncoderDecoder)?Cache\b", said) is None


def keeps_every_position(body: Any) -> bool:
    """Whether the body keeps keys and values of every position, to be cut, padded and joined."""
    layers = _cache_layers(body)
    return layers is not None and all(layer is DynamicLayer for layer in layers)


def reads_rows_together(body: Any) -> bool:
    """Whether rows padded on the left give what each gives alone: not with recurrent states."""
    layers = _cache_layers(body)
    known = {DynamicLayer, DynamicSlidingWindowLayer}
    return layers is not None and not _counts_for_itself(body) and set(layers) <= known


def _counts_for_itself(body: Any) -> bool:
    """Whether a body numbers the positions itself, padding too: the decoders of BART and its like."""
    return hasattr(body, "embed_positions") and "position_ids" not in _takes(body.__class__)


def new_memory(body: Any, num_rows: int = 1) -> Cache:
    """What ``read`` fills, empty."""
    return DynamicCache(config=body.config) if reads_rows_together(body) else RowMemory(num_rows)


def _cache_layers(body: Any) -> list[type] | None:
    """The kinds of layers of the body's cache; None where it takes none, or only one of its own kind."""
    if "past_key_values" not in _takes(body.__class__) or _has_own_cache(body.__class__):
        return None
    return [type(layer) for layer in DynamicCache(config=body.config).layers]


def read(
    body: Any,
    *,
    inputs_embeds: Tensor | None,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> Any:
    """One pass of a body: inputs_embeds (B, L, D) -> last_hidden_state (B, L, D), past_key_values.

    Or ``input_ids`` (B, L). attention_mask: (B, known + L); position_ids: (B, L). What the body does not take
    is left out.
    """
    if isinstance(past_key_values, RowMemory):
        assert inputs_embeds is not None
        return _read_rows(body, inputs_embeds, attention_mask, past_key_values)
    if past_key_values is None and attention_mask is not None and not reads_rows_together(body):
        gaps = attention_mask.long().argmax(1)  # (B,) padding on the left, which a state would take for input
        if inputs_embeds is not None and bool(gaps.any()):
            return _read_shifted(body, inputs_embeds, attention_mask, gaps, kwargs)
    is_prompt = kwargs == {"use_cache": True} and not torch.is_grad_enabled() and keeps_every_position(body)
    if is_prompt and inputs_embeds is not None and inputs_embeds.shape[1] > AT_ONCE:
        return _read_in_pieces(body, inputs_embeds, attention_mask, position_ids, past_key_values)
    takes = _takes(body.__class__)
    given = {
        "attention_mask": attention_mask,
        "position_ids": position_ids,
        "past_key_values": past_key_values,
        **kwargs,
    }
    if "kwargs" not in takes or "past_key_values" not in takes:
        given = {name: value for name, value in given.items() if name in takes}
    if inputs_embeds is not None:
        given["inputs_embeds"] = inputs_embeds.clone()  # CTRL scales them in place
    return body(**{name: value for name, value in given.items() if value is not None})


def _read_in_pieces(
    body: Any, embeds: Tensor, mask: Tensor | None, positions: Tensor | None, cache: Any
) -> Any:
    """A long prompt piece after piece: what lies within the layers takes the memory of one piece."""
    known, found = 0 if cache is None else cache.get_seq_length(), list[Tensor]()
    for piece in embeds.split(AT_ONCE, 1):
        start = sum(hidden.shape[1] for hidden in found)
        end = start + piece.shape[1]
        output = read(
            body,
            inputs_embeds=piece,
            attention_mask=None if mask is None else mask[:, : known + end],
            position_ids=None if positions is None else positions[:, start:end],
            past_key_values=cache,
            use_cache=True,
        )
        cache = output.past_key_values
        found.append(output.last_hidden_state)
    output.last_hidden_state = torch.cat(found, 1)
    return output


def _read_shifted(body: Any, embeds: Tensor, mask: Tensor, gaps: Tensor, kwargs: dict[str, Any]) -> Any:
    """The same with every row's padding moved behind it, where a causal LM does not see it."""
    places = torch.arange(embeds.shape[1], device=embeds.device)
    there, back = ((places + sign * gaps[:, None]) % len(places) for sign in (1, -1))  # (B, L)
    rows = torch.arange(len(embeds), device=embeds.device)[:, None]
    output = read(body, inputs_embeds=embeds[rows, there], attention_mask=mask[rows, there], **kwargs)
    output.last_hidden_state = output.last_hidden_state[rows, back]
    return output


def _read_rows(body: Any, embeds: Tensor, mask: Tensor | None, memory: RowMemory) -> BaseModelOutputWithPast:
    """Each row by itself, without its padding on the left."""
    hidden = torch.zeros_like(embeds)
    width = embeds.shape[1]
    for row, known in enumerate(memory.lengths):
        size = width if mask is None else int(mask[row, -width:].sum())
        if size:
            piece = embeds[row : row + 1, width - size :]
            output, memory.kept[row] = _read_row(body, piece, memory.kept[row], known)
            hidden[row, width - size :] = output[0]
        memory.lengths[row] += size
    memory.padded += width
    return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=memory)


def _read_row(body: Any, embeds: Tensor, kept: Any, known: int) -> tuple[Tensor, Any]:
    """embeds: (1, L, D) after ``known`` positions -> (1, L, D), and what is kept from now on."""
    takes = _takes(body.__class__)
    if "past_key_values" in takes:
        if kept is None and not _has_own_cache(body.__class__):
            # BART's config counts its encoder's layers
            kept = DynamicCache() if _counts_for_itself(body) else DynamicCache(config=body.config)
        positions = torch.arange(known, known + embeds.shape[1], device=embeds.device)[None]
        output = read(
            body, inputs_embeds=embeds, position_ids=positions, past_key_values=kept, use_cache=True
        )
        return output.last_hidden_state, output.past_key_values
    name = next((name for name in STATES if name in takes), None)
    if name is None:  # it keeps nothing: all is read again
        whole = embeds if kept is None else torch.cat([kept, embeds], 1)
        return read(body, inputs_embeds=whole).last_hidden_state[:, known:], whole
    if kept is not None and embeds.shape[1] > 1:  # most take one position at a time after the first pass
        outputs = []
        for position in range(embeds.shape[1]):
            one, kept = _read_row(body, embeds[:, position : position + 1], kept, known + position)
            outputs.append(one)
        return torch.cat(outputs, 1), kept
    output = read(body, inputs_embeds=embeds, use_cache=True, **{name: kept})
    return output.last_hidden_state, output[name]
