"""A row's answer in a batch is the one it gets alone, although rounding differs: clips, near ties."""

import numpy as np
import pytest
import torch

from lalm.data.sample import Sample, ask
from lalm.inference.engine import Engine, Options
from lalm.models.alone import TOLERANCE, LoneRow

LONG = Options(max_new_tokens=24)


def sound(num_samples: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(num_samples) * 0.1).astype(np.float32)


def rows() -> list[Sample]:
    sizes = [(8_000,), (48_000, 16_000), (20_000,), (), (64_000,), (9_000,), (30_000,), ()]
    return [ask([sound(n, i) for n in row], f"Question {i}?") for i, row in enumerate(sizes)]


@pytest.fixture(params=["acdc", "salmonn", "apt"])
def engine(tiny, request) -> Engine:
    torch.manual_seed(0)
    model, processor = tiny(request.param)
    return Engine(model, processor, "tiny")


@pytest.fixture
def rounding(engine, monkeypatch):
    """Logits of several rows at once are off by up to 0.4 of what counts as nearly tied, each time anew."""
    exact, noise = engine.model.logits, torch.Generator().manual_seed(0)

    def rough(hidden):
        logits = exact(hidden)
        if len(logits) == 1:
            return logits
        return logits + 0.16 * (2 * torch.rand(logits.shape, generator=noise) - 1)

    monkeypatch.setattr(engine.model, "logits", rough)
    monkeypatch.setitem(TOLERANCE, torch.float32, 0.4)


def test_rounding_in_a_batch_changes_no_answer(engine, rounding, monkeypatch):
    alone = [engine.reply([row], LONG)[0].text for row in rows()]
    assert [reply.text for reply in engine.reply(rows(), LONG)] == alone
    assert [reply.text for reply in engine.reply(rows()[::-1], LONG)][::-1] == alone
    monkeypatch.setitem(TOLERANCE, torch.float32, 0.0)  # without it the same rounding does change answers
    assert [reply.text for reply in engine.reply(rows(), LONG)] != alone


def test_a_clip_has_the_same_tokens_to_the_last_bit_beside_others(engine):
    questions = [row for row in rows() if row.audios]
    with torch.no_grad():
        embeds = [
            engine.model.model.embed(
                **{k: v for k, v in engine.processor.batch(batch).items() if k != "attention_mask"}
            )
            for batch in (questions, *([q] for q in questions))
        ]
    together, apart = embeds[0], embeds[1:]
    for row, (alone,) in zip(together, apart, strict=True):
        assert torch.equal(row[-len(alone) :], alone)


def test_a_row_read_again_is_what_one_pass_gives(engine):
    prompt = torch.randn(9, engine.model.config.text_config.hidden_size)
    said = torch.tensor([5, 6, 7])
    lone = LoneRow(engine.model, prompt)
    first = lone.logits(said)
    assert torch.equal(first, lone.logits(said))  # nothing of the last reading is left behind
    with torch.no_grad():
        whole = torch.cat([prompt, engine.model.get_input_embeddings()(said)])[None]
        wanted = engine.model.logits(engine.model.model.language_model(inputs_embeds=whole)[0][:, -1])[0]
    torch.testing.assert_close(first, wanted)
