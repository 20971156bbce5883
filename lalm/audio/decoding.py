"""Encoded audio -> blocks of float32 samples at the file's own rate, by soundfile or, failing that, PyAV.

The container is recognised by its first bytes and looked through for what it claims and what is damaged;
then the decoder that reads it exactly gets the bytes of sound. No buffer is sized by what a header claims.
"""

from collections.abc import Callable, Iterator
from typing import BinaryIO

import soundfile

from lalm.audio import leftovers, mpeg_frames, wave_chunks
from lalm.audio.asked import TOLERANCE_S, Asked, AudioError, shown_s
from lalm.audio.blocks import Blocks
from lalm.audio.chained import SEVERAL, Part, in_turn
from lalm.audio.ffmpeg_tracks import UnreadableError, bare_blocks, ffmpeg_blocks
from lalm.audio.ogg_blocks import ogg_blocks
from lalm.audio.soundfile_blocks import UNKNOWN_FRAMES, opened, soundfile_blocks
from lalm.audio.windows import read_at, size_of, window

_MPEG_TAGS = (0x50, 0x55)  # format tags of MPEG audio in a WAV
_EXACT_TAGS = (1, 3, 6, 7)  # of samples without compression over time
_MPEG_DECODERS = {"mp3": "mp3float", "mp2": "mp2float", "mp1": "mp1float", "aac": "aac"}
_MOST_SAMPLE_BYTES = 8  # no codec takes more
_RUN_UP = 12  # frames decoded before the first wanted one: MPEG frames lean on those before
_FOREIGN = (  # how other containers begin, which may hold MPEG frames too
    *(b"fLaC", b"OggS", b"RIFF", b"FORM", b"\x1a\x45\xdf\xa3", b"\x30\x26\xb2\x75", b"FLV\x01", b"#!AM"),
    *(b"wvpk", b"TTA1", b"\x00\x00\x01\xba", b".RMF", b"caff"),
)


def file_blocks(file: BinaryIO, asked: Asked) -> Blocks:
    """(rate, (n, C) float32) blocks of the asked part of an encoded file."""
    size = size_of(file)
    if not size:
        raise AudioError(f"{asked.place} is empty (0 bytes)")
    start = leftovers.id3v2_end(file)
    head = read_at(file, start, 12)
    if start and (head[:4] in (b"fLaC", b"OggS", b"RIFF", b"FORM")):
        file = window(file, start, size)
    if head[:4] == b"OggS":
        yield from ogg_blocks(file, asked)
    elif head[:4] == b"fLaC":
        yield from _flac_blocks(file, asked)
    elif (chunks := wave_chunks.layout(file)) is not None:
        yield from _wave_blocks(file, chunks, asked)
    elif (
        _may_be_frames(file, head) and (frames := mpeg_frames.stream(file)) is not None and _is_mostly(frames)
    ):
        yield from _mpeg_blocks(file, frames, asked)
    elif late := wave_chunks.late_start(file):
        if not asked.lenient:
            raise AudioError(
                f"{asked.place} is not audio, or in a format that cannot be read: "
                f"a WAV begins {late} bytes late; lenient (--lenient) skips them"
            )
        asked.found.note(f"{late} bytes before the WAV were skipped")
        yield from file_blocks(window(file, late, size), asked)
    else:
        yield from ffmpeg_blocks(file, asked)


