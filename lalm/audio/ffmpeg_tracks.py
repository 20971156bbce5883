"""Blocks of samples from a track of any container that FFmpeg reads (through PyAV)."""

import re
from collections.abc import Generator, Iterator
from typing import Any, BinaryIO

import av
import numpy as np

from lalm.audio.asked import ROUNDING_S, TOLERANCE_S, Asked, AudioError, shown_s
from lalm.audio.blocks import Array, Blocks, as_float, narrow_scale
from lalm.audio.mp4_boxes import Movie, movie
from lalm.audio.webm_elements import breaks_off
from lalm.audio.windows import read_at, size_of

# Containers ffmpeg may open: media only, so that a playlist can never make it open other files or sites.
_CONTAINERS = (
    "mov,matroska,aac,mp3,ogg,flac,wav,w64,aiff,au,caf,asf,avi,flv,mpegts,mpeg,ac3,eac3,amr,wv,tta,ape,voc,rm,"
    "adx,avr,dsf,dts,dtshd,iff,ircam,loas,mpc,mpc8,mxf,nistsphere,nut,oma,epaf,pvf,shn,sox,tak"
)
_STATED_LENGTH = ("mov", "matroska", "asf", "avi", "flv", "wv", "tta", "ape", "voc", "nistsphere")  # believed
_BARE = ("ac3", "eac3", "amr", "dts", "loas", "mpegts", "mpeg")  # streams that may end anywhere
_PACKET_BYTES = 188  # of MPEG-TS
_CODEC_SLACK_S = 0.25  # codec delay that a stated length may include
_SEEKABLE = ("mov", "matroska")  # whose time stamps can be trusted
_TIMED = ("mov", "matroska", "mpegts", "flv")  # whose time stamps tell of missing pieces
_GAP_S = 0.25
_MOST_ERRORS = 1_000
# Tags that are not UTF-8 are no error. PyAV 19 has it so; before, it wanted to be told.
_TAGS = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


def open_container(file: BinaryIO, formats: str) -> Any:
    """PyAV's container of one of the ``formats``, which opens no other file and no address."""
    return av.open(file, options={"format_whitelist": formats, "protocol_whitelist": "none"}, **_TAGS)


def ffmpeg_blocks(file: BinaryIO, asked: Asked) -> Blocks:
    """(rate, (n, C) float32) blocks of the asked part of one track."""
    head = read_at(file, 0, 12)
    is_movie = head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp")
    index = movie(file) if is_movie else None
    file.seek(0)
    try:
        container = open_container(file, _CONTAINERS)
    except (av.error.FFmpegError, ValueError, OverflowError):
        if head[4:8] == b"ftyp":
            raise AudioError(
                f"{asked.place} is truncated: the index of its MP4 container is missing; fetch it again"
            ) from None
        raise UnreadableError(f"{asked.place} is not audio, or in a format that cannot be read") from None
    with container:
        track = _chosen(container, asked)
        heard_s = yield from _track_blocks(container, track, asked, index)
    name = container.format.name
    if heard_s is None:
        return
    if name.startswith("matroska") and breaks_off(file):
        asked.found.cut_short(heard_s, "in the midst of a block")
    elif name == "mpegts" and head[:1] == b"G" and size_of(file) % _PACKET_BYTES:
        asked.found.cut_short(heard_s, "inside a packet")
    elif name == "avi" and int.from_bytes(head[4:8], "little") > size_of(file):
        asked.broken_off(heard_s)


def _chosen(container: Any, asked: Asked) -> Any:
    """The asked track, or the one that players take: marked as default, no comment, the first."""
    tracks = list(container.streams.audio)
    if not tracks:
        raise AudioError(f"{asked.place} holds no audio track")
    asked.check_track(len(tracks))
    left = [i for i in range(len(tracks)) if i not in asked.found.silent_tracks] or [0]
    number = min(left, key=lambda i: _rank(tracks[i])) if asked.track is None else asked.track
    found, track = asked.found, tracks[number]
    found.container = container.format.name.split(",")[0]
    found.codec = track.codec_context.name if track.codec_context else "unknown"
    found.track, found.num_tracks = number, len(tracks)
    if len(tracks) > 1 and asked.track is None and not found.silent_tracks:
        found.note(
            f"it has {len(tracks)} audio tracks, of which track {number} is heard; "
            "track (--track) chooses another"
        )
    if track.codec_context is None:
        raise AudioError(f"{asked.place} is in a codec that cannot be decoded: convert it to WAV or FLAC")
    return track


def _rank(track: Any) -> tuple[bool, bool]:
    kind = av.stream.Disposition
    aside = kind.comment | kind.hearing_impaired | kind.visual_impaired | kind.karaoke
    return bool(track.disposition & aside), not track.disposition & kind.default


