"""Fixtures for all tests: no network, and ``tiny(system)``, a whole model small enough for milliseconds."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

Tiny: TypeAlias = Callable[[str], tuple[Any, Any]]
OPTIONS = {"acdc": {"group_size": 5, "connector_width": 24, "remainder": "pad"}}


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a one-layer Whisper and a two-layer Llama, random weights."""
    from tiny_parts import llama_folder, whisper_folder  # here, so that light tests do not import torch

    root = tmp_path_factory.mktemp("tiny")
    return whisper_folder(root / "whisper"), llama_folder(root / "llama")


@pytest.fixture
def tiny(tiny_folders: tuple[Path, Path]) -> Tiny:
    """``tiny("acdc")`` -> (model, processor), float32, fresh at every call."""
    from lalm import systems

    encoder, llm = tiny_folders

    def make(system: str) -> tuple[Any, Any]:
        return systems.assemble(system, encoder=str(encoder), llm=str(llm), options=OPTIONS[system])

    return make
