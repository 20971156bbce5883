"""What the embedded model guesses and a command finds out: named behind the answer."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_parts import noise

from lalm.cli import app as cli
from lalm.cli.better_means import better_means
from lalm.cli.chat import _answer
from lalm.cli.chat_lines import read_words
from lalm.inference.engine import Engine, Heard, Reply

SAMPLE = Path(__file__).parents[2] / "samples" / "bell.flac"


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("Transcribe the speech word for word.", "lalm transcribe 'my talk.wav'"),
        ("Give me a transcript.", "lalm transcribe"),
        ("When does the dog bark?", "lalm detect 'my talk.wav'"),
        ("At what time does the train come?", "lalm detect"),
        ("How loud is it in dB?", "lalm describe 'my talk.wav'"),
        ("How long is this recording in seconds?", "lalm describe"),
        ("What is the tempo in beats per minute?", "guesses keys"),
        ("What key is this music in?", "guesses keys"),
        ("What do you hear?", ""),
        ("What does she say?", ""),  # the transcript stands beside the audio
        ("Is it a dog? Answer when you are sure.", ""),
        ("Which is louder, the dog or the rain?", ""),
        ("How many dogs bark?", ""),
        ("Who has the key?", ""),
    ],
)
def test_the_command_that_tells_for_certain_is_named(question, said):
    told = better_means(question, ["my talk.wav"])
    assert said in told and bool(told) == bool(said), told


def test_two_recordings_are_compared():
    assert "lalm compare a.wav b.wav" in better_means("Which of the two is louder?", ["a.wav", "b.wav"])
    assert better_means("Which of the two is a dog?", ["a.wav", "b.wav"]) == ""
    assert "lalm transcribe FILE" in better_means("Transcribe it.", [])  # standard input


class Parrot:
    """An engine that says one thing."""

    name = "parrot"

    def reply(self, samples, options):
        return [Reply("Three.", (Heard("clip", 1.0, 1.0),), 0.0, 0.0, 0.0, 1) for _ in samples]


def test_the_sentence_stands_behind_the_embedded_models_answer_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Engine, "load", classmethod(lambda cls, *_: Parrot()))
    monkeypatch.setattr("lalm.cli.weights.fetch_for", lambda *_: None)
    clip = str(noise(tmp_path / "c.wav", 1.0))
    assert cli.run(["ask", clip, "How long is it?"]) == 0
    said = capsys.readouterr()
    assert (
        said.out == "Three.\n"
        and said.err == f"lalm: length and level are measured by lalm describe {clip}\n"
    )
    long = str(noise(tmp_path / "long.wav", 301.0))
    assert cli.run(["ask", long, "What is it?"]) == 0
    assert "long.wav lasts 5 minutes" in capsys.readouterr().err
    assert cli.run(["ask", "--model", str(tmp_path), clip, "How long is it?"]) == 0
    assert "lalm describe" not in capsys.readouterr().err


def test_a_chat_names_it_too(capsys):
    for name, told in (("small", True), ("mine", False)):
        talking = SimpleNamespace(
            engine=SimpleNamespace(name=name),
            say=lambda parts: (piece for piece in ["At 3", " s."]),
            remarks=[],
            finish_reason="stop",
            options=None,
            dropped=0,
        )
        _answer(talking, read_words([str(SAMPLE), "When does the bell ring?"]))
        said = capsys.readouterr()
        assert said.out == "At 3 s.\n" and (f"lalm detect {SAMPLE}" in said.err) is told
