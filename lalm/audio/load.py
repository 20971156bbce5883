"""Audio in: any common file, bytes, data URL, pipe or array -> mono float32 at 16 kHz, and its account.

Decoding is soundfile's, and PyAV's for what libsndfile cannot read exactly (mp3, m4a, webm, mp4, ...). A
source is read, mixed down and resampled block by block, so a long recording never exists at its own rate,
and no buffer is sized by what a file header claims. Every unusable input raises ``AudioError``, whose
text is one sentence naming the source; nothing is cut short or replaced by silence without being told.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from lalm.audio.account import Account
from lalm.audio.asked import MAX_CHANNELS, MOST_TRACKS, Asked, AudioError, Findings, passed_over
from lalm.audio.blocks import BLOCK_FRAMES, Array, Blocks, as_float, larger, narrow_scale
from lalm.audio.decoding import file_blocks
from lalm.audio.mixing import SAMPLE_RATE, SILENT, CancelledError, Mixed, mixed, set_right
from lalm.audio.sources import is_data_url, opened, shortened

__all__ = [
    "AUDIO_SUFFIXES",
    "RECORDING_SUFFIXES",
    "SAMPLE_RATE",
    "Account",
    "AudioError",
    "AudioSource",
    "Recording",
    "audio_name",
    "is_recording",
    "load_audio",
    "read_recording",
    "seconds",
]

AUDIO_SUFFIXES = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".m4a")  # what is looked for in a folder
RECORDING_SUFFIXES = (  # how recordings are named, videos included
    *AUDIO_SUFFIXES,
    *(
        ".3gp",
        ".aac",
        ".ac3",
        ".aif",
        ".aifc",
        ".aiff",
        ".amr",
        ".au",
        ".avi",
        ".caf",
        ".flv",
        ".m4b",
        ".mka",
    ),
    *(
        ".mp2",
        ".mp4",
        ".mkv",
        ".mov",
        ".oga",
        ".rf64",
        ".sph",
        ".spx",
        ".tta",
        ".voc",
        ".w64",
        ".wave",
        ".webm",
    ),
    *(".wma", ".wv"),
)


@dataclass(frozen=True, eq=False)
class Recording:
    """A decoded clip, (N,) float32 mono 16 kHz, with its account; it may be given wherever audio is."""

    audio: Array
    account: Account


AudioSource: TypeAlias = str | Path | bytes | Array | Recording


def load_audio(
    source: AudioSource,
    *,
    rate: int | None = None,
    offset_s: float = 0.0,
    duration_s: float | None = None,
    max_s: float | None = None,
    channel: int | None = None,
    track: int | None = None,
    lenient: bool = False,
) -> Array:
    """Read ``source`` as (N,) float32 mono 16 kHz, values as decoded (normally in [-1, 1]).

    ``source`` is a path (``x.tar/a.flac`` is inside a tar), ``-`` (standard input), a ``data:`` URL,
    encoded bytes, a recording, or an array of shape (N,) or (N, C): floats are taken as they are, integers
    scaled by their full range. ``rate`` in Hz is the array's (16 000 when absent) and only for arrays.
    ``offset_s`` and ``duration_s`` select a part, which may end earlier than asked if the recording does.
    ``max_s`` refuses what is longer than this many seconds after selection. ``channel`` and ``track`` (from
    0) hear one channel, or another track than the default. ``lenient`` hears what can be heard of a damaged
    file instead of refusing it.
    Raises AudioError in one sentence for what is missing, damaged, too long, or no audio.
    Example: ``load_audio("samples/horse.ogg", max_s=30)``.
    """
    return read_recording(
        source,
        rate=rate,
        offset_s=offset_s,
        duration_s=duration_s,
        max_s=max_s,
        channel=channel,
        track=track,
        lenient=lenient,
    ).audio


def read_recording(
    source: AudioSource,
    *,
    rate: int | None = None,
    offset_s: float = 0.0,
    duration_s: float | None = None,
    max_s: float | None = None,
    channel: int | None = None,
    track: int | None = None,
    lenient: bool = False,
) -> Recording:
    """The same as ``load_audio``, with the account of what was read, left out and wrong.

    Example: ``read_recording("call.wav", channel=1).account.channels``.
    """
    asked = Asked(_place(source), offset_s, duration_s, max_s, channel, track, lenient)
    asked.check()
    if rate is not None and not isinstance(source, np.ndarray):
        raise AudioError(f"rate is for arrays, and {asked.place} states its own")
    if isinstance(source, Recording):
        return _part(source, asked)
    name = audio_name(source)
    if isinstance(source, np.ndarray):
        if rate is None:
            asked.found.note(f"its rate was not given, and {SAMPLE_RATE} Hz was assumed")
        array_rate = SAMPLE_RATE if rate is None else rate
        return _recording(lambda a: _array_blocks(source, array_rate, a), asked, name)
    with opened(source, asked.place) as file:
        return _recording(lambda a: file_blocks(file, a), asked, name)


def audio_name(source: AudioSource) -> str:
    """Short name of ``source`` for messages and JSON: file name, stdin, data URL, bytes or array."""
    if isinstance(source, Recording):
        return source.account.name
    if isinstance(source, np.ndarray):
        return "array"
    if isinstance(source, Path):
        return source.name
    if isinstance(source, str):
        return "stdin" if source == "-" else "data URL" if is_data_url(source) else Path(source).name
    return "bytes"


def is_recording(word: str) -> bool:
    """Does a word among recordings and texts stand for a recording, whether it can be read or not?

    Standard input (-), a data URL, what exists as a file or folder, and what is written like a path or named
    like an audio file; a text that only ends like one ("Is it louder than in a.wav") has spaces.
    """
    if word == "-" or is_data_url(word):
        return True
    try:
        if Path(word).exists():
            return bool(word)
    except (OSError, ValueError):  # longer than a file name may be, or not one at all
        return False
    if any(character.isspace() for character in word):
        return False
    return is_named_like_recording(word) or word.startswith(("/", "./", "../", "~/"))


def is_named_like_recording(name: str) -> bool:
    """Whether a file's name ends like one of a recording, by which nothing is opened."""
    return name.lower().endswith(RECORDING_SUFFIXES)


