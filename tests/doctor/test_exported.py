"""An export checks itself: in a process without lalm it opens, hears, and says what lalm says."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_qwen2_audio import original

from lalm.cli.app import run
from lalm.doctor.exported import ExportError, check_export, expected
from lalm.models.load import load_model
from lalm.models.lora import add_lora
from lalm.models.save import save_model


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    original("small", folder)
    return folder


def loud(model):
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "connector" in name:
            torch.nn.init.normal_(parameter, std=0.2)


def test_a_model_that_lalm_trained_and_saved_is_heard_elsewhere(base, tmp_path, capfd):
    """Whole, as lalm saves it: its tokenizer named lalm's own processor, and audio was dropped silently."""
    whole, processor = load_model(base)
    loud(whole)
    save_model(whole, processor, tmp_path / "whole", slim=False)
    out = tmp_path / "released"
    argv = ["export", str(tmp_path / "whole"), "--to", "qwen2-audio", "--out", str(out), "--dtype", "float32"]
    assert run(argv) == 0
    assert "another sound moves the logits" in capfd.readouterr().err
    fields = json.loads((out / "tokenizer_config.json").read_text())
    assert fields["processor_class"] == "Qwen2AudioProcessor"
    model, processor = load_model(out)
    wanted = expected(model, processor)
    fields["processor_class"] = "AudioLMProcessor"
    (out / "tokenizer_config.json").write_text(json.dumps(fields))
    (out / "processor_config.json").unlink(missing_ok=True)
    (out / "preprocessor_config.json").unlink()
    with pytest.raises(ExportError, match="does not open elsewhere"):
        check_export("qwen2-audio", out, wanted, torch.float32)


def test_a_deaf_export_is_refused(base, tmp_path):
    model, processor = load_model(base)
    loud(model)
    wanted = expected(model, processor)
    for file in base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    shard = tmp_path / index["multi_modal_projector.linear.weight"]
    tensors = load_file(shard)
    tensors["multi_modal_projector.linear.weight"] *= 0
    save_file(tensors, shard, {"format": "pt"})
    with pytest.raises(ExportError, match="is deaf: two sounds give the same"):
        check_export("qwen2-audio", tmp_path, wanted, torch.float32)
    with pytest.raises(ExportError, match="answers otherwise"):
        check_export("qwen2-audio", base, wanted, torch.float32)


def test_lora_on_released_weights_is_an_adapter_of_peft_elsewhere(base, tmp_path, capfd):
    model, processor = load_model(base)
    add_lora(model, {"rank": 2, "alpha": 4, "targets": ["q_proj", "up_proj"]})
    loud(model)
    save_model(model, processor, tmp_path / "slim", slim=True)
    argv = ["export", str(tmp_path / "slim"), "--to", "peft", "--out", str(tmp_path / "adapter")]
    assert run(argv) == 0
    assert "another sound moves the logits" in capfd.readouterr().err
