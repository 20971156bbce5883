"""Questions that an LLM writes: what counts as one, retries, drops, and going on after a kill."""

from dataclasses import replace

import pytest

from lalm.cli.app import run
from lalm.data.readers import read_manifest
from lalm.data.sample import ask, message_text, write_manifest
from lalm.synthesis.completions import Completion
from lalm.synthesis.resumable_rows import RowsError
from lalm.tasks.question_answers import read_pair, write_questions
from lalm.tasks.sources import SourceError

GOOD = '{"Question": "Who barks?", "Answer": "A dog."}'


class Scripted:
    """A writer that gives its replies to a text in turn, the last one for ever."""

    name = "scripted"
    template = "none"

    def __init__(self, replies, stop_after=10**6):
        self.replies, self.stop_after = {key: list(own) for key, own in replies.items()}, stop_after
        self.asked, self.seeds = [], []

    def complete(self, chats, seeds, sampling):
        replies = []
        for chat, seed in zip(chats, seeds, strict=True):
            if len(self.asked) >= self.stop_after:
                raise KeyboardInterrupt
            text = chat[-1]["content"].split("The text: ")[1]
            self.asked.append(text)
            self.seeds.append(seed)
            own = self.replies[text]
            replies.append(Completion(own.pop(0) if len(own) > 1 else own[0], truncated=False))
        return replies


@pytest.mark.parametrize(
    ("reply", "pair"),
    [
        (GOOD, ("Who barks?", "A dog.")),
        (f"Sure!\n```json\n{GOOD}\n```", ("Who barks?", "A dog.")),
        ("{'question': 'What\\'s it?', 'answer': 'Rain.'}", ("What's it?", "Rain.")),
        ("Question: Who barks? Answer: A dog.", None),
        ('{"Question": "Who barks?"}', None),
        ('{"Question": "...", "Answer": "..."}', None),
        ('{"Question": "Who", "Answer": 3}', None),
        ('{"Question": "Who barks?", "Answer": "A d', None),
        ('{"Question": "' + "a" * 401 + '", "Answer": "b"}', None),
        ("{__import__('os')}", None),
    ],
)
def test_what_counts_as_a_question_and_an_answer(reply, pair):
    assert read_pair(reply) == pair


@pytest.fixture
def manifest(tmp_path):
    speech = ask([tmp_path / "s.wav"], "What is said?").with_target("no matter")
    rows = [
        replace(speech, id="s", task="asr", origin={"transcript": "the dog barks"}),
        replace(ask([tmp_path / "a.wav"], "").with_target("A dog barks."), id="a", task="caption"),
        replace(ask([tmp_path / "m.wav"], "").with_target("Slow."), id="m", task="music_caption"),
    ]
    write_manifest(tmp_path / "texts.jsonl", rows)
    return tmp_path / "texts.jsonl"


def test_each_text_is_asked_about_in_its_own_task(manifest, tmp_path):
    writer = Scripted({"the dog barks": [GOOD], "A dog barks.": [GOOD], "Slow.": [GOOD]})
    counts = write_questions(manifest, tmp_path / "out.jsonl", writer)
    rows = {row.task: row for row in read_manifest(tmp_path / "out.jsonl")}
    assert counts.written == 3 and set(rows) == {"speech_qa", "audio_qa", "music_qa"}
    row = rows["speech_qa"]
    assert row.target == "A dog." and row.origin["text"] == "the dog barks" and row.id == "speech_qa-s"
    assert "Who barks?" in message_text(row.messages[0])
    assert str(row.audios[0]["audio"]).endswith("s.wav")


def test_malformed_replies_are_asked_for_again_and_then_dropped(manifest, tmp_path):
    replies = {"the dog barks": ["what?", "no", GOOD], "A dog barks.": ["never"], "Slow.": [GOOD]}
    writer = Scripted(replies)
    counts = write_questions(manifest, tmp_path / "out.jsonl", writer, tries=3)
    assert (counts.written, counts.dropped, counts.retried) == (2, 1, 4)
    assert (tmp_path / "out.jsonl.dropped").read_text() == "audio_qa-a\n"
    assert len(set(writer.seeds)) == 7  # another draw at every try
    second = Scripted({})
    again = write_questions(manifest, tmp_path / "out.jsonl", second, tries=3)
    assert (again.written, again.existing, again.dropped, second.asked) == (0, 2, 1, [])


def test_a_killed_run_goes_on(manifest, tmp_path):
    out = tmp_path / "out.jsonl"
    replies = {"the dog barks": [GOOD], "A dog barks.": [GOOD], "Slow.": [GOOD]}
    with pytest.raises(KeyboardInterrupt):
        write_questions(manifest, out, Scripted(replies, stop_after=2), batch_size=1)
    with out.open("a") as file:
        file.write('{"id": "speech_qa-s", "mess')  # killed while writing
    second = Scripted(replies)
    counts = write_questions(manifest, out, second, batch_size=1)
    assert (counts.written, counts.existing) == (1, 2) and len(second.asked) == 1
    assert len({row.id for row in read_manifest(out)}) == 3
    with pytest.raises(RowsError, match="was begun with long=False, not True"):
        write_questions(manifest, out, second, long=True)


def test_long_answers_are_asked_for(manifest, tmp_path):
    seen = []

    class Keen(Scripted):
        def complete(self, chats, seeds, sampling):
            seen.extend(chat[-1]["content"] for chat in chats)
            return super().complete(chats, seeds, sampling)

    replies = {"the dog barks": [GOOD], "A dog barks.": [GOOD], "Slow.": [GOOD]}
    write_questions(manifest, tmp_path / "long.jsonl", Keen(replies), long=True)
    assert all("several sentences" in text for text in seen)


def test_other_rows_are_refused_by_place(tmp_path):
    write_manifest(
        tmp_path / "x.jsonl", [replace(ask(["a.wav"], "").with_target("x"), id="i", task="gender")]
    )
    with pytest.raises(SourceError, match=r"x.jsonl:1: task 'gender' is none of asr"):
        write_questions(tmp_path / "x.jsonl", tmp_path / "out.jsonl", Scripted({}))


def test_the_command_says_how_the_llm_did(manifest, tmp_path, monkeypatch, capsys):
    replies = {"the dog barks": ["no", GOOD], "A dog barks.": ["never"], "Slow.": [GOOD]}
    monkeypatch.setattr("lalm.cli.opening.open_writer", lambda llm, url: Scripted(replies))
    out = tmp_path / "out.jsonl"
    assert run(["build", "qa", str(manifest), "--out", str(out), "--llm", "x"]) == 0
    said = "2 questions written, 0 were there already, 3 malformed replies asked for again, 1 rows dropped"
    assert capsys.readouterr().out == f"{out}: {said}\n"
