"""int8 layers: near the float ones, the same to the last bit alone and in any batch, LoRA beside them."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from lalm.data.sample import Sample
from lalm.inference.engine import Engine, Options
from lalm.models import int8
from lalm.models.int8 import Int8Error, Int8Product, Rounded, make_int8, quantise
from lalm.models.lora import add_lora

SAMPLES = Path(__file__).parents[2] / "samples"


def product_of(layer: nn.Linear) -> Int8Product:
    weight, scale = quantise(layer.weight.detach())
    return Int8Product([weight], scale, layer.bias, Rounded())


@pytest.mark.parametrize("bias", [True, False])
def test_products_are_near_the_exact_ones(bias):
    torch.manual_seed(0)
    layer = nn.Linear(96, 40, bias=bias)
    inputs = torch.randn(3, 5, 96) * torch.logspace(-2, 2, 96)  # some channels are far larger, as in LLMs
    wanted, found = layer(inputs).detach(), product_of(layer)(inputs)
    assert found.shape == (3, 5, 40)
    weight, scale = quantise(layer.weight.detach())
    near = nn.functional.linear(inputs, weight.float() * scale[:, None], layer.bias)  # the weights rounded
    assert (found - near).norm() / near.norm() < 1e-4
    assert (near - wanted).norm() / wanted.norm() < 0.01


def test_a_row_is_the_same_to_the_last_bit_alone_beside_others_and_by_either_product(monkeypatch):
    torch.manual_seed(1)
    linear = nn.Linear(64, 33)
    rows = torch.randn(40, 64) * torch.logspace(-3, 3, 40)[:, None]
    rows[3], rows[4, 0] = 0, 1e6
    found = []
    for packed in (int8.packs(), False):
        monkeypatch.setattr(int8, "packs", lambda packed=packed: packed)
        product = product_of(linear)
        for count in (1, 2, 7, 8, 9, 40):
            assert torch.equal(product(rows[:count]), product(rows)[:count]), count
        assert torch.equal(product(rows[3:4])[0], product.bias)
        found.append(product(rows))
    assert torch.equal(*found)


def test_products_do_not_wait_for_packing_and_are_the_same_before_and_after():
    torch.manual_seed(3)
    halves = [quantise(torch.randn(rows, 64)) for rows in (24, 40)]
    parts, scale = [half[0] for half in halves], torch.cat([half[1] for half in halves])
    inputs, hold = torch.randn(30, 64), threading.Event()
    with ThreadPoolExecutor(1) as packing:
        packing.submit(hold.wait)
        product = Int8Product(parts, scale, None, Rounded(), packing)
        before = [product(inputs), product(inputs[:1])]
        hold.set()
    assert all(map(torch.equal, before, [product(inputs), product(inputs[:1])]))
    assert not int8.packs() or not product._plain


def test_layers_that_read_the_same_rows_round_them_once_and_others_anew():
    rounded = Rounded()
    inputs = torch.randn(2, 8)
    first = rounded(inputs)
    assert rounded(inputs)[0] is first[0]
    assert not torch.equal(rounded(inputs + 1)[0], first[0])


def test_a_model_answers_alone_as_in_a_batch(tiny):
    torch.manual_seed(2)
    model, processor = tiny("acdc")
    add_lora(model, {"rank": 2, "alpha": 4, "targets": ["q_proj"]})
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    before = Engine(model.eval(), processor, "tiny")
    parts = [{"type": "audio", "audio": torch.randn(8_000 * n).numpy(), "rate": 16_000} for n in (1, 2, 4)]
    samples = [Sample(({"role": "user", "content": [part]},)) for part in parts]
    options = Options(max_new_tokens=12, loop_guard=False)
    batch = processor.batch(samples)
    with torch.no_grad():
        floats = model(**batch).logits
    make_int8(model)
    assert not any(
        type(layer) is nn.Linear for n, layer in model.model.language_model.named_modules() if "lora" not in n
    )
    with torch.no_grad():
        found = model(**batch).logits
    assert 0 < (found - floats).abs().max() < 0.1 * floats.abs().max()
    engine = Engine(model, processor, "tiny")
    together = [reply.text for reply in engine.reply(samples, options)]
    assert together == [engine.reply([sample], options)[0].text for sample in samples]
    assert before.model is model  # in place


def test_only_cpus_have_them(tiny, monkeypatch):
    model, _ = tiny("acdc")
    monkeypatch.setattr(type(model), "device", property(lambda self: torch.device("cuda")))
    with pytest.raises(Int8Error, match="int8 layers are for CPUs"):
        make_int8(model)
