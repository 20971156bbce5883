"""Where a run goes on: the newest good checkpoint of the same run in its folder."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from lalm.training import recipe as recipes
from lalm.training.recipe import Recipe
from lalm.training.report import TrainError, say
from lalm.weights import checkpoint

# A run may be resumed under a recipe that differs in these; anything else would be another run.
MAY_CHANGE = (
    "every",
    "valid",
    "keep",
    "report_to",
    "data.valid",
    "data.workers",
    "optim.max_steps",
    "optim.epochs",
    "cache",
    "cache_gb",
    "distil.cache_gb",
    "grpo.rollouts.url",
    "grpo.rollouts.folder",
    "out",
)


@contextmanager
def alone_in(out: Path, main_process: bool) -> Iterator[None]:
    """The folder of a run, made and held. Raises TrainError while another run writes to it: two would delete
    each other's checkpoints."""
    if not main_process:
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TrainError(
            f"another run is training in '{out}': wait until it is done, or name another 'out'"
        ) from None
    try:
        yield
    finally:
        lock.release()


def check_fresh(out: Path) -> None:
    """Raises TrainError for a folder that holds checkpoints."""
    if found := checkpoint.checkpoints(out):
        raise TrainError(f"'{out}' already holds {found[0].name}: resume that run, or name another 'out'")


def starting_point(recipe: Recipe, out: Path, console: Console) -> Path | None:
    """The checkpoint to resume from, if any; it must be of the same run."""
    folder, remarks = checkpoint.newest_good(out)
    for remark in remarks:
        say(console, remark, "yellow")
    if folder is None:
        if remarks:
            say(console, "No good checkpoint is left; the run starts again.", "yellow")
        return None
    earlier = _flat(recipes.load(folder / "recipe.yaml").model_dump(by_alias=True))
    now = _flat(recipe.model_dump(by_alias=True))
    if recipe.optim.dtype == "auto":
        now["optim.dtype"] = earlier["optim.dtype"]  # a run keeps what it began with
    for key in sorted(earlier.keys() | now.keys()):
        if not _may_change(key) and earlier.get(key) != now.get(key):
            raise TrainError(
                f"{folder} was trained with {key} = {earlier.get(key)}, the recipe says {now.get(key)}: "
                "resume with the same value, or name another 'out'"
            )
    say(console, f"Resuming from {folder}.")
    return folder


def run_digest(recipe: Recipe) -> str:
    """Digest of what makes a run the run that it is: its recipe without what may change as it is resumed.

    What a run works out before its first step is kept under it, so that another run in the same folder, begun
    before there was a checkpoint, does not take it for its own.
    """
    flat = _flat(recipe.model_dump(by_alias=True))
    fixed = {key: value for key, value in flat.items() if not _may_change(key)}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _may_change(key: str) -> bool:
    return any(key == name or key.startswith(name + ".") for name in MAY_CHANGE)


def _flat(fields: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted keys."""
    if not isinstance(fields, dict):
        return {prefix: fields}
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
