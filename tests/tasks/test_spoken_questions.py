"""Typed questions become spoken ones: the sound stays, the question follows, voices and errors."""

import os
import stat
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from lalm.audio.load import load_audio
from lalm.cli.app import run
from lalm.corpus.catalogue import classes
from lalm.data.readers import read_manifest
from lalm.data.sample import ask, write_manifest
from lalm.tasks import background_questions as background
from lalm.tasks import spoken_questions as spoken

# A synthesiser for the tests: a tone whose pitch is the voice and whose length is the text.
FLITE = """#!{python}
import sys, numpy as np, soundfile
words = sys.argv[1:]
given = dict(zip(words[::2], words[1::2]))
if given["-voice"] == "mute":
    sys.exit("no voice 'mute'")
seconds = 0.05 * len(given["-t"]) * float(given["--setf"].split("=")[1])
tone = np.sin(np.arange(int(8000 * seconds)) * float(given["-voice"]) * 2 * np.pi / 8000)
soundfile.write(given["-o"], tone * 0.5, 8000)
"""


@pytest.fixture
def questions(tmp_path, monkeypatch):
    import sys

    program = tmp_path / "bin" / "flite"
    program.parent.mkdir()
    program.write_text(FLITE.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    spoken.speech.cache_clear()
    soundfile.write(tmp_path / "bell.wav", np.linspace(-0.5, 0.5, 16_000).astype("float32"), 16_000)
    rows = [ask([tmp_path / "bell.wav"], f"What is {n}?").with_target("A bell.") for n in range(6)]
    write_manifest(tmp_path / "typed.jsonl", rows)
    return tmp_path / "typed.jsonl"


def test_the_question_follows_the_sound_in_one_of_the_voices(questions, tmp_path, capsys):
    out = tmp_path / "spoken.jsonl"
    words = ["build", "spoken", str(questions), "--out", str(out)]
    assert run([*words, "--voice", "flite:200", "--voice", "flite:300"]) == 0
    assert capsys.readouterr().out == f"{out}: 6 spoken questions\n"
    rows = list(read_manifest(out))
    assert {row.origin["voice"] for row in rows} == {"flite:200", "flite:300"}
    assert [row.origin["question"] for row in rows] == [f"What is {n}?" for n in range(6)]
    for row in rows:
        assert row.target == "A bell." and [p["type"] for p in row.messages[0]["content"]] == ["audio"]
        whole = load_audio(row.audios[0]["audio"])
        np.testing.assert_allclose(whole[:16_000], np.linspace(-0.5, 0.5, 16_000), atol=1e-3)
        pause, said = whole[16_000:22_400], whole[22_400:]
        assert not pause.any() and np.sqrt(np.mean(said**2)) == pytest.approx(spoken.SPEECH_RMS, rel=0.02)
        pitch = np.abs(np.fft.rfft(said)).argmax() * 16_000 / len(said)
        assert pitch == pytest.approx(float(row.origin["voice"].split(":")[1]), abs=4)
    first = [(row.id, row.origin["voice"]) for row in rows]
    assert run([*words, "--voice", "flite:200", "--voice", "flite:300", "--seed", "1"]) == 0
    assert [(row.id, row.origin["voice"]) for row in read_manifest(out)] != first


@pytest.mark.parametrize(
    ("voice", "what"),
    [
        ("slt", "a voice is flite:NAME or espeak-ng:NAME, not 'slt'"),
        ("flite:mute", "flite:mute does not say 'What is 0?': no voice 'mute'"),
        ("espeak-ng:en", "the program 'espeak-ng' is not installed"),
    ],
)
def test_voices_that_cannot_ask(questions, tmp_path, capsys, monkeypatch, voice, what):
    monkeypatch.setitem(spoken.SYNTHESISERS, "espeak-ng", lambda *words: ["/nowhere/espeak-ng"])
    out = tmp_path / "spoken.jsonl"
    assert run(["build", "spoken", str(questions), "--out", str(out), "--voice", voice]) == 2
    assert what in capsys.readouterr().err and not out.exists()


def test_rows_without_a_typed_question_are_named(tmp_path, capsys):
    write_manifest(tmp_path / "typed.jsonl", [ask([tmp_path / "bell.wav"], "")])
    words = ["build", "spoken", str(tmp_path / "typed.jsonl"), "--out", str(tmp_path / "o.jsonl")]
    assert run([*words, "--voice", "flite:slt"]) == 2
    assert "typed.jsonl:1: its last turn is not one recording with a question" in capsys.readouterr().err
    assert run(["build", "spoken", "nothing.jsonl", *words[3:], "--voice", "flite:slt"]) == 2
    assert "there is no manifest 'nothing.jsonl'" in capsys.readouterr().err


def test_a_question_is_asked_over_a_sound_and_its_name_is_the_reference(questions, tmp_path, capsys):
    """SAC: the voice over the sound, references where its name answers, no sounds with speech."""
    rows = []
    for number, (label, caption) in enumerate(
        [
            *[("animal/dog", "a dog barks"), ("animal/cat", "a cat meows"), ("weather/rain", "rain falls")],
            *[("speech/english", "a man speaks in English"), ("odd/label", "something rustles")],
        ]
    ):
        seconds = 4.0 if number == 2 else 0.5
        sound = np.random.default_rng(number).normal(0, 0.2, int(seconds * 16_000)).clip(-1, 1)
        soundfile.write(tmp_path / f"{number}.wav", sound, 16_000)
        event = {"label": label, "caption": caption, "onset_s": 0.0, "offset_s": seconds}
        row = ask([tmp_path / f"{number}.wav"], "").with_target(caption)
        rows.append(replace(row, id=f"s{number}", task="caption", events=(event,)))
    write_manifest(tmp_path / "sounds.jsonl", rows)
    out = tmp_path / "sac.jsonl"
    words = ["build", "sac", str(tmp_path / "sounds.jsonl"), "--out", str(out), "--voice", "flite:700"]
    assert run(words) == 0
    assert "4 spoken questions over sounds (animal 2, other 1, weather 1)" in capsys.readouterr().out
    for row in read_manifest(out):
        group, question = row.origin["category"], row.origin["transcript"]
        bank = {**dict(background.QUESTIONS[""]), **dict(background.QUESTIONS.get(group, ()))}
        label = {"s0": "animal/dog", "s1": "animal/cat", "s2": "weather/rain"}.get(row.origin["recording"])
        assert row.references == (classes()[label].words if label and bank[question] else ())
        whole = load_audio(row.audios[0]["audio"])
        said = 0.05 * len(question) * 16_000
        assert len(whole) >= said * 0.85 + 1.5 * 16_000 and whole[: 16_000 // 4].any()
        power = np.abs(np.fft.rfft(whole)) ** 2
        at = round(700 / 16_000 * len(whole))
        tone = power[at - 20 : at + 20].sum()
        louder_db = 10 * np.log10(tone / (power.sum() - tone))
        assert louder_db < float(row.origin["louder_db"]) + 1 and louder_db > 0  # the sound lasts longer
    assert run([*words[:-1], "flite:700", "--items", "2"]) == 0
    assert "(other 1, animal 1)" in capsys.readouterr().out
    write_manifest(tmp_path / "sounds.jsonl", rows[3:4])
    assert run(words) == 2 and "in which nobody speaks" in capsys.readouterr().err
