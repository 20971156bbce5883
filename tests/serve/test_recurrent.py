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
    with torch.no_grad():  # letters are said, so that answers can be told apart
        for token, row in enumerate(model.model.language_model.get_input_embeddings().weight):
            row.mul_(32 < token < 127)
        head = model.get_output_embeddings().weight
        head.mul_(torch.tensor([[32 < token < 127] for token in range(len(head))]))
    return Engine(model.eval(), processor, "tiny")


def test_requests_at_once_are_answered_as_alone_and_a_second_turn_goes_on(serve, client, engine):
    rows = [ask([sound(9_000 + 4_000 * n, n)] if n % 3 else [], "Why? " * (n + 1)) for n in range(6)]
    alone = [engine.reply([row], Options(LONGEST))[0].text for row in rows]
    assert engine.reply(rows, Options(LONGEST))[3].text == alone[3] and len(set(alone)) > 2
    asked = client(serve(rows=4))

    def one(row: Sample) -> str:
        made = asked.chat.completions.create(
            model="tiny", messages=row.to_openai(), max_tokens=LONGEST, stream=len(row.audios) == 0
        )
        if hasattr(made, "choices"):
            return made.choices[0].message.content
        return "".join(chunk.choices[0].delta.content or "" for chunk in made if chunk.choices)

    with concurrent.futures.ThreadPoolExecutor(len(rows)) as pool:
        assert list(pool.map(one, rows)) == alone
    first = asked.chat.completions.create(model="tiny", messages=rows[1].to_openai(), max_tokens=LONGEST)
    said = first.choices[0].message.content
    messages = [
        *rows[1].to_openai(),
        {"role": "assistant", "content": said},
        {"role": "user", "content": "And?"},
    ]
    second = asked.chat.completions.create(model="tiny", messages=messages, max_tokens=LONGEST)
    talk = Sample.from_openai(messages)
    assert second.choices[0].message.content == engine.reply([talk], Options(LONGEST))[0].text
