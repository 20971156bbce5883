"""Attention of a training LLM on a CPU against transformers' own, outputs and gradients."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers import AutoModel, FalconConfig, LlamaConfig, MistralConfig, Phi3Config, Qwen3Config
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from lalm.training import cpu_attention
from lalm.training.cpu_attention import NAME, attend, packed_lengths, padded_lengths, train_on_cpu

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
LENGTHS = [5, 1, 9]


def body(kind: Any = LlamaConfig, dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    torch.manual_seed(0)
    config = kind(**SMALL, **more)
    return AutoModel.from_config(config, attn_implementation="sdpa").to(dtype)


def learned(llm: Any, **given: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What the LLM makes of embeddings, and the gradient that reaches them."""
    torch.manual_seed(1)
    size = next(iter(given.values())).shape
    embeds = torch.randn(*size, 32, dtype=next(llm.parameters()).dtype, requires_grad=True)
    found = llm(inputs_embeds=embeds, use_cache=False, **given).last_hidden_state
    weight = given["attention_mask"][..., None] if "attention_mask" in given else 1
    (found.sin() * weight).sum().backward()
    assert embeds.grad is not None
    return (found * weight).detach(), embeds.grad


PACKED = {"position_ids": torch.cat([torch.arange(n) for n in LENGTHS])[None]}
PADDED = {"attention_mask": torch.tensor([[1] * 7, [0] * 3 + [1] * 4])}
RIGHT = {"attention_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3])}
WHOLE = {"position_ids": torch.arange(6)[None]}
FAMILIES = {
    "llama": (LlamaConfig, {}),
    "qwen3": (Qwen3Config, {"head_dim": 16}),
    "phi3": (Phi3Config, {}),
    "mistral": (MistralConfig, {"sliding_window": 4}),
}


@pytest.mark.parametrize("given", [PACKED, PADDED, RIGHT, WHOLE], ids=["packed", "left", "right", "whole"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_as_transformers(family, given):
    kind, more = FAMILIES[family]
    llm = body(kind, **more)
    expected = learned(llm, **given)
    assert train_on_cpu(llm) and llm.config._attn_implementation == NAME
    for found, wanted in zip(learned(llm, **given), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_rows_are_computed_each_by_itself(monkeypatch):
    """A product of each row's own length in each layer; with a window the mask says more, and is used."""
    seen = []

    def note(query: Any, *args: Any, **more: Any) -> Any:
        seen.append(query.shape[2])
        return torch.nn.functional.scaled_dot_product_attention(query, *args, **more)

    monkeypatch.setattr(cpu_attention, "scaled_dot_product_attention", note)
    llm = body()
    train_on_cpu(llm)
    learned(llm, **PACKED)
    assert seen == LENGTHS * 2
    seen.clear()
    learned(llm, **RIGHT)
    assert seen == [7, 4] * 2
    seen.clear()
    windowed = body(MistralConfig, sliding_window=4)
    train_on_cpu(windowed)
    learned(windowed, **PACKED)
    learned(windowed, **RIGHT)
    assert not seen


def test_bfloat16_is_nearer_to_float32_than_before():
    exact = learned(body(), **PACKED)
    llm = body(dtype=torch.bfloat16)
    theirs = learned(llm, **PACKED)
    train_on_cpu(llm)
    ours = learned(llm, **PACKED)
    for one, other, wanted in zip(ours, theirs, exact, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one - wanted).abs().mean() < 1.2 * (other - wanted).abs().mean()


@pytest.mark.parametrize("given", [PACKED, PADDED, RIGHT, WHOLE], ids=["packed", "left", "right", "whole"])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_the_same_bits_without_gradients(family, given):
    """A reference that has the learner's weights has its probabilities, too."""
    kind, more = FAMILIES[family]
    llm = body(kind, torch.bfloat16, **more)
    train_on_cpu(llm)
    found, _ = learned(llm, **given)
    with torch.no_grad():
        torch.manual_seed(1)
        embeds = torch.randn(*found.shape, dtype=torch.bfloat16)
        again = llm(inputs_embeds=embeds, use_cache=False, **given).last_hidden_state
    assert torch.equal(
        again * (given["attention_mask"][..., None] if "attention_mask" in given else 1), found
    )


def test_an_answer_goes_on_as_ever():
    """The tokens after a prompt attend by transformers' own, in the LLM's own numbers."""
    llm = body(dtype=torch.bfloat16)
    with torch.no_grad():
        memory = llm(input_ids=torch.tensor([[3, 4, 5, 6]]), use_cache=True).past_key_values
        step = {"input_ids": torch.tensor([[7]]), "use_cache": True}
        before = llm(**step, past_key_values=deepcopy(memory)).last_hidden_state
        train_on_cpu(llm)
        assert torch.equal(llm(**step, past_key_values=memory).last_hidden_state, before)


def test_other_attention_stays(monkeypatch):
    llm = AutoModel.from_config(LlamaConfig(**SMALL), attn_implementation="eager")
    assert not train_on_cpu(llm)
    assert llm.config._attn_implementation == "eager"


def test_layers_made_for_one_attention_keep_it(capfd):
    falcon = AutoModel.from_config(
        FalconConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    )
    assert not train_on_cpu(falcon) and falcon.config._attn_implementation == "sdpa"
    assert "attention implementation" not in capfd.readouterr().err


def test_a_bias_by_position_is_not_left_out():
    states = [torch.randn(1, 2, 15, 8) for _ in range(3)]
    row = torch.cat([torch.full((n,), i) for i, n in enumerate(LENGTHS)])
    mask = ((row[:, None] == row[None]) & torch.ones(15, 15).tril().bool())[None, None]
    given = {"scaling": 0.3, "position_bias": torch.randn(1, 2, 15, 15), **PACKED}
    layer: Any = torch.nn.Module()
    layer.is_causal = True
    found, _ = attend(layer, *states, mask, **given)
    wanted, _ = sdpa_attention_forward(layer, *states, mask, **given)
    torch.testing.assert_close(found, wanted)
    without, _ = attend(layer, *states, mask, scaling=0.3, **PACKED)
    assert float((without - wanted).abs().max()) > 0.01


def test_only_masks_of_packed_rows_are_taken_for_one():
    positions = PACKED["position_ids"]
    row = torch.cat([torch.full((n,), i) for i, n in enumerate(LENGTHS)])
    mask = ((row[:, None] == row[None]) & torch.ones(15, 15).tril().bool())[None, None]
    assert packed_lengths(mask, positions, 15) == LENGTHS
    assert packed_lengths(None, positions, 15) is None
    assert packed_lengths(mask.float(), positions, 15) is None
    assert packed_lengths(mask, None, 15) is None
    assert packed_lengths(mask, positions + 1, 15) is None
    assert packed_lengths(mask & ~torch.eye(15).bool().flip(0), positions, 15) is None
    assert packed_lengths(torch.ones_like(mask), positions, 15) is None
    assert packed_lengths(mask[..., :4], positions, 15) is None


def test_only_masks_of_right_padding_are_taken_for_one():
    causal = torch.ones(2, 1, 6, 6).tril().bool()
    real = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]).bool()[:, None, None]
    assert padded_lengths(causal & real) == [6, 3]
    assert padded_lengths(causal) == [6, 6]
    assert padded_lengths(None) is None
    assert padded_lengths((causal & real).float()) is None
    assert padded_lengths(causal & real.flip(3)) is None  # padded on the left
    assert padded_lengths(causal & real & ~causal.tril(-3)) is None  # a window
    assert padded_lengths(torch.ones_like(causal)) is None
    assert padded_lengths((causal & real).expand(2, 4, 6, 6)) is None
    assert padded_lengths((causal & real)[..., :4]) is None
