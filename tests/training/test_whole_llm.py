"""An LLM that trains as a whole, head tied to its embeddings: what is left, opened again and gone on with."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_runs import settings, training_world
from transformers import AutoModelForCausalLM, LlamaConfig

from lalm.data.readers import read_manifest
from lalm.models.load import load_model
from lalm.training import run as train
from lalm.training.recipe import Recipe


def tie(folder: Path) -> None:
    """The world's LLM anew, with one table for embeddings and head, as in SmolLM2."""
    config = LlamaConfig.from_pretrained(folder)
    config.tie_word_embeddings = True
    torch.manual_seed(5)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def until(made: Recipe, step: int) -> Recipe:
    return made.model_copy(update={"optim": made.optim.model_copy(update={"max_steps": step})})


def test_a_whole_llm_is_left_with_the_run_and_goes_on_exactly(tmp_path):
    world = training_world(tmp_path, dropout=0.1)
    tie(world / "llm")
    whole = {"lora": None, "trainable": ["connector", "language_model"]}
    optim = {"max_steps": 6, "schedule": "constant", "learning_rate": 1e-3, "warmup_steps": 0}
    straight = train.run(settings(world, tmp_path / "straight", optim=optim, **whole))
    halves = settings(world, tmp_path / "halves", optim=optim, every={"log": 1, "save": 3}, **whole)
    train.run(until(halves, 3))
    train.run(halves)
    first, second = (load_file(folder / "model.safetensors") for folder in (straight, tmp_path / "halves"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert "model.language_model.embed_tokens.weight" in first and "lm_head.weight" not in first
    start = AutoModelForCausalLM.from_pretrained(world / "llm").state_dict()
    for name in ("embed_tokens.weight", "layers.1.mlp.up_proj.weight"):
        assert not torch.equal(first[f"model.language_model.{name}"].float(), start[f"model.{name}"].float())
    with safe_open(straight / "checkpoint-6" / "model.safetensors", "pt") as kept:
        assert set(kept.keys()) == first.keys()
    for part in ("encoder", "llm"):  # the folder is whole: it opens without its parts
        (world / part).rename(world / f"{part} elsewhere")
    (model, processor), (twin, _) = load_model(straight), load_model(straight / "checkpoint-6")
    assert model.lm_head.weight is model.get_input_embeddings().weight
    batch = processor.batch(list(read_manifest(world / "train.jsonl"))[:2], labels=True)
    with torch.no_grad():
        assert torch.equal(model(**batch).loss, twin(**batch).loss)
