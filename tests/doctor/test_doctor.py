"""The doctor on tiny models: a sound one passes, and each fault that is put in makes its own line red."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lalm.cli import app as cli
from lalm.doctor import checks
from lalm.doctor.checks import examine
from lalm.doctor.weight_checks import looks_random, parts_that_look_random
from lalm.inference.engine import Engine
from lalm.models.load import load_model
from lalm.models.save import save_model
from lalm.systems import SYSTEMS

LINES = [
    *["weights are whole", "weights look trained", "base or chat", "template round trip"],
    *["batch equals single, padded left", "batch equals single, padded right"],
    *["batch answers equal single ones", "order of clips matters", "audio matters", "silence and noise"],
    *["75 s are heard to the end", "no overflow", "speed and memory"],
]


@pytest.fixture(autouse=True)
def few_questions(monkeypatch):
    """Eight of the ninety-six that are asked of a real model, for a few tokens each."""
    monkeypatch.setattr("lalm.doctor.checks.ANSWERS_S", 0.0)
    monkeypatch.setattr("lalm.doctor.checks.ANSWER_TOKENS", 4)


@pytest.fixture
def engine(tiny) -> Engine:
    torch.manual_seed(0)
    model, processor = tiny("acdc")
    with torch.no_grad():
        model.model.connector.linear_2.weight.mul_(20)  # as loud as the words beside it
    return Engine(model, processor, "tiny")


@pytest.fixture
def folder(engine, tmp_path) -> Path:
    save_model(engine.model, engine.processor, tmp_path / "model", slim=False)
    return tmp_path / "model"


def report(engine, folder) -> dict:
    return {check.name: check for check in examine(engine, folder)}


def wrong(engine, folder) -> set[str]:
    return {name for name, check in report(engine, folder).items() if check.passed is False}


def test_a_sound_model_passes_and_every_line_is_there(engine, folder):
    found = report(engine, folder)
    assert list(found) == LINES
    assert not [check for check in found.values() if check.passed is False]
    assert found["weights look trained"].passed is None  # nothing in it is large enough
    assert all(bool(check.fix) == (check.passed is False) for check in found.values())
    assert "tokens/s" in found["speed and memory"].found


@pytest.mark.parametrize("system", [name for name in SYSTEMS if name != "acdc"])
def test_the_other_systems(tiny, tmp_path, system):
    torch.manual_seed(0)
    engine = Engine(*tiny(system), "tiny")
    with torch.no_grad():  # a random aligner hardly looks at its frames
        for name, weight in engine.model.model.connector.named_parameters():
            if "crossattention" in name and weight.ndim == 2:
                weight.mul_(20)
    save_model(engine.model, engine.processor, tmp_path, slim=False)
    found = report(engine, tmp_path)
    assert list(found) == LINES
    assert not {name for name, check in found.items() if check.passed is False} - {
        "audio matters",
        "order of clips matters",
    }


def test_a_deaf_connector(engine, folder):
    with torch.no_grad():
        engine.model.model.connector.linear_2.weight.zero_()
    assert {"audio matters", "order of clips matters"} <= wrong(engine, folder)


def test_an_encoder_that_hears_padding(engine, folder, monkeypatch):
    encode = engine.model.model.encode

    def leaky(values, lengths):
        frames, frame_lengths = encode(values, lengths)
        return frames + values.abs().mean(1)[:, None, None] * 9, frame_lengths

    monkeypatch.setattr(engine.model.model, "encode", leaky)
    assert {"batch equals single, padded left", "batch equals single, padded right"} <= wrong(engine, folder)


def test_clips_that_are_merged(engine, folder, monkeypatch):
    connect = engine.model.model.connect

    def merged(frames, lengths, *instructions):
        tokens = connect(frames, lengths, *instructions)
        return tokens.mean(0, keepdim=True).expand_as(tokens)

    monkeypatch.setattr(engine.model.model, "connect", merged)
    assert "order of clips matters" in wrong(engine, folder)


def test_an_end_that_is_not_heard(engine, folder, monkeypatch):
    encode = engine.model.model.encode

    def deaf(values, lengths):
        return encode(values * (torch.arange(values.shape[1]) < 30 * 16_000), lengths)

    monkeypatch.setattr(engine.model.model, "encode", deaf)
    assert wrong(engine, folder) == {"75 s are heard to the end"}


def test_a_cut_that_is_told(engine, folder, monkeypatch):
    monkeypatch.setattr(type(engine.model.config), "samples_heard", lambda self, n: min(n, 30 * 16_000))
    check = report(engine, folder)["75 s are heard to the end"]
    assert check.passed is False and "only 30.0 s are heard" in check.found


def test_a_template_that_never_ends_a_turn(engine, folder):
    engine.processor.chat_template = engine.processor.chat_template.replace("<|im_end|>", "")
    assert "template round trip" in wrong(engine, folder)


def test_weights_that_are_not_numbers(engine, folder):
    with torch.no_grad():
        engine.model.model.connector.linear_1.weight[0, 0] = float("nan")
    found = report(engine, folder)
    assert found["weights are whole"].passed is False
    assert "linear_1.weight" in found["weights are whole"].found
    assert found["no overflow"].passed is False


def test_activations_that_overflow(engine, folder):
    with torch.no_grad():
        engine.model.model.connector.linear_2.weight.mul_(1e38)
    assert "no overflow" in wrong(engine, folder)


def test_a_tensor_that_the_folder_lacks(engine, folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.connector.linear_1.bias"]
    save_file(tensors, path, metadata={"format": "pt"})
    opened = Engine(*load_model(folder), "tiny")
    check = report(opened, folder)["weights are whole"]
    assert check.passed is False and "model.connector.linear_1.bias" in check.found


def test_random_matrices_are_told_from_trained_ones():
    torch.manual_seed(0)
    for made in (nn.Linear(256, 128), nn.Linear(64, 2048), nn.Embedding(1000, 64), nn.Conv1d(80, 256, 3)):
        assert looks_random(made.weight)
    assert looks_random(torch.zeros(64, 64))
    rows, columns = torch.rand(128, 1) + 0.5, torch.rand(1, 256) + 0.5
    assert not looks_random(rows * torch.randn(128, 256))
    assert not looks_random(columns * torch.randn(128, 256))


def test_parts_are_named_and_an_untrained_lora_is_seen():
    torch.manual_seed(0)
    whole, inner = nn.Module(), nn.Module()
    inner.connector, inner.language_model, inner.audio_tower = (nn.Linear(128, 128) for _ in range(3))
    with torch.no_grad():
        inner.language_model.weight *= torch.rand(128, 1)
    whole.model = inner
    assert parts_that_look_random(whole) == (3, ["connector", "encoder"], False)
    inner.language_model.lora_B = nn.Linear(4, 4)
    assert not parts_that_look_random(whole)[2]
    for parameter in inner.language_model.lora_B.parameters():
        nn.init.zeros_(parameter)
    assert parts_that_look_random(whole)[2]


def test_the_command(engine, folder, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("lalm.inference.device.pick_dtype", lambda device: torch.float32)
    assert cli.run(["doctor", str(folder), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["passed"] and [check["name"] for check in said["checks"]] == LINES
    np.save(tmp_path / "golden.npy", np.zeros((513, 768)))
    golden = ["--golden", str(tmp_path / "golden.wav"), str(tmp_path / "golden.npy")]
    assert cli.run(["doctor", str(folder), *golden]) == 2
    assert "has none" in capsys.readouterr().err
    with torch.no_grad():
        engine.model.model.connector.linear_2.weight.zero_()
    save_model(engine.model, engine.processor, folder, slim=False)
    assert cli.run(["doctor", str(folder)]) == 1
    assert "WRONG  audio matters" in capsys.readouterr().out


def test_of_a_recipe_only_what_training_makes_may_look_random(monkeypatch):
    def look(random, lora=False, untrained=True):
        monkeypatch.setattr(checks, "parts_that_look_random", lambda model: (5, random, lora))
        return checks._looks(SimpleNamespace(model=None), untrained).passed

    assert look(["connector"]) is None and look([], lora=True) is None and look([]) is True
    assert look(["connector", "LLM"]) is False and look(["encoder"]) is False
    assert look(["connector"], untrained=False) is False and look([], lora=True, untrained=False) is False
