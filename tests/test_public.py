"""The names that ``import lalm`` gives, each called once with a tiny model."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from fastapi.testclient import TestClient
from tiny_parts import OPTIONS
from tiny_runs import settings, training_world

import lalm


@pytest.fixture
def parts(tiny_folders):
    encoder, llm = tiny_folders
    return {"encoder": str(encoder), "llm": str(llm), "options": OPTIONS["acdc"]}


def test_a_model_is_built_asked_evaluated_and_served(parts, tmp_path):
    model, processor = lalm.build_model("acdc", **parts)
    engine = lalm.Engine(model, processor, "tiny")
    clip = lalm.load_audio("samples/bird.ogg")
    assert clip.dtype == np.float32
    [reply] = engine.reply([lalm.ask([clip], "What is it?")], lalm.Options(max_new_tokens=3))
    assert isinstance(reply, lalm.Reply) and reply.heard[0].seconds_given > 1

    file = tmp_path / "clip.wav"
    soundfile.write(file, clip, 16_000)
    lalm.write_manifest(tmp_path / "m.jsonl", [lalm.ask([str(file)], "What is it?").with_target("a bird")])
    [sample] = lalm.read_manifest(tmp_path / "m.jsonl")
    assert isinstance(sample, lalm.Sample) and sample.target == "a bird"

    task = tmp_path / "mine.yaml"
    task.write_text("mine: {about: x, metrics: [names], max_new_tokens: 4}\n")
    card = lalm.evaluate_model(engine, [f"{task}={tmp_path / 'm.jsonl'}"], tmp_path / "eval")
    assert card["finished"] and card == json.loads((tmp_path / "eval" / "card.json").read_text())

    with TestClient(lalm.create_app(engine)) as client:
        assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"


def test_a_recipe_is_trained_by_value_and_by_file(tmp_path):
    world = training_world(tmp_path)
    recipe = settings(world, tmp_path / "run", optim={"max_steps": 1, "warmup_steps": 0})
    assert lalm.train(recipe, ["optim.seed=3"]) == tmp_path / "run"
    again = lalm.train(tmp_path / "run", [f"out={tmp_path / 'second'}"])
    assert "seed: 3" in (again / "recipe.yaml").read_text()
    with pytest.raises(lalm.LalmError, match=r"the recipe: optim\.max_steps"):
        lalm.train(recipe, ["optim.max_steps=never"])


def test_whatever_is_refused_is_one_kind_of_error(tmp_path, parts):
    for wrong in (
        lambda: lalm.load_audio(tmp_path / "gone.wav"),
        lambda: lalm.train("no/recipe"),
        lambda: lalm.build_model("nothing", **parts),
        lambda: lalm.build_model("acdc", **parts | {"options": {"nothing": 1}}),
        lambda: lalm.Engine.load(str(tmp_path)),
        lambda: lalm.evaluate_model(None, ["nonsense"], tmp_path / "eval"),
    ):
        with pytest.raises(lalm.LalmError) as caught:
            wrong()
        assert isinstance(caught.value, ValueError)
    with pytest.raises(lalm.AudioError):
        lalm.load_audio(tmp_path / "gone.wav")


def test_opening_one_system_does_not_import_the_others():
    code = (
        "import sys, torch\nfrom lalm.models.load import load_model\n"
        "load_model('lalm/models/small', dtype=torch.bfloat16)\n"  # as it is kept: nothing is converted
        "loaded = {n.split('.')[2] for n in sys.modules if n.startswith('lalm.systems.')}\n"
        "print(sorted(loaded))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['modular']"


def test_every_row_of_the_list_is_its_classes():
    from lalm.models.classes import register_all
    from lalm.systems import SYSTEMS, of_model_type

    for name, classes in register_all().items():
        assert classes.config.model_type == SYSTEMS[name].model_type
        assert of_model_type(SYSTEMS[name].model_type).name == name
        assert bool(classes.released) == bool(SYSTEMS[name].released)
        if classes.released:
            assert SYSTEMS[name].released_type == classes.released.MODEL_TYPE
