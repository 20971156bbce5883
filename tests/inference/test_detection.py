"""Detection: answers as spans, Audacity's labels, the picture, the command and what it refuses."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image, ImageFont
from tiny_parts import noise

from lalm.audio import spectrogram
from lalm.cli import app as cli
from lalm.inference import detection
from lalm.inference.engine import Engine, Heard, Reply


class Parrot:
    """An engine that says one thing."""

    def __init__(self, answer, seconds=4.0):
        self.answer, self.seconds = answer, seconds

    def reply(self, samples, options):
        heard = (Heard("clip", self.seconds, self.seconds),)
        return [Reply(self.answer, heard, 0.0, 0.0, 0.0, 1) for _ in samples]


@pytest.mark.parametrize(
    ("answer", "spans"),
    [
        ("3.0s-3.5s; 0.5s-1.2s.", ((0.5, 1.2), (3.0, 3.5))),
        ("From 1 to 2.5 seconds", ((1.0, 2.5),)),
        ("3.0s-9.0s", ((3.0, 4.0),)),
        ("7s-9s", ()),
        ("never", ()),
    ],
)
def test_answers_become_spans_within_the_recording(answer, spans):
    (found,) = detection.detect(Parrot(answer), "clip.wav", ["rain"])
    assert found.spans == spans and found.said_none == (answer == "never")


def test_audacity_reads_the_labels_in_time_order():
    found = [
        detection.Found("rain", ((2.0, 3.5),), "", 4.0, False),
        detection.Found("a\tdog", ((0.25, 1.0), (3.0, 3.1)), "", 4.0, False),
    ]
    assert detection.audacity(found) == (
        "0.250000\t1.000000\ta dog\n2.000000\t3.500000\train\n3.000000\t3.100000\ta dog\n"
    )


def test_the_picture_marks_the_spans_and_shows_the_sound(tmp_path):
    t = np.arange(32_000) / 16_000
    audio = (0.3 * np.sin(2 * np.pi * 1000 * t) * (t > 1)).astype(np.float32)
    paths = [tmp_path / "plain.png", tmp_path / "marked.png"]
    spectrogram.draw(audio, [], "a tone", paths[0])
    spectrogram.draw(audio, [(1.0, 1.5)], "a tone", paths[1])
    plain, marked = (np.asarray(Image.open(path).convert("RGB")).astype(int) for path in paths)
    assert plain.shape == (40 + 256 + 36, 56 + 960 + 16, 3)
    inside = plain[40:296, 56:1016].sum(2)
    assert inside[:, 520:].max() > 400 > inside[:, :440].max() + 100  # silence is dark, then comes a tone
    loudest = 40 + int(inside[:, 700].argmax())
    assert 40 + 256 * 0.35 < loudest < 40 + 256 * 0.8  # 1 kHz is in the lower middle of a mel scale to 8 kHz
    changed = np.flatnonzero((plain != marked)[60:280].any((0, 2)))
    assert abs(changed.min() - (56 + 480)) <= 2 and abs(changed.max() - (56 + 720)) <= 2
    with pytest.raises(ValueError, match="no spectrogram"):
        spectrogram.draw(audio[:100], [], "", paths[0])


@pytest.mark.parametrize("seconds", [0.06, 1, 28, 59.9, 60, 180, 3599, 3600, 7200, 47_000, 86_400, 900_000])
def test_times_on_the_axis_are_read_like_a_clock_and_do_not_touch(seconds):
    font = ImageFont.load_default(14)
    ticks = spectrogram.ticks(seconds)
    edges = [
        (960 * at_s / seconds - font.getlength(text) / 2, 960 * at_s / seconds + font.getlength(text) / 2)
        for at_s, text in ticks
    ]
    assert all(left[1] + 6 <= right[0] for left, right in itertools.pairwise(edges))
    assert len(ticks) == len({text for _, text in ticks}) and ticks[-1][0] <= seconds * 1.000001
    said = {28: "25", 180: "3:00", 3599: "55:00", 3600: "1:00:00", 7200: "2:00:00", 86_400: "24:00:00"}
    assert ticks[-1][1] == said.get(seconds, ticks[-1][1])


def test_several_sounds_have_a_line_and_a_colour_each(tmp_path):
    path = tmp_path / "two.png"
    spans = {"rain": [(0.0, 1.0)], "a dog": [(1.5, 2.0)]}
    spectrogram.draw(np.zeros(32_000, np.float32), spans, "two", path)
    page = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert page.shape[0] == 40 + 2 * 22 + 256 + 36
    for number, (first, last) in enumerate(((56, 56 + 480), (56 + 720, 56 + 960))):
        across = np.flatnonzero((page[52 + number * 22] == spectrogram.MARKS[number]).all(1))
        assert abs(across.min() - first) <= 12 and abs(across.max() - last) <= 2


def test_the_command_writes_all_it_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Engine, "load", classmethod(lambda cls, *_: Parrot("0.2s-0.4s.", 1.0)))
    monkeypatch.setattr("lalm.cli.weights.fetch_for", lambda model: None)
    clip, labels, picture = noise(tmp_path / "c.wav", 1.0), tmp_path / "l.txt", tmp_path / "p.png"
    assert cli.run(["detect", str(clip), "rain", "a dog"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["0.20", "s", "0.40", "s", "rain"],
        ["0.20", "s", "0.40", "s", "a", "dog"],
    ]
    more = ["--json", "--labels", str(labels), "--picture", str(picture)]
    assert cli.run(["detect", str(clip), "rain", *more]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.pop("account")["decoded_s"] == 1.0
    assert told == {
        "seconds": 1.0,
        "sounds": [{"sound": "rain", "spans": [{"onset_s": 0.2, "offset_s": 0.4}], "answer": "0.2s-0.4s."}],
    }
    assert labels.read_text() == "0.200000\t0.400000\train\n" and Image.open(picture).format == "PNG"


def test_what_cannot_be_searched_is_refused(tmp_path, capsys):
    clip = str(noise(tmp_path / "c.wav", 1.0))
    for given, said in (
        ([], "name a recording"),
        ([clip], "name a recording"),
        ([clip, " "], "empty"),
        ([clip, clip], "one recording at a time"),
        ([str(tmp_path / "gone.wav"), "rain"], "gone.wav"),
        ([clip, "rain", "--picture", str(tmp_path / "p.svg")], "is a PNG"),
        ([clip, "rain", "--labels", str(tmp_path / "no" / "l.txt")], "there is no folder"),
        ([clip, "rain", "--model", str(tmp_path / "nothing")], "there is no model folder"),
    ):
        assert cli.run(["detect", *given]) == 2, given
        error = capsys.readouterr().err
        assert said in error and len(error.splitlines()) == 1, error
