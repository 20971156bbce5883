"""LLMs of any family of transformers: a few of the table in docs/any-part.md, and what is refused."""

import os
import re
import runpy
from pathlib import Path

import pytest
import torch
from tiny_llms import LLMS, ROWS, STEPS, config_of, llm_folder, try_llm
from tiny_parts import byte_tokenizer
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, BertLMHeadModel, T5Config

from lalm.inference.engine import Engine
from lalm.inference.likelihood import log_likelihoods
from lalm.inference.options import Options
from lalm.models.assemble import build_model
from lalm.models.load import load_model
from lalm.models.save import save_model

PAGE = Path(__file__).parents[2] / "docs" / "any-part.md"
SOME = (  # one of each kind: positions, ALiBi, narrow embeddings, scaled logits, recurrent, no cache, mixed
    *("gpt2", "bloom", "opt", "cohere", "mamba", "rwkv", "openai-gpt", "jamba", "gemma3", "qwen2"),
    *("deepseek_v3", "minimax", "llama4_text", "aya_vision"),
)
OPTIONS = {"group_size": 5, "connector_width": 16, "remainder": "pad"}


def rows_of(page):
    lines = re.findall(r"^\| `([\w-]+)` \|(.*)\|$", page.split("<!-- llms -->")[1], re.MULTILINE)
    return {kind: [cell.strip() for cell in rest.split("|")] for kind, rest in lines}


@pytest.mark.skipif("LALM_TABLES" not in os.environ, reason="makes the tables of the docs, in minutes")
def test_the_tables_are_made():
    runpy.run_path(str(PAGE.parents[1] / "benchmarks" / "any_part.py"))["main"]([])


def test_the_table_names_every_family():
    rows = rows_of(PAGE.read_text())
    assert list(rows) == list(LLMS) and len(rows) >= 25
    assert all(row[0] == LLMS[kind].note for kind, row in rows.items())


@pytest.mark.parametrize("kind", SOME)
def test_the_table_is_right(kind, tiny_folders, tmp_path):
    told = try_llm(llm_folder(kind, tmp_path / "llm"), tiny_folders[0], tmp_path)
    assert list(told.values()) == rows_of(PAGE.read_text())[kind][1:] == ["yes"] * len(STEPS)


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("gemma4_text", {"hidden_size_per_layer_input": 8}, "does not read embeddings by themselves"),
        ("modernbert-decoder", {"bos_token_id": 1}, "more than one linear layer between its body and its"),
        ("cpmant", {}, "takes tokens alone"),
    ],
)
def test_llms_that_read_more_than_embeddings_or_have_more_than_a_head(
    kind, fields, said, tiny_folders, tmp_path
):
    tokenizer = byte_tokenizer()
    config = config_of(kind, vocab_size=len(tokenizer) - 1, **fields)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=said) as refused:
        build_model("acdc", encoder=str(tiny_folders[0]), llm=str(tmp_path), options=OPTIONS)
    assert len(str(refused.value).splitlines()) == 1 and len(str(refused.value)) < 400


@pytest.mark.parametrize("kind", ["rwkv", "jamba"])
def test_recurrent_llms_rank_answers_and_use_beams(kind, tiny_folders, tmp_path):
    llm = llm_folder(kind, tmp_path / "llm")
    model, processor = build_model("acdc", encoder=str(tiny_folders[0]), llm=str(llm), options=OPTIONS)
    with torch.no_grad():
        padded = model(**processor.batch(ROWS)).logits[:, -1]
        single = torch.cat([model(**processor.batch([row])).logits[:, -1] for row in ROWS])
    torch.testing.assert_close(padded, single, atol=1e-4, rtol=1e-3)
    engine = Engine(model, processor, kind)
    together = log_likelihoods(engine, ROWS[0], ["a dog", "rain", "a very loud bell"])
    alone = [log_likelihoods(engine, ROWS[0], [text])[0] for text in ("a dog", "rain", "a very loud bell")]
    assert together == pytest.approx(alone, abs=1e-3)
    beams = Options(max_new_tokens=5, beams=2)
    assert [r.text for r in engine.reply(ROWS, beams)] == [engine.reply([r], beams)[0].text for r in ROWS]


def test_what_cannot_go_on_with_a_text_is_refused_in_a_sentence(tiny_folders, tmp_path):
    shape = {"num_layers": 1, "d_model": 16, "d_ff": 16, "num_heads": 2, "d_kv": 8, "vocab_size": 258}
    bert = BertConfig(
        vocab_size=258, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    for name, model, told in (
        ("t5", AutoModel.from_config(T5Config(**shape)), "is a 't5': an encoder-decoder"),
        ("bert", BertLMHeadModel(bert), r"\(bert\) "),
    ):
        model.save_pretrained(tmp_path / name)
        byte_tokenizer().save_pretrained(tmp_path / name)
        with pytest.raises(ValueError, match=told) as refused:
            build_model("acdc", encoder=str(tiny_folders[0]), llm=str(tmp_path / name), options=OPTIONS)
        assert len(str(refused.value).splitlines()) == 1


def test_a_base_model_without_a_chat_template_is_asked_in_plain_text(tiny_folders, tmp_path):
    tokenizer = byte_tokenizer()
    markers = ("<|im_start|>", "<|im_end|>", "<|audio|>")
    folder = tmp_path / "llm"
    AutoModelForCausalLM.from_config(config_of("gpt2", vocab_size=len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / file).read_text()
        for marker in markers:
            text = text.replace(marker, marker.replace("|", "").replace("im_end", "end of text"))
        (folder / file).write_text(text)
    model, processor = build_model("acdc", encoder=str(tiny_folders[0]), llm=str(folder), options=OPTIONS)
    assert not model.config.role_markers
    assert "<|im_start|>" not in processor.render(ROWS[0])[0]
    save_model(model, processor, tmp_path / "slim", slim=True)
    again, its = load_model(tmp_path / "slim")
    assert its.render(ROWS[0]) == processor.render(ROWS[0]) and not again.config.role_markers
