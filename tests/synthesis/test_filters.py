"""Filters of a recipe: what each takes away, the judge's verdicts kept, and a run that names them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from tiny_parts import noise

from lalm.data.sample import ask
from lalm.synthesis import judging
from lalm.synthesis.completions import Completion
from lalm.synthesis.filters import Filtering, is_foreign
from lalm.training import recipe

CLIP = "a.wav"


def says(answer, clip=CLIP, **fields):
    return replace(ask([clip], "What is it?").with_target(answer), **fields)


def left(samples, folder, **names):
    filtering = Filtering(folder, **recipe.Filters(**names).model_dump())
    return [s.target for s in filtering(samples)], filtering


def test_the_same_turns_are_learned_once_whatever_else_a_sample_says(tmp_path):
    samples = [says("A dog."), says("A cat."), says("A dog.", id="2"), says("A dog.", clip="b.wav")]
    answers, filtering = left(samples, tmp_path, duplicates=True)
    assert answers == ["A dog.", "A cat.", "A dog."]
    assert filtering([says("A dog."), says("A cow.")]) == [says("A cow.")]  # of another source too
    assert filtering.summary() == "Filters took away 2 by duplicates."


def test_answers_too_short_or_too_long(tmp_path):
    answers, filtering = left([says("A"), says("A dog."), says("A dog barks.")], tmp_path, words=[2, 2])
    assert answers == ["A dog."] and filtering.dropped == {"words": 2}


def test_recordings_too_short_or_too_long(tmp_path):
    clips = {f"{s}": str(noise(tmp_path / f"{s}.wav", s)) for s in (0.5, 1, 3)}
    samples = [says(name, clip) for name, clip in clips.items()]
    soundfile.write(tmp_path / "2.wav", np.zeros(32_000, np.float32), 16_000)
    # Of bytes no header is looked at: they are decoded. What cannot be read stays for training to name.
    samples += [says("bytes", (tmp_path / "2.wav").read_bytes()), says("absent", "nowhere.wav")]
    answers, filtering = left(samples, tmp_path, duration_s=[1, 2])
    assert answers == ["1", "bytes", "absent"] and filtering.dropped == {"duration_s": 2}
    with pytest.raises(ValueError, match="wrong way round"):
        recipe.Filters(duration_s=[2, 1])


def test_answers_in_another_language(tmp_path):
    texts = [
        "A dog barks twice nearby.",
        "Ein Hund bellt laut im Garten.",
        "Hund.",
        "a Gatling gun turret fires",
    ]
    answers, filtering = left([says(text) for text in texts], tmp_path, languages=["en"])
    assert answers == [texts[0], *texts[2:]] and filtering.dropped == {"languages": 1}
    assert not is_foreign(texts[1], ["en", "de"])


class Judge:
    """Finds answers about cats impossible, and has no opinion on one about a cow."""

    name = "judge"
    template = "none"

    def __init__(self):
        self.asked = []

    def complete(self, chats, seeds, sampling):
        replies = []
        for chat in chats:
            answer = chat[-1]["content"].split("The assistant's answer: ")[1].split("\n")[0]
            self.asked.append(answer)
            replies.append("Yes." if "cat" in answer else "Hm." if "cow" in answer else "No.")
        return [Completion(reply, False) for reply in replies]


def test_answers_that_contradict_their_recording(tmp_path, monkeypatch):
    judge = Judge()
    monkeypatch.setattr(Filtering, "_judge", lambda self: judge)
    heard = {"origin": {"caption": "a dog barks"}}
    samples = [says("A dog.", **heard), says("A cat.", **heard), says("A cat."), says("A cow.", **heard)]
    answers, filtering = left(samples, tmp_path, contradictions="judge")
    assert answers == ["A dog.", "A cat.", "A cow."]  # of the second cat nothing is known
    assert filtering.unjudged == 2 and filtering.dropped == {"contradictions": 1}
    assert judge.asked == ["A dog.", "A cat.", "A cow."]
    with (tmp_path / "verdicts.jsonl").open("a") as file:
        file.write('{"judge": "cut sh')
    again, _ = left([*samples, says("A pig.", **heard)], tmp_path, contradictions="judge")
    assert again == [*answers, "A pig."] and judge.asked[3:] == ["A pig."]
    rows = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert [row["contradicts"] for row in rows[:3]] == [False, True, None]
    monkeypatch.setattr(judging, "CONTRADICT", f"Please. {judging.CONTRADICT}")
    left(samples, tmp_path, contradictions="judge")
    assert len(judge.asked) == 7  # another question is asked anew


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"words": [5, 2]}, r"'words' is \[fewest, most\], not \[5, 2\]"),
        ({"url": "http://h"}, "'url' is that of the LLM in 'contradictions'"),
        ({"contradictions": "x", "url": "h"}, "must begin with http"),
        ({"lenght": 3}, "Extra inputs"),
    ],
)
def test_filters_that_make_no_sense_are_refused(fields, what):
    with pytest.raises(ValueError, match=what):
        recipe.Filters.model_validate(fields)
