"""Few-shot naming: the folder's layout, both readings of an answer, votes of several orders, the command."""

import json

import numpy as np
import pytest
from tiny_parts import OPTIONS, noise

from lalm.cli import app as cli
from lalm.inference import few_shot
from lalm.inference.engine import Engine, Reply
from lalm.inference.reading import read_class
from lalm.models.assemble import build_model
from lalm.models.save import save_model


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    for label in ("dog_bark", "rain"):
        for i in range(3):
            noise(folder / label / f"{i}.wav", 0.3, seed=i)
    (folder / "notes.txt").write_text("not a label")
    return folder


@pytest.fixture(scope="module")
def apt_folder(tmp_path_factory, tiny_folders, tiny_bert):
    encoder, llm = map(str, tiny_folders)
    model, processor = build_model(
        "apt", encoder=encoder, aligner=str(tiny_bert), llm=llm, options=OPTIONS["apt"]
    )
    folder = tmp_path_factory.mktemp("few") / "apt"
    save_model(model, processor, folder, slim=True)
    return folder


def test_a_folder_of_folders_is_read(labelled):
    found = few_shot.labelled_folder(labelled, shots=2)
    assert [clip.label for clip in found] == ["dog bark", "dog bark", "rain", "rain"]
    assert len({clip.id for clip in found}) == 4
    assert len(few_shot.labelled_folder(labelled, shots=9)) == 6


class Parrot:
    """An engine that gives its answers in turn."""

    def __init__(self, *answers):
        self.answers, self.asked = answers, []

    def reply(self, samples, options):
        self.asked += samples
        return [Reply(text, (), 0.0, 0.0, 0.0, 1) for text, _ in zip(self.answers, samples, strict=True)]


def test_words_vote_over_orders(labelled):
    supports = few_shot.labelled_folder(labelled, shots=3)
    clip = labelled / "rain" / "0.wav"
    engine = Parrot("rain.", "A dog bark, loud", "It is rain", "thunder")
    verdict = few_shot.classify(engine, supports, clip, how="words", orders=4)
    assert verdict.label == "rain" and verdict.shares == {"dog bark": 1 / 3, "rain": 2 / 3}
    texts = [tuple(str(p.get("audio")) for p in s.messages[0]["content"]) for s in engine.asked]
    assert len(set(texts)) == 4 and len({frozenset(text) for text in texts}) == 1
    assert few_shot.classify(Parrot("thunder"), supports, clip, how="words").label is None


def test_an_answer_becomes_a_class_by_words_then_by_meaning():
    classes = ["dog", "rain", "rain and wind"]
    assert read_class("Rain and wind.", classes) == "rain and wind"
    assert read_class("A dog barks", classes) == "dog"
    assert read_class("dog or rain", classes) is None and read_class("", classes, None) is None

    def encoder(texts):
        return np.array([[len(t) == 3, "drizzle" in t or t == "rain", 0.5] for t in texts], dtype=float)

    assert read_class("some drizzle", classes, encoder) == "rain"


def test_the_likeliest_label_is_one_of_them(labelled, apt_folder):
    engine = Engine.load(str(apt_folder), "cpu")
    supports = few_shot.labelled_folder(labelled, shots=1)
    clip = labelled / "rain" / "2.wav"
    verdict = few_shot.classify(engine, supports, clip, orders=2)
    assert verdict.label in ("dog bark", "rain") and sum(verdict.shares.values()) == pytest.approx(1)
    assert few_shot.classify(engine, supports, clip, orders=2) == verdict


def test_the_command_prints_and_refuses(labelled, apt_folder, tmp_path, capsys):
    clip = str(labelled / "rain" / "2.wav")
    words = ["--support", str(labelled), "--model", str(apt_folder), "--shots", "1", "--device", "cpu"]
    assert cli.run(["classify", *words, "--json", clip]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["audio"] == clip and set(row["shares"]) == {"dog bark", "rain"}
    assert row["account"]["decoded_s"] == 0.3
    assert cli.run(["classify", *words, "--how", "words", clip]) == 0
    assert capsys.readouterr().out.startswith(f"{clip}: ")
    one = tmp_path / "one"
    noise(one / "dog" / "a.wav", 0.2)
    for given, said in (
        ([*words], "no recording to name"),
        (["--support", str(tmp_path / "gone"), clip], "there is no folder"),
        (["--support", str(one), clip], "clips of 'dog' only"),
        (["--support", str(one / "dog"), clip], "no labelled clips"),
        (["--support", str(labelled), str(tmp_path / "gone.wav")], "gone.wav"),
        ([*words, "--sentences", str(tmp_path), clip], "--how words"),
        ([clip], "--support"),
    ):
        assert cli.run(["classify", *given]) == 2, given
        error = capsys.readouterr().err
        assert said in error and len(error.splitlines()) == 1, error
