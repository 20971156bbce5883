"""The model base with other families of LLMs, what is trained, and slim checkpoints."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    MistralConfig,
    Qwen2Config,
)

from lalm.data.sample import Sample, ask
from lalm.models.assemble import build_model
from lalm.models.load import load_model
from lalm.models.lora import add_lora
from lalm.models.save import save_model

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
FAMILIES = {
    "qwen2": (Qwen2Config, {}),
    "mistral": (MistralConfig, {"head_dim": 8}),
    "gemma2": (Gemma2Config, {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 2.0}),
    "gemma3": (Gemma3TextConfig, {"head_dim": 8, "query_pre_attn_scalar": 8}),
}
OPTIONS = {"group_size": 5, "connector_width": 24, "remainder": "pad"}


@pytest.fixture(params=sorted(FAMILIES))
def family(request, tiny_folders, tmp_path):
    """A folder of a tiny random LLM of the family, with the tests' tokenizer beside it."""
    from transformers import AutoTokenizer

    torch.manual_seed(1)
    config_class, more = FAMILIES[request.param]
    tokenizer = AutoTokenizer.from_pretrained(tiny_folders[1])
    config = config_class(vocab_size=len(tokenizer) + 3, **SHAPE, **more)
    llm = AutoModelForCausalLM.from_config(config).eval()
    llm.save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    return tmp_path / "llm"


def test_text_logits_are_the_llms_own(family, tiny_folders):
    model, processor = build_model("acdc", encoder=str(tiny_folders[0]), llm=str(family), options=OPTIONS)
    llm = AutoModelForCausalLM.from_pretrained(family, dtype=torch.float32).eval()
    batch = processor.batch([Sample(messages=({"role": "user", "content": "Hello there."},))])
    torch.testing.assert_close(model(**batch).logits, llm(**batch).logits.float())


def test_every_family_hears_and_answers(family, tiny_folders, tmp_path):
    model, processor = build_model("acdc", encoder=str(tiny_folders[0]), llm=str(family), options=OPTIONS)
    audio = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    batch = processor.batch([ask([audio], "What?")])
    ids = model.generate(**batch, max_new_tokens=5, do_sample=False)
    assert ids.shape[0] == 1 and 1 <= ids.shape[1] <= 5
    save_model(model, processor, tmp_path / "whole", slim=False)
    again, _ = load_model(tmp_path / "whole")
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits)


def test_slim_checkpoint_holds_only_what_was_trained(tiny, tmp_path):
    model, processor = tiny("acdc")
    add_lora(model, {"rank": 2, "alpha": 4, "targets": ["q_proj"]})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    save_model(model, processor, tmp_path, slim=True)
    again, processor_again = load_model(tmp_path)
    audio = np.zeros(20_000, np.float32)
    batch = processor.batch([ask([audio], "What?")])
    assert processor_again.batch([ask([audio], "What?")])["input_ids"].tolist() == batch["input_ids"].tolist()
    torch.testing.assert_close(again(**batch).logits, model.eval()(**batch).logits)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert size < 4 * sum(p.numel() for p in model.parameters()) / 2


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "is damaged"),
        (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), "is not a lalm model"),
        (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x10" * 40), "is damaged or cut short"),
    ],
)
def test_broken_checkpoints_are_named(tiny, tmp_path, break_it, message):
    model, processor = tiny("acdc")
    save_model(model, processor, tmp_path, slim=True)
    break_it(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path)


def test_checkpoint_of_another_shape_is_refused(tiny, tmp_path):
    model, processor = tiny("acdc")
    save_model(model, processor, tmp_path, slim=True)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, "connector_width": 25}))
    with pytest.raises(ValueError, match=r"linear_1.* has shape"):
        load_model(tmp_path)


def test_unknown_pattern_and_option_are_named(tiny, tiny_folders):
    model, _ = tiny("acdc")
    with pytest.raises(ValueError, match="no parameter is called 'conector'"):
        model.set_trainable(["conector"])
    with pytest.raises(ValueError, match="acdc has no option 'group'"):
        build_model("acdc", encoder=str(tiny_folders[0]), llm=str(tiny_folders[1]), options={"group": 5})


def test_a_head_that_is_tied_to_the_embeddings_trains_under_either_name(tiny_folders, tmp_path):
    """The recipes say lm_head, and small LLMs have none of their own."""
    llm = AutoModelForCausalLM.from_config(Qwen2Config(vocab_size=300, tie_word_embeddings=True, **SHAPE))
    llm.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_folders[1]).save_pretrained(tmp_path)
    model, _ = build_model("qwen2-audio", encoder=str(tiny_folders[0]), llm=str(tmp_path))
    names = model.set_trainable(["connector", "lm_head"])
    assert "model.language_model.embed_tokens.weight" in names and "lm_head.weight" not in names
    assert model.lm_head.weight is model.get_input_embeddings().weight and model.lm_head.weight.requires_grad
    assert not model.model.language_model.layers[0].mlp.up_proj.weight.requires_grad
    assert model.set_trainable(["language_model", "lm_head"]) == model.set_trainable(["language_model"])


def test_paper_shapes():
    """Section 3.1.2: 102 tokens per 10.24 s, a connector of 16,259,072 parameters."""
    from transformers import LlamaConfig

    from lalm.systems.acdc.model import ACDCConfig, ACDCConnector

    config = ACDCConfig(text_config=LlamaConfig(hidden_size=4096))
    assert config.num_audio_tokens(163_840) == 102
    with torch.device("meta"):
        connector = ACDCConnector(config)
    assert sum(p.numel() for p in connector.parameters()) == 16_259_072
