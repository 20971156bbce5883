"""LLMs that keep a state in place of keys and values, over HTTP: everybody gets the answer it gets alone."""

import concurrent.futures

import numpy as np
import pytest
import torch
from tiny_llms import llm_folder

from lalm.data.sample import Sample, ask
from lalm.inference.engine import Engine, Options
from lalm.models.assemble import build_model

OPTIONS = {"group_size": 5, "connector_width": 16, "remainder": "pad"}
LONGEST = 10


def sound(num_samples: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(num_samples) * 0.1).astype(np.float32)


@pytest.fixture(params=["mamba", "rwkv", "jamba"])
def engine(request, tiny_folders, tmp_path) -> Engine:
    llm = llm_folder(request.param, tmp_path / "llm")
    model, processor = build_model("acdc", encoder=str(tiny_folders[0]), llm=str(llm), options=OPTIONS)
    with torch.no_grad():  # what is said are letters, so that it is text
        head = model.lm_head.weight.clone()  # apart from the embeddings, which stay
        head.mul_(
            torch.tensor([[token < 90] for token in range(len(head))])
        )  # "!" is the first of its tokens
        model.lm_head.weight = torch.nn.Parameter(head)
    return Engine(model.eval(), processor, "tiny")


def test_requests_at_once_are_answered_as_alone_and_a_second_turn_goes_on(serve, client, engine):
    """Random weights say much the same to everybody, so the tokens' log-probabilities are compared."""
    rows = [ask([sound(9_000 + 4_000 * n, n)] if n % 3 else [], "Why? " * (n + 1)) for n in range(6)]
    asked = client(serve(rows=4))
    wish = {"model": "tiny", "max_tokens": LONGEST, "logprobs": True}

    def one(row: Sample) -> tuple[str, list[float]]:
        (choice,) = asked.chat.completions.create(messages=row.to_openai(), **wish).choices
        return choice.message.content, [token.logprob for token in choice.logprobs.content]

    alone = [one(row) for row in rows]
    assert [text for text, _ in alone] == [engine.reply([row], Options(LONGEST))[0].text for row in rows]
    assert len({tuple(round(number, 4) for number in logprobs) for _, logprobs in alone}) > 3
    with concurrent.futures.ThreadPoolExecutor(len(rows)) as pool:
        for (text, logprobs), (wanted, numbers) in zip(pool.map(one, rows), alone, strict=True):
            assert text == wanted and logprobs == pytest.approx(numbers, abs=1e-4)
    streamed = asked.chat.completions.create(messages=rows[1].to_openai(), stream=True, **wish)
    told = "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices)
    assert told == alone[1][0]
    turns = [{"role": "assistant", "content": "A bell."}, {"role": "user", "content": "And then?"}]
    messages = [*rows[1].to_openai(), *turns]
    second = asked.chat.completions.create(messages=messages, **wish).choices[0].message.content
    assert second == engine.reply([Sample.from_openai(messages)], Options(LONGEST))[0].text
