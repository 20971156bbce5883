"""Connectors, learned mixes of layers, and parts of one's own."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny_encoders import audio_encoder_folder
from tiny_llms import ROWS, logits, two_steps

from lalm import systems
from lalm.models.assemble import build_model
from lalm.models.connectors import CONNECTORS
from lalm.models.connectors.contract import Shape
from lalm.models.load import load_model
from lalm.models.save import save_model
from lalm.systems.modular.model import ModularConfig

SHAPE = Shape(frame_width=12, token_width=10, frames_per_second=50.0)
SMALL = {
    "linear": {},
    "mlp": {"stack": 3, "hidden": 8},
    "pooling": {"stack": 4},
    "swiglu": {"stack": 3, "hidden": 8},
    "cnn": {"convolutions": 2, "hidden": 8},
    "qformer": {"segment_s": 0.2, "num_queries": 2, "width": 8, "heads": 2, "dropout": 0.0},
    "instructed-qformer": {
        **{"segment_s": 0.5, "num_queries": 3, "width": 16, "heads": 2, "layers": 2, "inner": 32},
        **{"vocabulary": 90, "dropout": 0.0},
    },
    "perceiver": {"segment_s": 0.5, "num_queries": 3, "width": 8, "heads": 2},
}
TEXT_ONLY = (".word_embeddings", ".position_embeddings", ".intermediate.", "0.output.", "1.output.")
ROOT = Path(__file__).parents[2]


def test_every_connector_is_tried_here_and_has_its_part_of_the_docs():
    assert set(SMALL) == set(CONNECTORS)
    page = (ROOT / "docs" / "connectors.md").read_text()
    assert all(f"## {name}\n" in page for name in CONNECTORS)


@pytest.mark.parametrize("name", CONNECTORS)
def test_a_batch_gives_what_clips_give_alone_in_the_numbers_of_the_formula(name):
    torch.manual_seed(0)
    connector = CONNECTORS[name](SHAPE, **SMALL[name]).eval()
    lengths = [1, 2, 7, 25, 26, 61]
    frames = torch.randn(len(lengths), 61, 12)  # what follows a clip's frames is not zero
    tokens, counts = connector(frames, torch.tensor(lengths))
    assert tokens.shape[2] == 10
    assert counts.tolist() == [CONNECTORS[name].num_tokens(n, 50.0, **SMALL[name]) for n in lengths]
    for row, length, count in zip(frames, lengths, counts.tolist(), strict=True):
        alone, _ = connector(row[None, :length], torch.tensor([length]))
        number = lengths.index(length)
        torch.testing.assert_close(alone[0, :count], tokens[number, :count], atol=1e-5, rtol=1e-4)
    inside = torch.arange(tokens.shape[1]) < counts[:, None]
    (tokens[inside] * torch.randn_like(tokens[inside])).sum().backward()
    silent = [n for n, p in connector.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    allowed = TEXT_ONLY if name == "instructed-qformer" else ()
    assert not [n for n in silent if not any(part in n for part in allowed)]


def test_an_instruction_changes_the_tokens_of_its_clip_alone():
    torch.manual_seed(0)
    connector = CONNECTORS["instructed-qformer"](SHAPE, **SMALL["instructed-qformer"]).eval()
    frames, lengths = torch.randn(2, 30, 12), torch.tensor([30, 20])
    words, mask = torch.tensor([[5, 6, 7], [8, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]])
    told, _ = connector(frames, lengths, words, mask)
    other, _ = connector(frames, lengths, torch.tensor([[9, 9, 9], [8, 0, 0]]), mask)
    assert not torch.allclose(told[0], other[0], atol=1e-4)
    torch.testing.assert_close(told[1], other[1])


@pytest.mark.parametrize(("connector", "queries"), [("linear", 1), ("perceiver", 3)])
def test_layers_are_added_up_with_learned_weights(connector, queries, tiny_folders, tmp_path):
    encoder = audio_encoder_folder("wavlm", tmp_path / "wavlm")
    options = {
        **{"connector": connector, "connector_options": SMALL[connector], "layer_mix": True},
        "encoder": {"layers": "all"},
    }
    llm = str(tiny_folders[1])
    model, processor = build_model("modular", encoder=str(encoder), llm=llm, options=options)
    mix = model.model.connector.mix
    assert mix.shape == (queries, 3)
    before, after = two_steps(model, processor, ["connector"])
    assert after < before and mix.abs().min() > 0
    save_model(model, processor, tmp_path / "slim", slim=True)
    torch.testing.assert_close(logits(*load_model(tmp_path / "slim")), logits(model, processor))
    with torch.no_grad():  # all weight on one layer is that layer alone
        mix.copy_(torch.tensor([-50.0, 50.0, -50.0]))
        frames = torch.randn(1, 40, model.config.audio_config.width)
        tokens, _ = model.model.connector(frames, torch.tensor([40]))
        width = model.config.shape.frame_width
        alone, _ = model.model.connector.connector(frames[..., width : 2 * width], torch.tensor([40]))
    torch.testing.assert_close(tokens, alone)


@pytest.mark.parametrize("connector", ["linear", "perceiver"])
def test_of_two_encoders_each_has_its_layers_added_up_by_itself(connector, tiny_folders, tmp_path):
    first = audio_encoder_folder("wavlm", tmp_path / "wavlm")
    second = audio_encoder_folder("hubert", tmp_path / "hubert")
    options = {
        **{"connector": connector, "connector_options": SMALL[connector], "layer_mix": True},
        **{"encoder": {"layers": "all"}, "encoder_2": {"layers": [0, 2]}},
    }
    llm = str(tiny_folders[1])
    parts = {"encoder": str(first), "encoder_2": str(second), "llm": llm}
    model, processor = build_model("modular", **parts, options=options)
    mixes = model.model.connector.mixes
    assert [tuple(mix.shape) for mix in mixes] == [(1, 3), (1, 2)] and model.model.connector.mix is None
    assert (model.config.shape.frame_width, model.config.audio_config.width) == (16 + 16, 5 * 16)
    before, after = two_steps(model, processor, ["connector"])
    assert after < before and all(mix.abs().min() > 0 for mix in mixes)
    save_model(model, processor, tmp_path / "slim", slim=True)
    torch.testing.assert_close(logits(*load_model(tmp_path / "slim")), logits(model, processor))
    with torch.no_grad():  # all weight on one layer of each is these two side by side
        mixes[0].copy_(torch.tensor([[-50.0, 50.0, -50.0]]))
        mixes[1].copy_(torch.tensor([[50.0, -50.0]]))
        frames, length = torch.randn(1, 40, 80), torch.tensor([40])
        tokens, _ = model.model.connector(frames, length)
        picked = torch.cat([frames[..., 16:32], frames[..., 48:64]], 2)
        alone, _ = model.model.connector.connector(picked, length)
    torch.testing.assert_close(tokens, alone)


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="there is no connector 'moe'; the connectors are: linear"):
        ModularConfig(connector="moe")
    with pytest.raises(ValueError, match="the connector 'mlp' has no option 'stak'; it has: stack, hidden"):
        ModularConfig(connector="mlp", connector_options={"stak": 2})
    with pytest.raises(ValueError, match="layer_mix adds up layers, and the encoder gives one"):
        ModularConfig(layer_mix=True)


def example(page, number=0):
    """The Python file of a page of the docs."""
    return (ROOT / "docs" / page).read_text().split("```python\n")[1 + number].split("```")[0]


@pytest.fixture
def own(monkeypatch):
    """Own files stay known to this test alone."""
    from lalm.encoders import ENCODERS
    from lalm.systems import SYSTEMS

    monkeypatch.setenv(systems.VARIABLE, "")
    tables = CONNECTORS, SYSTEMS, ENCODERS
    before = [dict(table) for table in tables]
    yield
    for table, old in zip(tables, before, strict=True):
        table.clear()
        table.update(old)


@pytest.mark.usefixtures("own")
def test_a_connector_of_ones_own_is_one_file(tiny_folders, tmp_path):
    file = tmp_path / "own_connector.py"
    file.write_text(example("add-a-connector.md"))
    assert len(file.read_text().splitlines()) < 60
    encoder, llm = (str(folder) for folder in tiny_folders)
    with pytest.raises(ValueError, match="there is no connector 'attention-pooling'"):
        build_model("modular", encoder=encoder, llm=llm, options={"connector": "attention-pooling"})
    systems.use_code([file])
    chosen = {"connector": "attention-pooling", "connector_options": {"stack": 4}}
    model, processor = build_model("modular", encoder=encoder, llm=llm, options=chosen)
    before, after = two_steps(model, processor, ["connector"])
    assert after < before
    save_model(model, processor, tmp_path / "slim", slim=True)
    torch.testing.assert_close(logits(*load_model(tmp_path / "slim")), logits(model, processor))
    together = model.generate(**processor.batch(ROWS), max_new_tokens=4, do_sample=False)
    alone = model.generate(**processor.batch(ROWS[1:2]), max_new_tokens=4, do_sample=False)[0]
    assert together[1, : len(alone)].tolist() == alone.tolist()


@pytest.mark.usefixtures("own")
def test_an_encoder_and_a_system_of_ones_own_are_files_too(tiny_folders, tmp_path):
    files = [tmp_path / "own_encoder.py", tmp_path / "own_system.py"]
    files[0].write_text(example("add-an-encoder.md"))
    files[1].write_text(example("add-a-system.md"))
    assert all(len(file.read_text().splitlines()) < 60 for file in files)
    systems.use_code(files)
    from lalm.encoders import build_encoder, encoder_config, load_encoder, save_encoder

    folder = save_encoder(build_encoder(encoder_config({"model_type": "my_bands"})), tmp_path / "bands")
    encoder = load_encoder(folder)
    for length in (999, 1_000, 16_001, 30_123):
        frames, counts = encoder(torch.randn(1, length), torch.tensor([length]))
        assert frames.shape[1] == int(counts[0]) == encoder.num_frames(length)
    llm = str(tiny_folders[1])
    model, processor = build_model("my-system", encoder=str(folder), llm=llm, options={})
    before, after = two_steps(model, processor, ["connector"])
    assert after < before
    save_model(model, processor, tmp_path / "slim", slim=True)
    torch.testing.assert_close(logits(*load_model(tmp_path / "slim")), logits(model, processor))


@pytest.mark.usefixtures("own")
def test_code_in_a_models_folder_is_not_run(tmp_path, capsys):
    from lalm.cli.app import run

    ran = tmp_path / "ran"
    (tmp_path / "model").mkdir()
    code = tmp_path / "model" / "evil.py"
    code.write_text(f"open({str(ran)!r}, 'w').close()\n")
    recipe = {
        **{"system": "evil", "code": [str(code)], "init": {"encoder": "x", "llm": "y"}, "out": "z"},
        "data": {"train": [{"path": "t.jsonl"}]},
        "optim": {"learning_rate": 1e-4, "batch_size": 1, "max_steps": 1},
    }
    (tmp_path / "model" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "model" / "config.json").write_text('{"model_type": "evil"}')
    for words in (["train", str(tmp_path / "model")], ["doctor", str(tmp_path / "model")]):
        assert run(words) == 2
        assert not ran.exists()
    assert "if you trust that code, name the recipe's own file" in capsys.readouterr().err
    assert run(["--code", str(code), "tasks"]) == 0 and ran.exists()
    with pytest.raises(ValueError, match="there is no Python file"):
        systems.use_code([tmp_path / "absent.py"])
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    with pytest.raises(ValueError, match=r"broken\.py' cannot be run: ZeroDivisionError"):
        systems.use_code([broken])
    assert not [name for name in sys.modules if name.startswith("lalm_own_broken")]


@pytest.mark.usefixtures("own")
def test_doctor_checks_a_recipe_with_parts_of_ones_own(tiny_folders, tmp_path, capsys, monkeypatch):
    from lalm.cli.app import run

    monkeypatch.setattr("lalm.doctor.checks.ANSWERS_S", 0.0)  # eight answers of the ninety-six
    leaky = example("add-a-connector.md").replace(" * weights).sum(2)", ").sum(2) + frames.mean(1)[:, None]")
    for name, text in (("good", example("add-a-connector.md")), ("leaky", leaky)):
        code = text.replace("attention-pooling", name)
        assert name == "good" or "frames.mean(1)" in code
        (tmp_path / f"{name}.py").write_text(code)
        recipe = {
            **{"system": "modular", "code": [str(tmp_path / f"{name}.py")], "out": str(tmp_path / "out")},
            "init": {
                **{"encoder": str(tiny_folders[0]), "llm": str(tiny_folders[1])},
                "options": {"connector": name},
            },
            "data": {"train": [{"path": "t.jsonl"}]},
            "optim": {"learning_rate": 1e-4, "batch_size": 1, "max_steps": 1},
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        run(["doctor", str(tmp_path / f"{name}.yaml"), "--json"])
        checks = json.loads(capsys.readouterr().out)["checks"]
        batches = [check["passed"] for check in checks if check["name"].startswith("batch equals single")]
        assert batches == [name == "good"] * 2, checks
