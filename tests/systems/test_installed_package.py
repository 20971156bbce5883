"""Parts that an installed package brings: a wheel, put in place by pip, whose entry point names a module."""

import base64
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from lalm import systems
from lalm.models.connectors import CONNECTORS, connector_class
from lalm.systems import OwnCodeError

MODULE = """
from torch import nn
from lalm.models.connectors.contract import Connector, grouped


class Halving(Connector):
    def __init__(self, shape, stack=2):
        super().__init__(shape)
        self.stack = stack
        self.linear = nn.Linear(shape.frame_width, shape.token_width)

    @classmethod
    def num_tokens(cls, num_frames, frames_per_second, **options):
        return -(-num_frames // options.get("stack", 2))

    def forward(self, frames, frame_lengths):
        groups, lengths = grouped(frames, frame_lengths, self.stack)
        return self.linear(groups.sum(2)), lengths


CONNECTORS = {"halving": Halving}
"""


def wheel(folder: Path, name: str, module: str) -> Path:
    """A wheel of one module, as PEP 427 has it, with an entry point of our group."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": module,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[lalm.systems]\n{name} = {name}\n",
    }
    rows = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text.encode())}")
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    made = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return made


def installed(folder: Path, name: str, module: str) -> Path:
    """Where pip has put such a package."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
    command += [
        "--disable-pip-version-check",
        "--target",
        str(folder / "site"),
        str(wheel(folder, name, module)),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "site"


@pytest.fixture(autouse=True)
def forgotten():
    systems._installed.cache_clear()
    yield
    CONNECTORS.pop("halving", None)
    systems._installed.cache_clear()


def test_a_connector_of_an_installed_package_is_one_by_its_name(tmp_path, monkeypatch, tiny):
    with pytest.raises(ValueError, match="there is no connector 'halving'"):
        connector_class("halving")
    monkeypatch.syspath_prepend(installed(tmp_path, "lalm_halving", MODULE))
    systems._installed.cache_clear()
    model, _ = tiny("modular")
    model.config.connector, model.config.connector_options = "halving", {"stack": 3}
    model.model.connector = model.model.build_connector()
    assert model.config.num_tokens(10) == 4
    tokens, lengths = model.model.connector(
        torch.randn(2, 10, model.config.audio_config.width), torch.tensor([10, 5])
    )
    assert tokens.shape[1] == 4 and lengths.tolist() == [4, 2]


def test_an_installed_package_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(installed(tmp_path, "lalm_broken", "import nothing_like_that"))
    systems._installed.cache_clear()
    with pytest.raises(
        OwnCodeError, match="the installed package 'lalm_broken' cannot be used: ModuleNotFoundError"
    ):
        connector_class("halving")
