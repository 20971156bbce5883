"""What is synced to disk obeys Windows' rules, by CPython's: a handle that cannot write is not synced
(``_commit`` says EBADF), and a folder cannot be opened (EACCES)."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_parts import noise, whisper_folder

from lalm.data.frame_cache import FrameCache
from lalm.encoders import load_encoder
from lalm.synthesis.resumable_rows import append
from lalm.weights import checkpoint

fcntl = pytest.importorskip("fcntl")  # how the mock learns how a handle was opened


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Windows' ``os.open`` and ``os.fsync``; the handles that were synced."""
    synced: list[int] = []
    real_open, real_sync = os.open, os.fsync

    def opened(path, flags, *rest, **more):
        if "dir_fd" not in more and Path(path).is_dir():  # with it: the way that shutil.rmtree has here
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real_open(path, flags, *rest, **more)

    def sync(handle):
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        synced.append(handle)
        real_sync(handle)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(checkpoint, "sys", SimpleNamespace(platform="win32"))
    return synced


def test_checkpoints_rows_and_cached_frames_are_synced_as_windows_allows(tmp_path, windows):
    with pytest.raises(OSError), Path(__file__).open("rb") as file:  # the rule itself
        os.fsync(file.fileno())

    for step in (1, 2):  # the second replaces a folder that is there
        draft = checkpoint.staging(tmp_path)
        draft.mkdir()
        (draft / "config.json").write_text("{}")
        (draft / "model.safetensors").write_bytes(bytes(step))
        checkpoint.publish(draft, tmp_path / "checkpoint-1")
    assert checkpoint.fault(tmp_path / "checkpoint-1") == "" and len(windows) == 6

    append(tmp_path / "rows.jsonl", ["{}"])
    encoder = load_encoder(whisper_folder(tmp_path / "encoder"))
    frames = FrameCache(tmp_path / "frames", encoder)
    part = {"type": "audio", "audio": str(noise(tmp_path / "a.wav", 0.5))}
    assert frames.fill([part]) == 1 and part in FrameCache(tmp_path / "frames", encoder)
    assert len(windows) == 8
