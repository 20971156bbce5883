"""What a distillation's teacher says, read once and kept on disk.

Layout: ``FOLDER/<digest of teacher and settings>/<random name>.safetensors``, a file holding the numbers of
some hundred rows under the digests of their tokens. Files are renamed into place when whole, so a run that
was killed goes on where it was, and several runs share a folder; the limit is that of the folder, whoever the
teachers are.
"""

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lalm.errors import LalmError
from lalm.models.modeling import IGNORE_INDEX

ROWS_A_FILE = 512
ABANDONED_S = 3600.0  # a file that nobody has been writing for so long
SMALL = {torch.int64: torch.int32, torch.float32: torch.float16, torch.bfloat16: torch.bfloat16}

Row = tuple[list[int], list[int]]  # token ids and labels
Teach = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class TeacherError(LalmError, ValueError):
    """A table that cannot be used as asked; the text names it."""


def row_key(ids: Sequence[int], labels: Sequence[int]) -> str:
    """Digest of a row's tokens and of which of them are learned."""
    return hashlib.sha256(repr((list(ids), list(labels))).encode()).hexdigest()[:32]


class TeacherTable:
    """The teacher's numbers of each answer token, in at most ``limit_bytes``; see ``distil.teach``."""

    def __init__(self, folder: Path, teacher: str, pad: int, limit_bytes: int) -> None:
        """``teacher``: all that its numbers depend on but the rows; ``pad``: id of the padding token."""
        self.folder = folder / hashlib.sha256(teacher.encode()).hexdigest()[:24]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._pad, self._limit = pad, limit_bytes
        self._where: dict[str, Path] = {}
        for draft in self.folder.glob("*.part"):  # of a writer that was killed
            if time.time() - draft.stat().st_mtime > ABANDONED_S:
                draft.unlink(missing_ok=True)
        for file in sorted(self.folder.glob("*.safetensors")):
            self._add(file)

    def __len__(self) -> int:
        return len(self._where)

    def fill(
        self,
        rows: Iterable[Row],
        teach: Teach,
        batch_size: int,
        progress: Callable[[int], None] = lambda done: None,
    ) -> int:
        """Ask ``teach`` about the rows that are missing; returns how many. Raises TeacherError when full."""
        wanted = {key: row for row in rows if (key := row_key(*row)) not in self._where}
        order = iter(sorted(wanted, key=lambda key: (len(wanted[key][0]), key)))  # alike ones together
        done = 0
        shard: dict[str, Tensor] = {}
        while keys := list(islice(order, batch_size)):
            for key, numbers in zip(keys, self._taught([wanted[key] for key in keys], teach), strict=True):
                shard |= {f"{key}.{name}": value for name, value in numbers.items()}
            done += len(keys)
            progress(done)
            if done % ROWS_A_FILE < batch_size:
                self._write(shard)
                shard = {}
        if shard:
            self._write(shard)
        return done

    def refresh(self) -> None:
        """Take in what other processes have written since."""
        for file in sorted(self.folder.glob("*.safetensors")):
            self._add(file)

    def of(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The numbers of all answer tokens of a labelled batch of the teacher's rows, one after the other.

        Raises TeacherError for a row that was never filled in.
        """
        found: list[dict[str, Tensor]] = []
        for ids, labels, mask in zip(rows["input_ids"], rows["labels"], rows["attention_mask"], strict=True):
            real = mask.bool()
            key = row_key(ids[real].tolist(), labels[real].tolist())
            if key not in self._where:
                raise TeacherError("distil: the teacher was not asked about a row that is now trained on")
            with safe_open(self._where[key], "pt") as file:
                names = [
                    name for name in ("ids", "log_probs", "states") if f"{key}.{name}" in set(file.keys())
                ]
                found.append({name: file.get_tensor(f"{key}.{name}") for name in names})
        return {name: torch.cat([row[name] for row in found]) for name in found[0]}

    def _taught(self, rows: Sequence[Row], teach: Teach) -> list[dict[str, Tensor]]:
        """One batch of rows, padded right -> the numbers of each row."""
        length = max(len(ids) for ids, _ in rows)
        filled = [(ids + [self._pad] * (length - len(ids)), [1] * len(ids)) for ids, _ in rows]
        batch = {
            "input_ids": torch.tensor([ids for ids, _ in filled]),
            "attention_mask": torch.tensor([mask + [0] * (length - len(mask)) for _, mask in filled]),
            "labels": torch.tensor([labels + [IGNORE_INDEX] * (length - len(labels)) for _, labels in rows]),
        }
        counts = (batch["labels"][:, 1:] != IGNORE_INDEX).sum(1).tolist()
        numbers = {
            name: value.cpu().to(SMALL[value.dtype]).split(counts) for name, value in teach(batch).items()
        }
        return [{name: value[i].contiguous() for name, value in numbers.items()} for i in range(len(rows))]

    def _write(self, shard: dict[str, Tensor]) -> None:
        cache = self.folder.parent
        there = sum(file.stat().st_size for file in cache.glob("*/*.safetensors"))
        if there + sum(value.nbytes for value in shard.values()) > self._limit:
            others = sorted({file.parent.name for file in cache.glob("*/*.safetensors")} - {self.folder.name})
            earlier = f", delete what other teachers said ({', '.join(others[:3])} in it)" if others else ""
            raise TeacherError(
                f"distil: the teacher's numbers take more than the {self._limit / 1e9:g} GB that '{cache}' "
                f"may have: raise distil.cache_gb, lower distil.top_k{earlier}, or leave out distil.cache"
            )
        final = self.folder / f"{uuid.uuid4().hex}.safetensors"
        draft = final.with_suffix(".part")
        save_file({name: value.clone() for name, value in shard.items()}, draft)
        with draft.open("r+b") as file:
            os.fsync(file.fileno())
        draft.rename(final)
        self._add(final)

    def _add(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                self._where |= dict.fromkeys((name.partition(".")[0] for name in list(file.keys())), path)
        except SafetensorError:  # cut short by a crash: its rows are asked again
            return
