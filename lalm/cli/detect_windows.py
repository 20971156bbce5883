"""``lalm detect`` by windows: a recording of any length, piece by piece, behind a progress line."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lalm.audio.blocks import Array
    from lalm.audio.stream import AudioStream
    from lalm.inference.detection import Found
    from lalm.inference.engine import Engine

WHOLE_S = 30.0  # a longer recording is looked at in windows


def is_short(stream: "AudioStream") -> bool:
    """Whether a recording ends within ``WHOLE_S``; no more of it is decoded."""
    from lalm.audio.load import SAMPLE_RATE

    count = 0
    for block in stream:
        count += len(block)
        if count > WHOLE_S * SAMPLE_RATE:
            return False
    return True


def in_windows(
    engine: "Engine",
    blocks: "Iterable[Array]",
    sounds: Sequence[str],
    threshold: float,
    name: str,
    picture: Path | None = None,
) -> "list[Found]":
    """What windows of a recording's blocks, (N,) float32 at 16 kHz, answer; the picture beside it."""
    from lalm.audio.load import SAMPLE_RATE
    from lalm.audio.spectrogram import CLOCK_S, LongSpectrogram, clock
    from lalm.audio.stream import AudioStream
    from lalm.cli.opening import progress_bar
    from lalm.data.labels import join_labels
    from lalm.inference.detection import Found
    from lalm.inference.window_detection import WindowScores, score_windows
    from lalm.training.malloc import keep_freed_memory

    keep_freed_memory()  # every batch of windows takes as much: a fifth of the processor time of an hour
    drawn, count, rows = LongSpectrogram(), 0, list[list[float]]()

    def passing() -> "Iterator[Array]":
        nonlocal count
        for block in blocks:
            count += len(block)
            if picture:
                drawn.add(block)
            yield block

    with progress_bar(f"{name}, seconds", transient=True) as progress:
        for done_s, scored in score_windows(engine, passing(), sounds):
            rows += scored
            total_s = blocks.declared_s if isinstance(blocks, AudioStream) else None
            progress(round(done_s), round(total_s or 0))
    scores = WindowScores(tuple(sounds), np.array(rows), count / SAMPLE_RATE)
    found = []
    for number, sound in enumerate(sounds):
        spans = scores.spans(number, threshold)
        at_s, best = scores.best(number)
        place = f" ({clock(at_s, scores.seconds)})" if scores.seconds >= CLOCK_S else ""
        likeliest = f"likeliest near {at_s:.0f} s{place}, with {best:.1f} (--threshold {threshold:g})"
        why = "" if spans else likeliest
        found.append(Found(sound, spans, why, scores.seconds, not spans))
    if picture:
        marked = {one.sound: one.spans for one in found}
        drawn.draw(marked, f"{Path(name).name}: {join_labels(sounds)}", picture)
    print("lalm: windows of it were asked: the times are exact to about 2 s", file=sys.stderr)
    return found
