"""Rendered music: labels true of the notes, splits apart, questions and lessons that tell nothing alone."""

import importlib.util
import json
import re
import shutil
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from made_up_tunes import SCALES, made, pretend, tune

from lalm.corpus import music
from lalm.corpus.arrangement import DRUMS, arranged, heard_key, instruments, midi
from lalm.corpus.catalogue import classes
from lalm.corpus.lesson_questions import wordings
from lalm.corpus.music_lessons import is_music, write_music_lessons
from lalm.corpus.music_questions import CHOICE, FASTER, MODE, NUMBER, TEMPO, WHAT, names_of
from lalm.corpus.rendering import SOUNDFONTS, rendered, synthesizer
from lalm.corpus.tunes import (
    COLLECTIONS,
    Melody,
    MusicError,
    Note,
    melody_of,
    of_split,
    read_tunes,
    tunes,
)
from lalm.data.readers import open_samples
from lalm.data.sample import Sample, message_text

ABC = """X: 1
T: The Made-up Reel
M: 2/4
L: 1/8
Z: nobody
K: Gm
G2B2|d2B2|c2A2|G4|G2B2|d2B2|AGFA|G4|]

X: 2
T: Of another mode
M: 2/4
K: Ador
A2c2|

X: 3
T: In two keys
M: 6/8
K: D
D3D3|
K: G
G3G3|
"""
needs_music21 = pytest.mark.skipif(not importlib.util.find_spec("music21"), reason="no music21")
FONTS = [p for p in Path("/usr/share/sounds/sf2").glob("*.sf2") if p.name == "TimGM6mb.sf2"]
needs_sound = pytest.mark.skipif(
    not (shutil.which("fluidsynth") and FONTS and importlib.util.find_spec("mido")), reason="no fluidsynth"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of 120 clips from made-up tunes, with a constant where fluidsynth would render."""
    folder = tmp_path_factory.mktemp("music")
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch)
        music.build_music(folder, 120, seed=1)
    return folder


def rows(folder: Path, name: str) -> list[Sample]:
    return list(open_samples(folder / f"{name}.jsonl"))


def test_tunes_are_read_where_key_and_metre_are_written_once() -> None:
    (found,) = read_tunes(ABC, "ryansMammoth", "x.abc")
    assert (found.number, found.title, found.transcriber) == ("1", "The Made-up Reel", "nobody")
    assert found.opening == (2, 2, -2, 1, -2, -1, 0, 2, 2, -2, -1, -1, -1, 2, -1)
    assert (found.tonic, found.mode, found.metre, found.family) == ("G", "minor", "2/4", "madeup")


@needs_music21
def test_a_melody_is_what_the_tune_says() -> None:
    melody = melody_of(read_tunes(ABC, "ryansMammoth", "x.abc")[0])
    assert melody is not None
    assert (melody.num_bars, melody.bar, melody.metre, len(melody.notes)) == (8, 2.0, "2/4", 16)
    assert [note.pitch for note in melody.notes[:5]] == [67, 70, 74, 70, 72]  # B flat, by the key


@needs_music21
def test_no_title_is_trained_on_and_asked_about() -> None:
    splits = defaultdict(set)
    for found in tunes():
        splits[found.family].add(found.split)
        assert found.collection in COLLECTIONS
    trained = {found.opening for found in tunes() if found.split == "train"}
    assert not trained & {found.opening for found in tunes() if found.split != "train"}
    assert len(tunes()) > 3000 and all(own == {"train"} for own in splits.values() if "train" in own)
    assert all(
        len(own) > 3 for split in ("train", "valid", "test_unseen") for own in of_split(split).values()
    )


@pytest.mark.parametrize("mode", ["major", "minor"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_an_arrangement_keeps_key_tempo_and_range(mode: str, size: int) -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        band = [instruments()[i] for i in rng.choice(len(instruments()), size, replace=False)]
        tonic = "D" if mode == "minor" else "G"
        piece = arranged(made(mode), (tonic, mode), band, 90, 8.0, rng, drums=seed % 2 == 0)
        names = ["C", "D flat", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B"]
        scale = {(names.index(piece.key) + step) % 12 for step in SCALES[mode]}
        for part in piece.parts:
            if part.label != DRUMS:
                own = next(player for player in band if player.label == part.label)
                assert {note.pitch % 12 for note, _ in part.notes} <= scale
                assert all(own.low <= note.pitch <= own.high for note, _ in part.notes), part.label
        assert piece.seconds == pytest.approx(12 / 90 * 60)  # six bars of two beats are nearest to 8 s
        beats = {round(note.onset, 6) for part in piece.parts[1:] for note, _ in part.notes}
        assert piece.marked == (len(piece.parts) > 1) == ({float(b) for b in range(12)} <= beats)


def test_a_key_is_heard_where_the_notes_tell_it() -> None:
    tonic = [Note(0, 2, 60), *(Note(0, 1, 60 + step) for step in (4, 7, 11, 2, 5))]
    assert heard_key(tonic) == (0, "major")
    assert heard_key([Note(n.onset, n.length, n.pitch + 3) for n in tonic]) == (3, "major")
    assert heard_key([Note(0, 2, 69), Note(0, 2, 72), Note(0, 2, 76), Note(0, 1, 71)]) == (9, "minor")


def test_the_instruments_are_classes_of_the_corpus() -> None:
    labels = [player.label for player in instruments()]
    assert len(set(labels)) == len(labels) == 18 and set(labels) <= set(classes())
    assert all(player.high - player.low >= 18 and player.programs for player in instruments())
    assert {font.unseen for font in SOUNDFONTS} == {True, False}


def test_clips_are_what_their_lines_say(built: Path) -> None:
    train = rows(built, "train")
    assert Counter(row.origin["kind"] for row in train) == {
        "single": 36,
        "together": 48,
        "sequence": 18,
        "twice": 18,
    }
    for row in train + rows(built, "test_unseen"):
        audio, rate = soundfile.read(row.audios[0]["audio"])
        assert rate == 16_000 and 3 < len(audio) / rate < 11
        assert row.events[-1]["offset_s"] == pytest.approx(len(audio) / rate, abs=0.01)
        assert (
            row.origin["instruments"] == ", ".join(names_of(row))
            and row.references[0] in row.origin["caption"]
        )
        starts = [event["onset_s"] for event in row.events]
        assert (max(starts) > 2) == (row.origin["kind"] == "sequence")
        unseen = {font.package for font in SOUNDFONTS if font.unseen}
        assert (row.origin["package"] in unseen) == (row.split == "test_unseen")
    told = Counter(row.origin["mode"] for row in train if row.origin["kind"] != "sequence")
    assert told["major"] == told["minor"]
    assert "Tune 1" in (built / "attribution.tsv").read_text()


def test_a_build_goes_on_and_is_the_same_again(built: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        calls = pretend(patch)
        shutil.copytree(built, tmp_path, dirs_exist_ok=True)
        for path in [*tmp_path.glob("*.json*"), *(tmp_path / "clips" / "test_known").glob("*-single-*")]:
            path.unlink()
        music.build_music(tmp_path, 120, seed=1)
        assert len(calls) == 72
        count = len(calls)
        for path in (tmp_path / "clips" / "valid").glob("*.flac"):
            path.unlink()
        music.build_music(tmp_path, 120, seed=1)
        assert len(calls) - count == sum({"single": 20, "together": 20, "sequence": 20, "twice": 20}.values())
    for name in ("train.jsonl", "questions_known.jsonl", "attribution.tsv", "music.json"):
        assert (tmp_path / name).read_text() == (built / name).read_text()


def test_where_no_tune_of_a_mode_fits_the_tempo_another_mode_is_played(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch)
    monkeypatch.setattr(music, "_melody", lambda found: None if found.mode == "minor" else made("major"))
    own = {mode: [tune(n, mode) for n in range(3)] for mode in SCALES}
    plans = list(music.plans(own, "valid", {"single": 6}, 0))
    assert len(plans) == 6 and {plan.tunes[0].mode for plan in plans} == {"major"}


def test_the_question_alone_tells_nothing(built: Path) -> None:
    answers: dict[str, dict[str, Counter]] = defaultdict(lambda: defaultdict(Counter))
    for item in rows(built, "questions_unseen"):
        answers[item.task][message_text(item.messages[0])][item.references[0]] += 1
    assert set(answers) == {
        *("instrument", "instrument_choice", "instrument_presence", "instrument_first"),
        *("how_many_instruments", "music_mode", "music_tempo", "music_faster"),
    }
    for task, options in (
        ("music_mode", 2),
        ("music_tempo", 3),
        ("music_faster", 2),
        ("how_many_instruments", 3),
    ):
        for told in answers[task].values():
            assert len(told) == options and max(told.values()) - min(told.values()) <= options, (task, told)
    for told in answers["instrument_choice"].values():
        assert len(told) == 4 and set(told.values()) == {told.total() // 4}
    yes = Counter(a for told in answers["instrument_presence"].values() for a in told.elements())
    assert yes["yes"] == yes["no"]


def test_answers_are_true_of_the_clips(built: Path) -> None:
    for item in rows(built, "questions_known"):
        assert is_true(item), (item.task, item.messages, item.references, item.origin)


def is_true(item: Sample) -> bool:
    question, names, origin = message_text(item.messages[0]), names_of(item), item.origin
    answer = item.references[0]
    if item.task == "instrument":
        return answer in names[0]
    if item.task == "instrument_choice":
        return [answer] == names and answer in question
    if item.task == "instrument_presence":
        return (answer == "yes") == any(f" {name} " in question for name in names)
    if item.task == "instrument_first":
        return answer == names[0] and names[1] in question
    if item.task == "how_many_instruments":
        return answer == str(len(names))
    if item.task == "music_mode":
        return origin["key"].endswith(answer)
    if item.task == "music_tempo":
        return answer == tempo_of(int(origin["beats_a_minute"]))
    assert item.task == "music_faster"
    return (answer == "yes") == (origin["second"] in question)


def tempo_of(beats: int) -> str:
    return "slow" if beats < 80 else "moderate" if beats < 125 else "fast"


def lessons_of(folder: Path, out: Path) -> list[tuple[Sample, str, str, str]]:
    assert is_music(folder / "train.jsonl")
    assert write_music_lessons(folder / "train.jsonl", out, 6000, seed=2) == 6000
    found = []
    for sample in open_samples(out):
        for at, kind in enumerate(sample.task.split("+")):
            question, answer = sample.messages[2 * at : 2 * at + 2]
            found.append((sample, kind, message_text(question), message_text(answer)))
    return found


def test_lessons_are_true_and_balanced(built: Path, tmp_path: Path) -> None:
    told: dict[str, Counter] = defaultdict(Counter)
    by_instrument: dict[str, Counter] = defaultdict(Counter)
    for sample, kind, question, answer in lessons_of(built, tmp_path / "lessons.jsonl"):
        names, origin = names_of(sample), sample.origin
        if kind == "mode":
            asked = re.search("major|minor", question)
            assert asked is not None
            if answer in ("Yes.", "No."):
                assert (answer == "Yes.") == (asked[0] == origin["mode"]), (question, answer)
            else:
                assert origin["mode"] in answer.lower()
        elif kind == "tempo" and answer not in ("Yes.", "No."):
            assert origin["tempo"] in answer.lower()
        elif kind == "tempo":
            assert (answer == "Yes.") == (re.search("slow|moderate|fast", question)[0] == origin["tempo"])  # type: ignore[index]
        elif kind == "number":
            assert {"One.": 1, "Two.": 2, "Three.": 3}.get(answer, answer[:1]) in (
                len(names),
                str(len(names)),
            )
            answer = str(len(names))
        elif kind == "second":
            said = re.search("faster|slower", question) if "change" not in question else None
            if answer in ("Yes.", "No."):
                assert said and (answer == "Yes.") == (said[0] == origin["second"]), (question, answer)
        elif kind == "presence":
            asked_name = next(n for n in NAMES if re.search(rf"{n}\b", question))
            negated = re.match(
                "Is the recording free|Is it right that|Is it true that there is nothing", question
            )
            yes = (answer == "Yes.") != bool(negated)
            assert yes == (asked_name in names), (question, answer, names)
            by_instrument[asked_name]["yes" if yes else "no"] += 1
        elif kind == "instruments":
            assert all(name in answer.lower() for name in (n.lower() for n in names))
        elif kind == "order":
            assert answer.rstrip(".").lower() in (n.lower() for n in names)
        told[kind][answer] += 1
    for kind, options in (
        ("mode", ("Yes.", "No.")),
        ("mode", ("Major.", "Minor.")),
        ("second", ("Yes.", "No.")),
    ):
        counts = [told[kind][answer] for answer in options]
        assert min(counts) > 0.75 * max(counts) > 20, (kind, counts)
    assert min(told["number"][n] for n in "123") > 0.6 * max(told["number"].values()), told["number"]
    for name, counts in by_instrument.items():
        assert 0.3 < counts["yes"] / counts.total() < 0.7, (name, counts)


NAMES = sorted(
    (classes()[label].name for label in [*(p.label for p in instruments()), DRUMS]), key=len, reverse=True
)


def test_held_out_wordings_are_not_those_of_the_lessons() -> None:
    trained = {text.casefold() for kind in wordings("music.yaml").values() for text in kind}
    trained |= {str(text).casefold() for kind in wordings().values() for text in kind}
    asked = [MODE.format("major", "minor"), MODE.format("minor", "major"), TEMPO, NUMBER, WHAT, CHOICE]
    asked += [FASTER.format("faster"), FASTER.format("slower")]
    assert not trained & {text.casefold() for text in asked}


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MusicError, match="apt-get install fluidsynth"):
        synthesizer()
    piece = arranged(made("major"), ("G", "major"), [instruments()[0]], 90, 4.0, np.random.default_rng(0))
    monkeypatch.setitem(sys.modules, "mido", None)
    with pytest.raises(MusicError, match=r"pip install 'lalm\[music\]'"):
        midi(piece)
    tunes.cache_clear()
    monkeypatch.setitem(sys.modules, "music21", None)
    with pytest.raises(MusicError, match=r"pip install 'lalm\[music\]'"):
        tunes()
    (tmp_path / "train.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "x"}]}) + "\n")
    with pytest.raises(ValueError, match="make it by 'lalm corpus music'"):
        write_music_lessons(tmp_path / "train.jsonl", tmp_path / "y.jsonl", 1)


@needs_sound
def test_what_is_rendered_has_the_notated_pitch_and_tempo() -> None:
    """Of a xylophone's repeated A: energy at 440 Hz, and as many onsets as there are beats."""
    xylophone = next(player for player in instruments() if player.label == "instrument/xylophone")
    melody = Melody(tuple(Note(float(at), 1.0, 69) for at in range(8)), 1.0, 2, 4)

    class Still(np.random.Generator):
        def integers(self, low: int, *more: object, **named: object) -> object:  # type: ignore[override]
            return np.zeros(more[1], int) if len(more) > 1 else 0

    piece = arranged(melody, ("A", "major"), [xylophone], 120, 4.0, Still(np.random.PCG64(0)))
    audio = rendered(midi(piece), FONTS[0], reverb=False)
    power = np.abs(np.fft.rfft(audio[: 4 * 16_000])) ** 2
    cents = 1200 * np.log2(np.argmax(power) / 4 / 440)
    assert abs((cents + 600) % 1200 - 600) < 30  # in some octave
    level = np.array([np.abs(audio[at : at + 160]).max() for at in range(0, 4 * 16_000, 160)])
    risen = np.flatnonzero(level > 3 * np.insert(level, 0, 0.0)[:-1] + 0.005)
    onsets = risen[np.insert(np.diff(risen) > 20, 0, True)]
    assert len(onsets) == 8 and np.allclose(np.diff(onsets), 50, atol=3)
