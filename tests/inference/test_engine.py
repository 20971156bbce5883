"""The engine on tiny random models: order, batches, timing, streaming, and what it refuses."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from lalm.data.sample import Sample, ask
from lalm.inference.device import pick_device
from lalm.inference.engine import Engine, Options
from lalm.models.save import save_model


@pytest.fixture
def engine(tiny) -> Engine:
    torch.manual_seed(0)
    model, processor = tiny("acdc")
    return Engine(model, processor, "tiny")


def sound(num_samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(num_samples) * 0.1).astype(np.float32)


def rows() -> list[Sample]:
    sizes = [(8_000,), (48_000, 16_000), (20_000,), (), (64_000,)]
    return [ask([sound(n, i) for n in row], f"Question {i}?") for i, row in enumerate(sizes)]


SHORT = Options(max_new_tokens=6)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_replies_come_in_the_given_order_whatever_the_batches(engine, monkeypatch, batch_size):
    alone = [engine.reply([row], SHORT)[0].text for row in rows()]
    assert len(set(alone)) > 1
    monkeypatch.setattr("lalm.inference.engine.BATCH_SIZE", batch_size)
    assert [reply.text for reply in engine.reply(rows(), SHORT)] == alone


def test_pools_keep_the_order_too(engine, monkeypatch):
    whole = [reply.text for reply in engine.reply(rows(), SHORT)]
    monkeypatch.setattr("lalm.inference.engine.POOL_SIZE", 2)
    assert [reply.text for reply in engine.reply(rows(), SHORT)] == whole


def test_long_clips_make_small_batches(engine, monkeypatch):
    sizes = []
    generate = engine.model.generate

    def counted(**batch):
        sizes.append(len(batch["input_ids"]))
        return generate(**batch)

    monkeypatch.setattr(engine.model, "generate", counted)
    monkeypatch.setattr("lalm.inference.engine.BATCH_SECONDS", 8.0)
    engine.reply([ask([sound(48_000)], "?")] * 5, SHORT)  # 3 s each: two fit into 8 s
    assert sizes == [2, 2, 1]


def test_a_reply_tells_what_was_heard_and_how_long_it_took(engine):
    reply = engine.reply([ask([sound(24_000), sound(8_000)], "What?")], SHORT)[0]
    assert [clip.seconds_given for clip in reply.heard] == [1.5, 0.5]
    assert [clip.seconds_heard for clip in reply.heard] == [1.5, 0.5]
    assert 0 < reply.first_token_s <= reply.total_s
    assert 1 <= reply.num_tokens <= 6 and reply.tokens_per_s > 0


def test_one_bad_sample_does_not_lose_the_good_ones(engine, tmp_path: Path):
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    window = engine.model.config.text_config.max_position_embeddings
    samples = [*rows(), ask([tmp_path / "bad.wav"], "What?"), ask([], "a " * 2 * window), ask([sound(9_000)])]
    replies = engine.reply(samples, SHORT, errors="return")
    errors = [str(one) if isinstance(one, ValueError) else "" for one in replies]
    assert "bad.wav is not audio" in errors[5] and "more than the model's" in errors[6]
    assert [bool(error) for error in errors] == [False] * 5 + [True, True, False]
    assert [one.text for one in replies[:5]] == [one.text for one in engine.reply(rows(), SHORT)]
    for bad in samples[5:7]:
        with pytest.raises(ValueError):
            engine.reply([*rows(), bad], SHORT)


def test_no_samples_give_no_replies(engine):
    assert engine.reply([]) == []


@pytest.mark.parametrize(
    "options",
    [SHORT, Options(max_new_tokens=12, temperature=1.5, seed=3), Options(max_new_tokens=5, beams=3)],
)
def test_a_stream_joins_to_the_reply(engine, options):
    sample = rows()[1]
    pieces = list(engine.stream(sample, options))
    assert "".join(pieces) == engine.reply([sample], options)[0].text


def test_a_stream_that_is_left_early_stops_generating(engine, monkeypatch):
    drawn = itertools.count()
    logits = engine.model.logits
    monkeypatch.setattr(engine.model, "logits", lambda hidden: (next(drawn), logits(hidden))[1])
    monkeypatch.setattr(Engine, "ends", lambda self: {10**6})
    stream = engine.stream(rows()[0], Options(max_new_tokens=1500, temperature=1.0))
    next(stream)
    stream.close()
    assert next(drawn) < 1500


def test_an_error_while_streaming_reaches_the_reader(engine, monkeypatch):
    def fail(**batch):
        raise RuntimeError("out of something")

    monkeypatch.setattr(engine.model, "generate", fail)
    with pytest.raises(RuntimeError, match="out of something"):
        list(engine.stream(rows()[0], SHORT))


def test_drawn_answers_follow_the_seed_and_leave_the_global_one_alone(engine):
    sample = rows()[0]

    def answer(seed: int) -> str:
        return engine.reply([sample], Options(max_new_tokens=12, temperature=1.5, seed=seed))[0].text

    torch.manual_seed(7)
    before = torch.initial_seed(), torch.get_rng_state()
    assert answer(1) == answer(1)
    assert len({answer(seed) for seed in range(5)}) > 1
    assert torch.equal(before[1], torch.get_rng_state())


@pytest.mark.parametrize("beams", [1, 2])
def test_a_drawn_answer_does_not_depend_on_its_batch_mates(engine, monkeypatch, beams):
    """One generator a row: the same alone, in a batch, in another order, and streamed."""
    options = Options(max_new_tokens=8, temperature=1.5, top_p=0.95, top_k=40, seed=7, beams=beams)
    together = [reply.text for reply in engine.reply(rows(), options)]
    assert len(set(together)) > 1
    assert [engine.reply([row], options)[0].text for row in rows()] == together
    assert [reply.text for reply in engine.reply(rows()[::-1], options)] == together[::-1]
    assert ["".join(engine.stream(row, options)) for row in rows()] == together
    others = Options(max_new_tokens=8, temperature=1.5, top_p=0.95, top_k=40, seed=8, beams=beams)
    assert [reply.text for reply in engine.reply(rows(), others)] != together


@pytest.mark.parametrize(
    "options",
    [
        Options(8, repetition_penalty=1.8),
        Options(12, no_repeat_ngram_size=1),
        Options(12, stop=("e", "a")),
        Options(40, stop=("e", "a"), min_tokens=9),
        Options(8, beams=3, repetition_penalty=1.8),
        Options(40, beams=3, stop=("e", "a")),
    ],
)
def test_what_shapes_an_answer_does_so_alone_and_in_a_batch(engine, options):
    """Padding is no text, and one row's end is not another's."""
    plain = Options(options.max_new_tokens, options.beams, loop_guard=False)
    together = [(r.text, r.num_tokens, r.finish_reason) for r in engine.reply(rows(), options)]
    assert [text for text, _, _ in together] != [r.text for r in engine.reply(rows(), plain)]
    alone = [engine.reply([row], options)[0] for row in rows()]
    assert together == [(r.text, r.num_tokens, r.finish_reason) for r in alone]
    stream = engine.stream(rows()[1], options)
    assert "".join(stream) == alone[1].text and stream.finish_reason == alone[1].finish_reason


def test_an_answer_ends_before_a_stop_text_but_not_before_its_least_tokens(engine):
    (whole,) = engine.reply(rows()[:1], Options(30, loop_guard=False))
    stop = whole.text[4:6]
    (cut,) = engine.reply(rows()[:1], Options(30, loop_guard=False, stop=(stop,)))
    assert cut.text == whole.text[: whole.text.index(stop)].rstrip()
    assert cut.finish_reason == "stop" and cut.num_tokens < whole.num_tokens
    (later,) = engine.reply(rows()[:1], Options(30, loop_guard=False, stop=(stop,), min_tokens=25))
    assert later.num_tokens > 25 or later.finish_reason == "length"


def repeating(engine: Engine, token: int = 70) -> Engine:
    """The engine with a model that says one token over and over once it has said it."""

    def prefer(head: torch.nn.Module, given: object, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_add(-1, torch.tensor([token]), torch.full((*logits.shape[:-1], 1), 50.0))

    engine.model.lm_head.register_forward_hook(prefer)
    return engine


@pytest.mark.parametrize("beams", [1, 3])
def test_an_answer_that_repeats_itself_is_ended_and_says_so(engine, beams):
    repeating(engine)
    guarded = engine.reply(rows(), Options(120, beams))
    free = engine.reply(rows(), Options(120, beams, loop_guard=False))
    looping = [i for i, reply in enumerate(guarded) if reply.finish_reason == "repetition"]
    assert looping and all(guarded[i].num_tokens < 120 == free[i].num_tokens for i in looping)
    assert all(free[i].finish_reason == "length" for i in looping)
    if beams == 1:
        assert all(free[i].text.startswith(guarded[i].text) for i in looping)


def test_the_defaults_of_the_llm_do_not_shape_answers(engine):
    plain = [reply.text for reply in engine.reply(rows(), SHORT)]
    engine.model.generation_config.update(repetition_penalty=5.0, do_sample=True, temperature=9.0, top_k=3)
    assert [reply.text for reply in engine.reply(rows(), SHORT)] == plain


def test_a_question_longer_than_the_window_is_refused_by_name(engine, tmp_path: Path):
    engine.model.config.text_config.max_position_embeddings = 60
    with pytest.raises(ValueError, match=r"array: 4 s of audio.*make \d+ tokens.*'s 60: give shorter"):
        engine.reply([ask([sound(64_000)], "What?")], SHORT)


def test_a_saved_model_loads_under_its_folder_name(engine, tmp_path: Path):
    save_model(engine.model, engine.processor, tmp_path / "mine", slim=False)
    loaded = Engine.load(str(tmp_path / "mine"), "cpu")
    assert loaded.name == "mine"
    assert len(loaded.reply(rows(), SHORT)) == len(rows())


def test_missing_models_and_devices_are_one_sentence(tmp_path: Path):
    with pytest.raises(ValueError, match="there is no model folder"):
        Engine.load(str(tmp_path / "none"))
    for name in ("toaster", "cuda:99", "meta"):
        with pytest.raises(ValueError, match=f"device '{name}'"):
            pick_device(name)


@pytest.mark.parametrize(
    "field",
    [
        {"max_new_tokens": 0},
        {"beams": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"seed": -1},
        {"top_k": -2},
        {"min_p": 1.5},
        {"repetition_penalty": 0.0},
        {"no_repeat_ngram_size": -1},
        {"min_tokens": -1},
        {"min_tokens": 129},
        {"stop": ("",)},
    ],
)
def test_options_out_of_range_are_refused_by_name(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        Options(**field)
