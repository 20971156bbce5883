"""Sound event detection for models that write no times: windows, each asked whether it holds the sound.

A window's score is how much likelier yes is than no as the answer, less the same for silence, so that a
model that likes to say yes does not find everything everywhere. A recording of any length is read block by
block. How exact the times are is ``HOP_S``.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lalm.audio.blocks import Array
from lalm.audio.load import SAMPLE_RATE
from lalm.data.sample import Sample, ask
from lalm.inference.engine import Engine
from lalm.models.modeling import IGNORE_INDEX

WINDOW_S, HOP_S = 4.0, 2.0
BATCH = 16  # windows that are asked about together
QUESTION = "Is there the sound of {sound} in the audio? Answer yes or no."
ANSWERS = ("Yes", "No")


@dataclass(frozen=True)
class WindowScores:
    """How likely each sound is in each window: ``scores`` (W, S), the log of yes to no beside silence.

    Window w begins at ``w * HOP_S`` seconds; ``seconds`` is the recording's length.
    """

    sounds: tuple[str, ...]
    scores: Array
    seconds: float

    def spans(self, sound: int, threshold: float) -> tuple[tuple[float, float], ...]:
        """Where windows score above ``threshold``, onset and offset in seconds; neighbours are joined.

        Half a window that a lower neighbour covers too is left out, so that a span is not too long.
        """
        found: list[tuple[float, float]] = []
        above = self.scores[:, sound] > threshold
        for number in np.flatnonzero(above):
            start = number * HOP_S
            end = min(start + WINDOW_S, self.seconds)
            if found and start <= found[-1][1]:
                found[-1] = (found[-1][0], end)
            else:
                found.append((start, end))
        return tuple(found)

    def best(self, sound: int) -> tuple[float, float]:
        """Where the sound is likeliest, in seconds, and its score there."""
        number = int(np.argmax(self.scores[:, sound]))
        return number * HOP_S, float(self.scores[number, sound])


def windows(blocks: Iterable[Array]) -> Iterator[Array]:
    """Windows of (N,) blocks: 4 s every 2 s, the last one shorter."""
    size, hop = round(WINDOW_S * SAMPLE_RATE), round(HOP_S * SAMPLE_RATE)
    held, given = np.zeros(0, np.float32), 0
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= size:
            yield held[:size]
            given += 1
            held = held[hop:]
    if len(held) > size - hop or not given:
        yield held


def score_windows(
    engine: Engine, blocks: Iterable[Array], sounds: Sequence[str]
) -> Iterator[tuple[float, list[list[float]]]]:
    """Seconds that were looked at so far, and the new windows' scores, a row for each with one a sound."""
    silent = _yes_beside_no(engine, [np.zeros(round(WINDOW_S * SAMPLE_RATE), np.float32)], sounds)[0]
    batch: list[Array] = []
    done = 0

    def scored() -> list[list[float]]:
        rows = _yes_beside_no(engine, batch, sounds)
        return [[one - still for one, still in zip(row, silent, strict=True)] for row in rows]

    for window in windows(blocks):
        batch.append(window)
        if len(batch) == BATCH:
            done += len(batch)
            yield (done - 1) * HOP_S + len(window) / SAMPLE_RATE, scored()
            batch = []
    if batch:
        done += len(batch)
        yield (done - 1) * HOP_S + len(batch[-1]) / SAMPLE_RATE, scored()


@torch.inference_mode()
def _yes_beside_no(engine: Engine, batch: Sequence[Array], sounds: Sequence[str]) -> list[list[float]]:
    """log p(yes) - log p(no) as the first token of the answer, for each window and sound."""
    samples = [ask([window], QUESTION.format(sound=sound)) for window in batch for sound in sounds]
    yes, no = (_first_token(engine, samples[0], answer) for answer in ANSWERS)
    differences: list[float] = []
    for at in range(0, len(samples), BATCH):
        inputs = engine.processor.batch(samples[at : at + BATCH]).to(engine.model.device)
        logits = engine.model(**inputs, logits_to_keep=1).logits[:, -1].float()  # (B, V)
        differences += (logits[:, yes] - logits[:, no]).tolist()
    return [differences[at : at + len(sounds)] for at in range(0, len(differences), len(sounds))]


def _first_token(engine: Engine, sample: Sample, answer: str) -> int:
    """The token with which an answer begins."""
    whole = engine.processor.batch([sample.with_target(answer)], labels=True)
    ids, learned = whole["input_ids"][0].tolist(), whole["labels"][0].tolist()
    return int(next(id for id, label in zip(ids, learned, strict=True) if label != IGNORE_INDEX))
