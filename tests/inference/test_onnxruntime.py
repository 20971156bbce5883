"""``--engine onnxruntime``: the graph says what the LLM says, whatever its family, and is made once."""

import errno
import json
from collections import namedtuple

import numpy as np
import pytest
import torch
from tiny_llms import ROWS, config_of
from tiny_parts import byte_tokenizer, noise, warnings_of
from transformers import AutoModelForCausalLM

from lalm.cli.app import run
from lalm.inference.conversation import Conversation
from lalm.inference.engine import Engine, TooLongError
from lalm.inference.one_question import kept_llm
from lalm.inference.onnxruntime import engine as opening
from lalm.inference.onnxruntime.engine import OnnxRuntimeEngine
from lalm.inference.onnxruntime.graph import Graph, GraphError, check_llm, graph_of
from lalm.inference.onnxruntime.running import RunningLLM
from lalm.inference.onnxruntime.weight_blocks import int8_blocks
from lalm.inference.options import Options
from lalm.models import load
from lalm.models.assemble import build_model
from lalm.models.save import save_model

FAMILIES = {  # with heads of 16
    "llama": {"attention_bias": True, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16},
    "mistral": {"sliding_window": None, "num_key_value_heads": 1, "head_dim": 16},
    "qwen2": {"num_attention_heads": 2, "num_key_value_heads": 1},
    "qwen3": {"head_dim": 16},
    "smollm3": {"no_rope_layers": [1, 0], "num_attention_heads": 2},
}
LORA = {"rank": 2, "alpha": 4, "targets": ["q_proj", "v_proj", "down_proj"]}
OPTIONS = Options(max_new_tokens=24, loop_guard=False, repetition_penalty=1.1)


@pytest.fixture
def folder(tiny_folders, tmp_path, monkeypatch):
    """Writes a model folder with an LLM of that family and LoRA that is not zero; the cache is a new one."""
    monkeypatch.setenv("LALM_CACHE", str(tmp_path / "cache"))

    def make(kind="qwen2", **fields):
        torch.manual_seed(1)
        tokenizer = byte_tokenizer()
        fields = {"vocab_size": len(tokenizer) - 1} | FAMILIES.get(kind, {}) | fields
        llm = AutoModelForCausalLM.from_config(config_of(kind, **fields))
        with torch.no_grad():
            for weight in llm.parameters():
                weight.normal_(float(weight.ndim == 1), 0.2)
        llm.generation_config.eos_token_id = tokenizer.eos_token_id
        for one in (llm, tokenizer):
            one.save_pretrained(tmp_path / "llm")
        model, processor = build_model(
            "acdc", encoder=str(tiny_folders[0]), llm=str(tmp_path / "llm"), lora=LORA
        )
        for name, one in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(one, std=0.1)
        save_model(model, processor, tmp_path / "mine", slim=True)
        return str(tmp_path / "mine")

    return make


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_answers_are_those_of_the_engine(folder, kind):
    model = folder(kind)
    wanted = [reply.text for reply in Engine.load(model, "cpu", torch.float32).reply(ROWS, OPTIONS)]
    engine = OnnxRuntimeEngine.open(model, "float32")
    assert [reply.text for reply in engine.reply(ROWS, OPTIONS)] == wanted
    assert len(set(wanted)) > 1  # they hear something


def test_logits_are_the_same_for_a_prompt_in_parts(folder, monkeypatch):
    model, _ = load.load_model(
        folder(
            "llama",
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 10_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        )
    )
    llm = RunningLLM(graph_of(model, "float32", "weights.bin"), threads=1)
    rows = torch.randn(1, 40, model.config.text_config.hidden_size)
    with torch.no_grad():
        body = model.model.language_model
        wanted = model.logits(body(inputs_embeds=rows, use_cache=False).last_hidden_state)[0].numpy()
    given = rows[0].numpy()
    np.testing.assert_allclose(llm.read(given), wanted[-1], atol=1e-4)
    llm.keep(25)  # the rest is forgotten, and read again
    np.testing.assert_allclose(llm.read(given[25:26]), wanted[25], atol=1e-4)
    np.testing.assert_allclose(llm.read(given[26:]), wanted[-1], atol=1e-4)
    llm.keep(0)
    monkeypatch.setattr("lalm.inference.onnxruntime.running.AT_ONCE", 7)
    np.testing.assert_allclose(llm.read(given), wanted[-1], atol=1e-4)


