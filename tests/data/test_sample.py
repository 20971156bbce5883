"""Samples: conversations, manifests and their errors, OpenAI's message format."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lalm.audio.load import load_audio
from lalm.data.readers import read_manifest
from lalm.data.sample import Sample, SampleError, ask, message_text, write_manifest

SAMPLES = Path(__file__).parents[2] / "samples"
AUDIO = {"type": "audio", "audio": "dog.ogg", "offset_s": 1, "duration_s": 2.5}
LINE: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [AUDIO, {"type": "text", "text": "What?"}, {**AUDIO, "audio": "b.wav"}]},
        {"role": "assistant", "content": "A dog."},
    ],
    "id": "7",
    "task": "aqa",
    "references": ["A dog.", "dog"],
    "choices": ["dog", "cat"],
    "chosen": "A dog.",
    "rejected": "A cat.",
    "split": "test",
    "events": [{"label": "animal/dog", "caption": "a dog barks", "onset_s": 0, "offset_s": 1.5}],
    "origin": {"package": "p", "licence": "CC0"},
    "truncated": True,
}


def changed(**fields: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(LINE)), **fields}


def user(*parts: Any) -> dict[str, Any]:
    return changed(messages=[{"role": "user", "content": list(parts)}])


def test_ask() -> None:
    sample = ask(["a.ogg", b"abc"], "What?", system="Be brief.")
    assert [message["role"] for message in sample.messages] == ["system", "user"]
    assert [part["audio"] for part in sample.audios] == ["a.ogg", b"abc"]
    assert message_text(sample.messages[1]) == "What?"
    assert sample.target == ""
    assert ask(["a.ogg"], "").messages == (
        {"role": "user", "content": [{"type": "audio", "audio": "a.ogg"}]},
    )


def test_prompt_and_target() -> None:
    sample = Sample.from_json(LINE, place="x")
    assert sample.target == "A dog."
    assert sample.prompt().target == "" and len(sample.prompt().messages) == 2
    assert sample.prompt().prompt() == sample.prompt()
    other = sample.with_target("A wolf.")
    assert (other.target, other.truncated, len(other.messages)) == ("A wolf.", False, 3)
    assert sample.target == "A dog." and sample.truncated
    assert sample.prompt().with_target("Yes.").target == "Yes."


def test_samples_keep_their_own_copies() -> None:
    content: list[Any] = [{"type": "audio", "audio": "a.ogg"}]
    message: Any = {"role": "user", "content": content}
    sample = Sample([message], references=["a"])  # type: ignore[arg-type]
    content.append({"type": "text", "text": "late"})
    content[0]["audio"] = "b.ogg"
    message["role"] = "assistant"
    assert sample.messages == ({"role": "user", "content": [{"type": "audio", "audio": "a.ogg"}]},)
    assert sample.references == ("a",)
    with pytest.raises(AttributeError):
        sample.id = "x"  # type: ignore[misc]


def test_json_round_trip() -> None:
    sample = Sample.from_json(LINE, place="x")
    assert sample.to_json() == LINE
    assert Sample.from_json(sample.to_json(), place="x") == sample
    assert set(ask(["a"], "b").to_json()) == {"messages"}


def test_relative_paths_belong_to_the_manifest(tmp_path: Path) -> None:
    absolute = str(SAMPLES / "bell.flac")
    url = "data:audio/wav;base64,AAAA"
    path = tmp_path / "deep" / "train.jsonl"
    near = ask([path.parent / "clips" / "a.ogg", absolute, url, b"\0\0\0"], "What?")
    assert write_manifest(path, [near, near]) == 2
    line = json.loads(path.read_text().splitlines()[0])
    written = [part["audio"] for part in line["messages"][0]["content"][:4]]
    assert written == ["clips/a.ogg", absolute, url, "data:application/octet-stream;base64,AAAA"]
    (sample, _) = read_manifest(path)
    assert [part["audio"] for part in sample.audios] == [
        str(path.parent / "clips" / "a.ogg"),
        absolute,
        url,
        "data:application/octet-stream;base64,AAAA",
    ]
    assert Sample.from_json(LINE, place="x", folder=Path("data")).audios[0]["audio"] == "data/dog.ogg"
    assert [p.name for p in path.parent.iterdir()] == ["train.jsonl"]


def test_manifest_is_written_whole_or_not(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_manifest(path, [ask(["a"], "b")])
    before = path.read_text()
    with pytest.raises(SampleError, match="a sample with a ndarray cannot be written as JSON"):
        write_manifest(path, [ask(["a"], "c"), ask([np.zeros(9)], "c")])
    assert path.read_text() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_manifest_lines(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(LINE).encode() + b"\n\n" + json.dumps(LINE).encode())
    assert len(list(read_manifest(path))) == 2
    for broken, sentence in [
        (b"{'a'", "not JSON: Expecting property name enclosed in double quotes at column 2"),
        (
            b"\xff\xfe",
            "the line is not UTF-8 text; iconv -f WINDOWS-1252 -t UTF-8 train.jsonl > utf8-train.jsonl "
            "converts a file that Windows saved",
        ),
        (b"[1]", "a sample must be a JSON object, not a list"),
        (b"null", "a sample must be a JSON object, not null"),
    ]:
        path.write_bytes(json.dumps(LINE).encode() + b"\n\n" + broken + b"\n")
        with pytest.raises(SampleError) as caught:
            list(read_manifest(str(path)))
        assert str(caught.value) == f"train.jsonl:3: {sentence}"
    with pytest.raises(SampleError, match=r"there is no manifest '.*no\.jsonl'"):
        next(read_manifest(tmp_path / "no.jsonl"))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            changed(refrences=[]),
            "a sample has the unknown key 'refrences'; keys are messages, id, task, references, choices, "
            "chosen, rejected, split, events, origin, truncated",
        ),
        ({"id": "x"}, "a sample has no messages"),
        (changed(messages=[]), "messages is empty"),
        (changed(messages="hi"), "messages must be a list, not a string"),
        (changed(id=7), "id must be a string, not a number"),
        (changed(references="dog"), "references must be a list, not a string"),
        (changed(choices=["a", None]), "choices[1] must be a string, not null"),
        (changed(truncated="yes"), "truncated must be true or false, not a string"),
        (changed(origin={"year": 1999}), "origin.year must be a string, not a number"),
        (changed(events=[{"label": "x"}]), "events[0] has no caption"),
        (
            changed(events=[{**LINE["events"][0], "onset_s": 2}]),
            "events[0] ends at 1.5 s, before its onset at 2.0 s",
        ),
        (
            changed(events=[{**LINE["events"][0], "onset_s": "2"}]),
            "events[0].onset_s must be a number of seconds, not a string",
        ),
        (changed(messages=[{"role": "user"}]), "message 1 has no content"),
        (
            changed(messages=[{"role": "user", "content": "a"}, {"role": "robot", "content": "b"}]),
            "message 2 has the role 'robot'; roles are system, user and assistant",
        ),
        (
            changed(messages=[{"role": "user", "content": None}]),
            "message 1 content must be a string or a list of parts, not null",
        ),
        (
            changed(messages=[{"role": "assistant", "content": [AUDIO]}]),
            "message 1 has a part of type audio, which only user messages may have",
        ),
        (
            user(AUDIO, {"type": "sound"}),
            "message 1 part 2 has the type 'sound'; types are text, audio, image, video",
        ),
        (
            user({"type": ["audio"]}),
            "message 1 part 1 has the type ['audio']; types are text, audio, image, video",
        ),
        (user("dog.ogg"), "message 1 part 1 must be a JSON object, not a string"),
        (
            user({"type": "audio", "place": "x"}),
            "message 1 part 1 has the unknown key 'place'; keys are type, audio, offset_s, duration_s, "
            "channel, track, lenient, transcript",
        ),
        (user({"type": "audio"}), "message 1 part 1 has no audio"),
        (user({**AUDIO, "audio": 5}), "message 1 part 1 audio must be a string, not a number"),
        (user({**AUDIO, "audio": ""}), "message 1 part 1 audio is empty"),
        (
            user({**AUDIO, "offset_s": -1}),
            "message 1 part 1 offset_s must be a number of seconds from 0 up, not -1",
        ),
        (
            user({**AUDIO, "duration_s": True}),
            "message 1 part 1 duration_s must be a number of seconds, not true",
        ),
        (user({"type": "text", "text": 1}), "message 1 part 1 text must be a string, not a number"),
        # Two problems: the first is named.
        (
            user({"type": "text", "text": 1}, {"type": "audio"}),
            "message 1 part 1 text must be a string, not a number",
        ),
    ],
)
def test_wrong_lines(line: Any, sentence: str) -> None:
    with pytest.raises(SampleError) as caught:
        Sample.from_json(line, place="train.jsonl:42")
    assert str(caught.value) == f"train.jsonl:42: {sentence}"


def test_openai_round_trip() -> None:
    sample = ask([SAMPLES / "bell.flac", np.zeros(800, np.float32)], "What is this?", system="Be brief.")
    messages = sample.with_target("A bell.").to_openai()
    assert messages[0] == {"role": "system", "content": "Be brief."}
    assert [part["type"] for part in messages[1]["content"]] == ["input_audio", "input_audio", "text"]
    back = Sample.from_openai(json.loads(json.dumps(messages)))
    assert back.target == "A bell."
    heard = load_audio(back.audios[0]["audio"])
    np.testing.assert_allclose(heard, load_audio(SAMPLES / "bell.flac"), atol=1e-4)
    part: Any = {"type": "audio", "audio": str(SAMPLES / "bell.flac"), "offset_s": 1.0, "duration_s": 0.5}
    cut = Sample.from_openai(Sample(({"role": "user", "content": [part]},)).to_openai())
    assert len(load_audio(cut.audios[0]["audio"])) == 8_000


def test_openai_parts() -> None:
    data = base64.b64encode((SAMPLES / "bell.flac").read_bytes()).decode()
    url = f"data:audio/flac;base64,{data}"
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
    message = {"role": "developer", "content": "hi"}
    sample = Sample.from_openai(
        [message, {"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": url}}, image]}],
        images=True,
    )
    assert sample.messages[0]["role"] == "system"
    assert sample.messages[1]["content"][0] == {"type": "audio", "audio": url}
    assert sample.messages[1]["content"][1]["type"] == "image"  # type: ignore[index]
    with pytest.raises(SampleError, match="a message with a part of type image cannot be sent"):
        sample.to_openai()


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (
            {"type": "image_url", "image_url": {"url": "data:,"}},
            "is an image, and this model takes audio and text only",
        ),
        (
            {"type": "audio_url", "audio_url": {"url": "https://a.b/c.wav"}},
            "audio_url.url must be a data: URL, since addresses are not fetched",
        ),
        (
            {"type": "audio_url", "audio_url": {"url": "/etc/passwd"}},
            "audio_url.url must be a data: URL, since addresses are not fetched",
        ),
        ({"type": "input_audio", "input_audio": {"data": "@@"}}, "input_audio.data is not valid base64"),
        (
            {"type": "input_audio", "input_audio": {"data": 5}},
            "input_audio.data must be a string, not a number",
        ),
        ({"type": "input_audio", "input_audio": {"format": "wav"}}, "input_audio has no data"),
        ({"type": "input_audio"}, "input_audio must be a JSON object, not null"),
        (
            {"type": "audio", "audio": "/etc/passwd"},
            "has the type 'audio'; types are text, input_audio, audio_url and image_url",
        ),
        ("hi", "must be a JSON object, not a string"),
    ],
)
def test_wrong_openai_parts(part: Any, sentence: str) -> None:
    with pytest.raises(SampleError) as caught:
        Sample.from_openai([{"role": "user", "content": [{"type": "text", "text": "a"}, part]}])
    assert str(caught.value) == f"message 1 part 2 {sentence}"


def test_wrong_openai_messages() -> None:
    audio = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    for messages, sentence in [
        ([], "messages must be a list with at least one message"),
        ("hi", "messages must be a list with at least one message"),
        (
            [{"role": "tool", "content": "x"}],
            "message 1 has the role 'tool'; roles are system, user and assistant",
        ),
        (
            [{"role": "user", "content": 5}],
            "message 1 content must be a string or a list of parts, not a number",
        ),
        (
            [{"role": "assistant", "content": [audio]}],
            "message 1 has audio or an image, which only user messages may have",
        ),
    ]:
        with pytest.raises(SampleError) as caught:
            Sample.from_openai(messages)
        assert str(caught.value) == sentence
