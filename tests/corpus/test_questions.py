"""Questions: balanced, true of the recording, and with wrong choices that are surely wrong."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from lalm.corpus.catalogue import Row, classes
from lalm.corpus.checkable_instructions import INSTRUCTIONS, instructions
from lalm.corpus.clips import Clip
from lalm.corpus.questions import far, questions
from lalm.corpus.scenes import Draw, Recording, singles
from lalm.corpus.wording import repeated
from lalm.data.sample import Sample, message_text

LABELS = """animal/dog animal/cow vehicle/train vehicle/car horn instrument/piano water/splash weather/rain
impact/glass speech/english speech/french fire/crackle door/wood weapon/gun tool/saw object/bell
footsteps/grass human/laugh machine/fan ambience/forest music/orchestral""".replace("car horn", "car_horn")


def clips() -> list[Clip]:
    found = []
    for label in (name.replace("_", " ") for name in LABELS.split()):
        for number in range(6):
            kind = "speech" if label.startswith("speech") else "sfx"
            row = Row(
                "made-up",
                f"{label}{number}.wav",
                label,
                f"{label.split('/')[1]} sounds",
                kind,
                "",
                "CC0-1.0",
                "",
            )
            seconds = 4.0 if label.split("/")[0] in ("weather", "ambience", "fire") else 1.0
            found.append(Clip(row, "test_known", f"clips/{row.id}.flac", int(seconds * 16000), 1))
    return found


@pytest.fixture(scope="module")
def recordings() -> list[Recording]:
    """Singles and, without audio, scenes as the builder draws them."""
    own = clips()
    draw, rng, found = Draw(own), np.random.default_rng(0), singles(own)
    for number in range(240):
        kind = ("sequence", "bed", "repetition")[number % 3]
        chosen = draw.scene(kind, number // 3, rng)
        caption = " then ".join(c.row.caption for c in chosen)
        if kind == "repetition":
            caption = repeated(chosen[0].row.caption, len(chosen), rng)
        found.append(Recording(f"{kind}-{number}", f"{number}.flac", caption, kind, tuple(chosen), ()))
    return found


@pytest.fixture(scope="module")
def items(recordings: list[Recording]) -> dict[str, list[Sample]]:
    found = defaultdict(list)
    for item in questions(recordings, np.random.default_rng(0)):
        found[item.task].append(item)
    return found


def text_of(item: Sample) -> str:
    return message_text(item.messages[0])


def test_every_task_is_there_and_every_item_is_whole(
    items: dict[str, list[Sample]], recordings: list[Recording]
) -> None:
    assert set(items) == {"presence", "which_of_two", "what", "what_choice", "speech", "how_many", "order"}
    known = {r.id: r for r in recordings}
    every = [item for own in items.values() for item in own]
    assert len({item.id for item in every}) == len(every)
    for item in every:
        assert len(item.audios) == 1 and text_of(item).endswith("?")
        assert item.origin["caption"] == known[item.origin["recording"]].caption
        assert item.references and (not item.choices or item.references[0] in item.choices)
        assert len(set(item.choices)) == len(item.choices)


def test_yes_as_often_as_no_for_every_question(items: dict[str, list[Sample]]) -> None:
    for task in ("presence", "speech"):
        count: dict[str, Counter[str]] = defaultdict(Counter)
        for item in items[task]:
            count[text_of(item)][item.references[0]] += 1
        assert len(items[task]) > 50
        assert all(answers["yes"] == answers["no"] for answers in count.values()), task


def test_answers_are_true(items: dict[str, list[Sample]], recordings: list[Recording]) -> None:
    known = {r.id: r for r in recordings}
    for task in ("presence", "which_of_two", "what_choice", "order"):
        for item in items[task]:
            recording = known[item.origin["recording"]]
            heard = {clip.sound.name for clip in recording.clips}
            if task == "presence":
                named = any(name in text_of(item) for name in heard)
                assert named == (item.references[0] == "yes")
            elif task == "order":
                names = [clip.sound.name for clip in recording.clips]
                assert item.references[0] == min(item.choices, key=names.index)
            else:
                assert set(item.choices) & heard == {item.references[0]}
    for item in items["how_many"]:
        assert item.references[0] == str(len(known[item.origin["recording"]].clips))
    for item in items["speech"]:
        groups = {clip.sound.group for clip in known[item.origin["recording"]].clips}
        assert ("speech" in groups) == (item.references[0] == "yes")
        assert item.references[0] == "yes" or not groups & {"human", "ambience", "music"}


def test_every_place_and_number_is_right_equally_often(items: dict[str, list[Sample]]) -> None:
    for task, places in (("which_of_two", 2), ("order", 2), ("what_choice", 4)):
        count = Counter(item.choices.index(item.references[0]) for item in items[task])
        assert set(count) == set(range(places)) and max(count.values()) - min(count.values()) <= 1, task
    count = Counter(item.references[0] for item in items["how_many"])
    assert count == {"1": 20, "2": 20, "3": 20, "4": 20}


def test_no_sound_is_the_answer_by_its_name_alone(items: dict[str, list[Sample]]) -> None:
    """Of two or four choices each is right equally often."""
    for task in ("which_of_two", "what_choice"):
        asked = defaultdict(list)
        for item in items[task]:
            asked[item.choices].append(item.references[0])
        for names, right in asked.items():
            assert len({Counter(right)[name] for name in names}) == 1, names


def test_far_sounds_share_no_group(recordings: list[Recording]) -> None:
    forest = next(r for r in recordings if r.labels == {"ambience/forest"})
    assert not far("animal/dog", forest) and not far("weather/rain", forest) and far("weapon/gun", forest)
    dog = next(r for r in recordings if r.labels == {"animal/dog"})
    assert not far("animal/cow", dog) and far("vehicle/train", dog)
    for a in classes():
        for b in ("animal/dog", "weather/rain", "impact/glass"):
            left, right = (Recording("", "", "", "single", (_clip(label),), ()) for label in (a, b))
            assert far(a, right) == far(b, left), (a, b)


def _clip(label: str) -> Clip:
    return Clip(Row("made-up", label, label, "", "sfx", "", "", ""), "train", "", 16000, 1)


def test_instructions(recordings: list[Recording]) -> None:
    made = instructions(recordings, np.random.default_rng(0))
    count = Counter(item.task for item in made)
    assert set(count) == {*INSTRUCTIONS, "yes_no"}
    assert len({count[task] for task in INSTRUCTIONS}) == 1
    answers = Counter(item.references[0] for item in made if item.task == "yes_no")
    assert answers["yes"] == answers["no"] > 0
    assert all(item.origin["caption"] for item in made)
    assert all(text_of(i).endswith("Answer only yes or no.") for i in made if i.task == "yes_no")
