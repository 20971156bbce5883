"""Fetches Debian packages by name and extracts single files, without root and without installing."""

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from lalm.errors import LalmError

MAX_FILE_BYTES = 8 * 1024**3  # the largest is a zip of 3.3 GB


class PackageError(LalmError, ValueError):
    """A package that cannot be had, or is not what its index says."""


@dataclass(frozen=True)
class Archive:
    """What the signed package index says about a ``.deb``."""

    package: str
    version: str
    size: int
    sha256: str
    file_name: str


def look_up(name: str, state: Path) -> Archive:
    """The index entry of package ``name`` in the version that would be installed.

    Reads the system's index, else one of our own in ``state``, made from the system's sources without root.
    """
    if not shutil.which("apt-cache") or not shutil.which("dpkg-deb"):
        raise PackageError(
            "the corpus is made from Debian packages, so building it needs apt-cache and dpkg-deb"
        )
    found = _show(name, [])
    if found is None:
        own = _own_state(state)
        if not (state / "updated").exists():
            _run(["apt-get", "update", *own], state, f"the package index cannot be fetched for '{name}'")
            (state / "updated").touch()
        found = _show(name, own)
    if found is None:
        raise PackageError(f"there is no package '{name}' in this system's package sources")
    return found


def fetch(name: str, folder: Path, *, also_in: Path | None = None) -> tuple[Path, Archive]:
    """The verified ``.deb`` of package ``name``, downloaded into ``folder`` unless it lies there.

    A file in ``folder`` or ``also_in`` is used when its size and sha256 are those of the index.
    """
    archive = look_up(name, folder / ".apt")
    for place in (also_in, folder):
        path = place / archive.file_name if place else None
        if path and path.exists() and _is(path, archive):
            return path, archive
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{name}.{os.getpid()}"
    draft.mkdir(exist_ok=True)
    try:
        options = _own_state(folder / ".apt") if (folder / ".apt" / "updated").exists() else []
        if os.geteuid() == 0:  # else apt drops to a user that may not write here, and warns
            options = [*options, "-o", "APT::Sandbox::User=root"]
        what = f"{name}={archive.version}"
        _run(["apt-get", "download", *options, what], draft, f"package '{name}' cannot be fetched")
        (path,) = draft.glob("*.deb")
        if not _is(path, archive):
            raise PackageError(f"package '{name}' as downloaded is not what the package index says")
        return path.replace(folder / archive.file_name), archive
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def unpack(deb: Path, wanted: Iterable[str], folder: Path) -> dict[str, Path]:
    """Take the files ``wanted`` (paths inside the package) out of ``deb``, and nothing else.

    Returns where each lies in ``folder``; files that the package lacks are left out.
    """
    places = {
        name: folder / f"{hashlib.sha1(name.encode()).hexdigest()[:12]}{PurePosixPath(name).suffix}"
        for name in wanted
    }
    folder.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for entry in archive:
                    name = entry.name.removeprefix("./")
                    if name in places and entry.isfile():
                        _extract(archive, entry, places[name], f"{deb.name}: {name}")
        except tarfile.TarError as error:
            process.kill()
            raise PackageError(f"{deb.name} cannot be unpacked: {error}") from None
    if process.returncode:
        raise PackageError(f"{deb.name} cannot be unpacked: it is damaged")
    return {name: place for name, place in places.items() if place.exists()}


def _extract(archive: tarfile.TarFile, entry: tarfile.TarInfo, target: Path, place: str) -> None:
    if entry.size > MAX_FILE_BYTES:
        raise PackageError(f"{place} has {entry.size} bytes, more than the {MAX_FILE_BYTES} that are taken")
    source = archive.extractfile(entry)
    assert source is not None
    draft = target.with_suffix(".part")
    with draft.open("wb") as file:
        shutil.copyfileobj(source, file)
    draft.replace(target)


def _show(name: str, options: Sequence[str]) -> Archive | None:
    command = ["apt-cache", "show", "--no-all-versions", *options, name]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    fields = dict(re.findall(r"^(Version|Filename|Size|SHA256): (.+)$", run.stdout, re.MULTILINE))
    if run.returncode or len(fields) < 4:
        return None
    # The archive writes 1:2.0 as 1%3a2.0 into file names; apt-get download does so too.
    version = fields["Version"]
    stem, architecture = PurePosixPath(unquote(fields["Filename"])).stem.rsplit("_", 1)
    file_name = f"{stem.split('_')[0]}_{version.replace(':', '%3a')}_{architecture}.deb"
    return Archive(name, version, int(fields["Size"]), fields["SHA256"], file_name)


def _own_state(state: Path) -> list[str]:
    """Options that make apt keep its index and cache in ``state``, where we may write."""
    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    return ["-o", f"Dir::State::Lists={state / 'lists'}", "-o", f"Dir::Cache={state / 'cache'}"]


def _run(command: Sequence[str], folder: Path, failure: str) -> None:
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if run.returncode:
        said = (run.stderr.strip().splitlines() or [f"{command[0]} gave no reason"])[-1]
        raise PackageError(f"{failure}: {said}")


def _is(path: Path, archive: Archive) -> bool:
    if path.stat().st_size != archive.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == archive.sha256
