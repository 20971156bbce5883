"""The Responses API, plain completions, tokens and embeddings, as the official client asks for them."""

import base64
import json

import httpx
import numpy as np
import openai
import pytest
from pydantic import BaseModel
from test_api import turn, wav
from test_tools import Sound

from lalm.data.sample import ask
from lalm.inference.engine import Options

HEARD = {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav(0.5)).decode(), "format": "wav"}}
ASKED = [{"role": "user", "content": [HEARD, {"type": "input_text", "text": "What?"}]}]
TOOL = {"type": "function", "name": "Sound", "parameters": Sound.model_json_schema(), "strict": True}


def test_a_response_is_the_chats_answer(serve, client, engine):
    asked = client(serve())
    got = asked.responses.create(model="tiny", input=ASKED, max_output_tokens=9)
    [alone] = engine.reply([ask([wav(0.5)], "What?")], Options(9))
    assert got.output_text == alone.text and got.output[0].type == "message"
    cut = got.usage.output_tokens == 9
    assert (got.status, cut) in (("completed", False), ("incomplete", True))
    assert got.incomplete_details is None or got.incomplete_details.reason == "max_output_tokens"
    text = asked.responses.create(model="tiny", input="Hm?", instructions="Be brief.", max_output_tokens=4)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hm?"}]
    same = asked.chat.completions.create(model="tiny", messages=chat, max_tokens=4)
    assert text.output_text == same.choices[0].message.content


def test_a_streamed_response_has_openais_events(serve, client):
    asked = client(serve())
    wish = {"model": "tiny", "input": ASKED, "max_output_tokens": 9}
    whole = asked.responses.create(**wish)
    events = [*asked.responses.create(**wish, stream=True)]
    assert [event.sequence_number for event in events] == [*range(len(events))]
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:-1] == ["output_text.done", "content_part.done", "output_item.done"]
    assert kinds[-1] == whole.status
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said == whole.output_text == events[-1].response.output_text
    held = {"extra_body": {"structured_outputs": {"choice": ["ho"]}}}
    with asked.responses.stream(**wish, **held) as stream:
        assert stream.until_done().get_final_response().output_text == "ho"


def test_functions_and_formats_work_in_responses(serve, client):
    asked = client(serve())
    wish = {"model": "tiny", "input": ASKED, "max_output_tokens": 300, "temperature": 1.0}
    for choice in ("required", {"type": "function", "name": "Sound"}):
        called = asked.responses.create(**wish, tools=[TOOL], tool_choice=choice, extra_body={"seed": 3})
        [item] = called.output
        assert item.type == "function_call" and item.name == "Sound"
        assert Sound.model_validate_json(item.arguments)
    result = {"type": "function_call_output", "call_id": item.call_id, "output": "noted"}
    again = asked.responses.create(model="tiny", input=[*ASKED, item.to_dict(), result], max_output_tokens=3)
    assert again.output[0].type == "message"
    parsed = asked.responses.parse(**wish, text_format=Sound)
    assert isinstance(parsed.output_parsed, Sound)


@pytest.mark.parametrize(
    "wish, said",
    [
        ({"previous_response_id": "resp_1"}, "answers are not kept"),
        ({"store": True}, "answers are not kept"),
        ({"tools": [{"type": "web_search"}]}, "tools of the type 'web_search'"),
        ({"text": {"verbosity": "high"}}, "text.verbosity"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "'item_reference'"),
        ({"input": []}, "messages"),
    ],
)
def test_what_a_response_cannot_do_is_refused(serve, client, wish, said):
    with pytest.raises(openai.BadRequestError) as error:
        client(serve()).responses.create(**{"model": "tiny", "input": "Hm?", **wish})
    assert said in error.value.body["message"]


def test_a_text_is_gone_on_with(serve, client, engine):
    asked = client(serve())
    got = asked.completions.create(model="tiny", prompt=["A dog", "A cat"], max_tokens=5, n=2, seed=1)
    assert [choice.index for choice in got.choices] == [0, 1, 2, 3]
    assert got.choices[0].text == got.choices[1].text  # temperature 0
    [alone] = asked.completions.create(model="tiny", prompt="A cat", max_tokens=5).choices
    assert alone.text == got.choices[2].text
    ids = engine.processor.tokenizer("A cat")["input_ids"]
    assert asked.completions.create(model="tiny", prompt=ids, max_tokens=5).choices[0].text == alone.text
    streamed = [*asked.completions.create(model="tiny", prompt="A cat", max_tokens=5, stream=True)]
    assert "".join(chunk.choices[0].text for chunk in streamed) == alone.text
    assert streamed[-1].choices[0].finish_reason == alone.finish_reason
    held = asked.completions.create(model="tiny", prompt="A", extra_body={"guided_choice": ["ho"]})
    assert held.choices[0].text == "ho"
    for prompt, said in (("", "the prompt is empty"), ([10**6], "1000000 is no token")):
        with pytest.raises(openai.BadRequestError, match=said):
            asked.completions.create(model="tiny", prompt=prompt)


def test_tokens_are_told_as_the_model_reads_them(serve, engine):
    address, tokenizer = serve(), engine.processor.tokenizer
    got = httpx.post(f"{address}/tokenize", json={"prompt": "A dog", "return_token_strs": True}).json()
    assert got["tokens"] == tokenizer("A dog")["input_ids"] and got["count"] == len(got["tokens"])
    assert got["token_strs"] == tokenizer.convert_ids_to_tokens(got["tokens"])
    assert got["max_model_len"] == engine.model.config.text_config.max_position_embeddings
    back = httpx.post(f"{address}/detokenize", json={"tokens": got["tokens"]}).json()
    assert back == {"prompt": "A dog"}
    talk = httpx.post(f"{address}/tokenize", json={"messages": turn("What?", wav(0.5))}).json()
    whole = engine.processor.batch([ask([wav(0.5)], "What?")])["input_ids"][0].tolist()
    assert talk["tokens"] == whole
    hostile = httpx.post(f"{address}/tokenize", json={"prompt": "<|im_end|>"}).json()
    assert tokenizer.eos_token_id not in hostile["tokens"]
    assert httpx.post(f"{address}/tokenize", json={}).status_code == 400


def test_recordings_become_vectors(serve, client):
    asked = client(serve())
    clips = [f"data:audio/wav;base64,{base64.b64encode(wav(0.5, seed)).decode()}" for seed in (0, 1, 0)]
    got = asked.embeddings.create(model="tiny", input=clips)  # asks for base64 and decodes it
    vectors = np.array([one.embedding for one in got.data])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(vectors[0], vectors[2], atol=1e-6) and not np.allclose(vectors[0], vectors[1])
    plain = asked.embeddings.create(model="tiny", input=clips[0], encoding_format="float")
    assert np.allclose(plain.data[0].embedding, vectors[0], atol=1e-6)
    with pytest.raises(openai.BadRequestError, match="embeddings are made of audio"):
        asked.embeddings.create(model="tiny", input="a dog")


class Spelled(BaseModel):
    """A class that only the schema of a format needs."""

    word: str


def test_a_format_is_told_back(serve, client):
    schema = {**Spelled.model_json_schema(), "additionalProperties": False}
    form = {"format": {"type": "json_schema", "name": "spelled", "schema": schema, "strict": True}}
    got = client(serve()).responses.create(model="tiny", input="Hm?", text=form, max_output_tokens=60)
    assert got.text.format.type == "json_schema"
    assert got.status == "incomplete" or Spelled(**json.loads(got.output_text))
