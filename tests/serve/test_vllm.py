"""`lalm serve --engine vllm`: the command that the process becomes. Nothing here needs vLLM."""

import importlib.util
import json
import os
import socket
import sys

import pytest

from lalm.cli.app import run
from lalm.cli.serve_vllm import SERVER
from lalm.models.load import open_processor
from lalm.models.save import save_model
from lalm.systems.qwen2_audio import released


@pytest.fixture
def handed_over(monkeypatch, tmp_path):
    """``handed_over(*options)`` -> options and environment of the server that would run."""
    find = importlib.util.find_spec
    monkeypatch.setenv("LALM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "vllm" or find(name))

    seen = []
    monkeypatch.setattr(os, "execve", lambda *process: seen.append(process))

    def call(*options):
        assert run(["serve", "--engine", "vllm", "--port", "0", *options]) == 0
        program, argv, environment = seen.pop()
        assert program == sys.executable and argv[:3] == [sys.executable, "-m", SERVER]
        flags = argv[3:]
        found = {}
        while flags:
            name = flags.pop(0)
            found[name] = flags.pop(0) if flags and not flags[0].startswith("--") else True
        return found, environment

    return call


@pytest.mark.parametrize("system", ["acdc", "apt", "salmonn", "qwen2-audio"])
def test_a_slim_folder_is_completed_once(handed_over, tiny, tmp_path, system, monkeypatch):
    save_model(*tiny(system), tmp_path / "run", slim=True)
    found, environment = handed_over(str(tmp_path / "run"), "--api-key", "secret", "--batch-size", "7")
    folder = found["--model"]
    assert folder.startswith(str(tmp_path / "cache")) and found["--served-model-name"] == "run"
    assert found["--host"] == "127.0.0.1" and int(found["--port"]) > 0 and found["--max-num-seqs"] == "7"
    assert found["--dtype"] in ("float32", "bfloat16")
    assert json.loads(found["--override-generation-config"]) == {"temperature": 0}
    assert environment["VLLM_API_KEY"] == "secret" and "secret" not in " ".join(map(str, found.values()))
    assert environment["PATH"] == os.environ["PATH"]
    assert open_processor(folder).parts

    monkeypatch.setattr("lalm.cli.export.complete", None)  # not called again
    assert handed_over(str(tmp_path / "run"))[0]["--model"] == folder
    assert handed_over(folder)[0]["--model"] == folder


def test_the_released_layout_is_vllms_own(handed_over, tiny, tmp_path):
    model, processor = tiny("qwen2-audio")
    model.model.audio_tower.config.pool = model.config.audio_config.pool = 2
    released.export(model, processor, tmp_path / "qwen2")
    path = tmp_path / "qwen2" / "config.json"
    found, environment = handed_over(str(tmp_path / "qwen2"), "--allow-origin", "https://a.org")
    assert "VLLM_API_KEY" not in environment
    assert environment["VLLM_MAX_AUDIO_DECODE_DURATION_S"] == "600"
    assert found["--allowed-origins"] == '["https://a.org"]'
    assert found["--model"] != str(tmp_path / "qwen2")  # its LLM is a Llama, which vLLM's class does not take
    path.write_text(path.read_text().replace('"model_type": "llama"', '"model_type": "qwen2"'))
    assert handed_over(str(tmp_path / "qwen2"))[0]["--model"] == str(tmp_path / "qwen2")


def test_without_vllm_one_sentence_says_so(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "vllm" else find(name))
    assert run(["serve", "--engine", "vllm"]) == 2
    assert "pip install 'lalm[vllm]'" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--fetch"], ["--max-mb", "3"], ["--queue", "1"], ["--device", "cpu"]])
def test_options_that_vllm_has_nothing_for_are_refused(option, capsys):
    assert run(["serve", "--engine", "vllm", *option]) == 2
    assert f"{option[0]} goes with --engine lalm alone" in capsys.readouterr().err


def test_what_is_wrong_is_said_before_the_process_is_given_away(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr(os, "execve", None)
    assert run(["serve", str(tmp_path / "none"), "--engine", "vllm", "--port", "0"]) == 2
    assert "there is no model folder" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run(["serve", "--engine", "vllm", "--port", port]) == 2
    assert f"port {port} is in use" in capsys.readouterr().err
