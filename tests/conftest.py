"""Fixtures for all tests: no network, and ``tiny(system)``, a whole model small enough for milliseconds."""

import gc
import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from crew import crew

from lalm.models.opening_memory import exempt_from_collection

__all__ = ["crew"]  # a fixture

Tiny: TypeAlias = Callable[[str], tuple[Any, Any]]


@pytest.fixture(autouse=True, scope="module")
def settle() -> Iterator[None]:
    """The libraries that a module's tests brought in are not gone through in every collection after them.

    Trainers collect garbage at their end; with a million objects there it took a fifth of the tests' time.
    """
    yield
    gc.collect()
    exempt_from_collection()


def pytest_sessionfinish() -> None:
    """What is exempted would be told as leaked."""
    gc.unfreeze()


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


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer BERT, random weights: APT's aligner starts from it."""
    from tiny_parts import bert_folder

    return bert_folder(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture
def tiny(tiny_folders: tuple[Path, Path], tiny_beats: Path, tiny_bert: Path) -> Tiny:
    """``tiny("acdc")`` -> (model, processor), float32, fresh at every call."""
    from tiny_parts import OPTIONS

    from lalm.models.assemble import build_model

    encoder, llm = tiny_folders

    def make(system: str) -> tuple[Any, Any]:
        others = {"salmonn": {"encoder_2": str(tiny_beats)}, "apt": {"aligner": str(tiny_bert)}}
        parts = {"encoder": str(encoder), **others.get(system, {}), "llm": str(llm)}
        return build_model(system, **parts, options=OPTIONS[system])

    return make


@pytest.fixture
def ctrl_c_heeded():
    """Ctrl-C is heeded, which it is not in what a shell has put in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
