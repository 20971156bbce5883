"""int8 weights kept in the cache: the same answers as rounded anew, made once."""

import time

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tiny_llms import ROWS, slim_folder
from tiny_parts import warnings_of
from torch import nn

from lalm.evaluate.answering import Local
from lalm.evaluate.card import model_card
from lalm.inference.engine import Engine, Options
from lalm.models import int8, int8_weights
from lalm.models.int8 import make_int8
from lalm.models.load import load_model

LONG = Options(max_new_tokens=24, loop_guard=False)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LALM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "int8"


@pytest.mark.parametrize("lora", [None, {"rank": 2, "alpha": 4, "targets": ["q_proj", "up_proj"]}])
def test_kept_weights_answer_as_those_rounded_anew(tiny_folders, tmp_path, cache, caplog, lora):
    folder = slim_folder("qwen2", tiny_folders, tmp_path, lora)
    model, processor = load_model(folder, dtype=torch.bfloat16)
    make_int8(model)
    anew = [reply.text for reply in Engine(model, processor, "anew").reply(ROWS, LONG)]
    for told in (["rounding the LLM's weights to int8, once"], []):
        said = []
        model, processor = load_model(folder, dtype="int8", told=said.append)
        assert said == told
        assert [reply.text for reply in Engine(model, processor, "kept").reply(ROWS, LONG)] == anew
    (kept,) = cache.glob("*.safetensors")
    assert kept.stat().st_mode & 0o444 == 0o444  # a cache can be shared
    assert {tensor.dtype for tensor in load_file(kept).values()} == {
        torch.int8,
        torch.float32,
        torch.bfloat16,
    }
    beginning = kept.read_bytes()[:2000]
    kept.unlink()  # it is mapped still
    kept.write_bytes(beginning)  # cut short: made anew, and that is said
    assert [r.text for r in Engine.load(str(folder), dtype="int8").reply(ROWS, LONG)] == anew
    assert f"'{kept}' cannot be read (" in caplog.text and "it is made anew" in caplog.text
    assert list(cache.glob("*.safetensors")) == [kept] and kept.stat().st_size > 2000


def test_other_families_are_rounded_each_time(tiny_folders, tmp_path, cache):
    folder = slim_folder("gpt_neox", tiny_folders, tmp_path)
    engine = Engine.load(str(folder), dtype="int8")
    assert not cache.exists() and engine.reply(ROWS[:1], LONG)[0].num_tokens > 3
    assert not any(type(m) is nn.Linear for m in engine.model.model.language_model.modules())


def test_an_evaluation_tells_in_which_numbers_it_was_answered(tiny_folders, tmp_path, cache):
    folder = str(slim_folder("qwen2", tiny_folders, tmp_path))
    for name in ("int8", "int4", "bfloat16", "float32"):
        engine = Engine.load(folder, dtype=name)
        assert model_card(Local(engine), None)["dtype"] == name


@pytest.mark.parametrize("fault", ["full", "no folder"])
def test_what_cannot_be_kept_is_said_and_answers_the_same(
    tiny_folders, tmp_path, cache, monkeypatch, caplog, fault
):
    folder = str(slim_folder("qwen2", tiny_folders, tmp_path))
    wanted = [reply.text for reply in Engine.load(folder, dtype="int8").reply(ROWS, LONG)]
    assert not warnings_of(caplog)
    monkeypatch.setenv("LALM_CACHE", str(tmp_path / "other"))
    if fault == "no folder":
        (tmp_path / "other").write_text("a file")
    else:
        said = SafetensorError("I/O error: No space left on device (os error 28)")
        monkeypatch.setattr(int8_weights, "save_file", lambda *a: (_ for _ in ()).throw(said))
    assert [reply.text for reply in Engine.load(folder, dtype="int8").reply(ROWS, LONG)] == wanted
    why = "the disk is full" if fault == "full" else "Not a directory"
    assert warnings_of(caplog) == [
        f"the LLM's int8 weights cannot be kept in '{tmp_path / 'other' / 'int8'}' ({why}): "
        "they are made at every start"
    ]


@pytest.mark.skipif(not int8.packs(), reason="this CPU does not pack int8 weights")
def test_the_first_answer_comes_when_all_weights_are_packed(tiny_folders, tmp_path, cache, monkeypatch):
    folder, pack = slim_folder("qwen2", tiny_folders, tmp_path), int8.packed

    def slowly(weights):
        time.sleep(0.2)
        return pack(weights)

    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # else the choice of threads waits for packing too
    monkeypatch.setattr(int8, "packed", slowly)
    engine = Engine.load(str(folder), dtype="int8")
    products = [m for m in engine.model.modules() if isinstance(m, int8.Int8Product)]
    assert not all(product._packed.done() for product in products)
    engine.reply(ROWS[:1], Options(max_new_tokens=1))
    assert all(product._packed.done() and not product._plain for product in products)