def seconds(audio: Array) -> float:
    """Length in seconds of ``audio``, (N,) samples at 16 kHz."""
    return len(audio) / SAMPLE_RATE


def _recording(blocks_of: Callable[[Asked], Blocks], asked: Asked, name: str) -> Recording:
    """Decode; where the track that players take is silent throughout, the first one that is not."""
    notes = tuple(asked.found.notes)
    first = found = _track(blocks_of, asked, name)
    silent: list[int] = []
    while found.account.silent_fraction == 1 and asked.track is None and asked.is_all:
        silent.append(found.account.track)
        if len(silent) >= min(first.account.num_tracks, MOST_TRACKS):
            return first
        again = Findings(notes=list(notes), silent_tracks=tuple(silent))
        found = _track(blocks_of, replace(asked, found=again), name)
    if not silent:
        return first
    told = passed_over(silent[0], found.account.track)
    return Recording(found.audio, replace(found.account, notes=(told, *found.account.notes)))


def _track(blocks_of: Callable[[Asked], Blocks], asked: Asked, name: str) -> Recording:
    """Decode one track; where the mix of its channels would lose sound, once more for the loudest channel."""
    before = replace(asked.found, notes=list(asked.found.notes))
    try:
        with closing(blocks_of(asked)) as blocks:
            clip = mixed(larger(blocks), asked, asked.channel)
    except CancelledError as lost:
        asked = replace(asked, found=before)
        with closing(blocks_of(asked)) as blocks:
            clip = mixed(larger(blocks), asked, lost.channel)
        asked.found.note(
            f"its channels cancel each other when mixed, so only channel {lost.channel} is heard; "
            "channel (--channel) chooses another"
        )
    audio = set_right(clip.audio, asked)
    if asked.found.scale > 1:
        clip.silent_fraction = float(np.count_nonzero(np.abs(audio) < SILENT)) / len(audio)
    return Recording(audio, _account(clip, audio, asked, name))


