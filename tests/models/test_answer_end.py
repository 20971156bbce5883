"""How an answer ends: one token, read off the template, at which training, generation and files agree."""

import json
from importlib import resources

import numpy as np
import pytest
from tiny_parts import byte_tokenizer, llama_folder, sentencepiece_llama
from tiny_runs import settings, training_world
from transformers import AutoTokenizer, GenerationConfig

from lalm.data.readers import read_manifest
from lalm.data.sample import ask
from lalm.inference.engine import Engine, Options
from lalm.models.answer_end import AnswerEndError, answer_ends, check_learned, written_end
from lalm.models.load import load_model
from lalm.systems import SYSTEMS
from lalm.training import run as train

TEMPLATES = resources.files("lalm.models") / "templates"
CHATML, PLAIN, VICUNA, LLAMA3 = (
    (TEMPLATES / f"{name}.jinja").read_text() for name in ("chatml", "plain", "vicuna", "llama3")
)
# As Zephyr, Gemma and Llama 2 write them: a line break, or a space, stands beside the end.
OTHERS = {
    "zephyr": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content + eos_token }}\n{% endfor %}",
    "gemma": (
        "{% for m in messages %}<start_of_turn>{{ m.role }}\n"
        "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    ),
    "llama 2": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
}


@pytest.mark.parametrize(
    "template, own, end",
    [
        (CHATML, "<|im_end|>", "<|im_end|>"),
        (CHATML, "<|endoftext|>", "<|im_end|>"),  # a base LLM: it stops at another token than it is taught
        (LLAMA3, "<|end_of_text|>", "<|eot_id|>"),
        (PLAIN, "<|endoftext|>", "<|endoftext|>"),
        (OTHERS["zephyr"], "</s>", "</s>"),
        (OTHERS["gemma"], "<eos>", "<end_of_turn>"),
        (OTHERS["llama 2"], "</s>", "</s>"),
    ],
)
def test_the_end_is_what_the_template_writes_after_an_answer(template, own, end):
    tokenizer = byte_tokenizer(own)
    tokenizer.add_tokens(["<|eot_id|>", "<end_of_turn>"])
    found = written_end(tokenizer, template)
    assert tokenizer.convert_ids_to_tokens(found) == end
    ends = answer_ends(tokenizer, template, GenerationConfig(eos_token_id=[3, 5]))
    assert ends == {3, 5, tokenizer.convert_tokens_to_ids(end), tokenizer.eos_token_id}


def test_a_sentencepiece_llm_ends_as_vicuna_does(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(sentencepiece_llama(tmp_path))
    assert tokenizer.convert_ids_to_tokens(written_end(tokenizer, VICUNA)) == "</s>"


@pytest.mark.parametrize(
    "template, says",
    [
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "writes nothing after"),
        ("{% for m in messages %}### {{ m.content }} ###{% endfor %}", "writes ### after an answer"),
        ("{{ messages[0].content }}<|im_end|>", "leaves out the answer"),
        ("{{ raise_exception('no') }}", "refuses a question"),
    ],
)
def test_a_template_that_ends_no_answer_is_one_sentence(template, says):
    with pytest.raises(AnswerEndError, match=says):
        written_end(byte_tokenizer(), template)


@pytest.fixture(scope="module")
def base_world(tmp_path_factory):
    """A training world whose LLM is a base one: its own end is not the one that ChatML teaches."""
    folder = training_world(tmp_path_factory.mktemp("base"))
    return folder, llama_folder(folder / "llm", end="<|endoftext|>")


@pytest.mark.parametrize("system", ["acdc", "qwen2-audio"])
def test_answers_of_a_base_llm_stop_where_training_taught_it(base_world, tmp_path, system):
    world, _ = base_world
    changes = {} if system == "acdc" else {"init": {"options": {}}}
    optim = {"max_steps": 60, "learning_rate": 1e-2}
    out = train.run(
        settings(
            world,
            tmp_path / "run",
            system=system,
            trainable=["connector", "language_model", "lm_head"],
            lora=None,
            optim=optim,
            **changes,
        )
    )
    engine = Engine(*load_model(out), "base")
    clips = [sample.prompt() for sample in read_manifest(world / "train.jsonl")][:4]
    replies = engine.reply(clips, Options(max_new_tokens=120))
    assert all(reply.num_tokens < 120 for reply in replies)
    tokenizer = engine.processor.tokenizer
    stops = {tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")}
    assert engine.ends() == stops
    written = json.loads((out / "generation_config.json").read_text())["eos_token_id"]
    assert set(written) == stops  # whoever generates with the folder's own settings stops too


def test_training_refuses_what_the_doctor_would_see(base_world, tmp_path, monkeypatch):
    world, _ = base_world
    endless = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    endless += "{% if add_generation_prompt %}assistant: {% endif %}"
    monkeypatch.setattr("lalm.models.chat_template.bare_template", lambda tokenizer: endless)
    with pytest.raises(AnswerEndError, match="writes nothing after an answer"):
        train.run(settings(world, tmp_path / "run"))
    assert not list(tmp_path.glob("run/checkpoint*"))


def test_every_system_learns_its_end(tiny):
    for system in SYSTEMS:
        model, processor = tiny(system)
        assert check_learned(processor) > 1
        end = written_end(processor.tokenizer, processor.chat_template)
        assert end in model.generation_config.eos_token_id
        batch = processor.batch([ask([np.zeros(16_000, np.float32)], "?").with_target("Yes.")], labels=True)
        assert end in batch["labels"][0]
