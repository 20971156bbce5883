"""A corpus folder as manifests by task: what is asked, what the answers are, and what stays out."""

import json
from dataclasses import replace

import pytest

from lalm.data.readers import read_manifest
from lalm.data.sample import SampleError, ask, message_text, write_manifest
from lalm.systems.salmonn.prompts import QUESTION, prompts
from lalm.tasks.instructions import instruct
from lalm.tasks.recordings import build

TWELVE = ["asr", "translate_zh", "caption", "phones", "emotion", "music_caption", "overlap", "speaker"]
TWELVE += ["gender", "speech_qa", "audio_qa", "music_qa"]
WOMAN, DOG, RAIN = "a woman speaks in English", "a dog barks", "rain falls"
LABELS = {WOMAN: "speech/english", DOG: "animal/dog", RAIN: "weather/rain"}


def test_every_task_has_prompts_of_its_own():
    bank = prompts()
    assert all(len(bank[task]) >= 10 for task in TWELVE)
    assert all(len(bank[task]) >= 3 for task in bank)
    everything = [prompt for task in bank.values() for prompt in task if prompt != QUESTION]
    shared = [p for p in everything if QUESTION in p]  # "Answer from the recording." serves several
    assert len(set(everything) - set(shared)) == len(everything) - len(shared)
    for task in ("speech_qa", "audio_qa", "music_qa", "slots"):
        assert all(prompt.count(QUESTION) == 1 for prompt in bank[task])


def test_a_prompt_depends_on_the_id_and_the_seed_only():
    samples = [replace(ask(["a.wav"], "").with_target("Hello."), id=f"s{i}", task="asr") for i in range(60)]
    drawn = list(instruct(samples, seed=1))
    assert drawn == list(instruct(samples, seed=1)) and drawn[7:] == list(instruct(samples[7:], seed=1))
    assert len({message_text(s.messages[0]) for s in drawn}) > 10
    assert drawn != list(instruct(samples, seed=2))
    (first,) = {message_text(s.messages[0]) for s in instruct(samples, seed=None)}
    assert first == prompts()["asr"][0]
    assert [p["type"] for p in drawn[0].messages[0]["content"]] == ["audio", "text"]
    assert drawn[0].target == "Hello."


def test_questions_have_their_place_and_nothing_else_has():
    asked = replace(ask(["a.wav"], "Who calls? {x}"), id="q", task="speech_qa")
    (made,) = instruct([asked], seed=3)
    assert "Who calls? {x}" in message_text(made.messages[0]) and QUESTION not in str(made)
    with pytest.raises(SampleError, match="q: task 'speech_qa' needs a question"):
        list(instruct([replace(ask(["a.wav"], ""), id="q", task="speech_qa")]))
    with pytest.raises(SampleError, match="q: task 'asr' takes no question"):
        list(instruct([replace(asked, task="asr")]))
    with pytest.raises(SampleError, match="q: task 'dance' has no prompts"):
        list(instruct([replace(asked, task="dance")]))


def recording(name, kind, split, *captions, transcript=""):
    events = [
        {"label": LABELS[c], "caption": c, "onset_s": float(i), "offset_s": i + 1.0}
        for i, c in enumerate(captions)
    ]
    caption = ", then ".join(captions)
    origin = {"recording": name, "kind": kind} | ({"transcript": transcript} if transcript else {})
    made = ask([f"/clips/{name}.flac"], "").with_target(f"{caption.capitalize()}.")
    return replace(
        made, id=name, task="caption", references=(caption,), split=split, events=events, origin=origin
    )