def _may_be_frames(file: BinaryIO, head: bytes) -> bool:
    transport = head[:1] == b"G" and read_at(file, 188, 1) == read_at(file, 376, 1) == b"G"
    return (
        not transport
        and head[:4] not in _FOREIGN
        and head[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide", b"styp", b"moof", b"free", b"skip")
    )


def _is_mostly(frames: mpeg_frames.Stream) -> bool:
    sound = sum(sum(link.sizes) for link in frames.links)
    return frames.another or sound > frames.junk + sum(
        count for link in frames.links for _, count in link.holes
    )


# --- WAV, RF64, W64, AIFF, AU, CAF ---


def _wave_blocks(file: BinaryIO, chunks: wave_chunks.Layout, asked: Asked) -> Blocks:
    asked.found.container = chunks.container
    if chunks.rate is not None and chunks.channels is not None:
        asked.check_stream(chunks.rate, chunks.channels)
    if chunks.fault:
        asked.hole(0.0, None, chunks.fault.partition(": ")[2], chunks.fault)
    for note in chunks.notes:
        asked.found.note(note)
    size = size_of(file)
    if chunks.next_start is None:
        yield from _one_wave(file, chunks, asked)
        return
    first_s = chunks.there / chunks.bytes_per_s if chunks.bytes_per_s else 0.0
    here = window(file, 0, chunks.next_start, chunks.patches)
    behind = window(file, chunks.next_start, size)
    asked.found.note(SEVERAL)
    yield from in_turn(
        [(first_s, lambda a: _one_wave(here, chunks, a)), (0.0, lambda a: file_blocks(behind, a))], asked
    )


def _one_wave(file: BinaryIO, chunks: wave_chunks.Layout, asked: Asked) -> Blocks:
    if chunks.format_tag in _MPEG_TAGS:
        inside = window(file, chunks.start, chunks.start + chunks.there)
        frames = mpeg_frames.stream(inside)
        if frames is not None and _is_mostly(frames):
            yield from _mpeg_blocks(inside, frames, asked)
            asked.found.container = chunks.container
            there_s = sum(link.num_samples / link.head.rate for link in frames.links)
            if chunks.declared and chunks.there:
                asked.compare(there_s, there_s * chunks.declared / chunks.there, 2 * TOLERANCE_S)
            return
    if chunks.bare:
        yield from _bare_wave(file, chunks, asked)
        return
    if chunks.patches:
        file = window(file, 0, size_of(file), chunks.patches)
    sound = opened(file)
    if sound is None:
        yield from _compressed_wave(file, chunks, asked)
        return
    with sound:
        there_s = sound.frames / sound.samplerate
        if chunks.declared and chunks.there:
            exact = chunks.format_tag in (None, *_EXACT_TAGS)
            asked.compare(
                there_s, there_s * chunks.declared / chunks.there, TOLERANCE_S if exact else 2 * TOLERANCE_S
            )
        if chunks.frames and not asked.found.holes:
            asked.compare(there_s, chunks.frames / sound.samplerate)
        yield from soundfile_blocks(sound, asked)


def _compressed_wave(file: BinaryIO, chunks: wave_chunks.Layout, asked: Asked) -> Blocks:
    """Samples in a codec that FFmpeg knows and libsndfile does not."""
    count, rate = 0, 1
    try:
        for rate, block in ffmpeg_blocks(file, asked):
            count += len(block)
            yield rate, block
    except UnreadableError:
        if chunks.declared and chunks.there < chunks.declared:  # the packets' sizes stood behind the sound
            raise AudioError(
                f"{asked.place} is truncated: it promises {chunks.declared} bytes of audio but holds "
                f"{chunks.there}"
            ) from None
        raise
    asked.found.container = chunks.container
    if not asked.is_all:
        return
    if chunks.there > _MOST_SAMPLE_BYTES * (chunks.channels or 1) * count:
        asked.damaged(count / rate)
    elif chunks.declared and chunks.there:
        asked.compare(count / rate, count / rate * chunks.declared / chunks.there, 2 * TOLERANCE_S)


def _bare_wave(file: BinaryIO, chunks: wave_chunks.Layout, asked: Asked) -> Blocks:
    """The samples of a WAV whose header no decoder reads."""
    kinds = {(1, 8): "PCM_U8", (1, 16): "PCM_16", (1, 24): "PCM_24", (1, 32): "PCM_32", (3, 32): "FLOAT"}
    kinds |= {(3, 64): "DOUBLE", (6, 8): "ALAW", (7, 8): "ULAW"}
    kind = kinds.get((chunks.format_tag or 0, chunks.bits))
    if kind is None or not chunks.rate or not chunks.channels:
        raise AudioError(f"{asked.place} is not audio, or in a format that cannot be read")
    inside = window(file, chunks.start, chunks.start + chunks.there)
    with soundfile.SoundFile(
        inside, format="RAW", subtype=kind, samplerate=chunks.rate, channels=chunks.channels, endian="LITTLE"
    ) as sound:
        yield from soundfile_blocks(sound, asked)


# --- FLAC ---


def _flac_blocks(file: BinaryIO, asked: Asked) -> Blocks:
    """A part by libsndfile, which finds its place; the whole by FFmpeg, which reads to the last byte."""
    asked.found.container = "FLAC"
    info = read_at(file, 8, 34)
    rate = int.from_bytes(info[10:13], "big") >> 4
    total = int.from_bytes(info[13:18], "big") & ((1 << 36) - 1)
    asked.found.bits = (int.from_bytes(info[12:14], "big") >> 4 & 31) + 1
    promised_s = total / rate if rate and total else None
    if promised_s is not None:
        asked.check_length(promised_s)
    if promised_s is not None and (asked.offset_s or asked.end_s < promised_s):
        sound = opened(file)
        if sound is not None and sound.frames < UNKNOWN_FRAMES:
            with sound:
                yield from soundfile_blocks(sound, asked)
            return
    count, last_rate = 0, rate or 1
    for last_rate, block in ffmpeg_blocks(file, asked):
        count += len(block)
        yield last_rate, block
    asked.found.container = "FLAC"
    if promised_s is not None and not asked.offset_s:
        asked.compare(count / last_rate, min(promised_s, asked.end_s))


# --- MP3 and AAC without a container ---


def _mpeg_blocks(file: BinaryIO, frames: mpeg_frames.Stream, asked: Asked) -> Blocks:
    links = [link for link in frames.links if link.places]
    first = links[0]
    asked.found.container = asked.found.codec = first.head.codec
    at_s = 0.0
    for link in links:
        _check_frames(link, at_s, asked, cut_short=frames.cut_short and link is links[-1])
        at_s += link.num_samples / link.head.rate
    parts: list[Part] = [(link.num_samples / link.head.rate, _frame_decoder(file, link)) for link in links]
    rest = size_of(file) - frames.junk
    if frames.another:
        asked.found.note(SEVERAL)
        behind = window(file, rest, rest + frames.junk)
        parts.append((0.0, lambda a: file_blocks(behind, a)))
    elif frames.junk > 2 * max(links[-1].sizes):
        asked.damaged(at_s)
    counted = [link.declared for link in links if link.declared is not None]
    if len(counted) != len(links):
        asked.found.declared_s = None
    if len(parts) == len(links):
        asked.check_length(at_s)
    yield from in_turn(parts, asked)


def _check_frames(link: mpeg_frames.Link, start_s: float, asked: Asked, *, cut_short: bool) -> None:
    """Tell of junk between frames, and of frames that are promised and missing."""
    frame_s = link.head.samples / link.head.rate
    mean_size = sum(link.sizes) / len(link.sizes)
    for number, count in link.holes:
        at_s, lost_s = start_s + number * frame_s, count / mean_size * frame_s
        asked.hole(at_s, lost_s, "no frames of sound", f"is damaged at {shown_s(at_s)} s: parts are no sound")
    there_s = link.num_samples / link.head.rate
    if link.declared is not None:
        promised_s = link.promised_samples / link.head.rate
        asked.compare(start_s + there_s, start_s + promised_s, max(TOLERANCE_S, 2.5 * frame_s))
    elif cut_short:
        asked.found.cut_short(start_s + there_s)


def _frame_decoder(file: BinaryIO, link: mpeg_frames.Link) -> Callable[[Asked], Blocks]:
    def packets(first: int) -> Iterator[tuple[float, bytes]]:
        for number in range(first, len(link.places)):
            at_s = number * link.head.samples / link.head.rate
            yield at_s, read_at(file, link.places[number], link.sizes[number])

    def blocks(asked: Asked) -> Blocks:
        skipped_s = link.skipped / link.head.rate
        end_s = min(asked.end_s, link.num_samples / link.head.rate) + skipped_s
        begin_s = asked.offset_s + skipped_s
        frame_s = link.head.samples / link.head.rate
        first = max(0, int(begin_s / frame_s) - _RUN_UP) if asked.offset_s else 0
        for at_s, rate, block in bare_blocks(_MPEG_DECODERS[link.head.codec], packets(first), asked):
            start = max(0, round((begin_s - at_s) * rate))
            stop = max(0, min(len(block), round((end_s - at_s) * rate)))
            if start < stop:
                asked.check_stream(rate, block.shape[1])
                yield rate, block[start:stop]
            if stop < len(block):
                return

    return blocks
