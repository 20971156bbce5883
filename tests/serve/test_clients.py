"""Clients as their READMEs use them: the official one live, others by the requests they were seen to send.

``tests/fixtures/client_requests.json`` holds what langchain-openai, litellm, llama-index and openai's npm
package sent to a recording server; their versions stand in it.
"""

import asyncio
import base64
import json
from pathlib import Path

import httpx
import openai
import pytest
from test_api import turn, wav

RECORDED = json.loads((Path(__file__).parents[1] / "fixtures" / "client_requests.json").read_text())


def test_the_standard_loop_over_a_stream(serve, client):
    asked = client(serve())
    whole = asked.chat.completions.create(model="tiny", messages=turn("Hi"), max_tokens=8)
    stream = asked.chat.completions.create(model="tiny", messages=turn("Hi"), max_tokens=8, stream=True)
    said, heard = "", None
    for chunk in stream:
        said += chunk.choices[0].delta.content or ""
        heard = (chunk.model_extra or {}).get("lalm", heard)
    assert said == whole.choices[0].message.content and "heard" in heard


def test_usage_comes_in_a_chunk_of_its_own_when_it_is_asked_for(serve, client):
    asked = client(serve()).chat.completions
    wish = {"model": "tiny", "messages": turn("Hi"), "max_tokens": 3, "stream": True}
    *chunks, last = asked.create(**wish, stream_options={"include_usage": True})
    assert last.choices == [] and last.usage.completion_tokens >= 1
    assert all(len(chunk.choices) == 1 and chunk.usage is None for chunk in chunks)
    assert all(chunk.usage is None for chunk in asked.create(**wish))


def test_the_readme_of_the_official_client(serve):
    address = serve()
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none")
    response = client.responses.create(
        model="tiny", instructions="Talk like a pirate.", input="How do I check a type?", max_output_tokens=4
    )
    assert response.output_text
    messages = [
        {"role": "developer", "content": "Talk like a pirate."},
        {"role": "user", "content": "How do I check a type?"},
    ]
    completion = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4)
    assert completion.choices[0].message.content == response.output_text
    events = [*client.responses.create(model="tiny", input="Hi", max_output_tokens=4, stream=True)]
    assert events[0].type == "response.created"
    raw = client.chat.completions.with_raw_response.create(model="tiny", messages=messages, max_tokens=1)
    assert raw.headers["x-request-id"] == raw.parse()._request_id
    with client.chat.completions.with_streaming_response.create(
        model="tiny", messages=messages, max_tokens=1
    ) as streamed:
        assert any("choices" in line for line in streamed.iter_lines())
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="gpt-5.5", messages=messages)
    assert error.value.status_code == 404 and error.value.type == "invalid_request_error"
    file = ("speech.wav", wav(0.3), "audio/wav")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lalm.serve.transcriptions.find_speech", lambda clip, vad: [])
        assert client.audio.transcriptions.create(model="tiny", file=file).text == ""


def test_the_asynchronous_client(serve):
    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=f"{serve()}/v1", api_key="none") as client:
            said = ""
            stream = await client.chat.completions.create(
                model="tiny", messages=turn("Hi"), max_tokens=5, stream=True
            )
            async for chunk in stream:
                said += chunk.choices[0].delta.content or ""
            return said

    assert asyncio.run(ask())


@pytest.mark.parametrize(
    "number", range(len(RECORDED["requests"])), ids=lambda n: RECORDED["requests"][n]["client"]
)
def test_what_other_clients_send_is_answered(serve, number):
    seen = RECORDED["requests"][number]
    sound = base64.b64encode(wav(0.2)).decode()
    body = {**json.loads(json.dumps(seen["body"]).replace("AUDIO", sound)), "model": "tiny"}
    limit = "max_output_tokens" if seen["path"] == "/v1/responses" else "max_completion_tokens"
    body |= {"max_tokens": 4} if seen["path"] == "/v1/completions" else {}
    body |= {limit: 120} if seen["path"] in ("/v1/chat/completions", "/v1/responses") else {}
    got = httpx.post(serve() + seen["path"], json=body, timeout=120)
    assert got.status_code == 200, got.text
    if body.get("stream"):
        chunks = [json.loads(line[6:]) for line in got.text.splitlines() if line.startswith("data: {")]
        usage = (body.get("stream_options") or {}).get("include_usage")
        assert all(chunk["choices"] for chunk in chunks[: -1 if usage else None])
        assert not usage or (chunks[-1]["choices"] == [] and chunks[-1]["usage"])
        return
    answer = got.json()
    choice = (answer.get("choices") or [{}])[0]
    if body.get("tool_choice") not in (None, "auto") and choice.get("finish_reason") != "length":
        [call] = choice["message"]["tool_calls"]
        assert isinstance(json.loads(call["function"]["arguments"]), dict)
    form = body.get("response_format")
    if form is not None and choice.get("finish_reason") == "stop":
        assert isinstance(json.loads(choice["message"]["content"]), dict)


def test_vllms_sampling_is_honoured_in_every_request(serve, monkeypatch):
    address = serve()
    heard = [(0, 8000)]
    monkeypatch.setattr("lalm.serve.transcriptions.find_speech", lambda clip, vad: heard)
    wish = {"model": "tiny", "temperature": 1.0, "seed": 5}

    def respond(**more: object) -> str:
        body = {**wish, "input": "Hi", "max_output_tokens": 12, **more}
        got = httpx.post(f"{address}/v1/responses", json=body, timeout=60).json()
        return got["output"][0]["content"][0]["text"]

    def transcribe(**more: object) -> str:
        fields = {key: str(value) for key, value in {**wish, **more}.items()}
        got = httpx.post(
            f"{address}/v1/audio/transcriptions", data=fields, files={"file": wav(0.5)}, timeout=60
        )
        assert got.status_code == 200, got.text
        return got.json()["text"]

    for ask in (respond, transcribe):
        likeliest = ask(temperature=0)
        assert ask(top_k=1) == ask(min_p=1.0) == likeliest != ask()
        assert ask(temperature=0, repetition_penalty=100) != likeliest
    got = httpx.post(f"{address}/v1/audio/transcriptions", data={"min_p": "2"}, files={"file": wav(0.5)})
    assert got.status_code == 400 and "min_p" in got.json()["error"]["message"]


def test_vllms_sampling_is_honoured(serve, client):
    asked = client(serve()).chat.completions
    wish = {"model": "tiny", "messages": turn("Hi"), "max_tokens": 12}
    likeliest = asked.create(**wish).choices[0].message.content
    narrow = asked.create(**wish, temperature=1.0, seed=5, extra_body={"top_k": 1})
    assert narrow.choices[0].message.content == likeliest
    sure = asked.create(**wish, temperature=1.0, seed=5, extra_body={"min_p": 1.0})
    assert sure.choices[0].message.content == likeliest
    long = asked.create(**wish, temperature=1.0, seed=5, extra_body={"min_tokens": 12})
    assert long.usage.completion_tokens == 12
    with pytest.raises(openai.BadRequestError, match="min_tokens"):
        asked.create(**wish, extra_body={"min_tokens": 13})
