"""Answers of a JSON schema: the model has random weights, and still says nothing else."""

import json
from typing import Literal

import openai
import pytest
import torch
from pydantic import BaseModel

from lalm.serve.structured_output import GrammarCompiler


class Sound(BaseModel):
    """What is wanted of an answer."""

    kind: Literal["speech", "music", "other"]
    loud: bool
    count: Literal[1, 2, 3]


def test_an_answer_has_the_schema_and_its_neighbours_are_as_ever(serve, client):
    asked = client(serve())
    wish = {"model": "tiny", "messages": [{"role": "user", "content": "What?"}], "max_tokens": 60}
    free = asked.chat.completions.create(**wish).choices[0].message.content
    parsed = asked.chat.completions.parse(**wish, response_format=Sound, temperature=1.5, seed=1, n=4)
    found = {choice.message.content for choice in parsed.choices}
    assert all(isinstance(choice.message.parsed, Sound) for choice in parsed.choices) and len(found) > 1
    assert all(choice.finish_reason == "stop" for choice in parsed.choices)
    assert asked.chat.completions.create(**wish).choices[0].message.content == free
    text = ""
    for chunk in asked.chat.completions.create(
        **wish, stream=True, response_format={"type": "json_object"}, temperature=1.0, seed=3
    ):
        text += chunk.choices[0].delta.content or "" if chunk.choices else ""
    assert text.startswith("{")
    whole = asked.chat.completions.create(**wish, response_format={"type": "text"})
    assert whole.choices[0].message.content == free


@pytest.mark.parametrize(
    "form, said",
    [
        ({"type": "json_schema"}, "json_schema.schema must be there"),
        ({"type": "xml"}, "response_format.type"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "banana"}}}, "cannot be used"),
        ({"type": "json_schema", "json_schema": {"schema": {"$ref": "http://a.b/c"}}}, "cannot be used"),
        (
            {"type": "json_schema", "json_schema": {"schema": {"enum": ["x" * 60_000]}}},
            "more than 50000 characters",
        ),
        ({"type": "json_schema", "json_schema": {"schema": {"enum": []}}}, "cannot be used"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(serve, client, form, said):
    with pytest.raises(openai.BadRequestError) as error:
        client(serve()).chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "?"}], response_format=form
        )
    message = error.value.body["message"]
    assert said in message and "\n" not in message


def test_nothing_but_the_end_may_follow_a_whole_value(engine):
    grammar = GrammarCompiler(engine).compile({"const": 7})
    ids = engine.processor.tokenizer("7")["input_ids"]
    width = engine.model.config.text_config.vocab_size
    for token in ids:
        logits = torch.zeros(width)
        grammar.mask_logits(logits)
        assert logits.argmax() == token and logits.isfinite().sum() == 1
        grammar.accept_token(token)
    for _ in range(2):
        logits = torch.zeros(width)
        grammar.mask_logits(logits)
        assert set(logits.isfinite().nonzero()[:, 0].tolist()) <= engine.ends()
        grammar.accept_token(int(logits.argmax()))
    assert json.loads(engine.processor.tokenizer.decode(ids)) == 7
