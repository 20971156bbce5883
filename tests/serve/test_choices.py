"""What of a recording the server hears: one channel, another track, what is left of a damaged file."""

import base64
import io
from typing import Any

import httpx
import numpy as np
import soundfile

AT = np.arange(16_000) / 16_000
CALL = np.stack([0.3 * np.sin(2 * np.pi * hz * AT) for hz in (440, 880)], 1)


def wav() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, CALL, 16_000, format="WAV")
    return file.getvalue()


def chat(audio: dict[str, Any], kind: str = "input_audio") -> dict[str, Any]:
    content = [{"type": kind, kind: audio}, {"type": "text", "text": "What?"}]
    return {"model": "tiny", "max_tokens": 2, "messages": [{"role": "user", "content": content}]}


def test_a_conversation_hears_what_its_parts_choose(serve):
    url = f"{serve()}/v1/chat/completions"
    data = base64.b64encode(wav()).decode()

    def heard(body: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(url, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["lalm"]["heard"][0]["account"]

    assert heard(chat({"data": data}))["channels"] == [0, 1]
    assert heard(chat({"data": data, "channel": 1, "track": None}))["channels"] == [1]
    assert heard(chat({"url": f"data:;base64,{data}", "channel": 0}, "audio_url"))["channels"] == [0]
    cut = base64.b64encode(wav()[:40_000]).decode()
    account = heard(chat({"data": cut, "lenient": True}))
    assert account["holes"][0]["what"] == "the end is missing" and 0.5 < account["decoded_s"] < 0.7
    for audio, said in (
        ({"data": cut}, "audio 1: the audio data is truncated"),
        ({"data": data, "channel": 2}, "has 2 channels, counted from 0: there is no channel 2"),
        ({"data": data, "track": 1}, "track 1"),
        ({"data": data, "channel": "left"}, 'channel must be a whole number from 0 on, not "left"'),
        ({"data": data, "chanel": 1}, "has the unknown key 'chanel'"),
    ):
        answer = httpx.post(url, json=chat(audio))
        assert answer.status_code == 400 and said in answer.json()["error"]["message"], answer.text


def test_forms_take_the_same(serve):
    address = serve()
    for path, fields in (("transcriptions", {"response_format": "json"}), ("detections", {"sound": "rain"})):
        url = f"{address}/v1/audio/{path}"

        def post(data: bytes = wav(), url: str = url, fields: dict[str, str] = fields, **more: str) -> Any:
            return httpx.post(url, data={**fields, **more}, files={"file": ("a.wav", data)}, timeout=60)

        told = post(channel="1").json()
        [heard] = told["heard"] if path == "detections" else told["lalm"]["heard"]
        assert heard["account"]["channels"] == [1]
        assert post(data=wav()[:40_000], lenient="true").status_code == 200
        for more, said in (
            ({"channel": "2"}, "there is no channel 2"),
            ({"track": "1"}, "track 1"),
            ({"channel": "left"}, "channel"),
            ({"chanel": "1"}, "has no field 'chanel'"),
        ):
            answer = post(**more)
            assert answer.status_code == 400 and said in answer.json()["error"]["message"], answer.text
