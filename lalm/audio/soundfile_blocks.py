"""Blocks of what libsndfile reads: WAV and its relatives, FLAC, Ogg."""

import io
import re
from typing import BinaryIO

import numpy as np
import soundfile

from lalm.audio.asked import Asked
from lalm.audio.blocks import BLOCK_FRAMES, Blocks, narrow_scale
from lalm.audio.windows import Window

_BITS = {"PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
UNKNOWN_FRAMES = 1 << 40  # libsndfile reports lengths beyond this when a stream does not state one


def opened(file: BinaryIO) -> soundfile.SoundFile | None:
    """``file`` in libsndfile, or None when it does not know the format."""
    file.seek(0)
    try:
        # A descriptor, not a name: soundfile then judges by content alone, whatever the extension says.
        handle = file if isinstance(file, io.BytesIO | Window) else file.fileno()
        return soundfile.SoundFile(handle, closefd=False)
    except (soundfile.LibsndfileError, TypeError, ValueError, OverflowError):
        return None


def soundfile_blocks(sound: soundfile.SoundFile, asked: Asked) -> Blocks:
    """(rate, (n, C) float32) blocks of the asked part; what is damaged or missing is told to ``asked``."""
    rate = sound.samplerate
    asked.found.container = asked.found.container or sound.format
    asked.found.codec = sound.subtype.lower()
    asked.found.bits = _BITS.get(sound.subtype, 0)
    asked.check_stream(rate, sound.channels)
    if sound.frames:
        asked.check_length(sound.frames / rate)
    scale = _narrow_scale(sound, asked)
    first = round(asked.offset_s * rate)
    last = min(sound.frames, first + asked.num_frames(rate))
    at = sound.seek(first) if first else 0
    while at < last:
        try:
            block = sound.read(int(min(BLOCK_FRAMES, last - at)), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            asked.damaged(at / rate)
            break
        if not len(block):
            break
        at += len(block)
        yield rate, block if scale == 1 else block * np.float32(scale)
    holes = re.search(r"reports a hole|Corrupted bitstream", sound.extra_info)
    if sound.format == "OGG" and holes and not first:  # a seek leaves the same words in the log
        asked.hole(0.0, None, "parts cannot be decoded", "is damaged: parts of it cannot be decoded")
    if at < last:
        asked.truncated(at / rate, sound.frames / rate)


def _narrow_scale(sound: soundfile.SoundFile, asked: Asked) -> int:
    """What 32-bit samples are multiplied by when all of them would fit into 16 or 24 bits."""
    if sound.subtype != "PCM_32" or not sound.frames:
        return 1
    peak, used = 0, 0
    while len(block := sound.read(BLOCK_FRAMES, dtype="int32", always_2d=True)):
        peak = max(peak, int(block.max()), -int(block.min()))
        used |= int(np.bitwise_or.reduce(block, axis=None))
    sound.seek(0)
    scale = narrow_scale(peak, used, 32)
    if scale > 1:
        asked.found.note(f"its 32-bit samples hold {16 if scale > 256 else 24}-bit values and are scaled up")
    return scale
