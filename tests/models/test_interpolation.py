"""The model between two of a stage: its weights, what else it holds, and what is no stage of one another."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lalm import Engine, ask
from lalm.cli.app import run
from lalm.models.assemble import build_model
from lalm.models.interpolation import interpolate
from lalm.models.load import load_model
from lalm.models.save import save_model

HORSE = "samples/horse.ogg"
LORA = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["q_proj"]}


@pytest.fixture(scope="module")
def stages(tiny_folders, tmp_path_factory):
    """A slim model, and the same after its trained weights have moved, half of them in float32."""
    folder = tmp_path_factory.mktemp("stages")
    encoder, llm = map(str, tiny_folders)
    options = {"group_size": 5, "connector_width": 24, "remainder": "pad"}
    model, processor = build_model("acdc", encoder=encoder, llm=llm, options=options, lora=LORA)
    save_model(model, processor, folder / "before", slim=True)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name or "connector" in name:
                weight += torch.randn_like(weight)
    save_model(model, processor, folder / "after", slim=True)
    path = folder / "before" / "model.safetensors"
    save_file({name: t.bfloat16() for name, t in load_file(path).items()}, path)
    return folder


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_every_tensor_lies_so_far_between_and_the_model_answers(stages, tmp_path, share):
    a, b = weights(stages / "before"), weights(stages / "after")
    assert interpolate(stages / "before", stages / "after", share, tmp_path / "out") == len(a)
    made = weights(tmp_path / "out")
    for name, tensor in made.items():
        assert tensor.dtype == torch.float32
        wanted = a[name].float() * (1 - share) + b[name] * share
        assert torch.allclose(tensor, wanted, atol=1e-6)
    assert sum(not torch.equal(a[name].float(), b[name]) for name in made) > 4
    [reply] = Engine.load(tmp_path / "out").reply([ask([HORSE], "What is it?")])
    assert reply.finish_reason in ("stop", "length")
    configs = [(folder / "config.json").read_text() for folder in (tmp_path / "out", stages / "after")]
    assert json.loads(configs[0]) == json.loads(configs[1])


def test_a_whole_model_is_one_too(tiny, tmp_path):
    model, processor = tiny("acdc")
    save_model(model, processor, tmp_path / "before", slim=False)
    before = weights(tmp_path / "before")
    save_model(model, processor, tmp_path / "after", slim=False, state={k: v + 1 for k, v in before.items()})
    interpolate(tmp_path / "before", tmp_path / "after", 0.5, tmp_path / "out")
    files = {file.name for file in (tmp_path / "after").iterdir()}
    assert {file.name for file in (tmp_path / "out").iterdir()} == files and "tokenizer.json" in files
    made = weights(tmp_path / "out")
    assert all(torch.allclose(made[name], before[name] + 0.5, atol=1e-6) for name in before)
    load_model(tmp_path / "out")


def test_an_adapter_is_told_from_a_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "small"}')
    with pytest.raises(ValueError, match="is a PEFT adapter, and no model folder"):
        interpolate(tmp_path, tmp_path, 0.5, tmp_path / "out")


def damage(folder, how):
    path, config = folder / "model.safetensors", folder / "config.json"
    fields = json.loads(config.read_text())
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    elif how == "gone":
        path.unlink()
    elif how == "other":
        state = load_file(path)
        state["more"] = state.pop(next(iter(state)))
        save_file(state, path)
    elif how == "shape":
        state = load_file(path)
        first = next(iter(state))
        state[first] = torch.cat([state[first], state[first]])
        save_file(state, path)
    elif how == "lora":
        fields["lora"]["alpha"] = 99
    elif how == "part":
        fields["frozen_parts"]["llm"] = "0" * 64
    config.write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("cut", "damaged or cut short"),
        ("gone", "has no model.safetensors: the copy is not whole"),
        ("other", "in one of them alone"),
        ("shape", "has the shape"),
        ("lora", "LoRA has other settings"),
        ("part", "different weights as their llm"),
    ],
)
def test_what_is_no_stage_of_the_other_is_told_and_nothing_is_left(stages, tmp_path, capsys, how, said):
    shutil.copytree(stages / "after", tmp_path / "after")
    damage(tmp_path / "after", how)
    words = ["interpolate", str(stages / "before"), str(tmp_path / "after"), "--out", str(tmp_path / "out")]
    assert run(words) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_command_writes_a_new_folder_alone(stages, tmp_path, capsys):
    words = ["interpolate", str(stages / "before"), str(stages / "after"), "--out", str(tmp_path / "out")]
    assert run(words) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    assert run(words) == 2
    assert "is not empty: name a new folder" in capsys.readouterr().err
    assert run([*words[:3], "--share", "1.5", "--out", str(tmp_path / "more")]) == 2
    assert (
        run(["interpolate", str(stages / "before"), str(tmp_path / "none"), "--out", str(tmp_path / "m")])
        == 2
    )
    assert "none" in capsys.readouterr().err