def _account(clip: Mixed, audio: Array, asked: Asked, name: str) -> Account:
    found = asked.found
    for hole in found.holes[:3] if asked.lenient else ():
        found.note(f"{hole.what} at {hole.at_s:.2f} s")
    power = float(np.dot(audio, audio)) / len(audio)
    return Account(
        name=name,
        container=found.container,
        codec=found.codec,
        rate_hz=clip.rate,
        num_channels=clip.num_channels,
        channels=clip.channels,
        track=found.track,
        num_tracks=found.num_tracks,
        declared_s=found.declared_s,
        decoded_s=clip.decoded_s,
        starts_s=found.starts_s,
        holes=tuple(sorted(found.holes, key=lambda hole: hole.at_s)),
        peak=float(max(audio.max(), -audio.min())),
        rms=power**0.5,
        silent_fraction=clip.silent_fraction,
        notes=tuple(found.notes),
    )


def _part(source: Recording, asked: Asked) -> Recording:
    """A part of a recording that is decoded already."""
    if asked.channel is not None and source.account.channels != (asked.channel,):
        raise AudioError(f"{asked.place} is decoded already: choose its channel where it is read")
    if asked.track is not None and source.account.track != asked.track:
        raise AudioError(f"{asked.place} is decoded already: choose its track where it is read")
    asked.check_length(seconds(source.audio))
    if not asked.offset_s and asked.end_s >= seconds(source.audio):
        return source
    start = round(asked.offset_s * SAMPLE_RATE)
    audio = source.audio[start : start + int(min(len(source.audio), asked.num_frames(SAMPLE_RATE)))]
    return Recording(audio, replace(source.account, decoded_s=seconds(audio)))


def _array_blocks(array: Array, rate: int, asked: Asked) -> Blocks:
    if array.dtype.kind not in "fiu":
        raise AudioError(f"the array holds {array.dtype} values; audio must be real numbers")
    if array.ndim not in (1, 2) or (array.ndim == 2 and not 1 <= array.shape[1] <= MAX_CHANNELS):
        raise AudioError(
            f"the array has shape {array.shape}; audio must be (N,) or (N, C), C at most {MAX_CHANNELS}"
        )
    table = array[:, None] if array.ndim == 1 else array
    asked.found.container, asked.found.codec = "array", str(array.dtype)
    asked.found.bits = 8 * array.dtype.itemsize if array.dtype.kind in "iu" else 0
    asked.check_stream(rate, table.shape[1])
    asked.check_length(len(table) / rate)
    scale = 1
    if array.dtype.kind == "i" and array.dtype.itemsize >= 4 and array.size:
        used = int(np.bitwise_or.reduce(array, axis=None))
        scale = narrow_scale(max(int(array.max()), -int(array.min())), used, 8 * array.dtype.itemsize)
    if scale > 1:
        bits = 8 * array.dtype.itemsize - (scale.bit_length() - 1)
        asked.found.note(f"its {array.dtype} samples hold {bits}-bit values and are scaled up")
    start = round(asked.offset_s * rate)
    stop = int(min(len(table), start + asked.num_frames(rate)))
    for at in range(start, stop, BLOCK_FRAMES):
        block = as_float(table[at : min(at + BLOCK_FRAMES, stop)])
        yield rate, block * np.float32(scale) if scale > 1 else block


def _place(source: AudioSource) -> str:
    """How error messages call a source: the path as given, or what kind of thing it is."""
    if isinstance(source, Recording):
        return source.account.name
    if isinstance(source, Path) or (isinstance(source, str) and source != "-" and not is_data_url(source)):
        return shortened(str(source))
    name = audio_name(source)
    return {"stdin": "stdin", "bytes": "the audio data"}.get(name, f"the {name}")