def _track_blocks(
    container: Any, track: Any, asked: Asked, index: Movie | None
) -> Generator[tuple[int, Array], None, float | None]:
    """Blocks of one track; returns how many seconds it has, unless the asked part ended before its end."""
    name = container.format.name
    promised_s = _stated_length_s(container, track) if name.startswith(_STATED_LENGTH) else None
    if promised_s:
        asked.found.declared_s = promised_s
        asked.check_length(promised_s)
    asked.found.starts_s = _late_s(container, track)
    if bits := re.match(r"pcm_[su](16|24|32)", asked.found.codec):
        asked.found.bits = int(bits[1])
    start_s = _start_s(track)
    if track.codec_context.name == "flac":
        track.codec_context.options = {"err_detect": "crccheck+explode"}
    seeking = name.startswith(_SEEKABLE) and asked.offset_s > 1
    if seeking:  # one second early, for decoders that need a run-up
        container.seek(int((start_s + asked.offset_s - 1) / track.time_base), stream=track)
    reader = _Reader(asked, start_s, promised_s, seeking, name)
    yield from reader.blocks(container, track)
    if reader.finished:
        return None
    if index is not None:
        index.compare(asked, track, reader.at_s)
    if promised_s and not asked.found.holes:
        # where pieces are missing between others, and that is told already, the rest was not promised
        slack_s = _CODEC_SLACK_S if name.startswith(("mov", "asf", "flv", "avi", "matroska")) else TOLERANCE_S
        if abs(reader.at_s - promised_s - start_s) <= slack_s:  # some programs count from its own beginning
            promised_s += start_s
        asked.compare(reader.at_s, promised_s, slack_s)
    if asked.offset_s and not reader.heard:
        asked.check_length(reader.at_s)
    if asked.is_all:
        reader.tell_narrow()
    return reader.at_s


class UnreadableError(AudioError):
    """A file in none of the formats that can be read."""


class _Reader:
    """Decodes packets one by one, and knows at which second of the track it is."""

    def __init__(
        self, asked: Asked, start_s: float, promised_s: float | None, seeking: bool, container: str
    ) -> None:
        self.asked, self.start_s, self.promised_s, self.seeking = asked, start_s, promised_s, seeking
        self.exact_end = container.startswith("mov")
        self.timed, self.counted = container.startswith(_TIMED), container == "flac"
        self.at_s, self.heard, self.errors = 0.0, 0, 0
        self.finished = False  # the asked part is complete, and the rest of the track was not looked at
        self.counts_sizes = container == "ac3"
        self._stamps_s = 0.0  # what time stamps have jumped over so far
        self._excess: list[tuple[int, Array]] = []
        self.bare, self.failed = container in _BARE, False
        self._sizes = (0, 0)  # of the last two packets of AC-3, whose frames are alike
        self.peak, self.used = 0, 0  # of 32-bit integers

    def blocks(self, container: Any, track: Any) -> Blocks:
        for frame in self._frames(container, track):
            rate = frame.sample_rate
            self.asked.check_stream(rate, frame.layout.nb_channels)
            self._look_at_time(frame)
            block = self._array(frame)
            skip = max(0, round((self.asked.offset_s - self.at_s) * rate))
            before_s, self.at_s = self.at_s, self.at_s + len(block) / rate
            wanted = self.asked.num_frames(rate) - self.heard
            stop = int(min(len(block), skip + wanted))
            limit = len(block)
            if self.promised_s and self.exact_end:  # the last frame of a codec is longer than the sound in it
                limit = min(limit, max(0, round((self.promised_s - before_s) * rate)))
            if limit < stop:
                self._excess.append((rate, block[max(skip, limit) : stop]))
            kept = block[skip : min(stop, limit)]
            self.heard += max(0, stop - skip)
            if len(kept):
                yield rate, kept
            if skip + wanted <= len(block):
                self.finished = True
                break
        over_s = self.at_s - (self.promised_s or self.at_s)
        if self._excess and over_s > TOLERANCE_S:
            yield from self._excess
        elif self.promised_s and self.exact_end:
            self.at_s = min(self.at_s, self.promised_s) if over_s > 0 else self.at_s

    def _frames(self, container: Any, track: Any) -> Iterator[Any]:
        """Decoded frames; what cannot be decoded is damage."""
        packets = container.demux(track)
        while True:
            try:
                packet = next(packets)
                if packet.size and self.counts_sizes:
                    self._sizes = (self._sizes[1], packet.size)
                if packet.is_corrupt:
                    self._failed()
                frames = packet.decode()
                if self.failed and frames and packet.size and not packet.is_corrupt:
                    self.failed = False  # it goes on, so that was not its end
                    self._damaged()
                if self.counted and packet.size and not frames:
                    self._damaged()
                yield from frames
            except (StopIteration, av.error.EOFError):
                if self.failed or self._sizes[1] < self._sizes[0] - 2:
                    self.asked.found.cut_short(self.at_s)
                return
            except (av.error.FFmpegError, ValueError, OverflowError) as error:
                if isinstance(error, AudioError):
                    raise
                if self.promised_s and self.at_s >= self.promised_s:
                    continue  # all that was promised is there: what follows is no sound
                self._failed()

    def _failed(self) -> None:
        """A packet that is not whole; the last one of a bare stream is only where it was cut."""
        if self.bare:
            self.failed = True
        else:
            self._damaged()

    def _damaged(self) -> None:
        self.errors += 1
        self.asked.damaged(self.at_s)
        if self.errors > _MOST_ERRORS:
            raise AudioError(
                f"{self.asked.place} is damaged: next to nothing of it can be decoded; fetch it again"
            )

    def _array(self, frame: Any) -> Array:
        """(n, C) float32 samples of one decoded frame; the integers of a 32-bit one are looked at."""
        values = _frame_values(frame)
        if values.dtype == np.int32:
            self.peak = max(self.peak, int(values.max(initial=0)), -int(values.min(initial=0)))
            self.used |= int(np.bitwise_or.reduce(values, axis=None))
        return as_float(values)

    def tell_narrow(self) -> None:
        """Have 32-bit integers scaled up that hold 16-bit values, which would be heard as silence."""
        scale = narrow_scale(self.peak, self.used, 32)
        if scale > 256:  # 24-bit values in 32 bits may as well be a quiet recording
            self.asked.found.scale = scale
            self.asked.found.note("its 32-bit samples hold 16-bit values and are scaled up")

    def _look_at_time(self, frame: Any) -> None:
        if frame.time is None:
            return
        time_s = frame.time - self.start_s
        if self.seeking:
            self.at_s, self.seeking = time_s, False
        gap_s = time_s - self.at_s - self._stamps_s
        if self.counted and gap_s > ROUNDING_S:
            self._stamps_s += gap_s
            what = "a frame is missing, or its checksum is wrong"
            past = f"is damaged: it cannot be decoded past {shown_s(self.at_s)} s"
            self.asked.hole(self.at_s, gap_s, what, past)
        if self.timed and gap_s > _GAP_S and self.at_s < self.asked.end_s:
            self._stamps_s += gap_s
            self.asked.found.gap(self.at_s, gap_s)


