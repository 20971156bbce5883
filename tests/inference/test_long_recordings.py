"""Recordings of any length: windows asked about a sound, descriptions, comparisons, their commands."""

import json

import numpy as np
import pytest
import soundfile
from PIL import Image
from tiny_parts import noise

from lalm.cli import app as cli
from lalm.cli.compare_recordings import differences
from lalm.inference.description import describe
from lalm.inference.engine import Engine, Heard, Reply
from lalm.inference.speech import recogniser
from lalm.inference.speech.subtitles import Segment
from lalm.inference.window_detection import HOP_S, WindowScores, score_windows, windows

RATE = 16_000


class Parrot:
    """An engine that says one thing."""

    name = "parrot"

    def __init__(self, answer: str, model=None):
        self.answer, self.model, self.asked = answer, model, []

    def reply(self, samples, options):
        self.asked += samples
        heard = (Heard("clip", 1.0, 1.0),)
        return [Reply(self.answer, heard, 0.0, 0.0, 0.0, 1) for _ in samples]


class Scribe:
    """A Whisper that hears two words in every window."""

    def __init__(self, text="Hello there."):
        self.text = text

    def window(self, window, wish):
        said = Segment(window.start_s, window.start_s + 1, self.text)
        return recogniser.Heard([said], "en", 1.0, window.end_s)


@pytest.fixture
def speaking(monkeypatch):
    """Everything loud is speech."""
    monkeypatch.setattr(
        "lalm.inference.speech.speech_windows.load_probability",
        lambda: lambda frames: (np.abs(frames).max(1) > 0.01).astype(float),
    )


def test_windows_cover_a_recording_of_any_blocks():
    audio = np.arange(RATE * 9, dtype=np.float32)
    made = list(windows(audio[at : at + 7000] for at in range(0, len(audio), 7000)))
    assert [one[0] / RATE for one in made] == [0.0, 2.0, 4.0, 6.0]
    assert [len(one) / RATE for one in made] == [4.0, 4.0, 4.0, 3.0] and made[-1][-1] == audio[-1]
    assert [len(one) for one in windows([audio[:800]])] == [800]
    assert len(list(windows([audio[: 4 * RATE]]))) == 1


def test_scores_tell_a_window_from_silence(tiny):
    engine = Engine(*tiny("acdc"), "tiny")
    rng = np.random.default_rng(0)
    audio = np.concatenate([np.zeros(4 * RATE), rng.normal(0, 0.2, 4 * RATE)]).astype(np.float32)
    found = list(score_windows(engine, [audio], ["rain", "a dog"]))
    assert [round(done_s, 3) for done_s, _ in found] == [8.0]
    rows = np.array(found[0][1])
    assert rows.shape == (3, 2) and np.allclose(rows[0], 0, atol=1e-4) and np.abs(rows[2]).max() > 1e-3


def test_spans_join_neighbours_and_the_best_place_is_known():
    scores = np.array([[0.0, 3.0], [2.0, 0.0], [2.5, 0.0], [0.0, 0.0], [4.0, 0.0]])
    found = WindowScores(("dog", "rain"), scores, 11.0)
    assert found.spans(0, 1.0) == ((2.0, 11.0),) and found.spans(1, 1.0) == ((0.0, 4.0),)
    assert found.spans(0, 3.0) == ((8.0, 11.0),) and found.spans(0, 9.0) == ()
    assert found.best(0) == (4 * HOP_S, 4.0)


def test_the_command_searches_long_recordings_in_windows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Engine, "load", classmethod(lambda cls, *_: Parrot("I hear a dog.")))
    monkeypatch.setattr("lalm.cli.weights.fetch_for", lambda model: None)
    asked = []

    def scored(engine, blocks, sounds):
        asked.append(len(np.concatenate(list(blocks))) / RATE)
        yield asked[-1], [[8.0, 0.0]] * 2 + [[0.0, 0.1]] * 3

    monkeypatch.setattr("lalm.inference.window_detection.score_windows", scored)
    long, short = noise(tmp_path / "long.wav", 40.0), noise(tmp_path / "short.wav", 8.0)
    monkeypatch.setattr("lalm.training.underway.EVERY_S", 0.0)  # without a terminal: a line a minute
    assert cli.run(["detect", str(long), "a dog", "rain", "--picture", str(tmp_path / "p.png")]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0].split() == ["0.00", "s", "6.00", "s", "a", "dog"]
    assert "rain: the answer names no time: likeliest near 4 s" in said.out and "windows" in said.err
    assert f"{long}, seconds 40/40" in said.err and not any(not line for line in said.err.splitlines())
    assert Image.open(tmp_path / "p.png").format == "PNG" and asked == [40.0]
    assert cli.run(["detect", str(short), "a dog", "rain", "--json"]) == 0  # it writes no times
    said = capsys.readouterr()
    assert json.loads(said.out)["sounds"][0]["spans"] == [{"onset_s": 0.0, "offset_s": 6.0}]
    assert "'parrot' wrote no times" in said.err and asked[1] == pytest.approx(8.0, abs=0.01)
    assert cli.run(["detect", str(short), "a dog", "--by", "times"]) == 0
    assert "no time" in capsys.readouterr().out and len(asked) == 2


