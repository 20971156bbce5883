"""Opens checkpoints released by others without running any code in them."""

import json
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from lalm.errors import LalmError, refuse_pickled_code


def read_released(path: Path, error: type[ValueError], allowed: Sequence[type] = ()) -> Any:
    """What a ``.safetensors`` file or a pickle of tensors and plain containers holds, on the CPU.

    ``allowed`` are further classes that the pickle may contain. Raises ``error`` with one sentence.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(list(allowed)), refuse_pickled_code(f"'{path.name}'", error):
            return torch.load(path, map_location="cpu", weights_only=True)
    except LalmError:
        raise
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as problem:
        first_line = (str(problem) or type(problem).__name__).splitlines()[0]
        raise error(f"'{path.name}' cannot be read: {first_line}") from None


def weights_file(path: Path, names: Sequence[str], suffix: str, error: type[ValueError]) -> Path:
    """The one file with weights that ``path`` is or holds: of these names, or any with the suffix."""
    if path.is_file():
        return path
    found = [path / name for name in names if (path / name).is_file()] or sorted(path.glob(f"*{suffix}"))
    if not found:
        raise error(f"'{path}' holds no {', '.join(names)} or {suffix} file")
    return found[0]


def folder_tensors(
    folder: Path, error: type[ValueError], prefix: str | tuple[str, ...] = ""
) -> dict[str, Tensor]:
    """The tensors of a folder in the Hub's layout: safetensors or ``.bin``, in one file or in shards.

    Those whose names begin with ``prefix``, or one of several; of safetensors no others are read.

    Raises ``error`` naming the file that is not there, FileNotFoundError when there is none of them.
    """
    for whole in ("model.safetensors", "pytorch_model.bin"):
        if (folder / whole).is_file():
            return _tensors_of(folder, [whole], error, prefix)
        index = folder / f"{whole}.index.json"
        if index.is_file():
            break
    else:
        raise FileNotFoundError(f"{folder / 'model.safetensors'}")
    try:
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise error(f"'{index}' is damaged: it has no weight_map") from None
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise error(f"'{folder}' is not whole: it lacks {missing[0]}, which {index.name} names")
    return _tensors_of(folder, shards, error, prefix)


def _tensors_of(
    folder: Path, names: Sequence[str], error: type[ValueError], prefix: str | tuple[str, ...]
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    try:
        for name in names:
            if prefix and name.endswith(".safetensors"):
                with safe_open(folder / name, "pt") as file:
                    names_in = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118 - no dict
                    found |= {key: file.get_tensor(key) for key in names_in}
            else:
                tensors = tensors_by_name(folder / name, error)
                found |= {key: value for key, value in tensors.items() if key.startswith(prefix)}
    except (error, SafetensorError) as problem:
        raise error(f"'{folder}' is damaged: {problem}") from None
    return found


def tensors_by_name(path: Path, error: type[ValueError]) -> Mapping[str, Any]:
    """The tensors of a released file, which may lie under "model" beside its authors' command line."""
    content = read_released(path, error, [Namespace])
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise error(f"'{path.name}' holds no tensors by name")
    return content


def refuse_unknown(path: Path, names: Sequence[str], kind: str, error: type[ValueError]) -> None:
    """Raise ``error`` when a checkpoint of a ``kind`` ("EAT") has tensors that nobody asked for."""
    if names:
        some = ", ".join(sorted(names)[:5])
        raise error(f"'{path.name}' has {len(names)} tensors that no {kind} has: {some}")


def num_blocks(path: Path, names: Iterable[str], kind: str, error: type[ValueError]) -> int:
    """How many blocks ("blocks.0.", "blocks.1.", ...) there are. Raises ``error`` where one is left out."""
    numbers = {int(name.split(".")[1]) for name in names if name.startswith("blocks.")}
    if numbers != set(range(len(numbers))):
        raise error(f"'{path.name}' is no whole {kind}: it has {len(numbers)} blocks up to {max(numbers)}")
    return len(numbers)


def check_shapes(
    path: Path,
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    kind: str,
    error: type[ValueError],
) -> None:
    """Raise ``error`` for the first tensor of ``expected`` that is not there, or not in its shape."""
    for name, tensor in expected.items():
        if name not in state:
            raise error(f"'{path.name}' is no whole {kind}: it lacks '{name}'; fetch it again")
        if state[name].shape != tensor.shape:
            here, due = tuple(state[name].shape), tuple(tensor.shape)
            raise error(f"'{path.name}': '{name}' has shape {here}, not {due}")
