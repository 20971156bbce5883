"""Encodes the recordings of the next batch while the LLM answers the last one, so that neither waits.

The encoder's work is the same as without it, in the same groups, so that answers do not change: on a CPU
clip by clip, on other devices batch by batch. It runs in a thread of its own where there is room beside the
LLM: on other devices than a CPU, and on a CPU in the threads that the LLM does not use
(``lalm.inference.threads``).
"""

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from transformers import BatchFeature

A = TypeVar("A")
B = TypeVar("B")


def one_ahead(
    items: Iterator[A], make: Callable[[A], B], stopped: threading.Event
) -> Generator[tuple[A, B], None, None]:
    """Each item with what ``make`` makes of it; the next one is fetched and made in a thread while this one
    is used. ``stopped`` is set when no more is wanted, and tells ``items`` to end."""

    def following() -> tuple[A, B] | None:
        for item in items:
            return item, make(item)
        return None

    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(following)
        try:
            while (found := coming.result()) is not None:
                coming = worker.submit(following)
                yield found
        finally:
            stopped.set()


def with_frames(model: Any, batch: BatchFeature) -> BatchFeature:
    """The inputs of a batch with the encoder's frames (A, T, W) and their lengths (A,) in the place of its
    waves. ``model`` is a whole model of ours; its weights stay as they are."""
    if "input_values" not in batch or not len(batch["input_values"]):
        return batch
    device = model.device
    waves, lengths = batch["input_values"].to(device), batch["audio_lengths"].to(device)
    with torch.no_grad():
        if (
            device.type == "cpu"
        ):  # alone, a clip's frames do not depend on the clips beside it to the last bit
            clips = [
                model.model.encode(wave[None, :length], torch.tensor([length]))
                for wave, length in zip(waves, lengths.tolist(), strict=True)
            ]
            counts = torch.cat([count for _, count in clips])
            alone = [own[0, :count] for (own, _), count in zip(clips, counts.tolist(), strict=True)]
            frames = torch.nn.utils.rnn.pad_sequence(alone, batch_first=True)
        else:
            frames, counts = model.model.encode(waves, lengths)
    kept = {name: own for name, own in batch.items() if name not in ("input_values", "audio_lengths")}
    return BatchFeature({**kept, "frames": frames, "frame_lengths": counts})
