"""Fetch Debian packages by name and take single files out of them, without root and without installing."""

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

MAX_FILE_BYTES = 8 * 1024**3


class PackageError(ValueError):
    """A package that cannot be had, or is not what its index says."""


def fetch(name: str, folder: Path) -> Path:
    """The ``.deb`` of package ``name``, downloaded into ``folder`` unless it is there already.

    apt checks the archive against the signed index as it downloads. Raises PackageError without apt or network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if found := _newest(name, folder):
        return found
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise PackageError("the corpus is built from Debian packages: this needs apt-get and dpkg-deb")
    draft = folder / f".{name}.{os.getpid()}"
    draft.mkdir(exist_ok=True)
    try:
        run = subprocess.run(
            ["apt-get", "download", "-o", "APT::Sandbox::User=root", name],
            cwd=draft,
            capture_output=True,
            text=True,
            check=False,
        )
        found = _newest(name, draft)
        if run.returncode or not found:
            reason = (run.stderr.strip().splitlines() or ["no answer"])[-1]
            raise PackageError(f"package '{name}' cannot be fetched: {reason} (try `apt-get update`)")
        return found.rename(folder / found.name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _newest(name: str, folder: Path) -> Path | None:
    found = sorted(folder.glob(f"{name}_*.deb"))
    return found[-1] if found else None


def version(deb: Path) -> str:
    """The package's version, as its file name says."""
    match = re.fullmatch(r"[^_]+_(.+)_[^_]+\.deb", deb.name)
    return match[1].replace("%3a", ":") if match else ""


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(deb: Path, wanted: Iterable[str], folder: Path) -> dict[str, Path]:
    """Take the ``wanted`` files (paths inside the package) out of ``deb`` into ``folder``.

    Returns where each lies; files already there are not read again, files the package lacks are left out.
    """
    places = {name: folder / f"{hashlib.sha1(name.encode()).hexdigest()[:12]}{PurePosixPath(name).suffix}" for name in wanted}
    missing = {name for name, place in places.items() if not place.exists()}
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for entry in archive:
                    name = entry.name.removeprefix("./")
                    if name not in missing or not entry.isfile():
                        continue
                    if entry.size > MAX_FILE_BYTES:
                        raise PackageError(f"{deb.name}: {name} says it holds {entry.size} bytes: refused")
                    source = archive.extractfile(entry)
                    assert source is not None
                    draft = places[name].with_suffix(".part")
                    with draft.open("wb") as target:
                        shutil.copyfileobj(source, target)
                    draft.rename(places[name])
        if process.returncode:
            raise PackageError(f"{deb.name} cannot be unpacked: it is damaged")
    return {name: place for name, place in places.items() if place.exists()}