def test_rounded_weights_say_nearly_the_same(folder):
    model, _ = load.load_model(folder(tie_word_embeddings=True))
    rows = torch.randn(1, 30, model.config.text_config.hidden_size)
    llm = RunningLLM(graph_of(model, "int8", "weights.bin"), threads=1)
    found = torch.from_numpy(llm.read(rows[0].numpy()))
    with torch.no_grad():
        wanted = model.logits(model.model.language_model(inputs_embeds=rows).last_hidden_state)[0, -1]
    apart = torch.nn.functional.kl_div(
        found.log_softmax(0), wanted.log_softmax(0), log_target=True, reduction="sum"
    )
    assert 0 < float(apart) < 0.02


def test_blocks_stand_for_the_weights():
    weight = torch.randn(5, 70, generator=torch.Generator().manual_seed(0))
    blocks = int8_blocks(weight)
    assert blocks.codes.shape == (5, 1, 128)
    found = (blocks.codes.astype(np.float32) - 128) * blocks.scales[..., None]
    assert np.all(np.abs(found[:, 0, :70] - weight.numpy()) <= blocks.scales / 2 * 1.001)
    assert not found[:, 0, 70:].any()


def test_it_is_made_once_and_again_when_it_is_broken(folder, tmp_path, monkeypatch, capsys, caplog):
    model = folder()
    clip = str(noise(tmp_path / "a.wav", 1.0, seed=1))
    words = [
        "ask",
        clip,
        "What?",
        "--model",
        model,
        "--engine",
        "onnxruntime",
        "--max-new-tokens",
        "8",
        "--json",
    ]
    assert run(words) == 0
    first = json.loads(capsys.readouterr().out)["answer"]
    (kept,) = (tmp_path / "cache" / "onnxruntime").glob("*.onnx")
    made = kept.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(load, "load_causal_lm", None)  # the LLM's own weights are not read again
        assert run(words) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == first and kept.stat().st_mtime_ns == made
    weights = kept.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:100])
    assert run(words) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == first and weights.stat().st_size > 100
    (said,) = warnings_of(caplog)
    assert said.startswith(f"ONNX Runtime cannot open '{kept}': ") and said.endswith(": it is made anew")


def test_the_largest_weights_are_packed_before_the_others(folder):
    model, _ = load.load_model(folder(), dtype=torch.float32)
    nodes = graph_of(model, "int8", "weights.bin").model.graph.node
    assert [list(node.output) for node in nodes].index(["logits"]) == 0


def full(graph, draft):
    """A disk that is full after some of the weights."""
    draft.with_suffix(".bin").write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("fault", ["no room", "full meanwhile", "no right"])
def test_what_cannot_be_kept_is_said_and_the_answer_is_the_same(folder, tmp_path, monkeypatch, caplog, fault):
    model = folder()
    wanted = OnnxRuntimeEngine.open(model).reply(ROWS[:1], OPTIONS)[0].text
    assert not warnings_of(caplog)
    monkeypatch.setenv("LALM_CACHE", str(tmp_path / "other"))
    if fault == "no room":
        usage = namedtuple("usage", "total used free")(1, 1, 1000)
        monkeypatch.setattr(opening.shutil, "disk_usage", lambda place: usage)
    elif fault == "full meanwhile":
        monkeypatch.setattr(Graph, "write", full)
    else:
        (tmp_path / "other").write_text("a file")
    assert OnnxRuntimeEngine.open(model).reply(ROWS[:1], OPTIONS)[0].text == wanted
    why = {
        "no room": "the disk is full",
        "full meanwhile": "the disk is full",
        "no right": "Not a directory",
    }
    assert warnings_of(caplog) == [
        f"ONNX Runtime's graph of the LLM cannot be kept in '{tmp_path / 'other' / 'onnxruntime'}' "
        f"({why[fault]}): it is made at every start"
    ]
    assert not list((tmp_path / "other" / "onnxruntime").glob("*.bin"))


def test_a_cache_that_is_only_read_is_enough(folder, monkeypatch, caplog):
    model = folder()
    wanted = OnnxRuntimeEngine.open(model).reply(ROWS[:1], OPTIONS)[0].text
    monkeypatch.setattr("lalm.weights.kept_files.FileLock.acquire", None)  # nothing is locked or written
    assert OnnxRuntimeEngine.open(model).reply(ROWS[:1], OPTIONS)[0].text == wanted
    assert not warnings_of(caplog)


