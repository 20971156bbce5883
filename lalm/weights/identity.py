"""What a pretrained part is: a sha256 of its weight files, told cheaply while they have not changed.

A model keeps the hashes of its frozen parts in its config.json, because other weights in the same place
would change its answers without a word. Hashes are kept beside the weights with size and time of each file;
a file is read again when one of them differs, or when asked to.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from lalm.weights.checkpoint import CHECKSUMS
from lalm.weights.fetch import cache_root
from lalm.weights.pins import PARTS, WeightsError

KEPT = ".lalm-sha256"  # file -> [size, time of its last change in ns, sha256]
Told: TypeAlias = tuple[int, int, str]
WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth")


class PartChangedError(WeightsError):
    """A frozen part is not the one that a model was trained with; the text names both."""


def weight_files(part: Path) -> list[Path]:
    """The files that hold a part's weights: itself, or those of its folder."""
    if part.is_file():
        return [part]
    found = sorted(file for file in part.iterdir() if file.suffix in WEIGHTS and file.is_file())
    safe = [file for file in found if file.suffix == ".safetensors"]
    return safe or found  # transformers reads the others only where there are no safetensors


def identity(part: Path, *, full: bool = False) -> str:
    """The sha256 of a part's one weight file, or of the list of the hashes of several.

    ``full`` reads every byte, whatever was kept. Raises WeightsError for a part without weights.
    """
    files = weight_files(part)
    if not files:
        raise WeightsError(f"'{part}' holds no weights")
    place = files[0].parent
    kept = {} if full else _kept(place)
    known = {file.name: kept.get(file.name) for file in files}
    fresh = {file.name: _told(file, known[file.name]) for file in files}
    if fresh != known:
        _keep(place, _kept(place) | fresh)
    return _joined({name: sha for name, (_, _, sha) in fresh.items()})


def revision(part: Path) -> str:
    """The Hub's revision of a part that lies in the Hub's cache; "" for any other."""
    return part.name if part.parent.name == "snapshots" else ""


def identities(parts: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """By role: {"sha256": ..., "revision": ...}, the revision where there is one."""
    found = {role: {"sha256": identity(part), "revision": revision(part)} for role, part in parts.items()}
    return {role: {key: value for key, value in one.items() if value} for role, one in found.items()}


def check_parts(
    names: Mapping[str, str],
    places: Mapping[str, Path],
    recorded: Mapping[str, Mapping[str, str]],
    owner: str,
    *,
    full: bool = False,
) -> None:
    """Raise PartChangedError where a part is not the recorded one. ``owner``: the model, for people.

    A pinned part has several sources, whose files differ: it is right as any of them sealed it.
    """
    for role, one in recorded.items():
        if role not in places or not one.get("sha256"):
            continue
        found = identity(places[role], full=full)
        if found == one["sha256"] or (names[role] in PARTS and found == _sealed(places[role])):
            continue
        wanted = f"the Hub's revision {one['revision']} has them" if one.get("revision") else "give those"
        raise PartChangedError(
            f"the weights of the {role} '{names[role]}' are not those that '{owner}' was trained with "
            f"(sha256 {found[:12]}, not {one['sha256'][:12]}): {wanted}, or delete frozen_parts.{role} in "
            "its config.json to use it with others"
        )


def _told(file: Path, kept: Told | None) -> Told:
    """Size, time and sha256 of a file; its bytes are read unless ``kept`` has the same size and time."""
    status = file.stat()
    if kept is not None and kept[:2] == (status.st_size, status.st_mtime_ns):
        return kept
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return status.st_size, status.st_mtime_ns, digest


def _kept(place: Path) -> dict[str, Told]:
    """What was kept of a folder's files: its own notes, or for a fetched part its seal."""
    for notes in (place / KEPT, _elsewhere(place)):
        with suppress(OSError, ValueError, TypeError):
            rows = json.loads(notes.read_text())
            return {str(name): (int(size), int(time), str(sha)) for name, (size, time, sha) in rows.items()}
    found: dict[str, Told] = {}
    with suppress(OSError, ValueError, TypeError):
        sealed = (place / CHECKSUMS).stat().st_mtime_ns
        for name, (size, sha) in json.loads((place / CHECKSUMS).read_text()).items():
            status = (place / name).stat()
            if status.st_mtime_ns <= sealed and status.st_size == size:
                found[str(name)] = (size, status.st_mtime_ns, str(sha))
    return found


def _keep(place: Path, told: Mapping[str, Told]) -> None:
    """Keep it beside the weights, or in the cache where that cannot be written; else not at all."""
    for notes in (place / KEPT, _elsewhere(place)):
        with suppress(OSError):
            notes.parent.mkdir(parents=True, exist_ok=True)
            partial = notes.with_name(f"{notes.name}.{os.getpid()}")
            partial.write_text(json.dumps(told) + "\n")
            partial.replace(notes)
            return


def _elsewhere(place: Path) -> Path:
    name = hashlib.sha256(str(place.resolve()).encode()).hexdigest()[:32]
    return cache_root() / "hashes" / f"{name}.json"


def _sealed(part: Path) -> str:
    """The identity of a fetched part as it was when it was fetched; "" for what has no seal."""
    try:
        rows = json.loads((part / CHECKSUMS).read_text())
        return _joined({file.name: str(rows[file.name][1]) for file in weight_files(part)})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _joined(sums: Mapping[str, str]) -> str:
    if len(sums) == 1:
        return next(iter(sums.values()))
    return hashlib.sha256("".join(f"{sums[n]}  {n}\n" for n in sorted(sums)).encode()).hexdigest()