@pytest.fixture
def corpus(tmp_path):
    """What ``lalm corpus build`` leaves, with five recordings a split."""
    folder = tmp_path / "corpus"
    for split in ("train", "valid", "test_known", "test_unseen"):
        rows = [
            recording(f"{split}-say", "single", split, WOMAN, transcript="zero  one"),
            recording(f"{split}-scene", "sequence", split, WOMAN, DOG, transcript="two"),
            recording(f"{split}-dog", "single", split, DOG),
            recording(f"{split}-rain", "single", split, RAIN),
            recording(f"{split}-dogs", "repetition", split, DOG, DOG, DOG),
        ]
        write_manifest(folder / f"{split}.jsonl", rows)
        if split.startswith("test_"):
            name = split.removeprefix("test_")
            asked = replace(ask(["/clips/x.flac"], "How many?"), id="n", task="how_many", references=("3",))
            known = replace(asked, id="p", task="presence", references=("yes",))
            write_manifest(folder / f"questions_{name}.jsonl", [asked, known])
            write_manifest(folder / f"instructions_{name}.jsonl", [replace(asked, task="one_word")])
    (folder / "corpus.json").write_text(json.dumps({"tier": "small"}))
    return folder


def manifest(out, name):
    return list(read_manifest(out / f"{name}.jsonl"))


def test_a_corpus_becomes_a_manifest_a_task(corpus, tmp_path):
    counts = build(corpus, tmp_path / "out")
    assert all(len(manifest(tmp_path / "out", name)) == count for name, count in counts.items())
    out = tmp_path / "out"
    targets = {name: [s.target for s in manifest(out, f"train/{name}")] for name in ("asr", "asr_scenes")}
    assert targets == {"asr": ["zero one"], "asr_scenes": ["two"]}
    assert [s.target for s in manifest(out, "train/language")] == ["English.", "English."]
    assert [s.target for s in manifest(out, "train/gender")] == ["A woman.", "A woman."]
    scene = manifest(out, "train/tags")[1]
    assert scene.target == "a person speaking; a dog barking" and scene.references[1] == "a dog barking"
    assert scene.audios[0]["audio"] == "/clips/train-scene.flac" and scene.origin["caption"]
    assert {s.task for s in manifest(out, "train/caption")} == {"caption"}
    ids = [s.id for path in (out / "train").iterdir() for s in read_manifest(path)]
    assert len(ids) == len(set(ids))


def test_trained_questions_are_right_and_the_untrained_stay_in_the_tests(corpus, tmp_path):
    counts = build(corpus, tmp_path / "out")
    asked = manifest(tmp_path / "out", "train/audio_qa")
    assert {s.task for s in asked} <= {"presence", "speech", "what", "which_of_two"} and len(asked) > 5
    for s in asked:
        caption, text = s.origin["caption"], message_text(s.messages[0])
        if s.task == "presence":
            there = ("dog" in text and DOG in caption) or ("rain" in text and RAIN in caption)
            there = there or ("person" in text and WOMAN in caption)
            assert s.target == ("Yes." if there else "No.")
        if s.task == "speech":
            assert s.target == ("Yes." if WOMAN in caption else "No.")
    assert not any(name.split("/")[0] in ("train", "valid") and "untrained" in name for name in counts)
    assert [s.task for s in manifest(tmp_path / "out", "test_known/untrained_qa")] == ["how_many"]
    assert [s.task for s in manifest(tmp_path / "out", "test_known/audio_qa")] == ["presence"]
    stories = manifest(tmp_path / "out", "test_unseen/story")
    assert len(stories) == 4 and {s.target for s in stories} == {""}
    assert {message_text(s.messages[0]) for s in stories} == {prompts()["story"][0]}


def test_every_kind_of_question_can_be_learned(corpus, tmp_path):
    build(corpus, tmp_path / "out", every_question=True)
    asked = {s.task: s for s in manifest(tmp_path / "out", "train/audio_qa")}
    assert {"presence", "how_many", "order"} <= set(asked)
    assert (asked["how_many"].target, asked["how_many"].references) == ("3.", ("3", "three"))
    assert asked["order"].target == "A person speaking." and "dog" in asked["order"].choices[1]


def test_languages_and_folders_are_checked(corpus, tmp_path):
    assert build(corpus, tmp_path / "out", languages=["French"])["train/asr"] == 0
    with pytest.raises(ValueError, match="no recording speaks 'klingon'"):
        build(corpus, tmp_path / "out", languages=["klingon"])
    with pytest.raises(ValueError, match="is not a folder of 'lalm corpus build'"):
        build(tmp_path, tmp_path / "out")
