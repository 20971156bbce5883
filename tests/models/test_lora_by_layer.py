"""LoRA by layer: ranks and alphas of their own, turned together, saved and opened again."""

import pytest
import torch
from tiny_runs import settings, training_world

from lalm.models.classes import ModelError
from lalm.models.load import load_model
from lalm.models.lora import add_lora, set_lora_scale
from lalm.training import run as train
from lalm.training.recipe import Lora

BY_LAYER = {"rank_pattern": {r"layers\.1\..*": 6}, "alpha_pattern": {"v_proj": 1.0}}


def test_layers_have_the_rank_and_alpha_of_the_first_pattern_that_fits(tiny):
    model, _ = tiny("acdc")
    add_lora(model, {"rank": 2, "alpha": 8, "targets": ["q_proj", "v_proj"], **BY_LAYER})
    body = model.model.language_model
    found = {
        f"{i}.{name}": (getattr(layer.self_attn, name).r["default"], getattr(layer.self_attn, name).scaling)
        for i, layer in enumerate(body.layers)
        for name in ("q_proj", "v_proj")
    }
    wanted = {"0.q_proj": (2, 4.0), "0.v_proj": (2, 0.5), "1.q_proj": (6, 8 / 6), "1.v_proj": (6, 1 / 6)}
    assert found == {name: (rank, {"default": scale}) for name, (rank, scale) in wanted.items()}
    set_lora_scale(model, 2.0)  # half of the rule's 4, so half of each
    for name, (_, scale) in wanted.items():
        layer = getattr(body.layers[int(name[0])].self_attn, name[2:])
        assert layer.scaling["default"] == pytest.approx(scale / 2)
    set_lora_scale(model, None)
    assert body.layers[1].self_attn.q_proj.scaling["default"] == 8 / 6
    with pytest.raises(ModelError, match=r"rank_pattern 'layers\\.9\\..\*' fits no layer that gets LoRA"):
        add_lora(tiny("acdc")[0], {"rank": 2, "alpha": 4, "rank_pattern": {r"layers\.9\..*": 3}})
    with pytest.raises(ValueError, match=r"'\(' is no regular expression"):
        Lora(rank=2, alpha=4, rank_pattern={"(": 3})


def test_a_run_with_patterns_opens_and_goes_on_as_it_was(tmp_path):
    world = training_world(tmp_path)
    lora = {"rank": 2, "alpha": 4, "dropout": 0.2, **BY_LAYER}
    whole = {"max_steps": 4, "schedule": "constant"}
    out = train.run(settings(world, tmp_path / "whole", lora=lora, optim=whole))
    halves = settings(world, tmp_path / "halves", lora=lora, optim=whole, every={"log": 1, "save": 2})
    train.run(halves.model_copy(update={"optim": halves.optim.model_copy(update={"max_steps": 2})}))
    train.run(halves)
    models = [load_model(folder)[0].state_dict() for folder in (out, tmp_path / "halves")]
    assert models[0]["model.language_model.layers.1.self_attn.q_proj.lora_A.default.weight"].shape[0] == 6
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    stage = settings(
        world,
        tmp_path / "next",
        init={"from": str(out), "encoder": None, "llm": None, "options": {}},
        lora=lora,
        optim={"max_steps": 1},
    )
    assert load_model(train.run(stage))[0].config.lora["rank_pattern"] == BY_LAYER["rank_pattern"]
