"""4-bit weights of the steps of decoding: near the float ones, the same alone as beside others, kept."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import tiny_llms
import torch
from safetensors.torch import load_file
from tiny_llms import ROWS, slim_folder
from tiny_parts import noise, warnings_of
from torch import nn

from lalm.cli.app import run
from lalm.inference.engine import Engine, Options
from lalm.inference.threads import products_of
from lalm.models import load
from lalm.models.int4 import Codes, Int4Product, fitted, multiplies, plain, takes
from lalm.models.load import load_model
from lalm.models.lora import merge_lora
from lalm.models.next_position import NextPosition
from lalm.models.prefill import preallocated_cache
from lalm.models.save import save_model

LONG = Options(max_new_tokens=24, loop_guard=False)
needs_product = pytest.mark.skipif(not multiplies(), reason="torch has no 4-bit product for this CPU")


def product_of(parts: list[Codes], bias: torch.Tensor | None = None) -> Int4Product:
    with ThreadPoolExecutor(1) as packing:
        return Int4Product(parts, bias, packing)


def test_weights_are_fitted_better_than_by_their_ends():
    torch.manual_seed(0)
    weight = torch.randn(48, 128)
    groups = weight.view(48, 4, 32)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    ends = ((groups - low) / (high - low) * 15).round() / 15 * (high - low) + low
    by_ends, found = (ends.view(48, 128) - weight).norm(), (plain(fitted(weight)) - weight).norm()
    assert found < 0.93 * by_ends
    assert found / weight.norm() < 0.08


def test_weights_that_were_in_4_bits_are_found_again():
    torch.manual_seed(1)
    codes = torch.randint(0, 16, (32, 6, 32))
    codes[..., 0], codes[..., 1] = 0, torch.randint(13, 16, (32, 6))
    codes[..., 2:] = codes[..., 2:].minimum(codes[..., 1:2])
    scale, low = torch.rand(32, 6, 1) + 0.1, -torch.rand(32, 6, 1) * 16
    weight = (codes * scale + low * scale).view(32, -1).bfloat16()
    error = (plain(fitted(weight)) - weight.float()).norm() / weight.float().norm()
    assert error < 0.01  # what bfloat16 leaves of the scales


@needs_product
@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 1, 112)])
def test_products_are_those_of_the_weights_that_codes_stand_for(bias):
    torch.manual_seed(2)
    parts = [fitted(torch.randn(rows, 96)) for rows in (64, 48)]
    inputs = torch.randn(5, 96)
    wanted = inputs.bfloat16().float() @ torch.cat([plain(part) for part in parts]).t()
    wanted = wanted if bias is None else wanted + bias
    found = product_of(parts, bias)(inputs)
    assert found.dtype == torch.float32 and (found - wanted).norm() / wanted.norm() < 0.004  # bfloat16's


@needs_product
def test_a_row_is_the_same_to_the_last_bit_alone_and_beside_others():
    torch.manual_seed(3)
    product, rows = product_of([fitted(torch.randn(1152, 896))]), torch.randn(17, 896)
    alone = torch.cat([product(row[None]) for row in rows])
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for count in (1, 2, 3, 4, 5, 8, 16, 17):
                assert torch.equal(product(rows[:count]), alone[:count]), (threads, count)
    finally:
        torch.set_num_threads(before)


def test_the_lower_layers_and_every_last_product_are_taken():
    shape = (64, 64)
    assert takes("layers.11.self_attn.q_proj", 24, shape) and takes("layers.0.mlp.gate_proj", 24, shape)
    assert not takes("layers.12.self_attn.q_proj", 24, shape) and takes("layers.23.mlp.down_proj", 24, shape)
    assert not takes("layers.0.mlp.gate_proj", 24, (64, 48)) and not takes("lm_head", 24, shape)


@pytest.fixture
def folder(tiny_folders, tmp_path, monkeypatch):
    """A slim checkpoint with LoRA, of a Qwen2 whose sizes 4-bit weights fit."""
    monkeypatch.setenv("LALM_CACHE", str(tmp_path / "cache"))
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    family = tiny_llms.LLMS["qwen2"]
    monkeypatch.setitem(tiny_llms.LLMS, "qwen2", replace(family, fields={**family.fields, **sizes}))
    lora = {"rank": 2, "alpha": 4, "targets": ["q_proj", "up_proj", "down_proj"]}
    return slim_folder("qwen2", tiny_folders, tmp_path, lora)


@needs_product
def test_codes_are_fitted_once_and_answers_do_not_depend_on_who_is_beside(folder, tmp_path):
    said = []
    models = [load_model(folder, dtype="int4", told=said.append) for _ in range(2)]
    assert [text for text in said if "4-bit" in text] == [
        "fitting 4-bit weights to the LLM's lower layers, once"
    ]
    (kept,) = (tmp_path / "cache" / "int4").glob("*.safetensors")
    assert {tensor.dtype for tensor in load_file(kept).values()} == {torch.uint8, torch.bfloat16}
    engine = Engine(*models[1], "kept")
    together = [reply.text for reply in engine.reply(ROWS, LONG)]
    assert together == [engine.reply([row], LONG)[0].text for row in ROWS]
    assert together == [reply.text for reply in Engine(*models[0], "anew").reply(ROWS, LONG)]
    products_of(models[0][0])()  # what threads are timed with
    kept.write_bytes(kept.read_bytes()[:100])  # cut short: fitted anew
    assert [r.text for r in Engine.load(str(folder), dtype="int4").reply(ROWS, LONG)] == together


@needs_product
def test_a_step_has_the_same_bits_alone_and_is_near_the_step_in_8_bits(folder):
    body = load_model(folder, dtype="int4")[0].model.language_model
    assert any(isinstance(module, Int4Product) for module in body.modules())
    torch.manual_seed(4)
    rows, ones = torch.randn(3, 4, 64), torch.ones(3, 4, dtype=torch.long)

    def after(body: nn.Module, which: slice) -> torch.Tensor:
        step, cache = NextPosition(body), preallocated_cache()
        for place in range(4):
            found = step(rows[which, place], ones[which, : place + 1], cache)
        return found

    together = after(body, slice(0, 3))
    assert all(torch.equal(after(body, slice(i, i + 1))[0], together[i]) for i in range(3))
    eight = after(load_model(folder, dtype="int8")[0].model.language_model, slice(0, 3))
    assert 1e-4 < (eight - together).norm() / eight.norm() < 0.3


def test_where_4_bits_cannot_be_8_are_taken_with_the_reason(folder, tmp_path, monkeypatch, capsys, caplog):
    clip = str(noise(tmp_path / "a.wav", 1.0, seed=1))
    words = ["ask", clip, "What?", "--max-new-tokens", "8", "--json", "--model"]
    assert run([*words, str(folder), "--dtype", "int8"]) == 0
    wanted = json.loads(capsys.readouterr().out)["answer"]
    monkeypatch.setattr(load, "multiplies", lambda: False)
    why = "int8 is taken instead of int4: torch has no fast product of 4-bit weights for this CPU"
    assert run([*words, str(folder), "--dtype", "int4"]) == 0
    assert warnings_of(caplog) == [why]  # and so on standard error, where nothing else takes it
    assert json.loads(capsys.readouterr().out)["answer"] == wanted
    model, processor = load_model(folder)
    merge_lora(model)
    save_model(model, processor, tmp_path / "whole", slim=False)
    caplog.clear()
    assert run([*words, str(tmp_path / "whole"), "--dtype", "int4"]) == 0
    assert len(warnings_of(caplog)) == 1 and "a part by themselves" in caplog.text


@needs_product
def test_codes_that_cannot_be_kept_are_used_all_the_same(folder, tmp_path, monkeypatch, caplog):
    wanted = [r.text for r in Engine.load(str(folder), dtype="int4").reply(ROWS, LONG)]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LALM_CACHE", str(tmp_path / "file"))
    assert [r.text for r in Engine.load(str(folder), dtype="int4").reply(ROWS, LONG)] == wanted
    assert [said.split(" cannot")[0] for said in warnings_of(caplog)] == [
        "the LLM's int8 weights",
        "the LLM's int4 weights",
    ]
