"""Manifests of other toolkits, opened as they are."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from lalm.audio.load import load_audio
from lalm.data.mixture import open_manifest
from lalm.data.sample import Sample, SampleError

BELL = Path(__file__).parents[2] / "samples" / "bell.flac"


def opened(tmp_path: Path, *rows: Any, name: str = "rows.jsonl") -> list[Sample]:
    (tmp_path / name).write_text("\n".join(json.dumps(row) for row in rows))
    return open_manifest(tmp_path / name)


def content(sample: Sample, number: int = 0) -> Any:
    return sample.messages[number]["content"]


def test_answers_that_are_good_or_bad_by_themselves(tmp_path):
    """As the documentation of ms-swift, LLaMA-Factory and TRL (unpaired preference) has them, for KTO."""
    asked: dict[str, Any] = {"role": "user", "content": "<audio>What is it?"}
    said = {"role": "assistant", "content": "A dog."}
    parts = {
        **asked,
        "content": [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "What is it?"}],
    }
    talk = [{"from": "human", "value": asked["content"]}, {"from": "gpt", "value": "A dog."}]
    rows = opened(
        tmp_path,
        {"messages": [asked, said], "audios": ["a.wav"], "label": True},
        {"messages": [asked, said], "audios": ["a.wav"], "label": False, "id": "bad"},
        {"conversations": talk, "audios": ["a.wav"], "kto_tag": False},
        {"prompt": [parts], "completion": [said], "label": True},
        {"prompt": [asked], "completion": [said], "audios": ["a.wav"], "label": False},
        {"messages": [parts, {**said, "content": [{"type": "text", "text": "A dog."}]}], "label": True},
    )
    good, bad = ("A dog.", ""), ("", "A dog.")
    assert [(row.chosen, row.rejected) for row in rows] == [good, bad, bad, good, bad, good]
    assert all([m["role"] for m in row.messages] == ["user"] and len(row.audios) == 1 for row in rows)
    for odd in (
        {"messages": [asked], "audios": ["a.wav"], "label": True},
        {"messages": [asked, said], "audios": ["a.wav"], "label": True, "rejected_response": "A cat."},
    ):
        with pytest.raises(SampleError, match="'label' says whether the one answer at the end is good"):
            opened(tmp_path, odd)[0]
    with pytest.raises(SampleError, match="label"):
        opened(tmp_path, {"messages": [asked, said], "audios": ["a.wav"], "label": "dog"})[0]


def test_trls_prompt_and_completion(tmp_path):
    asked = {
        "role": "user",
        "content": [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "What?"}],
    }
    (row,) = opened(tmp_path, {"prompt": [asked], "completion": [{"role": "assistant", "content": "A dog."}]})
    assert (row.target, len(row.audios), row.chosen) == ("A dog.", 1, "")


def test_ms_swift(tmp_path):
    (plain, pair, several) = opened(
        tmp_path,
        {
            "messages": [
                {"role": "user", "content": "<audio>\nWhat is it?"},
                {"role": "assistant", "content": "A dog."},
            ],
            "audios": ["a/dog.wav"],
        },
        {
            "system": "Be brief.",
            "messages": [{"role": "user", "content": "<audio>"}, {"role": "assistant", "content": "Rain."}],
            "audios": "/abs/rain.wav",
            "rejected_response": "A train.",
            "id": 7,
        },
        {
            "messages": [
                {"role": "user", "content": "First <audio> then <audio>, which?"},
                {"role": "assistant", "content": "The second."},
                {"role": "user", "content": "And <audio>?"},
                {"role": "assistant", "content": "Quiet."},
            ],
            "audios": ["1.wav", "data:audio/wav;base64,AAAA", "https://x.org/3.wav"],
            "rejected_messages": [
                {"role": "user", "content": "And?"},
                {"role": "assistant", "content": "Loud."},
            ],
        },
    )
    assert content(plain) == [
        {"type": "audio", "audio": str(tmp_path / "a/dog.wav")},
        {"type": "text", "text": "What is it?"},
    ]
    assert plain.target == "A dog."
    assert pair.messages[0] == {"role": "system", "content": "Be brief."} and len(pair.messages) == 2
    assert (pair.chosen, pair.rejected, pair.id) == ("Rain.", "A train.", "7")
    assert [part["type"] for part in content(several)] == ["text", "audio", "text", "audio", "text"]
    assert content(several)[0] == {"type": "text", "text": "First "}
    assert [str(part["audio"])[:8] for part in several.audios][1:] == ["data:aud", "https://"]
    assert (several.chosen, several.rejected, len(several.messages)) == ("Quiet.", "Loud.", 3)


def test_llama_factory_as_a_list(tmp_path):
    rows = [
        {
            "conversations": [
                {"from": "human", "value": "<audio>What is it?"},
                {"from": "gpt", "value": "A bell."},
                {"from": "human", "value": "Sure?"},
                {"from": "gpt", "value": "Yes."},
            ],
            "audios": [str(BELL)],
        },
        {
            "conversations": [{"from": "human", "value": "<audio>"}],
            "audios": ["x.wav"],
            "chosen": {"from": "gpt", "value": "A cat."},
            "rejected": {"from": "gpt", "value": "A cow."},
            "system": "Listen.",
        },
    ]
    (tmp_path / "data.json").write_text("\ufeff" + json.dumps(rows, indent=2), encoding="utf-8")
    turns, pair = open_manifest(tmp_path / "data.json")
    assert [message["role"] for message in turns.messages] == ["user", "assistant", "user", "assistant"]
    assert len(load_audio(turns.audios[0]["audio"])) > 16_000 and turns.target == "Yes."
    assert [message["role"] for message in pair.messages] == ["system", "user"]
    assert (pair.chosen, pair.rejected) == ("A cat.", "A cow.")
    rows[1]["conversations"][0]["from"] = "observation"
    (tmp_path / "data.json").write_text(json.dumps(rows))
    with pytest.raises(SampleError, match=r"^data\.json\[1\]: turn 1 is from 'observation'"):
        open_manifest(tmp_path / "data.json")
    (tmp_path / "data.json").write_text("[\n{}, \n")
    with pytest.raises(SampleError, match=r"^data\.json:3: not JSON"):
        open_manifest(tmp_path / "data.json")


def test_openai_and_hugging_face(tmp_path):
    data = base64.b64encode(BELL.read_bytes()).decode()
    heard, asked, pair = opened(
        tmp_path,
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is it?"},
                        {"type": "input_audio", "input_audio": {"data": data, "format": "flac"}},
                    ],
                },
                {"role": "assistant", "content": "A bell."},
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "audio", "path": "b.wav"},
                        {"type": "audio_url", "audio_url": {"url": "c.wav"}},
                    ],
                }
            ],
            "task": "asr",
        },
        {
            "input": {"messages": [{"role": "user", "content": "Hello?"}]},
            "preferred_output": [{"role": "assistant", "content": "Hi."}],
            "non_preferred_output": [{"role": "assistant", "content": "No."}],
        },
    )
    assert heard.messages[0]["role"] == "system" and heard.target == "A bell."
    assert len(load_audio(heard.audios[0]["audio"])) == len(load_audio(BELL))
    assert [part["audio"] for part in asked.audios] == [str(tmp_path / "b.wav"), str(tmp_path / "c.wav")]
    assert asked.task == "asr"
    assert (pair.chosen, pair.rejected) == ("Hi.", "No.")


def swift(text: str = "<audio>", audios: Any = ("a.wav",), **fields: Any) -> dict[str, Any]:
    answer = {"role": "assistant", "content": "Yes."}
    return {"messages": [{"role": "user", "content": text}, answer], "audios": list(audios), **fields}


@pytest.mark.parametrize(
    "row, said",
    [
        (swift("<audio><audio>"), "the text has 2 <audio> tags but audios holds 1"),
        (swift("Hello"), "the text has 0 <audio> tags but audios holds 1"),
        (swift(audios=[3]), r"audios\[0\] must be a string, not a number"),
        (swift(tools=[]), "unknown key 'tools'"),
        (swift(rejected_response=3), "rejected_response must be a string, not a number"),
        (swift(rejected_response="No.", rejected_audios=["b.wav"]), "rejected_audios differs from audios"),
        (swift(rejected_messages=[{"role": "user", "content": "x"}]), "does not end with an assistant turn"),
        (
            {"messages": [{"role": "user", "content": "Hi"}], "rejected_response": "x"},
            "end with the chosen one",
        ),
        ({"messages": [], "audios": []}, "messages is empty"),
        ({"messages": [{"role": "tool", "content": "x"}], "audios": []}, "role 'tool'"),
        ({"conversations": "x"}, "conversations must be a list"),
        ({"conversations": [{"from": "human"}]}, "conversations turn 1 has no value"),
        ({"conversations": [{"from": "human", "value": "x"}], "tools": ""}, "unknown key 'tools'"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "message 1 part 1 has no audio"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "input_audio must be a JSON",
        ),
        ({"preferred_output": []}, "has no input"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, row, said):
    with pytest.raises(SampleError, match=rf"^rows\.jsonl:2: .*{said}"):
        opened(tmp_path, swift(), row)


def test_the_evaluation_files_of_qwen2_audio(tmp_path):
    """As its scripts read them: {audio, prompt, gt, source} of transcription, {audio, id, query} of chats."""
    mark = "<|audio_bos|><|AUDIO|><|audio_eos|>"
    (speech, chat) = opened(
        tmp_path,
        {"audio": "1.wav", "prompt": "Recognize: <|en|>", "gt": "<|en|>it rains", "source": "test_clean"},
        {"audio": "2.wav", "id": 7, "query": f"Audio 1: {mark}\nWhat is it?"},
    )
    assert content(speech) == [
        {"type": "audio", "audio": str(tmp_path / "1.wav")},
        {"type": "text", "text": "Recognize: <|en|>"},
    ]
    assert speech.target == "it rains" and speech.origin == {"category": "test_clean"}
    assert content(chat)[1]["text"] == "What is it?" and chat.id == "7" and not chat.target
    with pytest.raises(SampleError, match=r"rows\.jsonl:1: .*unknown key 'lang'"):
        opened(tmp_path, {"audio": "1.wav", "prompt": "x", "gt": "y", "lang": "en"})


def test_rows_of_ours_are_left_alone(tmp_path):
    row = {
        "messages": [{"role": "user", "content": "What does <audio> mean?"}],
        "chosen": "a",
        "rejected": "b",
    }
    (sample,) = opened(tmp_path, row)
    assert content(sample) == "What does <audio> mean?" and sample.chosen == "a"
