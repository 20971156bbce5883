"""The frame cache: a frozen encoder runs once per clip instead of once per epoch.

Layout: ``FOLDER/<encoder identity>/<random name>.safetensors``, each shard holding the frames (T, W) of
some hundred clips under their keys. The shards are their own index, written to a temporary name, synced
and renamed, so several writers can share a folder and a shard cut short is simply encoded again.
"""

import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lalm.audio import archives
from lalm.audio.load import SAMPLE_RATE
from lalm.data.messages import part_choice, part_recording
from lalm.data.sample import AudioPart
from lalm.errors import LalmError

FEATURE_VERSION = 1  # raise when an encoder's front end changes its numbers
CLIPS_PER_SHARD = 512
SHARD_S = 60.0  # what was encoded is written at least so often
POOL_CLIPS = 512  # decoded and sorted by length together


@cache
def _file_digest(path: str, size: int, modified_ns: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def clip_key(part: AudioPart) -> str:
    """Key of one audio part: what it contains and which stretch of it is used.

    Raises ValueError for a missing file.
    """
    source = part["audio"]
    if isinstance(source, str | Path) and (inside := archives.split(source)):
        digest = hashlib.sha256(archives.read(*inside)).hexdigest()[:32]
    elif isinstance(source, (str, os.PathLike)) and not str(source).startswith("data:"):
        try:
            stat = Path(source).stat()
        except OSError as error:
            raise ValueError(f"{source}: {error.strerror}") from None
        digest = _file_digest(str(source), stat.st_size, stat.st_mtime_ns)
    else:
        raw = source if isinstance(source, bytes) else str(source).encode()
        if isinstance(source, np.ndarray):
            raw = source.tobytes() + str(part.get("rate")).encode()
        digest = hashlib.sha256(raw).hexdigest()[:32]
    return f"{digest}-{part_choice(part)}"


def encoder_identity(encoder: nn.Module) -> str:
    """Digest of the encoder's configuration, weights and front-end version."""
    config: Any = encoder.config
    fields = config.to_dict()
    for key in ("transformers_version", "_name_or_path", "dtype", "architectures"):
        fields.pop(key, None)
    digest = hashlib.sha256(json.dumps([FEATURE_VERSION, fields], sort_keys=True, default=str).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:24]


class Shelf(NamedTuple):
    """What a cache folder holds for one encoder; ``used`` is a date."""

    identity: str
    encoder: str
    clips: int
    bytes: int
    used: str


class CacheError(LalmError, ValueError):
    """A cache folder that cannot be used as asked; the text names it."""


def contents(folder: str | Path) -> list[Shelf]:
    """The encoders of a cache folder, the last used first. Raises CacheError when it is none."""
    rows = []
    for shelf in _shelves(Path(folder)):
        clips = size = 0
        used = shelf.stat().st_mtime
        for shard in shelf.glob("*.safetensors"):
            stat = shard.stat()
            size, used = size + stat.st_size, max(used, stat.st_mtime)
            try:
                with safe_open(shard, "pt") as file:
                    clips += len(file.keys())
            except SafetensorError:
                continue
        kind = shelf / "encoder.txt"
        name = kind.read_text(encoding="utf-8").strip() if kind.is_file() else "not said"
        rows.append(
            (used, Shelf(shelf.name, name, clips, size, time.strftime("%Y-%m-%d", time.localtime(used))))
        )
    return [row for _, row in sorted(rows, reverse=True)]


def prune(folder: str | Path, keep_bytes: int, spare: Path | None = None) -> tuple[int, int]:
    """Delete the shards not used for longest until ``keep_bytes`` are left; (shards, bytes) deleted.

    Those of the encoder folder ``spare`` stay. Runs that use a deleted shard keep it until they end.
    """
    shards = [shard for shelf in _shelves(Path(folder)) for shard in shelf.glob("*.safetensors")]
    left = sum(shard.stat().st_size for shard in shards)
    removed = freed = 0
    for shard in sorted(shards, key=lambda shard: shard.stat().st_mtime):
        if left - freed <= keep_bytes:
            break
        if shard.parent == spare:
            continue
        freed += shard.stat().st_size
        removed += 1
        shard.unlink()
    return removed, freed


def _shelves(folder: Path) -> list[Path]:
    """The folders of encoders in a cache folder."""
    if not folder.is_dir():
        raise CacheError(f"there is no cache folder '{folder}'")
    found = [path for path in sorted(folder.iterdir()) if re.fullmatch(r"[0-9a-f]{24}", path.name)]
    if not found and any(folder.iterdir()):
        raise CacheError(f"'{folder}' is not a frame cache: it holds other files")
    return found


class FrameCache:
    """Frames of clips on disk, for one encoder, in at most ``limit_bytes``.

    Example: ``cache = FrameCache("frames", model.model.audio_tower); cache.fill(parts); cache[part]``.
    """

    def __init__(
        self,
        folder: str | Path,
        encoder: nn.Module,
        dtype: torch.dtype = torch.bfloat16,
        limit_bytes: int | None = None,
    ) -> None:
        self.encoder = encoder
        self.dtype = dtype
        self.limit_bytes = limit_bytes
        self.folder = Path(folder) / encoder_identity(encoder)
        self.folder.mkdir(parents=True, exist_ok=True)
        config: Any = encoder.config
        (self.folder / "encoder.txt").write_text(f"{config.model_type}\n", encoding="utf-8")
        self._where: dict[str, Path] = {}
        self._open: dict[Path, safe_open] = {}
        for shard in sorted(self.folder.glob("*.safetensors")):
            self._add(shard)

    def _add(self, shard: Path) -> None:
        try:
            file = safe_open(shard, "pt")
        except SafetensorError:  # cut short by a crash: its clips are encoded again
            return
        self._open[shard] = file
        os.utime(shard)  # used now, as ``prune`` sees it
        self._where.update(dict.fromkeys(file.keys(), shard))

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, part: AudioPart) -> bool:
        return clip_key(part) in self._where

    def __getitem__(self, part: AudioPart) -> Tensor:
        """Frames (T, W) of one clip; KeyError when it has not been encoded."""
        key = clip_key(part)
        return self._open[self._where[key]].get_tensor(key)

    @torch.no_grad()
    def fill(
        self,
        parts: Iterable[AudioPart],
        *,
        batch_s: float = 240.0,
        progress: Callable[[int, int], None] | None = None,
        failed: Callable[[AudioPart, ValueError], None] | None = None,
    ) -> int:
        """Encode the clips that are missing; returns how many.

        ``parts`` are looked at a pool at a time; ``progress`` gets how many clips were encoded and looked at.
        ``batch_s`` bounds the padded seconds of audio encoded at once. A clip that cannot be read raises
        ValueError, or goes to ``failed`` when given. What was encoded stays where this is stopped: Ctrl-C
        and errors lose nothing, a kill what was encoded within ``SHARD_S``.
        """
        done = seen = 0
        shard: dict[str, Tensor] = {}
        parts, written = iter(parts), time.monotonic()
        try:
            while pool := list(islice(parts, POOL_CLIPS)):
                seen += len(pool)
                for batch in self._batches(self._missing(pool, shard, failed), batch_s, failed):
                    shard |= self._encode(batch)
                    done += len(batch)
                    if len(shard) >= CLIPS_PER_SHARD or time.monotonic() - written > SHARD_S:
                        full, shard = shard, {}
                        self._write(full)
                        written = time.monotonic()
                    if progress:
                        progress(done, seen)
        finally:
            if shard:
                self._write(shard)
        return done

    def refresh(self) -> None:
        """Take in the shards that other processes have written since."""
        for file in sorted(self.folder.glob("*.safetensors")):
            if file not in self._open:
                self._add(file)

    def _missing(
        self,
        pool: list[AudioPart],
        shard: Mapping[str, Tensor],
        failed: Callable[[AudioPart, ValueError], None] | None,
    ) -> dict[str, AudioPart]:
        """The clips of the pool that are in no shard yet, by key."""
        missing = {}
        for part in pool:
            try:
                key = clip_key(part)
            except ValueError as error:
                if failed is None:
                    raise
                failed(part, error)
                continue
            if key not in self._where and key not in shard:
                missing[key] = part
        return missing

    def _batches(
        self,
        missing: dict[str, AudioPart],
        batch_s: float,
        failed: Callable[[AudioPart, ValueError], None] | None,
    ) -> Iterator[list[tuple[str, np.ndarray]]]:
        """Decode the clips and sort them by length, so that batches pad little."""
        pool = []
        for key, part in missing.items():
            try:
                audio = part_recording(part).audio
            except ValueError as error:
                if failed is None:
                    raise
                failed(part, error)
                continue
            pool.append((key, audio))
        pool.sort(key=lambda item: len(item[1]))
        batch: list[tuple[str, np.ndarray]] = []
        for item in pool:
            if batch and (len(batch) + 1) * len(item[1]) > batch_s * SAMPLE_RATE:
                yield batch
                batch = []
            batch.append(item)
        if batch:
            yield batch

    def _encode(self, batch: list[tuple[str, np.ndarray]]) -> dict[str, Tensor]:
        audio = [torch.from_numpy(samples) for _, samples in batch]
        device = next(self.encoder.parameters()).device
        values = torch.nn.utils.rnn.pad_sequence(audio, batch_first=True).to(device)
        lengths = torch.tensor([len(a) for a in audio], device=device)
        frames, frame_lengths = self.encoder(values, lengths)
        frames = frames.to("cpu", self.dtype)
        return {key: frames[i, : int(frame_lengths[i])].clone() for i, (key, _) in enumerate(batch)}

    def _write(self, shard: dict[str, Tensor]) -> None:
        if self.limit_bytes is not None:
            there = sum(file.stat().st_size for file in self.folder.glob("*.safetensors"))
            needed = there + sum(frames.nbytes for frames in shard.values())
            if needed > self.limit_bytes:
                raise CacheError(
                    f"the frames of this run take more than the {self.limit_bytes / 1e9:g} GB that the cache "
                    f"'{self.folder.parent}' may have: raise cache_gb, or train without cache"
                )
        final = self.folder / f"{uuid.uuid4().hex}.safetensors"
        draft = final.with_suffix(".part")
        save_file(shard, draft)
        with draft.open("r+b") as file:  # Windows syncs no handle that cannot write
            os.fsync(file.fileno())
        draft.rename(final)
        self._add(final)
