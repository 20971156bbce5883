"""LoRA at the scale that each request asks for: as if merged into the weights, whoever asks beside."""

import concurrent.futures

import httpx
import pytest
import torch

from lalm.data.sample import Sample, ask
from lalm.inference.engine import Engine, Options
from lalm.models.lora import add_lora, merge_lora, set_lora_scale

LORA = {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "v_proj"]}
QUESTION = "What is it?"


def with_lora(model):
    """``model`` with LoRA that matters."""
    torch.manual_seed(1)  # of both matrices
    add_lora(model, LORA)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return model.eval()


@pytest.fixture
def engine(tiny) -> Engine:
    model, processor = tiny("salmonn")
    return Engine(with_lora(model), processor, "tiny")


def test_answers_are_those_of_weights_with_lora_merged_at_that_scale(serve, client, engine, tiny):
    asked = client(serve())
    wish = {"model": "tiny", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 8}
    wish |= {"logprobs": True, "top_logprobs": 20}
    found = {}
    for scale in (None, 0.0, 1.0, 2.0):
        extra = {} if scale is None else {"lora_scale": scale}
        found[scale] = asked.chat.completions.create(**wish, extra_body=extra).choices[0]
    for scale in (0.0, 1.0, 2.0):
        model, processor = tiny("salmonn")
        set_lora_scale(with_lora(model), scale)
        merge_lora(model)
        plain = Engine(model, processor, "plain")
        assert found[scale].message.content == plain.reply([ask([], QUESTION)], Options(8))[0].text
        batch = processor.batch([ask([], QUESTION)])
        logprobs = model(**batch).logits[0, -1].log_softmax(0).topk(20).values
        told = [entry.logprob for entry in found[scale].logprobs.content[0].top_logprobs]
        torch.testing.assert_close(torch.tensor(told), logprobs, atol=1e-3, rtol=1e-3)
    assert found[None].message.content == found[2.0].message.content  # alpha / rank
    assert len({choice.message.content for choice in found.values()}) == 3


def test_requests_at_unlike_scales_do_not_disturb_each_other(serve, client, engine):
    scales = [0.0, 2.0, None, 1.0] * 3
    rows = [ask([], f"{QUESTION} {number}") for number in range(len(scales))]
    pairs = list(zip(rows, scales, strict=True))
    alone = [engine.reply([row], Options(12, lora_scale=scale))[0].text for row, scale in pairs]
    asked = client(serve(rows=4))

    def one(pair: tuple[Sample, float | None]) -> str:
        row, scale = pair
        extra = {} if scale is None else {"lora_scale": scale}
        made = asked.chat.completions.create(
            model="tiny", messages=row.to_openai(), max_tokens=12, extra_body=extra
        )
        return made.choices[0].message.content

    with concurrent.futures.ThreadPoolExecutor(len(pairs)) as pool:
        assert list(pool.map(one, pairs)) == alone


def test_a_conversation_whose_scale_changes_is_read_anew(serve, client, engine):
    part = {"type": "input_text", "text": QUESTION}
    messages = []
    with client(serve()).realtime.connect(model="tiny") as talk:
        options = {"type": "realtime", "audio": {"input": {"turn_detection": None}}, "max_output_tokens": 8}
        for scale in (2.0, 0.0, 0.0):
            talk.session.update(session={**options, "lora_scale": scale})
            talk.conversation.item.create(item={"type": "message", "role": "user", "content": [part]})
            talk.response.create()
            while (event := talk.recv()).type != "response.done":
                assert event.type != "error"
            messages.append({"role": "user", "content": [{"type": "text", "text": QUESTION}]})
            [alone] = engine.reply([Sample(tuple(messages))], Options(8, lora_scale=scale))
            said = event.response.output[0].content[0].text
            assert said == alone.text
            messages.append({"role": "assistant", "content": said})
        assert event.response.usage.input_token_details.cached_tokens > 10


def test_the_server_tells_the_scale_of_training(serve):
    assert httpx.get(f"{serve()}/health").json()["lora_scale"] == 2.0
