"""docs/guide.md, executed: its commands in their order, on forty clips, with tiny parts."""

import json
import re
import shlex
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from tiny_parts import llama_folder, noise, whisper_folder

from lalm.cli.app import run

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"


def blocks() -> list[list[str]]:
    """The lines of the guide's commands, block by block."""
    return [found.strip().splitlines() for found in re.findall(r"```sh\n(.*?)```", GUIDE.read_text(), re.S)]


def test_the_guide_works_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table = ["file,caption"]
    for i in range(1, 41):
        clip = noise(tmp_path / "clips" / f"{i:02}.wav", 0.3 + 0.02 * i, seed=i)
        table.append(f"clips/{clip.name},sound {i}")
    (tmp_path / "clips.csv").write_text("\n".join(table) + "\n")
    whisper_folder(tmp_path / "encoder"), llama_folder(tmp_path / "llm")
    tiny = "init={encoder: encoder, llm: llm, options: {connector_options: {stack: 10, hidden: 16}}}"
    sizes = (
        "optim.max_steps=2",
        "optim.dtype=float32",
        "every.valid=2",
        "valid.samples=2",
        "valid.generate=1",
    )
    small = [word for change in (tiny, *sizes) for word in ("--set", change)]
    *before, serve, curl = blocks()
    ran = []
    for line in [line for block in before for line in block]:
        words = shlex.split(line)
        if words[0] != "lalm":
            subprocess.run(["bash", "-ec", line], check=True)
            continue
        ran.append(words[1])
        code = run([*words[1:], *(small if words[1] in ("train", "sweep") else [])])
        assert code == 0, (line, capsys.readouterr())
    assert ran == ["data", "recipes", "train", "ask", "eval", "sweep"]
    assert len((tmp_path / "train.csv").read_text().splitlines()) == 33
    assert (tmp_path / "runs" / "own" / "best").is_dir() and (tmp_path / "scores" / "report.html").is_file()
    assert "± " in (tmp_path / "sweep" / "table.md").read_text()
    servers: list[Any] = []
    start = uvicorn.Server.startup

    async def startup(self: Any, sockets: Any = None) -> None:
        await start(self, sockets)
        servers.append(self)

    monkeypatch.setattr(uvicorn.Server, "startup", startup)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [port if word == "8000" else word for word in shlex.split(serve[0])]
    serving = threading.Thread(target=run, args=(words[1:],), daemon=True)
    serving.start()
    while not servers and serving.is_alive():
        time.sleep(0.05)
    if shutil.which("curl"):
        asked = "\n".join(curl).replace("8000", port)
        done = subprocess.run(["bash", "-ec", asked], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["choices"][0]["message"]["role"] == "assistant"
    assert httpx.get(f"http://127.0.0.1:{port}/v1/models").json()["data"]
    servers[0].should_exit = True
    serving.join(30)
    assert not serving.is_alive()
