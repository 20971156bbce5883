"""Blocks of Ogg: each chained recording by the decoder that reads it exactly, in turn."""

from collections.abc import Callable
from dataclasses import replace
from typing import BinaryIO

from lalm.audio import ogg_pages
from lalm.audio.asked import TOLERANCE_S, Asked, AudioError, shown_s
from lalm.audio.blocks import Blocks
from lalm.audio.chained import Part, in_turn
from lalm.audio.ffmpeg_tracks import ffmpeg_blocks
from lalm.audio.soundfile_blocks import UNKNOWN_FRAMES, opened, soundfile_blocks
from lalm.audio.windows import window


def ogg_blocks(file: BinaryIO, asked: Asked) -> Blocks:
    """(rate, (n, C) float32) blocks of the asked part. Raises AudioError where nothing in it can be heard."""
    links = ogg_pages.links(file)
    if not links:
        yield from ffmpeg_blocks(file, asked)
        return
    asked.found.container = "OGG"
    if asked.lenient and not any(link.sounds for link in links):
        raise AudioError(f"{asked.place} is damaged: it holds no stream that can be heard")
    lengths = [max((s.seconds(s.highest) for s in link.sounds), default=0.0) for link in links]
    at_s = 0.0
    for link, seconds in zip(links, lengths, strict=True):
        _check_link(link, at_s, replace(asked))
        at_s += seconds
    asked.found.declared_s = at_s
    asked.check_length(at_s)
    parts: list[Part] = []
    for link, seconds in zip(links, lengths, strict=True):
        inside = file if len(links) == 1 else window(file, link.start, link.stop)
        parts.append((seconds, _link_decoder(inside, link)))
    heard_s = 0.0
    for rate, block in parts[0][1](asked) if len(parts) == 1 else in_turn(parts, asked):
        heard_s += len(block) / rate
        yield rate, block
    from_start = not any(stream.start for link in links for stream in link.sounds)
    if asked.is_all and heard_s > at_s and from_start and not asked.found.notes:
        asked.compare(heard_s, at_s)


def _check_link(link: ogg_pages.Link, start_s: float, asked: Asked) -> None:
    """Tell of wrong checksums, missing pages and a missing end, by what the pages say."""
    if not link.sounds and link.broken_off:
        asked.broken_off(start_s)
    for stream in link.sounds:
        for granule, what in stream.damage:
            at_s = start_s + stream.seconds(granule)
            asked.hole(at_s, None, what, f"is damaged at {shown_s(at_s)} s: {what}")
        heard_s = stream.seconds(stream.granule)
        if link.broken_off or not stream.ended:
            asked.broken_off(start_s + heard_s)
        elif stream.goes_on:
            asked.found.note("its end mark stands before its end, and all of it is heard")
        elif stream.highest > stream.granule + stream.rate * TOLERANCE_S:
            asked.found.note(f"its last page promises {shown_s(heard_s)} s, but more are there and are heard")


def _link_decoder(file: BinaryIO, link: ogg_pages.Link) -> Callable[[Asked], Blocks]:
    def blocks(asked: Asked) -> Blocks:
        [*sounds] = link.sounds
        plain = len(link.streams) == 1 and sounds and not sounds[0].damage and sounds[0].ended
        whole = plain and sounds[0].highest == sounds[0].granule and not sounds[0].goes_on
        sound = opened(file) if whole else None
        if sound is None or sound.frames >= UNKNOWN_FRAMES:
            yield from ffmpeg_blocks(file, asked)
        else:
            with sound:
                yield from soundfile_blocks(sound, asked)
        asked.found.container = "OGG"

    return blocks