def test_it_takes_the_threads_that_may_be_used(folder, monkeypatch):
    taken, whole = [], opening.RunningLLM
    monkeypatch.setattr(opening, "usable", lambda: 3)
    monkeypatch.setattr(
        opening, "RunningLLM", lambda graph, threads: taken.append(threads) or whole(graph, threads=1)
    )
    model = folder()
    engine = OnnxRuntimeEngine.open(model)
    assert OnnxRuntimeEngine.open(model) and taken == [3, 3]
    monkeypatch.setattr("lalm.inference.one_question.usable", lambda: 3)
    heard, before = engine.model.get_audio_features, torch.get_num_threads()
    monkeypatch.setattr(
        engine.model, "get_audio_features", lambda *a: taken.append(torch.get_num_threads()) or heard(*a)
    )
    engine.reply(ROWS[:1], OPTIONS)
    assert taken[2:] == [3] and torch.get_num_threads() == before  # the encoder too


def test_a_conversation_too_long_for_the_library_forgets_its_oldest_turns(folder):
    engine = OnnxRuntimeEngine.open(folder(), "float32")
    options = Options(max_new_tokens=8, loop_guard=False)
    asked = Conversation(engine, options)
    asked.reply([ROWS[0].messages[0]["content"][0]["audio"]], "What?")
    engine.context = len(engine._known) + 8  # less than the model's own
    with pytest.raises(TooLongError, match="ONNX Runtime has room for: leave --engine onnxruntime out"):
        asked.reply(text="Why?")
    asked.drop_oldest = True
    assert asked.reply(text="Why?") and asked.dropped == 1


def test_a_conversation_goes_on_where_it_was(folder):
    engine = OnnxRuntimeEngine.open(folder(), "float32")
    read, calls = engine.llm.read, []
    engine.llm.read = lambda rows: calls.append(len(rows)) or read(rows)
    engine.reply(ROWS[:1], OPTIONS)
    whole = calls[0]
    calls.clear()
    engine.reply(ROWS[:1], OPTIONS)
    assert calls[0] == 1 < whole  # all but the last position were known


def test_what_it_does_not_do_is_said(folder, tmp_path, capsys):
    model, clip = folder(), str(noise(tmp_path / "a.wav", 1.0, seed=1))
    words = ["ask", clip, "What?", "--model", model, "--engine", "onnxruntime"]
    for more, told in (
        (["--beams", "2"], "without beams"),
        (["--lora-scale", "0.5"], "scale cannot be set"),
        (["--dtype", "bfloat16"], "has no bfloat16 weights"),
        (["--dtype", "int4"], "has no int4 weights: say --dtype int8 (its default) or float32"),
        (["--device", "cuda"], "on the CPU"),
        (["--protocol", "salmonn"], "no --protocol"),
    ):
        assert run([*words, *more]) == 2
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "kind,fields,told",
    [
        ("gpt2", {}, "is a 'gpt2'"),
        ("llama", {"hidden_act": "gelu"}, "'gelu', not SiLU"),
        ("llama", {"head_dim": 8}, "heads are 8 wide, not a multiple of 16"),
    ],
)
def test_other_llms_are_refused(tiny_folders, tmp_path, kind, fields, told):
    tokenizer = byte_tokenizer()
    llm = AutoModelForCausalLM.from_config(config_of(kind, vocab_size=len(tokenizer) - 1, **fields))
    for one in (llm, tokenizer):
        one.save_pretrained(tmp_path)
    model, _ = build_model("acdc", encoder=str(tiny_folders[0]), llm=str(tmp_path))
    with pytest.raises(GraphError, match=f"'mine' does not run in ONNX Runtime here, because .*{told}"):
        check_llm(model, "mine")


def test_a_refused_llm_is_not_read_and_leaves_nothing_in_the_cache(folder, tmp_path, monkeypatch):
    model = folder("llama", hidden_act="gelu")
    monkeypatch.setattr(opening, "load_model", None)
    with pytest.raises(
        GraphError, match=r"'mine' does not run in ONNX Runtime here, because .*'gelu', not SiLU"
    ):
        OnnxRuntimeEngine.open(model)
    assert not (tmp_path / "cache" / "onnxruntime").exists()


@pytest.mark.parametrize("name", ["model-00002-of-00002.safetensors", "pytorch_model.bin", "salmonn.pth"])
def test_another_copy_is_made_once_any_file_of_weights_has_changed(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_text("weights")
    before = kept_llm(tmp_path, "int8", "onnxruntime", ".onnx")
    (tmp_path / "notes.txt").write_text("changes nothing")
    assert kept_llm(tmp_path, "int8", "onnxruntime", ".onnx") == before
    (tmp_path / name).write_text("others")
    assert kept_llm(tmp_path, "int8", "onnxruntime", ".onnx") != before
