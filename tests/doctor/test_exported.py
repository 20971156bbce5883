"""An export checks itself: in a process without lalm it opens, hears, and says what lalm says.

A process of its own imports transformers anew, which takes most of the time. Here one such process imports it
once, without lalm, and each check runs in a fork of it.
"""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_qwen2_audio import original

from lalm.cli.app import run
from lalm.doctor.exported import ExportError, check_export, expected
from lalm.models.load import load_model
from lalm.models.lora import add_lora
from lalm.models.save import save_model

WITHOUT_LALM = """
import json, os, runpy, sys
sys.modules["lalm"] = None
import peft, torch, transformers
from transformers import AutoConfig, AutoProcessor, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor
torch.set_num_threads(1)
for line in sys.stdin:
    argv, told = json.loads(line)
    if (child := os.fork()) == 0:
        os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT), 2)
        sys.argv, code = argv, 0
        sys.path.insert(0, "")
        try:
            runpy.run_path(argv[0], run_name="__main__")
        except SystemExit as end:
            code = 1
            print(end, file=sys.stderr, flush=True)
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def process():
    command = [sys.executable, "-c", WITHOUT_LALM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        yield running
        running.kill()


@pytest.fixture(autouse=True)
def forks(process, tmp_path, monkeypatch):
    """``check_export`` runs its program in a fork of ``process``."""

    def run(command, **kwargs):
        told = tmp_path / "told"
        told.unlink(missing_ok=True)
        process.stdin.write(json.dumps([command[1:], str(told)]) + "\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        return subprocess.CompletedProcess(command, code, "", told.read_text())

    monkeypatch.setattr("lalm.doctor.exported.subprocess.run", run)


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


def test_a_folder_that_holds_no_model_is_told(tmp_path, monkeypatch):
    monkeypatch.undo()  # this one check runs in a process of its own, as it does for users
    with pytest.raises(ExportError, match="does not open elsewhere: "):
        check_export("qwen2-audio", tmp_path, torch.zeros(2, 3), torch.float32)


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
