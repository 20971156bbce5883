"""Makes odd recordings: three tones in turn through real encoders, and faults put into their bytes."""

import io
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import av
import numpy as np
import soundfile

from lalm.audio.ogg_pages import checksum

RATE = 48_000
TONES = (440, 880, 1320)  # Hz, half a second each
LENGTH_S = 1.5


def tones(rate: int = RATE, times: int = 1) -> np.ndarray:
    """(N,) float32 of half a second each of 440, 880 and 1320 Hz, ``times`` times over."""
    at = np.arange(rate // 2) / rate
    once = np.concatenate([0.4 * np.sin(2 * np.pi * hz * at) for hz in TONES])
    return np.tile(once, times).astype(np.float32)


def sound(kind: str, subtype: str = "PCM_16", audio: np.ndarray | None = None, rate: int = RATE) -> bytearray:
    """Tones, or ``audio``, as soundfile writes them."""
    file = io.BytesIO()
    soundfile.write(file, tones(rate) if audio is None else audio, rate, format=kind, subtype=subtype)
    return bytearray(file.getvalue())


@cache
def _muxed(kind: str, codec: str, rate: int, times: int, options: tuple[tuple[str, str], ...]) -> bytes:
    return muxed(kind, [(codec, tones(rate, times))], rate, dict(options))


def packed(kind: str, codec: str, rate: int = RATE, times: int = 1, **options: str) -> bytearray:
    """Tones in a container of FFmpeg's."""
    return bytearray(_muxed(kind, codec, rate, times, tuple(options.items())))


def muxed(
    kind: str,
    tracks: list[tuple[str, np.ndarray]],
    rate: int = RATE,
    options: dict[str, str] | None = None,
    *,
    marks: tuple[int, ...] = (),
    late_s: float = 0.0,
    picture: bool = False,
    fmt: str = "",
) -> bytes:
    """Tracks of (N,) or (N, C) samples in a container of FFmpeg's; ``marks`` are their dispositions."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind, options=options or {}) as container:
        video: Any = container.add_stream("mpeg4", rate=5) if picture else None
        if video is not None:
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
        made = []
        for number, (codec, audio) in enumerate(tracks):
            stream: Any = container.add_stream(codec, rate=rate)
            stream.layout = "mono" if audio.ndim == 1 else {2: "stereo", 6: "5.1"}[audio.shape[1]]
            if codec == "wmav2":
                stream.bit_rate = 96_000
            if marks:
                stream.disposition = marks[number]
            made.append((stream, np.atleast_2d(audio.T)))
        if video is not None:
            for _ in range(10):
                image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                container.mux(video.encode(image))
            container.mux(video.encode(None))
        for stream, audio in made:
            resampler = av.AudioResampler(stream.codec_context.format, stream.layout, rate)
            for at in range(0, audio.shape[1], rate // 10):  # interleaved, as recorders write
                piece = np.ascontiguousarray(audio[:, at : at + rate // 10])
                name = fmt or "fltp"
                values = piece if name == "fltp" else np.ascontiguousarray(piece.T.reshape(1, -1))
                frame = av.AudioFrame.from_ndarray(values, format=name, layout=stream.layout.name)
                frame.sample_rate, frame.pts = rate, at + round(late_s * rate)
                for ready in [frame] if fmt else resampler.resample(frame):
                    container.mux(stream.encode(ready))
            container.mux(stream.encode(None))
    return file.getvalue()


def put(data: bytes, name: bytes, offset: int, value: int, width: int = 4, order: str = "big") -> bytearray:
    """``data`` with a number written ``offset`` bytes behind the first ``name``."""
    changed = bytearray(data)
    at = changed.index(name) + len(name) + offset
    changed[at : at + width] = value.to_bytes(width, order)  # type: ignore[arg-type]
    return changed


# --- Ogg ---


def pages(data: bytes) -> list[bytearray]:
    """The pages of an Ogg file."""
    at, found = 0, []
    while at < len(data):
        segments = data[at + 26]
        size = 27 + segments + sum(data[at + 27 : at + 27 + segments])
        found.append(bytearray(data[at : at + size]))
        at += size
    return found


def signed(page: bytes) -> bytearray:
    """A page with the right checksum."""
    made = bytearray(page)
    made[22:26] = bytes(4)
    made[22:26] = checksum(bytes(made)).to_bytes(4, "little")
    return made


def at_granule(page: bytes, change: Callable[[int], int]) -> bytearray:
    """A page whose count of samples is another."""
    made = bytearray(page)
    made[6:14] = change(int.from_bytes(made[6:14], "little")).to_bytes(8, "little")
    return signed(made)


# --- WAV ---


def riff(*chunks: bytes, size: int | None = None) -> bytearray:
    """A WAV of these chunks; ``size`` is what its header says of itself."""
    body = b"WAVE" + b"".join(chunks)
    return bytearray(b"RIFF" + (len(body) if size is None else size).to_bytes(4, "little") + body)


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    """A chunk; ``size`` is what it says of itself."""
    stated = len(body) if size is None else size
    return name + (stated & 0xFFFF_FFFF).to_bytes(4, "little") + body


def wave(values: np.ndarray, bits: int) -> bytearray:
    """Integers (N,) as a WAV of so many bits, whatever they are."""
    width = bits // 8
    data = values.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :width].tobytes()
    return riff(
        chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, RATE * width, width, bits)), chunk(b"data", data)
    )


# --- MP4 in fragments ---


def boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """(name, whole box) of the top level."""
    at, found = 0, []
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at : at + size]))
        at += size
    return found


def fragments(seconds: int = 2) -> bytes:
    """Tones in an MP4 of fragments of some half a second, as phones and browsers record."""
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "400000"}
    return muxed("mp4", [("aac", tones(times=seconds))], options=options)


def with_length(data: bytes, seconds: float) -> bytes:
    """The same, with a box (mehd) that says how long the whole is."""
    box = b"\0\0\0\x10mehd" + bytes(4) + round(seconds * 1000).to_bytes(4, "big")
    made = bytearray(data)
    for name in (b"mvex", b"moov"):
        at = made.index(name)
        if name == b"mvex":
            made[at + 4 : at + 4] = box
        made[at - 4 : at] = (int.from_bytes(made[at - 4 : at], "big") + len(box)).to_bytes(4, "big")
    return bytes(made)


def without(data: bytes, drop: Callable[[int], bool]) -> bytes:
    """The same without the fragments whose number (from 0) is dropped."""
    number, kept = -1, b""
    for name, box in boxes(data):
        number += name == b"moof"
        gone = (name in (b"moof", b"mdat") and drop(number)) or name == b"mfra"
        kept += b"" if gone else box
    return kept
