"""The systems: one row each that says where its classes are. Reading the list imports none of them.

``lalm.models.classes`` imports what a row names when a model of that system is built or opened, so a room
below the papers can have the list, and opening one system does not load the others.

Systems, connectors and encoders of one's own come from Python files and installed packages. Such a module
says what it brings in three names, each of which it may leave out: ``SYSTEMS`` (a list of ``System``),
``CONNECTORS`` (name -> class) and ``ENCODERS`` (name -> config and module). A package names it as an entry
point of the group ``lalm.systems``. Files run only when a recipe that is being trained names them under
``code``, or ``--code`` does: what lies in a model's folder is never run.
"""

import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from traceback import walk_tb
from types import ModuleType
from typing import Any

from lalm.errors import LalmError

GROUP = "lalm.systems"
VARIABLE = "LALM_CODE"  # files that processes started from here run as well


class OwnCodeError(LalmError, ValueError):
    """A file of one's own that cannot be used; the text names it and says why."""


class UnknownSystemError(LalmError, ValueError):
    """A name that no system has; the text lists those there are."""


@dataclass(frozen=True)
class System:
    """One system. ``module`` holds its three classes, ``prompts`` its ``QUESTION_PROMPT``.

    ``model_type`` is what the config.json of its model folders says. ``released`` is a module that opens
    folders in the authors' own layout, whose config.json says ``released_type``; see
    ``lalm.models.classes.ReleasedFormat`` for what it must have.
    """

    name: str
    model_type: str
    module: str
    config: str
    headless: str  # subclass of AudioLMModel
    model: str  # subclass of AudioLMForConditionalGeneration
    prompts: str
    released: str = ""
    released_type: str = ""


_ROWS = (
    System(
        "acdc",
        model_type="lalm_acdc",
        module="lalm.systems.acdc.model",
        config="ACDCConfig",
        headless="ACDCModel",
        model="ACDCForConditionalGeneration",
        prompts="lalm.systems.acdc.prompts",
    ),
    System(
        "apt",
        model_type="lalm_apt",
        module="lalm.systems.apt.model",
        config="APTConfig",
        headless="APTModel",
        model="APTForConditionalGeneration",
        prompts="lalm.systems.apt.prompts",
    ),
    System(
        "modular",
        model_type="lalm_modular",
        module="lalm.systems.modular.model",
        config="ModularConfig",
        headless="ModularModel",
        model="ModularForConditionalGeneration",
        prompts="lalm.systems.modular.prompts",
    ),
    System(
        "qwen2-audio",
        model_type="lalm_qwen2_audio",
        module="lalm.systems.qwen2_audio.model",
        config="Qwen2AudioLMConfig",
        headless="Qwen2AudioLMModel",
        model="Qwen2AudioLM",
        prompts="lalm.systems.qwen2_audio.prompts",
        released="lalm.systems.qwen2_audio.released",
        released_type="qwen2_audio",
    ),
    System(
        "salmonn",
        model_type="lalm_salmonn",
        module="lalm.systems.salmonn.model",
        config="SALMONNConfig",
        headless="SALMONNModel",
        model="SALMONNForConditionalGeneration",
        prompts="lalm.systems.salmonn.prompts",
    ),
)
SYSTEMS = {row.name: row for row in _ROWS}


def find(name: str) -> System:
    """The system of a name. Raises UnknownSystemError."""
    if name not in SYSTEMS:
        _add_own()
    if name not in SYSTEMS:
        raise UnknownSystemError(f"there is no system '{name}'; the systems are: {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


def of_model_type(model_type: object) -> System:
    """The system whose folders, ours or the authors', have this model_type. Raises UnknownSystemError."""
    if model_type not in {row.model_type for row in SYSTEMS.values()}:
        _add_own()
    for row in SYSTEMS.values():
        if model_type and model_type in (row.model_type, row.released_type):
            return row
    types = {row.model_type for row in SYSTEMS.values()}
    types |= {row.released_type for row in SYSTEMS.values() if row.released_type}
    raise UnknownSystemError(
        f"its model_type is none of {', '.join(sorted(types))}; one of your own needs --code FILE"
    )


def _add_own() -> None:
    """Take in the systems of own files and installed packages."""
    SYSTEMS.update({row.name: row for rows in brought("SYSTEMS") for row in rows})


def use_code(files: Iterable[str | Path]) -> None:
    """Make what Python files bring known, here and in processes that this one starts. Raises OwnCodeError."""
    for file in files:
        path = str(Path(file).expanduser().resolve())
        _run(path)
        known = os.environ.get(VARIABLE, "").split(os.pathsep)
        os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*filter(None, known), path]))


def brought(kind: str) -> list[Any]:
    """What all files and installed packages bring under one name: "SYSTEMS", "CONNECTORS", "ENCODERS",
    "METRICS"."""
    files = [_run(path) for path in _own_files()]
    found = []
    for module in (*files, *_installed()):
        if hasattr(module, kind):
            found.append(getattr(module, kind))
            _check(found[-1], kind, module)
    return found


def own_place(error: BaseException, files: Iterable[str] = ()) -> str:
    """Where in one's own files an error comes from, "own.py, line 3"; "" for one from elsewhere."""
    mine = {*files, *_own_files()}
    frames = ((frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__))
    lines = [f"{Path(file).name}, line {line}" for file, line in frames if file in mine]
    return lines[-1] if lines else ""


def _own_files() -> list[str]:
    return [path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]


def _check(value: Any, kind: str, module: ModuleType) -> None:
    """Raise OwnCodeError unless a name of a module holds what it is for."""
    if kind == "SYSTEMS":
        good = isinstance(value, list | tuple) and all(isinstance(row, System) for row in value)
    else:
        good = isinstance(value, Mapping) and all(isinstance(name, str) for name in value)
    if not good:
        wanted = "a list of System" if kind == "SYSTEMS" else "a dictionary of names"
        raise OwnCodeError(f"{kind} in '{module.__file__}' must be {wanted}, not {value!r:.80}")


@cache
def _run(path: str) -> ModuleType:
    """The module that a file is, run once."""
    if not Path(path).is_file() or not path.endswith(".py"):
        raise OwnCodeError(f"there is no Python file '{path}'")
    name = f"lalm_own_{Path(path).stem}_{sha256(path.encode()).hexdigest()[:8]}"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        place = own_place(error, [path])
        why = f"{type(error).__name__}: {error}" + (f" ({place})" if place else "")
        raise OwnCodeError(f"'{path}' cannot be run: {why}") from error
    return module


@cache
def _installed() -> tuple[ModuleType, ...]:
    """The modules of installed packages."""
    return tuple(map(_loaded, entry_points(group=GROUP)))


def _loaded(entry: EntryPoint) -> ModuleType:
    try:
        module: ModuleType = entry.load()
    except Exception as error:
        name = entry.dist.name if entry.dist else entry.name
        raise OwnCodeError(
            f"the installed package '{name}' cannot be used: {type(error).__name__}: {error}; mend it, or "
            f"take it away: pip uninstall {name}"
        ) from error
    return module
