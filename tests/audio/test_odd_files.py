"""Odd files of every kind, made on the spot: heard whole and in order, with a remark or none, or refused.

A case is what it is, the bytes, how many seconds are heard (None: refused), and what is said ("": nothing).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from odd_files import (
    LENGTH_S,
    RATE,
    at_granule,
    boxes,
    chunk,
    fragments,
    muxed,
    packed,
    pages,
    put,
    riff,
    signed,
    sound,
    tones,
    wave,
    with_length,
    without,
)

from lalm.audio.load import SAMPLE_RATE, AudioError, read_recording
from lalm.audio.stream import AudioStream

Made = Callable[[], bytes | bytearray]
CUT = "and may have been longer"
INTEGERS = (tones() * 32_767).astype(np.int64)
OTHER = (0.4 * np.sin(2 * np.pi * 2_000 * np.arange(RATE) / RATE)).astype(np.float32)


def both(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.stack([left, right], 1)


def mp3(times: int = 1, **options: str) -> bytearray:
    return packed("mp3", "libmp3lame", times=times, **options)


def bare_mp3() -> bytearray:
    return mp3(write_xing="0", id3v2_version="0")


def counted(frames: int) -> bytearray:
    data = mp3()
    return put(data, b"Xing" if b"Xing" in data else b"Info", 4, frames)


def ogg(codec: str = "libopus", times: int = 2) -> list[bytearray]:
    return pages(bytes(packed("ogg", codec, times=times, page_duration="200000")))


def joined(*parts: Any) -> bytes:
    return b"".join(bytes(part) for part in parts)


def early_end() -> bytes:
    found = ogg()
    found[6][5] |= 4
    return joined(*found[:6], signed(found[6]), *found[7:])


def no_end() -> bytes:
    found = ogg()
    found[-1][5] &= ~4
    return joined(*found[:-1], signed(found[-1]))


def flipped(data: bytearray, at: float = 0.5) -> bytearray:
    data[int(at * len(data))] ^= 0x41
    return data


def cut(data: bytes, share: float) -> bytes:
    return data[: int(share * len(data))]


def fmt_and(*chunks: bytes, size: int | None = None) -> bytearray:
    return riff(chunk(b"fmt ", bytes(sound("WAV")[20:36])), *chunks, size=size)


def data_of_wav() -> bytes:
    return bytes(sound("WAV")[44:])


def video(*, marks: tuple[int, ...] = (), first: np.ndarray = OTHER, kind: str = "matroska") -> bytes:
    return muxed(kind, [("aac", first), ("aac", tones())], marks=marks, picture=True)


def antiphase(kind: str, codec: str) -> bytes:
    return muxed(kind, [(codec, both(tones(), -tones()))])


def half_turned() -> bytearray:
    turned = tones()
    turned[RATE * 3 // 4 :] *= -1
    return sound("WAV", audio=both(tones(), turned))


def low_turned() -> bytearray:
    low = 0.3 * np.sin(2 * np.pi * 200 * np.arange(len(tones())) / RATE).astype(np.float32)
    return sound("WAV", audio=both(tones() + low, low - tones()))


def spike() -> bytearray:
    audio = tones()
    audio[700:704] = 900
    return sound("WAV", "FLOAT", audio=audio)


def wide(kind: str) -> bytes:
    return muxed(kind, [("pcm_s32le", INTEGERS.astype(np.int32))], fmt="s32")


DEFAULT, COMMENT = int(av.stream.Disposition.default), int(av.stream.Disposition.comment)
CASES: dict[str, tuple[Made, float | None, str]] = {
    # a number in a header is a claim
    "mp3: counts half": (lambda: counted(30), 1.5, "promises 0.68 s, but 1.51 s are there"),
    "mp3: counts twice": (lambda: counted(130), None, "is truncated: it promises 3.08 s"),
    "mp3: counts nothing": (lambda: counted(0), 1.5, ""),
    "mp3: count left open": (lambda: counted(0xFFFF_FFFF), 1.5, ""),
    "mp3: two behind one another": (lambda: mp3() + mp3(), 3.0, ""),
    "mp3: ends inside a frame": (lambda: bare_mp3()[:-50], 1.5, CUT),
    "mp3: a tag between frames": (lambda: _with_tag(bare_mp3()), 1.54, ""),
    "mp3: zeros between frames": (lambda: _with_zeros(bare_mp3()), None, "is damaged at 0.7"),
    "aac: ends inside a frame": (lambda: packed("adts", "aac")[:-40], 1.5, CUT),
    "ac3: ends inside a frame": (lambda: packed("ac3", "ac3")[:-40], 1.5, CUT),
    "ts: ends inside a packet": (lambda: packed("mpegts", "mp2")[:-100], 1.5, CUT),
    "ogg: last page gone": (lambda: joined(*ogg()[:-1]), None, "it breaks off after 2.99 s"),
    "ogg: no end mark": (no_end, None, "it breaks off after 3 s"),
    "ogg: end mark too early": (early_end, 3.0, "its end mark stands before its end"),
    "ogg: page twice": (lambda: joined(*(p := ogg())[:6], p[5], *p[6:]), None, "a page comes again"),
    "ogg: page gone": (lambda: joined(*(p := ogg())[:6], *p[7:]), None, "a page is missing"),
    "ogg: byte turned": (lambda: flipped(bytearray(joined(*ogg()))), None, "checksum is wrong"),
    "ogg: promises twice": (
        lambda: joined(*(p := ogg())[:-1], at_granule(p[-1], lambda count: 2 * count)),
        None,
        "promises 6.0",
    ),
    "ogg: of a running broadcast": (
        lambda: joined(*(p := ogg())[:2], *(at_granule(q, lambda n: n + 10**8) for q in p[2:])),
        3.0,
        "",
    ),
    "flac: counts half": (lambda: _flac_total(sound("FLAC"), RATE * 3 // 4), 1.5, "promises 0.75 s"),
    "flac: counts twice": (lambda: _flac_total(sound("FLAC"), RATE * 3), None, "promises 3 s"),
    "flac: counts nothing, cut": (lambda: cut(_flac_total(_noisy_flac(), 0), 0.6), None, "truncated"),
    "flac: byte turned": (lambda: flipped(_noisy_flac()), None, "is damaged"),
    "flac: piece gone": (lambda: (d := _noisy_flac())[:30_000] + d[60_000:], None, "is damaged"),
    "wav: data size 0": (lambda: fmt_and(chunk(b"data", data_of_wav(), 0)), 1.5, ""),
    "wav: data size 0, list behind": (
        lambda: fmt_and(chunk(b"data", data_of_wav(), 0), chunk(b"LIST", b"INFO")),
        1.5,
        "",
    ),
    "wav: no size": (lambda: fmt_and(chunk(b"data", data_of_wav(), 0xFFFF_FFFF), size=0), 1.5, ""),
    "wav: half the size": (lambda: fmt_and(chunk(b"data", d := data_of_wav(), len(d) // 2)), 1.5, "0.75 s"),
    "wav: 20 ms too long": (lambda: fmt_and(chunk(b"data", d := data_of_wav(), len(d) + 1_920)), 1.5, ""),
    "wav: 70 ms too long": (
        lambda: fmt_and(chunk(b"data", d := data_of_wav(), len(d) + 6_720)),
        None,
        "promises 1.57 s of audio but ends after 1.5 s",
    ),
    "wav: an empty data chunk before": (
        lambda: fmt_and(chunk(b"data", b""), chunk(b"data", data_of_wav())),
        1.5,
        "",
    ),
    "wav: an mp3 behind it": (lambda: sound("WAV") + bare_mp3(), 3.0, "several recordings"),
    "mp3: a wav behind it": (lambda: bare_mp3() + sound("WAV"), 3.0, "several recordings"),
    "m4a: a wav behind it": (lambda: packed("ipod", "aac") + sound("WAV"), 1.5, "is not heard"),
    "w64: data size 0": (lambda: put(sound("W64"), b"data\xf3\xac", 10, 0, 8, "little"), 1.5, ""),
    "aiff: data size 0": (lambda: put(sound("AIFF"), b"SSND", 0, 0), 1.5, ""),
    "aiff: counts fewer": (lambda: put(sound("AIFF"), b"COMM", 6, RATE), 1.5, "promises 1 s"),
    "au: counts fewer": (lambda: put(sound("AU"), b".snd", 4, RATE), 1.5, "promises 0.5 s"),
    "caf: no packet table": (lambda: cut(packed("caf", "alac"), 0.6), None, "is truncated"),
    "nist: cut": (lambda: cut(sound("NIST"), 0.6), None, "is truncated: it promises 1.5 s"),
    "mp4: in fragments": (fragments, 3.0, ""),
    "mp4: a fragment gone": (lambda: without(fragments(), lambda n: n == 3), None, "a fragment is missing"),
    "mp4: the last fragments gone": (
        lambda: without(with_length(fragments(), 3.0), lambda n: n > 3),
        None,
        "is truncated: it promises 3 s",
    ),
    "mp4: cut in a fragment": (lambda: cut(fragments(), 0.7), None, "truncated"),
    "mp4: edit list of half": (
        lambda: put(packed("ipod", "aac"), b"elst", 8, 750),
        0.75,
        "its edit list leaves out",
    ),
    "mp4: another behind it": (
        lambda: packed("ipod", "aac") * 2,
        1.5,
        "a second recording follows",
    ),
    "webm: cut between clusters": (
        lambda: _before_last(packed("webm", "libopus", times=3, cluster_time_limit="1000")),
        None,
        "is truncated",
    ),
    "webm: live, cut in a block": (lambda: cut(packed("webm", "libopus", live="1"), 0.6), 0.9, CUT),
    "avi: cut": (lambda: cut(packed("avi", "libmp3lame"), 0.6), None, "truncated"),
    # whole: nothing is said
    "mkv: begins late": (
        lambda: muxed("matroska", [("aac", tones())], late_s=0.5, picture=True),
        1.5,
        "",
    ),
    "avi: adpcm": (lambda: packed("avi", "adpcm_ms"), 1.5, ""),
    "mpg: mp3": (lambda: packed("mpeg", "libmp3lame"), 1.5, ""),
    "wma": (lambda: muxed("asf", [("wmav2", both(tones(), tones()))]), 1.5, ""),
    "caf: alac": (lambda: packed("caf", "alac"), 1.5, ""),
    "m4a at 8 kHz": (lambda: packed("ipod", "aac", 8_000), 1.5, ""),
    "mka: opus": (lambda: packed("matroska", "libopus"), 1.5, ""),
    "nist": (lambda: sound("NIST"), 1.5, ""),
    "sox": (lambda: packed("sox", "pcm_s32le"), 1.5, ""),
    "wav: 64-bit integers": (lambda: packed("wav", "pcm_s64le"), 1.5, ""),
    "m4a: text behind it": (lambda: packed("ipod", "aac") + b"<html></html>" * 9, 1.5, ""),
    # sound that turns into silence or noise on the way
    "channels cancel, m4a": (lambda: antiphase("ipod", "aac"), 1.5, "channels cancel each other"),
    "channels cancel, opus": (lambda: antiphase("ogg", "libopus"), 1.5, "channels cancel each other"),
    "channels cancel from half on": (half_turned, 1.5, "channels cancel each other"),
    "channels cancel but for the bass": (low_turned, 1.5, "channels cancel each other"),
    "the other track is default": (lambda: video(marks=(0, DEFAULT)), 1.5, "of which track 1 is heard"),
    "the first track is a comment": (
        lambda: video(marks=(COMMENT, 0)),
        1.5,
        "of which track 1 is heard",
    ),
    "the first track is silent": (
        lambda: video(first=np.zeros(RATE, np.float32), kind="mp4"),
        1.5,
        "track 0 is silent, so track 1 is heard",
    ),
    "16 bits in 32, wav": (lambda: wave(INTEGERS, 32), 1.5, "hold 16-bit values and are scaled up"),
    "16 bits in 32, mkv": (lambda: wide("matroska"), 1.5, "hold 16-bit values and are scaled up"),
    "16 bits in 24": (lambda: wave(INTEGERS, 24), 1.5, "as if 16-bit values stood in its 24-bit samples"),
    "8 bits in 16": (
        lambda: wave(INTEGERS // 256, 16),
        1.5,
        "as if 8-bit values stood in its 16-bit samples",
    ),
    "8 bits from 0 in 16": (lambda: wave(INTEGERS // 256 + 128, 16), 1.5, "as if 8-bit values"),
    "24 quiet bits in 32": (lambda: wave(INTEGERS // 20 * 256, 32), 1.5, "it is very quiet"),
    "offset": (lambda: sound("WAV", audio=tones() * 0.5 - 0.4), 1.5, "a constant offset of -0.40"),
    "offset of one channel": (
        lambda: sound("WAV", audio=both(tones() * 0.5, 0 * tones() + 0.5)),
        1.5,
        "channel 1 is without sound",
    ),
    "offset alone": (
        lambda: sound("WAV", audio=0 * tones() + 0.5),
        1.5,
        "nothing but digital silence",
    ),
    "floats of 16 bits": (
        lambda: sound("WAV", "FLOAT", audio=tones() * 32_768),
        None,
        "integers saved as floats; divide them by 32768",
    ),
    "floats of 32 bits": (lambda: sound("WAV", "DOUBLE", audio=tones() * 2.0**31), None, "by 2147483648"),
    "floats up to 3": (lambda: sound("WAV", "FLOAT", audio=tones() * 8), 1.5, "its values reach 3.2"),
    "a few wild floats": (spike, None, "is damaged: some values reach"),
}
ORDERLESS = {"offset alone", "mp4: edit list of half", "webm: live, cut in a block", "24 quiet bits in 32"}


def _with_tag(data: bytearray) -> bytes:
    at = data.index(data[:3], len(data) // 2)
    return bytes(data[:at]) + b"ID3\4\0\0\0\0\2\0" + bytes(256) + bytes(data[at:])


def _with_zeros(data: bytearray) -> bytes:
    at = data.index(data[:3], len(data) // 2)
    return bytes(data[:at]) + bytes(3_000) + bytes(data[at:])


def _flac_total(data: bytearray, total: int) -> bytearray:
    data[21] &= 0xF0
    data[22:26] = total.to_bytes(4, "big")
    return data


def _noisy_flac() -> bytearray:
    noise = np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32)
    return sound("FLAC", audio=tones(times=2)[: 3 * RATE] + 0.05 * noise[: 3 * RATE])


def _before_last(data: bytearray) -> bytes:
    return bytes(data[: data.rindex(b"\x1f\x43\xb6\x75")])


def order_of(audio: np.ndarray) -> list[int]:
    """The strongest of the tones in each 0.1 s of ``audio``, once where they repeat."""
    found: list[int] = []
    for at in range(0, len(audio) - 1_600, 1_600):
        piece = audio[at : at + 1_600] - audio[at : at + 1_600].mean()
        power = np.abs(np.fft.rfft(piece * np.hanning(1_600)))
        hz = int(power.argmax()) * 10
        if power.max() > 1e-3 and (not found or found[-1] != hz):
            found.append(hz)
    return found


@pytest.mark.parametrize("name", CASES)
def test_odd_file(name: str) -> None:
    made, seconds, said = CASES[name]
    data = bytes(made())
    if seconds is None:
        with pytest.raises(AudioError) as caught:
            read_recording(data)
        assert said in str(caught.value) and "\n" not in str(caught.value)
        return
    recording = read_recording(data)
    assert len(recording.audio) / SAMPLE_RATE == pytest.approx(seconds, abs=0.07)
    assert said in recording.account.sentence
    assert said or not recording.account.notes, recording.account.notes
    if name not in ORDERLESS:
        order = [hz for hz in order_of(recording.audio) if hz in (440, 880, 1320)]
        wanted = [440, 880, 1320] * round(seconds / LENGTH_S)
        assert [hz for i, hz in enumerate(order) if not i or hz != order[i - 1]] == wanted


def test_a_cut_that_nothing_in_the_file_tells_of_is_heard_as_it_is() -> None:
    """Fragments without a stated length are how recorders write: where they end is all that can be known."""
    whole = fragments()
    assert b"mfra" in [name for name, _ in boxes(whole)]
    recording = read_recording(without(whole, lambda n: n > 3))
    assert recording.account.decoded_s < 2.5 and not recording.account.notes


@pytest.mark.parametrize(
    ("name", "seconds", "at_s"),
    [
        ("mp3: zeros between frames", 1.5, 0.75),
        ("ogg: page gone", 2.8, 0.8),
        ("mp4: a fragment gone", 2.5, 1.3),
        ("wav: 70 ms too long", 1.5, 1.5),
        ("a few wild floats", 1.5, 0.01),
        ("flac: byte turned", 3.0, 1.5),
    ],
)
def test_lenient_lists_the_holes(name: str, seconds: float, at_s: float) -> None:
    recording = read_recording(bytes(CASES[name][0]()), lenient=True)
    assert len(recording.audio) / SAMPLE_RATE == pytest.approx(seconds, abs=0.2)
    assert recording.account.holes[0].at_s == pytest.approx(at_s, abs=0.12)
    assert np.abs(recording.audio).max() <= 1.05


def test_scaled_integers_count_as_sound() -> None:
    account = read_recording(wide("matroska")).account
    assert account.silent_fraction < 0.05 and account.peak == pytest.approx(0.4, abs=0.01)


def test_a_silent_track_is_heard_when_it_is_asked_for() -> None:
    data = video(first=np.zeros(RATE, np.float32), kind="mp4")
    account = read_recording(data, track=0).account
    assert (account.track, account.silent_fraction) == (0, 1)
    assert "nothing but digital silence" in account.sentence
    assert read_recording(data, offset_s=0.1).account.track == 0  # parts of one file are of one track


def test_a_late_track_says_when_it_begins() -> None:
    late = muxed("matroska", [("aac", tones())], late_s=0.5, picture=True)
    assert read_recording(late).account.starts_s == pytest.approx(0.5, abs=0.05)


TRACKS = {
    "the other track is default": CASES["the other track is default"][0],
    "the first track is silent": CASES["the first track is silent"][0],
    "the first is silent at its start alone": lambda: video(
        first=np.concatenate([np.zeros(5 * RATE, np.float32), OTHER]), kind="mp4"
    ),
    "both are silent": lambda: muxed("mp4", [("aac", np.zeros(n * RATE, np.float32)) for n in (3, 2)]),
}


@pytest.mark.parametrize("name", TRACKS)
def test_a_stream_hears_the_track_that_the_whole_recording_is_heard_from(name: str, tmp_path: Path) -> None:
    (tmp_path / "video").write_bytes(TRACKS[name]())
    whole, stream = read_recording(tmp_path / "video"), AudioStream(str(tmp_path / "video"))
    heard = np.concatenate([*stream])
    assert len(heard) == pytest.approx(len(whole.audio), abs=2)
    size = min(len(heard), len(whole.audio))
    assert np.allclose(heard[:size], whole.audio[:size], atol=1e-3)
    assert {*stream.notes} <= {*whole.account.notes}
    assert ("is silent, so track 1 is heard" in " ".join(stream.notes)) == (
        name == "the first track is silent"
    )
