"""A recording's spectrogram as a PNG, with time ranges marked."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from lalm.audio.features import fbank
from lalm.audio.load import SAMPLE_RATE

Array = np.ndarray[Any, Any]
Spans: TypeAlias = Sequence[tuple[float, float]]  # (onset, offset) in seconds

COLUMN_S = 0.5  # of a long recording's spectrogram
WIDTH, HEIGHT = 960, 256  # of the spectrogram, pixels
LEFT, TOP, BOTTOM, RIGHT = 56, 40, 36, 16  # margins
RANGE_DB = 70.0  # below the loudest point nothing is shown
COLOURS = ((0, 0, 0), (59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191))
MARKS = ((56, 189, 120), (64, 156, 255), (255, 170, 30), (230, 100, 200), (110, 210, 230), (190, 190, 60))
MINUTES, HOURS = (1, 2, 5, 10, 15, 30), (1, 2, 6, 12, 24)
# Between marks on the axis of time.
STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, *(60 * n for n in MINUTES), *(3600 * n for n in HOURS))
CLOCK_S = 60.0  # times in longer recordings are written as 2:05
ROW = 22  # height of the line of one sound, where there are several
BACK, INK = (255, 255, 255), (40, 40, 40)


def draw(audio: Array, spans: Spans | Mapping[str, Spans], title: str, path: Path) -> None:
    """audio: (N,) float32 16 kHz; ``spans``: (onset, offset) in seconds, or those of each sound by its name.

    Writes ``path``, a PNG. Several sounds get a line and a colour each. Raises ValueError for a recording
    too short to have a spectrogram.
    """
    if len(audio) < SAMPLE_RATE // 20:
        raise ValueError("a recording under 0.05 s has no spectrogram to draw")
    _draw(_mel(audio), len(audio) / SAMPLE_RATE, spans, title, path)


class LongSpectrogram:
    """The spectrogram of a recording that passes by in blocks: of each ``COLUMN_S`` the loudest is kept.

    Example: ``picture.add(block)`` for all blocks, then ``picture.draw(spans, "hour.mp3: dog", path)``.
    """

    def __init__(self) -> None:
        self._columns: list[Array] = []
        self._left = np.zeros(0, np.float32)
        self._count = 0

    def add(self, block: Array) -> None:
        """Take the next samples, (N,) float32 at 16 kHz."""
        self._count += len(block)
        self._left = np.concatenate([self._left, block])
        size = round(COLUMN_S * SAMPLE_RATE)
        while len(self._left) >= size:
            self._columns.append(_mel(self._left[:size]).max(axis=0))
            self._left = self._left[size:]

    def draw(self, spans: Spans | Mapping[str, Spans], title: str, path: Path) -> None:
        """Write the picture as ``draw`` does. Raises ValueError for a recording too short to have one."""
        columns = list(self._columns)
        if len(self._left) >= SAMPLE_RATE // 20:
            columns.append(_mel(self._left).max(axis=0))
        if not columns:
            raise ValueError("a recording under 0.05 s has no spectrogram to draw")
        _draw(np.stack(columns), self._count / SAMPLE_RATE, spans, title, path)


def _draw(mel: Array, seconds: float, spans: Spans | Mapping[str, Spans], title: str, path: Path) -> None:
    """mel: (T, 128), natural logarithm."""
    sounds = spans if isinstance(spans, Mapping) else {"": spans}
    top = TOP + (ROW * len(sounds) if len(sounds) > 1 else 0)
    page = Image.new("RGB", (LEFT + WIDTH + RIGHT, top + HEIGHT + BOTTOM), BACK)
    page.paste(_picture(mel).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR), (LEFT, top))
    pen, font = ImageDraw.Draw(page, "RGBA"), ImageFont.load_default(14)
    pen.text((LEFT, 10), title[:120], INK, font)
    for number, (name, found) in enumerate(sounds.items()):
        colour = MARKS[number % len(MARKS)]
        line = (TOP + number * ROW - 2, TOP + (number + 1) * ROW - 6) if top > TOP else (TOP - 8, TOP - 2)
        for onset_s, offset_s in found:
            start, stop = (LEFT + WIDTH * min(t, seconds) / seconds for t in (onset_s, offset_s))
            fill = (*colour, 70 if top == TOP else 24)
            pen.rectangle((start, top, stop, top + HEIGHT), fill=fill, outline=colour, width=2)
            pen.rectangle((start, line[0], stop, line[1]), fill=colour)
        if top > TOP:
            pen.text((LEFT + 4, line[0]), name[:60], INK, font)
    _axes(pen, font, seconds, top)
    page.save(path, "PNG")


def _axes(pen: ImageDraw.ImageDraw, font: Any, seconds: float, top: int) -> None:
    for at_s, text in ticks(seconds):
        across = LEFT + WIDTH * at_s / seconds
        pen.line((across, top + HEIGHT, across, top + HEIGHT + 5), INK)
        half = font.getlength(text) / 2
        pen.text((min(across, LEFT + WIDTH + RIGHT - half), top + HEIGHT + 8), text, INK, font, anchor="ma")
    if seconds < CLOCK_S:
        pen.text((4, top + HEIGHT + 8), "s", INK, font)
    pen.text((4, top), "8 kHz", INK, font)
    pen.text((4, top + HEIGHT - 18), "0 (mel)", INK, font)


def ticks(seconds: float) -> list[tuple[float, str]]:
    """Places on the axis of time in seconds, 13 at most, and their labels: seconds, 2:05 or 1:02:05."""
    days = 86_400 * math.ceil(seconds / 12 / 86_400)
    step = next((one for one in STEPS_S if seconds / one <= 12), days)
    places = [number * step for number in range(int(seconds / step + 1e-9) + 1)]
    return [(at_s, clock(at_s, seconds)) for at_s in places]


def clock(at_s: float, seconds: float) -> str:
    """A place in a recording of ``seconds`` as people read it: 12.5, in longer ones 2:05, 1:02:05."""
    if seconds < CLOCK_S:
        return f"{at_s:g}"
    minutes, rest = divmod(round(at_s), 60)
    if seconds < 3600:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _mel(audio: Array) -> Array:
    """(T, 128) float32, natural logarithm of the mel spectrogram of (N,) samples."""
    mel: Array = fbank(torch.from_numpy(np.ascontiguousarray(audio))[None])[0][0].numpy()
    return mel


def _picture(mel: Array) -> Image.Image:
    """The mel spectrogram in colours, high frequencies up; at most ``WIDTH`` columns, each the loudest."""
    if len(mel) > WIDTH:
        edges = np.linspace(0, len(mel), WIDTH + 1).astype(int)
        mel = np.maximum.reduceat(mel, edges[:-1])
    level = 1 + (mel - mel.max()) * (10 / np.log(10)) / RANGE_DB
    place = np.clip(level, 0, 1) * (len(COLOURS) - 1)
    stops = np.array(COLOURS, dtype=float)
    colours = np.stack([np.interp(place, range(len(stops)), stops[:, c]) for c in range(3)], -1)
    return Image.fromarray(colours.transpose(1, 0, 2)[::-1].astype(np.uint8))
