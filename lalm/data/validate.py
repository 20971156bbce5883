"""Checks and measures a manifest in parallel: faults, seconds, tokens, languages, tasks.

Training skips what it cannot read; this finds it beforehand, for every line and every recording.
"""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lalm.audio.account import Account, Tally
from lalm.audio.load import SAMPLE_RATE, Recording, audio_name
from lalm.data.messages import part_recording
from lalm.data.mixture import audio_seconds, text_tokens
from lalm.data.readers import Reading, Samples, open_samples
from lalm.data.sample import AudioPart, Sample

CHUNK_ROWS = 32
SHORTEST_S = 0.02  # less than two encoder frames
MISSING_S = 0.1  # a part may be this much shorter than the seconds it asks for

Progress = Callable[[int, int], None]


class RowReport(NamedTuple):
    """The findings about one row; ``fault`` is a sentence, or empty."""

    place: str
    fault: str = ""
    seconds: float = 0.0
    tokens: float = 0.0
    language: str = ""
    task: str = ""
    accounts: tuple[Account, ...] = ()


@dataclass
class ManifestReport:
    """The findings about a manifest: sums over its good rows, the faults, and which rows are good.

    ``remarks`` are sentences about recordings that are heard but odd; ``tally`` counts all that were decoded.
    """

    seconds: list[float] = field(default_factory=list)
    tokens: float = 0.0
    languages: Counter[str] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    good: list[int] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    def add(self, number: int, line: RowReport) -> None:
        """Count one row."""
        if line.fault:
            place = line.place if line.fault.startswith(line.place) else f"{line.place}: "
            self.faults.append(line.fault if place == line.place else place + line.fault)
            return
        self.good.append(number)
        self.seconds.append(line.seconds)
        self.tokens += line.tokens
        self.languages[line.language or "not said"] += 1
        self.tasks[line.task or "not said"] += 1
        for account in line.accounts:
            self.tally.add(account.to_json())
            if account.sentence:
                self.remarks.append(f"{line.place}: {account.sentence}")

    @property
    def grouped(self) -> list[str]:
        """The faults, what many rows share in one sentence with the places of the first and their number."""
        places: dict[str, list[str]] = {}
        for fault in self.faults:
            place, _, what = fault.partition(": ")
            places.setdefault(what, []).append(place)
        said = []
        for what, found in places.items():
            more = f" (and {len(found) - 1} more, the last {found[-1]})" if len(found) > 1 else ""
            said.append(f"{found[0]}: {what}{more}")
        return said

    @property
    def hours(self) -> float:
        return sum(self.seconds) / 3600


def validate_manifest(
    path: str | Path,
    *,
    decode: bool,
    workers: int | None = None,
    progress: Progress | None = None,
    heard: Callable[[RowReport], None] | None = None,
    reading: Reading | None = None,
) -> ManifestReport:
    """Check every row of the data at ``path``; with ``decode`` every recording is decoded completely.

    Rows are checked by ``workers`` processes (all CPUs), and counted in their order; ``heard`` gets each
    with the accounts of its recordings.
    """
    samples = open_samples(path, reading)
    total = len(samples)
    workers = min(workers or os.cpu_count() or 1, -(-total // CHUNK_ROWS) or 1)
    found = ManifestReport()
    for number, line in enumerate(_row_reports(samples, decode, workers)):
        found.add(number, line)
        if heard:
            heard(line)
        if progress:
            progress(number + 1, total)
    return found


def _row_reports(samples: Samples, decode: bool, workers: int) -> Iterator[RowReport]:
    total = len(samples)
    if workers == 1:
        yield from (_check_row(samples, number, decode) for number in range(total))
        return
    chunks = [(at, min(at + CHUNK_ROWS, total), decode) for at in range(0, total, CHUNK_ROWS)]
    with ProcessPoolExecutor(workers, initializer=_OPENED.append, initargs=(samples,)) as pool:
        for lines in pool.map(_check_chunk, chunks):
            yield from lines


_OPENED: list[Samples] = []  # what a process checks


def _check_chunk(chunk: tuple[int, int, bool]) -> list[RowReport]:
    start, stop, decode = chunk
    return [_check_row(_OPENED[-1], number, decode) for number in range(start, stop)]


def _check_row(samples: Samples, number: int, decode: bool) -> RowReport:
    place = samples.place(number)
    try:
        sample = samples[number]
        fault = _label_fault(sample)
        recordings = [_decoded(part) for part in sample.audios] if decode else []
        seconds = sum(r.account.decoded_s for r in recordings) or sum(map(audio_seconds, sample.audios))
    except (ValueError, OSError) as error:
        return RowReport(place, str(error))
    language, accounts = sample.origin.get("language", ""), tuple(r.account for r in recordings)
    return RowReport(place, fault, seconds, text_tokens(sample), language, sample.task, accounts)


def _label_fault(sample: Sample) -> str:
    """The fault in the sample's training target, or an empty string."""
    if sample.chosen or sample.rejected:
        return "" if sample.chosen and sample.rejected else "a pair needs both chosen and rejected"
    if not any(m["role"] == "assistant" for m in sample.messages):
        return "there is no answer to learn from"
    if sample.messages[-1]["role"] == "assistant" and not sample.target.strip():
        return "the answer is empty"
    return ""


def _decoded(part: AudioPart) -> Recording:
    """An audio part, checked against the duration it asks for."""
    wanted_s = part.get("duration_s")
    recording = part_recording(part)
    seconds, name = len(recording.audio) / SAMPLE_RATE, audio_name(part["audio"])
    if seconds < SHORTEST_S:
        raise ValueError(f"{name}: {seconds:.3f} s is too short to hear anything")
    if wanted_s is not None and seconds < wanted_s - MISSING_S:
        raise ValueError(f"{name}: {wanted_s:g} s asked for, but only {seconds:.2f} s are there")
    return recording


def histogram(seconds: list[float], bins: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Histogram of durations: counts (bins,), edges (bins + 1,) in s up to the 99.5th percentile."""
    values = np.array(seconds or [0.0])
    top = max(float(np.percentile(values, 99.5)), SHORTEST_S)
    step = 10 ** math.floor(math.log10(top / bins))
    width = next(step * m for m in (1, 2, 5, 10) if step * m * bins >= top)
    edges = np.arange(bins + 1) * width
    counts, _ = np.histogram(values.clip(max=edges[-1]), edges)
    return counts, edges


def histogram_svg(seconds: list[float], title: str) -> str:
    """The histogram as an SVG."""
    counts, edges = histogram(seconds)
    highest = max(int(counts.max()), 1)
    width, height, left, low = 640, 320, 60, 270
    step = (width - left - 20) / len(counts)
    shapes = []
    for i, count in enumerate(counts):
        tall = 220 * int(count) / highest
        x = left + i * step
        shapes.append(
            f'<rect x="{x:.1f}" y="{low - tall:.1f}" width="{step - 2:.1f}" height="{tall:.1f}" fill="#47c"/>'
        )
        if i % 4 == 0:
            shapes.append(f'<text x="{x:.1f}" y="{low + 18}" text-anchor="middle">{edges[i]:g}</text>')
    name = title.replace("&", "&amp;").replace("<", "&lt;")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{left}" y="24" font-size="15">{name}</text>'
        f'<text x="{left - 8}" y="54" text-anchor="end">{highest:,}</text>'
        f'<text x="{left - 8}" y="{low}" text-anchor="end">0</text>'
        f'<text x="{width // 2}" y="{low + 38}" text-anchor="middle">seconds of audio</text>'
        f"{''.join(shapes)}</svg>\n"
    )
