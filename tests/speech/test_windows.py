"""Where there is speech: windows that Whisper can take, and live captions; loudness stands for speech."""

import itertools
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lalm.audio.asked import AudioError
from lalm.audio.growing import Growing, incoming_blocks
from lalm.audio.load import load_audio
from lalm.audio.stream import AudioStream
from lalm.cli.app import run
from lalm.cli.listen import _last
from lalm.inference.speech.live import Incoming, captions
from lalm.inference.speech.recogniser import Heard
from lalm.inference.speech.speech_windows import Cutting, speech_windows

RATE = 16_000
PICTURE = bytes.fromhex(  # a PNG of one pixel
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c6360"
    "00000002000148afa4710000000049454e44ae426082"
)
CASES = Path(__file__).parents[1] / "fixtures" / "audio_cases"


def loud(seconds: float) -> np.ndarray:
    return np.full(round(seconds * RATE), 0.5, np.float32)


def still(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


def by_loudness(frames: np.ndarray) -> np.ndarray:
    return np.abs(frames).max(1)


def windows(*parts: np.ndarray, heard_s: float | None = None, **cutting: float) -> list[tuple[float, float]]:
    """Where windows begin and end; ``heard_s``: how much of each is heard before the next begins."""
    audio = np.concatenate(parts)
    blocks = [audio[at : at + 5000] for at in range(0, len(audio), 5000)]
    found = []
    for one in speech_windows(blocks, Cutting(threshold=0.3, **cutting), by_loudness):
        start = round(one.start_s * RATE)
        assert np.array_equal(one.audio, audio[start : start + len(one.audio)])
        found.append(one)
        if heard_s is not None:
            one.next_s = one.start_s + heard_s
    return [(round(one.start_s, 1), round(one.end_s, 1)) for one in found]


def test_a_short_recording_with_speech_is_one_window_as_it_is():
    assert windows(still(3), loud(1), still(8), loud(1), still(2.01)) == [(0.0, 15.0)]
    assert windows(still(20)) == [] and windows(still(0.001)) == []


def test_a_click_is_no_speech():
    assert windows(still(3), loud(0.1), still(3)) == []


def test_a_long_recording_is_cut_at_its_pauses():
    found = windows(still(10), loud(4), still(1), loud(4), still(20), loud(2), still(5))
    assert found == [(9.6, 19.4), (38.6, 41.4)]


def test_no_window_is_longer_than_whisper_hears_and_none_is_lost():
    found = windows(loud(20), still(0.5), loud(25), still(0.3), loud(40))
    assert found == [(0.0, 30.0), (30.0, 60.0), (60.0, 85.8)]


def test_the_next_window_begins_where_the_last_was_heard_to():
    found = windows(loud(80), heard_s=27.34)
    assert found == [(0.0, 30.0), (27.3, 57.3), (54.7, 80.0)]
    # a pause ends a window whatever was heard of it; nobody who hears nothing stops the others
    assert windows(loud(10), still(25), loud(10), heard_s=1.0) == [(0.0, 10.4), (34.6, 45.0)]
    assert len(windows(loud(31), heard_s=0.0)) == 33
    assert windows(loud(29.9), still(10), heard_s=29.5) == [(0.0, 30.0), (29.5, 30.3)]
    assert windows(loud(29.9), still(10), heard_s=29.9) == [(0.0, 30.0)]  # what is left is no speech


class Scribe:
    """A Whisper that writes how long a window is, after a while."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.takes_s, self.asked = takes_s, []

    def window(self, window, wish):
        from lalm.inference.speech.subtitles import Segment

        time.sleep(self.takes_s)
        self.asked.append(wish.beams)
        length = len(window.audio) / RATE
        return Heard([Segment(window.start_s, window.end_s, f"{length:.0f}")], "en", 1.0, window.end_s)


def live(audio: np.ndarray, scribe: Scribe, *, partial: bool = True):
    """Captions of audio that comes in 1.5 s ahead at most, less than what makes a reader join utterances."""
    blocks = (audio[at : at + 1600] for at in range(0, len(audio), 1600))
    incoming = Incoming(blocks, most_s=1.5)
    return list(captions(incoming, scribe, partial=partial, probability=by_loudness))


def test_captions_end_at_pauses_and_grow_before():
    audio = np.concatenate([still(1), loud(2), still(1), loud(3), still(0.2)])
    shown = live(audio, Scribe())
    final = [one for one in shown if one.final]
    assert [(round(one.start_s, 1), one.text) for one in final] == [(0.7, "3"), (3.7, "3")]
    partial = [one for one in shown if not one.final]
    assert partial and all(one.end_s <= 7.2 for one in partial)
    assert [one.final for one in live(audio, Scribe(), partial=False)] == [True, True]
    assert live(still(3), Scribe()) == []


def test_a_slow_machine_writes_several_utterances_at_a_time():
    audio = np.concatenate([np.concatenate([loud(1.5), still(1)])] * 4)
    writing = threading.Event()

    def blocks():
        for at in range(0, len(audio), 1600):
            if at >= 1.6 * RATE:
                writing.wait()  # the rest comes in while the first words are written
            yield audio[at : at + 1600]

    class Slow(Scribe):
        def window(self, window, wish):
            writing.set()
            while not self.asked and incoming.behind_s < 7:
                time.sleep(0.01)
            return super().window(window, wish)

    incoming = Incoming(blocks())
    shown = list(captions(incoming, Slow(), probability=by_loudness))
    final = [one for one in shown if one.final]
    assert len(final) < 4 and final[-1].end_s == pytest.approx(10, abs=1.1)
    assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(final))
    assert len([one for one in shown if not one.final]) <= 2  # at the beginning, and when it has caught up
    assert max(one.behind_s for one in shown) > 2


def test_a_utterance_without_a_pause_is_cut():
    audio = loud(40)
    in_step = Incoming((audio[at : at + 1600] for at in range(0, len(audio), 1600)), most_s=1)  # none waits
    final = list(captions(in_step, Scribe(), partial=False, probability=by_loudness))
    assert len(final) == 3 and all(one.end_s - one.start_s <= 15.1 for one in final)


def test_what_came_in_before_it_was_stopped_is_written():
    def blocks():
        yield loud(1.5)
        time.sleep(0.2)
        incoming.stop()
        while True:
            yield loud(1)

    incoming = Incoming(blocks())
    [last] = captions(incoming, Scribe(), partial=False, probability=by_loudness)
    assert last.final and last.end_s == pytest.approx(1.5, abs=0.1)


@pytest.mark.usefixtures("ctrl_c_heeded")
def test_ctrl_c_ends_listening_and_loses_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lalm.cli.opening.open_whisper", lambda *_: Scribe())
    path, heard = tmp_path / "grows.pcm", 0
    path.write_bytes((loud(2) * 50_000).astype("<i2").tobytes())

    def pressed_after_60_frames(frames: np.ndarray) -> np.ndarray:
        nonlocal heard
        heard += 1
        if heard == 60:
            signal.raise_signal(signal.SIGINT)
        return by_loudness(frames)

    monkeypatch.setattr("lalm.inference.speech.live.load_probability", lambda: pressed_after_60_frames)
    before, threads = signal.getsignal(signal.SIGINT), threading.active_count()
    assert run(["listen", str(path), "--idle", "0"]) == 0
    said = capsys.readouterr()
    assert said.out == "[00:00:00] 2\n" and "nobody spoke" not in said.err
    assert signal.getsignal(signal.SIGINT) is before
    assert threading.active_count() == threads  # one that holds soxr at the end makes nanobind complain


def test_an_unfinished_line_fits_the_terminal():
    assert _last("[00:01] " + "字" * 60, 59) == "字" * 29 and _last("short", 59) == "short"


@pytest.mark.parametrize("name", ["aac_adts.aac", "aifc_float.aifc", "alac.m4a", "amr_nb.amr", "au.au"])
def test_a_stream_holds_what_loading_gives(name):
    whole = load_audio(CASES / name)
    streamed = np.concatenate(list(AudioStream(str(CASES / name))))
    assert len(streamed) == len(whole) and np.allclose(streamed, whole, atol=1e-4)


def test_a_stream_hears_one_of_two_channels_that_cancel(tmp_path):
    tone = 0.3 * np.sin(np.arange(RATE * 2) * 0.2)
    soundfile.write(tmp_path / "turned.wav", np.stack([tone, -0.9 * tone], 1), RATE)
    stream = AudioStream(str(tmp_path / "turned.wav"))
    assert np.abs(np.concatenate(list(stream))).max() > 0.25
    assert any("cancel" in note for note in stream.notes)
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 1)), RATE)
    with pytest.raises(AudioError, match="no audio"):
        list(AudioStream(str(tmp_path / "empty.wav")))
    for name in ("none.wav", "none.flac", "none.mp3"):  # the decoders say other things
        (tmp_path / name).touch()
        with pytest.raises(AudioError, match=rf"{name} is empty \(0 bytes\)$"):
            list(AudioStream(str(tmp_path / name)))


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_16"), ("ogg", "VORBIS")])
def test_a_file_is_heard_while_it_is_written(tmp_path, suffix, subtype):
    tone = (0.3 * np.sin(np.arange(RATE * 3) * 0.2)).astype(np.float32)
    soundfile.write(tmp_path / f"whole.{suffix}", tone, RATE, subtype=subtype)
    data, path = (tmp_path / f"whole.{suffix}").read_bytes(), tmp_path / f"grows.{suffix}"
    path.write_bytes(data[:3000])

    def write() -> None:
        with path.open("ab") as file:
            for at in range(3000, len(data), 8000):
                time.sleep(0.02)
                file.write(data[at : at + 8000])
                file.flush()

    threading.Thread(target=write).start()
    heard = np.concatenate(list(incoming_blocks(Growing(path, 0.4), "grows")))
    assert abs(len(heard) - len(tone)) < 1600 and np.abs(heard).max() > 0.2


def test_a_file_of_another_kind_is_not_taken_for_bare_samples(tmp_path):
    """``lalm listen notes.txt`` or a whole .m4a would else be noise."""
    tone = (0.3 * np.sin(np.arange(RATE) * 0.2)).astype(np.float32)
    soundfile.write(tmp_path / "x.aiff", tone, RATE)
    heard = np.concatenate(list(incoming_blocks(Growing(tmp_path / "x.aiff", 0.1), "x", bare=False)))
    assert abs(len(heard) - RATE) < 200 and np.abs(heard).max() < 0.4
    for data, said in (
        (b"these are notes, not sounds\n" * 99, "not audio that can be read as it comes$"),
        (PICTURE, "not audio that can be read as it comes$"),
        (b"\0\0\0\x20ftypM4A " + bytes(999), "an MP4, whose index comes last"),
    ):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(AudioError, match=said):
            list(incoming_blocks(Growing(tmp_path / "x", 0.1), "x", bare=False))
    (tmp_path / "x.pcm").write_bytes((tone * 32767).astype("<i2").tobytes())
    assert len(np.concatenate(list(incoming_blocks(Growing(tmp_path / "x.pcm", 0.1), "x")))) == RATE


def test_a_long_file_is_not_decoded_far_ahead_of_what_is_heard():
    taken = 0

    def blocks():
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield np.zeros(RATE, np.float32)

    incoming = Incoming(blocks(), most_s=3)
    time.sleep(0.3)
    assert taken <= 5
    assert sum(len(block) for block in incoming) == 100 * RATE and taken == 100
