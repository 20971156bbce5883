"""Fixtures for all tests: no network, and ``tiny(system)``, a whole model small enough for milliseconds."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

Tiny: TypeAlias = Callable[[str], tuple[Any, Any]]
OPTIONS: dict[str, dict[str, Any]] = {
    "acdc": {"group_size": 5, "connector_width": 24, "remainder": "pad"},
    "qwen2-audio": {},
    "salmonn": {
        "num_queries": 2,  # with one, self-attention has nothing to choose from and learns nothing
        **{"qformer_width": 24, "qformer_heads": 2, "qformer_inner": 32, "qformer_dropout": 0.0},
    },
}


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a one-layer Whisper and a two-layer Llama, random weights."""
    from tiny_parts import llama_folder, whisper_folder  # here, so that light tests do not import torch

    root = tmp_path_factory.mktemp("tiny")
    return whisper_folder(root / "whisper"), llama_folder(root / "llama")


@pytest.fixture(scope="session")
def tiny_beats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a one-layer BEATs, random weights: SALMONN's second encoder."""
    from tiny_parts import beats_folder

    return beats_folder(tmp_path_factory.mktemp("tiny") / "beats")


@pytest.fixture
def tiny(tiny_folders: tuple[Path, Path], tiny_beats: Path) -> Tiny:
    """``tiny("acdc")`` -> (model, processor), float32, fresh at every call."""
    from lalm import systems

    encoder, llm = tiny_folders

    def make(system: str) -> tuple[Any, Any]:
        second = {"encoder_2": str(tiny_beats)} if system == "salmonn" else {}
        return systems.assemble(system, encoder=str(encoder), **second, llm=str(llm), options=OPTIONS[system])

    return make