def _late_s(container: Any, track: Any) -> float:
    """How long after the picture the sound begins, in seconds; 0 without a picture."""
    pictures = [s for s in container.streams.video if s.start_time is not None]
    if not pictures or track.start_time is None:
        return 0.0
    first = min(float(s.start_time * s.time_base) for s in pictures)
    late_s = float(track.start_time * track.time_base) - first
    return late_s if late_s > TOLERANCE_S else 0.0


def _start_s(track: Any) -> float:
    return float((track.start_time or 0) * track.time_base)


def _stated_length_s(container: Any, track: Any) -> float | None:
    """Length in seconds that a container states for one track, if it does."""
    if container.format.name == "avi" and track.codec_context.name.startswith("adpcm"):
        return None  # counts bytes where it should count blocks
    if track.duration:
        return float(track.duration * track.time_base)
    end_s = 0.0  # both numbers of Matroska count from the picture's beginning
    if stated := re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", track.metadata.get("DURATION", "")):
        end_s = int(stated[1]) * 3600 + int(stated[2]) * 60 + float(stated[3])
    elif container.duration and len(container.streams) == 1:
        end_s = float(container.duration / av.time_base)
    late_s = _start_s(track)
    return end_s - late_s if end_s > late_s > TOLERANCE_S else end_s or None


def _frame_values(frame: Any) -> Array:
    """(n, C) samples of one decoded frame, planar or packed, in the codec's own type."""
    channels = frame.layout.nb_channels
    if frame.format.name in ("s64", "s64p"):  # PyAV makes no arrays of these
        rows = [np.frombuffer(plane, np.int64) for plane in frame.planes]
        planar = np.stack(rows)[:, : frame.samples]
        return (
            planar.T if frame.format.is_planar else rows[0][: frame.samples * channels].reshape(-1, channels)
        )
    values: Array = frame.to_ndarray()
    return values.T if frame.format.is_planar else values.reshape(-1, channels)


def bare_blocks(codec: str, packets: Iterator[tuple[float, bytes]], asked: Asked) -> Iterator[Any]:
    """Decoded frames of packets (seconds, bytes) that come without a container; damage is told."""
    decoder: Any = av.CodecContext.create(codec, "r")
    for at_s, data in packets:
        try:
            for frame in decoder.decode(av.Packet(data)):
                yield at_s, frame.sample_rate, as_float(_frame_values(frame))
        except (av.error.FFmpegError, ValueError):
            asked.hole(
                *(at_s, None, "cannot be decoded"),
                f"is damaged or truncated: it cannot be decoded past {shown_s(at_s)} s",
            )
