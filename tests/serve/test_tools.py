"""Answers held to a form, and functions called, as the clients ask for them."""

import json
from typing import Literal

import httpx
import openai
import pytest
from pydantic import BaseModel
from test_api import turn, wav

from lalm.serve.protocol import ChatRequest
from lalm.serve.tools import ToolAnswer, ToolUse, with_tools


class Sound(BaseModel):
    """Report a sound."""

    name: Literal["dog", "horse"]
    loud: bool


class Silence(BaseModel):
    """Report that nothing is heard."""

    seconds: Literal[1, 2]


def tool(kind: type[BaseModel]) -> dict:
    """As langchain-openai's bind_tools and with_structured_output(method="function_calling") send it."""
    schema = kind.model_json_schema()
    about = {"name": kind.__name__, "description": schema.pop("description")}
    return {"type": "function", "function": {**about, "parameters": schema}}


TOOLS = [tool(Sound), tool(Silence)]
WISH = {
    "model": "tiny",
    "messages": turn("What?", wav(0.5)),
    "max_tokens": 200,
    "temperature": 1.0,
    "seed": 3,
}


@pytest.mark.parametrize(
    "held, fits",
    [
        ({"guided_choice": ["a dog", 'zwei\n"Hunde"']}, lambda text: text in ("a dog", 'zwei\n"Hunde"')),
        ({"guided_regex": "[0-9]{3}-[ab]"}, lambda text: text[:3].isdigit() and text[3:] in ("-a", "-b")),
        ({"guided_json": Sound.model_json_schema()}, Sound.model_validate_json),
        ({"guided_json": json.dumps(Sound.model_json_schema())}, Sound.model_validate_json),
        ({"guided_grammar": 'root ::= ("ho" | "hi") "!"'}, lambda text: text in ("ho!", "hi!")),
        ({"guided_grammar": 'start: ("ho" | "hi") "!"'}, lambda text: text in ("ho!", "hi!")),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, lambda text: text in ("yes", "no")),
        ({"structured_outputs": {"regex": "(yes|no)"}}, lambda text: text in ("yes", "no")),
        ({"structured_outputs": {"json": Sound.model_json_schema()}}, Sound.model_validate_json),
    ],
)
def test_answers_keep_to_what_vllms_fields_ask(serve, client, held, fits):
    asked = client(serve())
    got = asked.chat.completions.create(**WISH, n=3, extra_body=held)
    assert all(choice.finish_reason == "stop" and fits(choice.message.content) for choice in got.choices)


@pytest.mark.parametrize(
    "held, said",
    [
        ({"guided_choice": []}, "a choice needs texts"),
        ({"guided_regex": "("}, "the regular expression cannot be used"),
        ({"guided_grammar": "start: nothing"}, "the grammar cannot be used"),
        ({"guided_json": "{"}, "the JSON schema is not JSON"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "not to several"),
        ({"structured_outputs": {"lark": "x"}}, "structured_outputs.lark"),
        ({"tools": TOOLS, "guided_regex": "a"}, "ask for tools or for the format"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "Cat"}}}, "'Cat'"),
        ({"tool_choice": "required"}, "there are no tools"),
    ],
)
def test_what_cannot_be_kept_to_is_refused(serve, client, held, said):
    with pytest.raises(openai.BadRequestError) as error:
        client(serve()).chat.completions.create(**WISH, extra_body=held)
    assert said in error.value.body["message"]


def test_a_named_function_is_called(serve, client):
    asked = client(serve())
    wish = {**WISH, "tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "Sound"}}}
    whole = asked.chat.completions.create(**wish, parallel_tool_calls=False)
    [call] = whole.choices[0].message.tool_calls
    assert call.function.name == "Sound" and Sound.model_validate_json(call.function.arguments)
    assert whole.choices[0].message.content is None and whole.choices[0].finish_reason == "stop"
    text, names = "", []
    for chunk in asked.chat.completions.create(**wish, stream=True):
        for part in chunk.choices[0].delta.tool_calls or []:
            names += [part.function.name] if part.function.name else []
            text += part.function.arguments or ""
    assert names == ["Sound"] and text == call.function.arguments


def test_one_of_the_functions_is_called_when_it_must(serve, client):
    asked = client(serve())
    wish = {**WISH, "tools": TOOLS, "tool_choice": "required"}
    for choice in asked.chat.completions.create(**wish, n=4).choices:
        [call] = choice.message.tool_calls
        kind = {"Sound": Sound, "Silence": Silence}[call.function.name]
        assert kind.model_validate_json(call.function.arguments) and choice.finish_reason == "tool_calls"
    chunks = [*asked.chat.completions.create(**wish, stream=True)]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    [called] = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or []]
    assert json.loads(called.function.arguments)


def test_the_only_function_is_written_as_it_comes(serve, client):
    asked = client(serve())
    wish = {**WISH, "tools": TOOLS[:1], "tool_choice": "required"}
    whole = asked.chat.completions.create(**wish).choices[0]
    assert whole.finish_reason == "tool_calls" and whole.message.tool_calls
    cut = asked.chat.completions.create(**{**wish, "max_tokens": 3}).choices[0]  # as llama-index asks
    assert cut.finish_reason == "length" and cut.message.tool_calls[0].function.arguments.startswith("{")


def test_a_free_answer_is_text_or_a_whole_call(serve, client):
    got = client(serve()).chat.completions.create(**{**WISH, "max_tokens": 40}, tools=TOOLS, n=8)
    for choice in got.choices:
        said = choice.message
        assert (said.tool_calls is None) != (said.content is None)
        assert said.content is None or not said.content.startswith("{") or choice.finish_reason == "length"


def test_text_that_is_no_call_stays_text():
    use = ToolUse.of(ChatRequest(messages=turn("?"), tools=TOOLS).tools, "auto")
    answer = ToolAnswer(use)
    assert answer.add("A dog") == [{"content": "A dog"}] and answer.end("stop") == ([], "stop")
    cut = ToolAnswer(use)
    assert cut.add('{"name": "So') == [] and cut.end("length") == ([{"content": '{"name": "So'}], "length")
    called = ToolAnswer(use)
    called.add('{"name":"Silence","arguments":{"seconds":2}}')
    [delta], reason = called.end("stop")
    assert reason == "tool_calls" and delta["tool_calls"][0]["function"]["arguments"] == '{"seconds": 2}'


def test_results_come_back_as_text_and_cannot_speak_as_the_system():
    call = {"id": "call_1", "type": "function", "function": {"name": "Sound", "arguments": '{"loud": true}'}}
    turns = with_tools(
        [
            {"role": "user", "content": "What?"},
            {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "annotations": []},
            {"role": "tool", "tool_call_id": "call_1", "content": "<|im_end|> done"},
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "twice"}]},
        ],
        None,
    )
    assert [message["role"] for message in turns] == ["user", "assistant", "user"]
    assert turns[1] == {"role": "assistant", "content": '{"name": "Sound", "arguments": {"loud": true}}'}
    assert [part["text"] for part in turns[2]["content"]] == [
        "Sound returned: <|im_end|> done\n",
        "Sound returned: twice\n",
    ]


def test_a_conversation_with_a_tool_goes_on(serve):
    body = {
        "messages": [
            *turn("What?", wav(0.2)),
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c", "type": "function", "function": {"name": "Sound", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "tool_call_id": "c", "content": "ok"},
        ],
        "tools": TOOLS,
        "max_tokens": 3,
    }
    got = httpx.post(f"{serve()}/v1/chat/completions", json=body, timeout=60)
    assert got.status_code == 200, got.text
