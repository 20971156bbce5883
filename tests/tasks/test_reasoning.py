"""An LLM's questions about two recordings, kept only where the events bear them out; ESC-50's episodes."""

import json
from pathlib import Path

import pytest

from lalm.data.readers import read_manifest
from lalm.synthesis.completions import Completion
from lalm.tasks import READERS, Source, SourceError
from lalm.tasks.episodes import ESC50_NOVEL
from lalm.tasks.events import Recorded, Sounding
from lalm.tasks.reasoning import checked, described, prompt, sounding, written

ONE = Recorded("one", Path("1.wav"), (Sounding("dog", 0, 1), Sounding("rain", 0, 9.5), Sounding("dog", 3, 4)))
TWO = Recorded("two", Path("2.wav"), (Sounding("dog", 6, 7), Sounding("bell", 8, 9)))


def line(question, sound, kind, answer):
    return json.dumps({"question": question, "sound": sound, "kind": kind, "answer": answer})


def test_only_what_the_events_say_is_kept():
    good = [
        line("Which recording has the dog more often?", "dog", "more often", "first"),
        line("In which recording does the dog start sooner?", "Dog", "sooner", "First"),
        line("Do both recordings have rain in them?", "rain", "both", "no"),
    ]
    bad = {
        line("Which one has a bell in it?", "bell", "where", "first"): "the events say otherwise",
        line(
            "Where is the bell more often heard?", "bell", "more often", "second"
        ): "the events say otherwise",
        line("Which recording has the dog more often?", "dog", "more often", "first"): "asked twice",
        line("Is it in the first recording, the dog?", "dog", "where", "both"): "tells a place or a time",
        line("Which recording sounds more wet?", "rain", "where", "first"): "does not name its sound",
        line("Which recording has the cat in it?", "cat", "where", "neither"): "unknown sound or kind",
        line("Is the dog louder here or there?", "dog", "louder", "first"): "unknown sound or kind",
        line("Dog?", "dog", "where", "both"): "not a question of usual length",
        '{"question": "broken': "not the JSON",
        "{" * 5000 + "}": "not the JSON",
    }
    kept, dropped = checked(ONE, TWO, "\n".join(["Sure!", *good, *bad]))
    assert [kind for _, kind, _ in kept] == ["more often", "sooner", "both"]
    assert len(dropped) == len(bad)
    for why, said in zip(dropped, bad.values(), strict=True):
        assert said in why


def test_the_llm_reads_events_and_positions():
    assert described(ONE) == (
        "- dog: 2 x, 0.0 to 1.0 s, 3.0 to 4.0 s (beginning and middle)\n"
        "- rain: 1 x, 0.0 to 9.5 s (throughout)"
    )
    assert described(ONE) in prompt(ONE, TWO)[1]["content"]


def test_a_question_may_say_how_its_sound_sounds():
    """The words must fit that sound better than any other of the pair."""
    acoustics = {"dog": "short loud harsh bursts", "rain": "steady soft hiss", "bell": "loud bright ringing"}
    assert described(TWO, acoustics).splitlines()[1] == "- bell: 1 x, 8.0 to 9.0 s (end; loud bright ringing)"
    good = line("Which recording has the harsh short bursts more often?", "dog", "more often", "first")
    vague = line("Which recording has the loud noise more often?", "dog", "more often", "first")
    other = line("Where do you hear the bright loud ringing more often?", "dog", "more often", "first")
    kept, dropped = checked(ONE, TWO, "\n".join([good, vague, other]), acoustics)
    assert [sound for _, _, sound in kept] == ["dog"]
    assert dropped == ["the question does not name its sound"] * 2
    assert not checked(ONE, TWO, good)[0]  # nothing is known of how it sounds


class Describer:
    name = template = "scripted"

    def __init__(self):
        self.chats = []

    def complete(self, chats, seeds, sampling):
        self.chats += chats
        asked = [chat[-1]["content"] for chat in chats]
        told = [next((t for n, t in TELLS.items() if n in text), "") for text in asked]
        return [Completion(text, False) for text in told]


TELLS = {"heard: dog?": "Short, loud, harsh bursts.\n", "heard: bell?": "one " * 30, "heard: rain?": "{}"}


def test_every_kind_of_sound_is_described_once_and_shortly():
    writer = Describer()
    assert sounding({"dog", "rain", "bell"}, writer) == {"dog": "Short, loud, harsh bursts"}
    writer = Describer()
    written(lambda source: iter([ONE, TWO]), Source(Path("x.jsonl")), writer)
    assert len(writer.chats) == 3 + 2
    assert all("harsh bursts)" in chat[-1]["content"] for chat in writer.chats[3:])


class Writer:
    name = template = "scripted"

    def complete(self, chats, seeds, sampling):
        text = line("In which recording is there a dog more often?", "dog", "more often", "first")
        return [Completion(f"{text}\nnonsense {{", False) for _ in chats]


def test_every_question_is_asked_in_both_orders():
    samples, dropped = written(lambda source: iter([ONE, TWO]), Source(Path("x.jsonl")), Writer())
    assert [sample.references[0] for sample in samples] == ["first", "second"]
    first, second = samples
    assert first.audios == second.audios[::-1] and len({sample.id for sample in samples}) == 2
    assert dropped["not the JSON asked for"] == 2 and dropped["the events say otherwise"] == 1
    with pytest.raises(SourceError, match="needs two"):
        written(lambda source: iter([ONE]), Source(Path("x.jsonl")), Writer())


def test_esc50s_published_splits_make_test_episodes(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "audio").mkdir()
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for target in range(50):
        for number in range(8):
            name = f"{number}-{target}.wav"
            (tmp_path / "audio" / name).touch()
            rows.append(f"{name},1,{target},class_{target},False,1,A")
    (tmp_path / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
    reader = READERS["few_shot"]["esc50"]
    samples = list(reader(Source(tmp_path, ways=5, shots=3, episodes=2)))
    assert len(samples) == 5 * 2 * 5 * 5 and len({s.id for s in samples}) == len(samples)
    for sample in samples:
        novel = {f"class {target}" for target in ESC50_NOVEL[int(sample.split)]}
        assert len(sample.audios) == 16 and len(set(sample.choices)) == 5 and set(sample.choices) <= novel
        assert sample.references[0] in sample.choices
        names = [str(part["audio"]) for part in sample.audios]
        assert len(set(names)) == 16
    assert all(len(set(novel)) == 15 for novel in ESC50_NOVEL)
    with pytest.raises(SourceError, match="16 ways of 3 shots"):
        list(reader(Source(tmp_path, ways=16, shots=3)))


def test_folders_of_clips_make_episodes_and_few_are_refused(tmp_path):
    from lalm.tasks import build

    for label in ("dog_bark", "rain", "bell", "wind"):
        (tmp_path / label).mkdir()
        for number in range(2):
            (tmp_path / label / f"{number}.wav").touch()
    out = tmp_path / "few.jsonl"
    built = build("few_shot", Source(tmp_path, episodes=3), out, layout="folders")
    assert built.written == 3
    assert all(set(s.choices) == {"dog bark", "rain", "bell", "wind"} for s in read_manifest(out))
    with pytest.raises(SourceError, match="5 ways of 1 shots"):
        build("few_shot", Source(tmp_path, ways=5), out, layout="folders")
