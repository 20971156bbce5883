"""Spoken sentences: the transcript is what is spoken, and every answer can be had from it."""

from pathlib import Path

import numpy as np
import pytest

from lalm.data.english import words
from lalm.data.readers import open_samples
from lalm.data.sample import message_text
from lalm.tasks import said_sentences, spoken_questions
from lalm.tasks.said_sentences import said_sentence, write_said
from lalm.tasks.sources import SourceError

WHOLE = said_sentences._book()["whole"]


def test_answers_are_said_unless_nobody_can_know() -> None:
    rng = np.random.default_rng(0)
    unsaid = 0
    for _ in range(600):
        text, turns = said_sentence(rng)
        assert "{" not in text and text[0].isupper()
        assert len({question for question, _ in turns}) == len(turns) >= 1
        for question, answer in turns:
            assert "{" not in question + answer
            if question in WHOLE["unsaid"]:
                assert answer in WHOLE["not_said"]
                unsaid += 1
            elif question in WHOLE["words"]:
                assert answer == text
            elif question in WHOLE["first"]:
                assert words(answer) == words(text)[:1]
            elif question in WHOLE["last"]:
                assert words(answer) == words(text)[-1:]
            elif question not in WHOLE["heard"] + WHOLE["about"]:
                free = {"at", "in", "the", "a", "on", "to", "and", "because", "is", "speaker's", "every"}
                missing = set(words(answer)) - set(words(text)) - free
                assert missing <= {"they", "are", "some", "behind", "broken"}, (text, question, answer)
    assert 30 < unsaid < 200


def test_each_sentence_is_spoken_once_with_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken = []

    def speech(voice: str, stretch: float, text: str) -> np.ndarray:
        spoken.append(text)
        return np.full(1600, 0.1, np.float32)

    monkeypatch.setattr(spoken_questions, "speech", speech)
    out = tmp_path / "said.jsonl"
    assert write_said(out, ["espeak-ng:en-us", "flite:slt"], 12, seed=3) == 12
    made = list(open_samples(out))
    assert [s.audios[0]["transcript"] for s in made] == spoken
    assert {s.origin["voice"] for s in made} == {"espeak-ng:en-us", "flite:slt"}
    for sample in made:
        assert Path(str(sample.audios[0]["audio"])).is_file()
        assert [m["role"] for m in sample.messages] == ["user", "assistant"] * (len(sample.messages) // 2)
        assert message_text(sample.messages[0]).endswith(("?", "."))
    before = [message_text(m) for s in made for m in s.messages]
    write_said(out, ["espeak-ng:en-us", "flite:slt"], 12, seed=3)
    assert [message_text(m) for s in open_samples(out) for m in s.messages] == before and len(spoken) == 12


def test_a_voice_that_is_none_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="not 'slt'"):
        write_said(tmp_path / "x.jsonl", ["slt"], 1)
    monkeypatch.setitem(spoken_questions.SYNTHESISERS, "flite", lambda *words: ["/nowhere/flite"])
    with pytest.raises(SourceError, match="the program 'flite' is not installed"):
        write_said(tmp_path / "x.jsonl", ["flite:nobody"], 1)
