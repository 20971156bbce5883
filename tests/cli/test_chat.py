"""``lalm chat`` as a client: what a line means, and that nothing in one ends the conversation."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from lalm.cli.app import run as cli
from lalm.cli.chat_lines import Command, Turn, read_line, read_words
from lalm.data.readers import read_manifest
from lalm.inference.conversation import Conversation
from lalm.inference.engine import Engine, Options, TooLongError
from lalm.models.save import save_model


@pytest.fixture
def sounds(tmp_path, monkeypatch) -> Path:
    """The working folder, with recordings in it and a file and a folder that are named like words."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    for name in ("a.wav", "my dog.wav", "it's.wav", "horse.wav"):
        soundfile.write(name, noise, 16_000)
    Path("horse.wav").rename("horse")
    Path("tests").mkdir()
    return tmp_path


def pieces(turn: Turn | Command) -> list[str]:
    assert isinstance(turn, Turn)
    return [f"<{part['audio']}>" if part["type"] == "audio" else part["text"] for part in turn.parts]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a.wav What is it?", ["<a.wav>", "What is it?"]),
        ("What is in a.wav?", ["What is in", "<a.wav>", "?"]),
        ("Is (a.wav) louder than 'my dog.wav', or not?", None),
        (r"my\ dog.wav a.wav", ["<my dog.wav>", "<a.wav>"]),
        ("\"it's.wav\" It's what?", ["<it's.wav>", "It's what?"]),
        ('It says "stop - it\'s late", 24/7 and/or .wav', ['It says "stop - it\'s late", 24/7 and/or .wav']),
        ("horse What does a horse do?", ["<horse>", "What does a horse do?"]),
        ("run the tests and data: all", ["run the tests and data: all"]),
        ("./a.wav and ~", ["<a.wav>", "and ~"]),
        ("the dog's - 'tis a dog's life", ["the dog's - 'tis a dog's life"]),
        ("say /help to me", ["say /help to me"]),
    ],
)
def test_recordings_stand_anywhere_and_text_is_left_as_it_is(sounds, line, said):
    said = said or ["Is (", "<a.wav>", ") louder than", "<my dog.wav>", ", or not?"]
    assert pieces(read_line(line)) == said


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("none.wav What is it?", "there is no file 'none.wav'"),
        ("What is in none.MP3?", "there is no file 'none.MP3'"),
        ("my dog.wav what is it?", 'a file name with spaces needs quotes: "my dog.wav"'),
        ("Is my dog.wav loud?", 'a file name with spaces needs quotes: "my dog.wav"'),
        ('"no dog.wav" what?', "there is no file 'no dog.wav'"),
        ("./none what?", "there is no file './none'"),
        ("./tests what?", "'./tests' is a folder"),
        ("/undoo", "there is no command /undoo; there are /undo"),
        ("/undo it", "/undo stands alone"),
        ("/save", "say /save FILE"),
    ],
)
def test_a_recording_that_is_not_there_is_refused_and_not_talked_about(sounds, line, says):
    with pytest.raises(ValueError) as error:
        read_line(line)
    assert says in str(error.value)


def test_words_of_the_command_line_are_read_like_lines(sounds):
    assert pieces(read_words(["my dog.wav", "What", "is it?"])) == ["<my dog.wav>", "What is it?"]
    assert pieces(read_words(["Is a.wav loud?", "-"])) == ["Is", "<a.wav>", "loud?", "<->"]
    with pytest.raises(ValueError, match="needs quotes"):
        read_words(["my", "dog.wav", "What is it?"])
    assert read_line("/save 'my talk.jsonl'") == Command("/save", "my talk.jsonl")


def test_a_bad_turn_does_not_end_the_conversation_and_commands_are_obeyed(sounds, tiny, capsys, monkeypatch):
    torch.manual_seed(0)
    save_model(*tiny("qwen2-audio"), sounds / "model", slim=False)
    (sounds / "bad.wav").write_bytes(b"RIFF no sound")
    lines = [b"none.wav What?", b"bad.wav What?", b"\xff\xfe\x00 \xed\xa0\x80 what?", b"/undo", b"/undo"]
    lines += [
        b"a.wav What is it?",
        b"/save talk.jsonl",
        b"/save talk.jsonl",
        b"/help",
        b"/reset",
        b"/nothing",
    ]
    lines += [b"/quit", b"never read"]
    stdin = io.TextIOWrapper(io.BytesIO(b"\n".join(lines)), encoding="ascii")
    monkeypatch.setattr("sys.stdin", stdin)
    options = ["--beams", "2", "--top-p", "0.9", "--dtype", "float32", "--max-new-tokens", "3"]
    code = cli(["chat", "--model", "model", "--device", "cpu", *options])
    out, err = capsys.readouterr()
    told = [line for line in err.splitlines() if line.startswith(("lalm:", "["))]
    assert any("cut off" in line for line in told)  # why an answer ended is told too
    told = [line for line in told if "cut off" not in line]
    assert code == 2
    assert [line[:30] for line in told] == [
        line[:30]
        for line in (
            "lalm: there is no file 'none.wav'",
            next(line for line in told if "bad.wav" in line),
            "[the last turn is taken back]",
            "lalm: there is no turn to take back",
            "[saved in talk.jsonl]",
            "lalm: 'talk.jsonl' is there already",
            "[all turns are forgotten]",
            "lalm: there is no command /nothing",
        )
    ]
    assert "/undo        take back" in err and "never" not in out
    (sample,) = read_manifest(Path("talk.jsonl"))
    row = json.loads(Path("talk.jsonl").read_text())
    assert row["messages"][0]["content"][0] == {"type": "audio", "audio": "a.wav"}
    assert [message["role"] for message in sample.messages] == ["user", "assistant"]


def test_the_oldest_turns_go_on_request_when_the_window_is_full(tiny):
    torch.manual_seed(0)
    engine = Engine(*tiny("qwen2-audio"), "tiny")
    chat = Conversation(engine, Options(max_new_tokens=4), system="Be brief.", drop_oldest=True)
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    chat.reply([noise], "One?")
    one = engine.processor.batch([chat_sample(chat)])["input_ids"].shape[1]
    engine.model.config.text_config.max_position_embeddings = one + 40
    for text in ("Two?", "Three?", "Four?"):
        chat.reply([noise], text)
    assert chat.dropped == 1 and chat.finish_reason and chat.messages[0]["role"] == "system"
    kept, before = len(chat.messages), list(chat.messages)
    fresh = Conversation(engine, chat.options, system="Be brief.")
    fresh.messages = chat.messages[:-2]
    assert fresh.reply([noise], "Four?") == chat.messages[kept - 1]["content"]
    with pytest.raises(TooLongError):  # a turn that has no room alone leaves all as it was
        chat.reply(text="long " * 4000)
    assert chat.messages == before


def chat_sample(chat: Conversation):
    from lalm.data.sample import Sample

    return Sample(tuple(chat.messages[:-1]))