def test_a_description_measures_hears_and_writes_down(speaking):
    tone = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(25 * RATE) / RATE)).astype(np.float32)
    audio = np.concatenate([tone, np.zeros(10 * RATE, np.float32)])
    engine = Parrot("A tone.")
    found = describe(engine, Scribe(), [audio[:100_000], audio[100_000:]], window_s=10.0)
    assert [(round(p.start_s), round(p.end_s), p.text) for p in found.parts] == [
        (0, 10, "A tone."),
        (10, 20, "A tone."),
        (20, 30, "A tone."),
        (30, 35, ""),  # nothing to hear: the model is not asked
    ]
    assert len(engine.asked) == 3 and found.seconds == 35.0
    assert found.peak_db == pytest.approx(-6.0, abs=0.1) and found.centroid_hz == pytest.approx(1000, abs=20)
    assert found.transcript.language == "en" and found.transcript.text.startswith("Hello")
    assert json.loads(json.dumps(found.to_json("x")))["said"]["text"] == found.transcript.text


def test_a_long_description_is_told_in_order_long_before_its_end(speaking):
    rng = np.random.default_rng(0)
    given, told = 0, []

    def blocks():
        nonlocal given
        for second in range(120):
            given = second + 1
            loud = 0.2 if second % 20 < 3 else 0.001  # speech, then a pause
            yield rng.normal(0, loud, RATE).clip(-1, 1).astype(np.float32)

    found = describe(
        Parrot("A hiss."), Scribe(), blocks(), window_s=10.0, found=lambda one: told.append((given, one))
    )
    assert [one for _, one in told] == found.events
    assert [(round(one.start_s), one.text) for one in found.events][:5] == [
        *[(0, "A hiss."), (0, "Hello there."), (10, "A hiss."), (20, "Hello there."), (20, "A hiss.")]
    ]
    assert all(at - one.start_s <= 45 for at, one in told) and told[0][0] < 45


def test_the_command_prints_a_long_description_part_by_part(tmp_path, monkeypatch, capsys, speaking):
    monkeypatch.setattr("lalm.cli.opening.open_engine", lambda *given, **options: Parrot("A hiss."))
    monkeypatch.setattr("lalm.cli.opening.open_whisper", lambda *given: Scribe())
    long = noise(tmp_path / "long.wav", 95.0)
    assert cli.run(["describe", str(long)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f"{long}:", "  00:00:00 A hiss.", '  00:00:00 "Hello there."']
    assert lines[-1].startswith(f"{long}: 95.0 s (00:01:35), mean level")
    assert [line.split()[0] for line in lines[1:-1]] == sorted(line.split()[0] for line in lines[1:-1])

    class Breaks(Parrot):
        def reply(self, samples, options):
            if len(self.asked) == 3:
                raise KeyboardInterrupt
            return super().reply(samples, options)

    monkeypatch.setattr("lalm.cli.opening.open_engine", lambda *given, **options: Breaks("A hiss."))
    assert cli.run(["describe", str(long)]) == 1  # what was found by then is not lost
    assert capsys.readouterr().out.count("A hiss.") >= 2


def test_two_recordings_are_told_apart(speaking):
    rng = np.random.default_rng(0)
    quiet = (0.02 * np.sin(2 * np.pi * 300 * np.arange(2 * RATE) / RATE)).astype(np.float32)
    loud = rng.normal(0, 0.3, 4 * RATE).astype(np.float32).clip(-1, 1)
    a, b = (
        describe(Parrot("x"), Scribe(text), [x]) for x, text in ((quiet, "One two."), (loud, "One three!"))
    )
    told = differences(a, b)
    assert told[0] == "2.0 s longer" and told[1].endswith("dB louder") and told[2].startswith("brighter")
    assert told[3] == "50 % of the words are the same" and differences(a, a) == ["the same words"]


def test_the_commands_describe_and_compare(tmp_path, monkeypatch, capsys, speaking, tiny):
    engine = Parrot("A hiss.", tiny("acdc")[0])
    monkeypatch.setattr("lalm.cli.opening.open_engine", lambda *given, **options: engine)
    monkeypatch.setattr("lalm.cli.opening.open_whisper", lambda *given: Scribe())
    a, b = noise(tmp_path / "a.wav", 1.0), noise(tmp_path / "b.wav", 2.0, seed=1)
    assert cli.run(["describe", str(a), str(tmp_path / "gone.wav"), str(b)]) == 2
    said = capsys.readouterr()
    assert said.out.count("A hiss.") == 2 and "gone.wav" in said.err
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "half.wav", np.outer(np.sin(np.arange(RATE) / 9), [0.5, 0.0]), RATE)
    given = [str(tmp_path / name) for name in ("gone.wav", "empty.wav", "half.wav", "lost.wav")]
    assert cli.run(["describe", *given]) == 2  # each is told, not the first alone
    said = capsys.readouterr()
    assert all(name in said.err for name in ("gone.wav", "empty.wav is empty", "lost.wav"))
    assert "half.wav: channel 1 is without sound" in said.err and said.out.count("A hiss.") == 1
    assert cli.run(["compare", str(a), str(b)]) == 0
    out = capsys.readouterr().out
    assert "B beside A: 1.0 s longer" in out and "trained on one recording at a time" in out
    assert cli.run(["compare", str(a), str(tmp_path)]) == 2
    assert "give two of a kind" in capsys.readouterr().err
