"""The running batch: answers equal those given alone, whoever joins, leaves, fails or is cancelled."""

import queue
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from lalm.data.audio_inputs import Clip
from lalm.data.sample import Sample, ask
from lalm.inference.engine import Engine, Options
from lalm.models.alone import TOLERANCE
from lalm.models.prefill import PrefixCache
from lalm.serve.jobs import AnswerTimeout, Busy, End, Job
from lalm.serve.scheduler import Scheduler
from lalm.systems import SYSTEMS


def sound(num_samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(num_samples) * 0.1).astype(np.float32)


@pytest.fixture(params=sorted(SYSTEMS))
def engine(request, tiny) -> Engine:
    torch.manual_seed(0)
    return Engine(*tiny(request.param), "tiny")


@pytest.fixture
def acdc(tiny) -> Engine:
    torch.manual_seed(0)
    return Engine(*tiny("acdc"), "tiny")


class Asked:
    """A job and the events it got."""

    def __init__(self, engine: Engine, sample: Sample, options: Options, **more) -> None:
        self.events: queue.SimpleQueue = queue.SimpleQueue()
        clips = engine.processor.clips(sample)
        self.job = Job(sample, clips, options, self.events.put, **more)

    def answer(self) -> tuple[str, End]:
        text = ""
        while not isinstance(event := self.events.get(timeout=20), End):
            if isinstance(event, Exception):
                raise event
            text += event.text
        return text, event


@pytest.fixture
def started():
    schedulers = []

    def start(engine: Engine, **options) -> Scheduler:
        schedulers.append(Scheduler(engine, **options))
        schedulers[-1].start()
        return schedulers[-1]

    yield start
    for scheduler in schedulers:
        scheduler.close(5)


def samples() -> list[Sample]:
    sizes = [(8_000,), (48_000, 16_000), (20_000,), (), (64_000,), (9_000,), (30_000,)]
    return [ask([sound(n, i) for n in row], "Why? " * (i + 1)) for i, row in enumerate(sizes)]


def test_answers_of_a_batch_that_rows_join_and_leave_equal_the_engines(engine, started):
    lengths = [3, 30, 8, 1, 20, 5, 14]
    options = [Options(max_new_tokens=n) for n in lengths]
    alone = [engine.reply([s], o)[0].text for s, o in zip(samples(), options, strict=True)]
    assert len(set(alone)) > 4
    scheduler = started(engine, max_rows=3)
    sizes = []
    step = scheduler.batch.step
    scheduler.batch.step = lambda: (sizes.append(len(scheduler.batch.rows)), step())[1]
    asked = [Asked(engine, s, o) for s, o in zip(samples(), options, strict=True)]
    for one in asked[:4]:
        scheduler.submit(one.job)
    answers = [asked[0].answer()]
    scheduler.submit(*[one.job for one in asked[4:]])
    answers += [one.answer() for one in asked[1:]]
    assert [text for text, _ in answers] == alone
    assert max(sizes) == 3 and sum(sizes) == sum(end.new_tokens for _, end in answers)
    for sample, (_, end) in zip(samples(), answers, strict=True):
        assert end.prompt_tokens == engine.processor.batch([sample])["input_ids"].shape[1]


def test_rounding_beside_other_rows_changes_no_answer(acdc, started, monkeypatch):
    """Logits of several rows are off by up to 0.4 of what counts as nearly tied; see lalm.models.alone."""
    exact, noise = acdc.model.logits, torch.Generator().manual_seed(0)

    def rough(hidden):
        logits = exact(hidden)
        if len(logits) == 1:
            return logits
        return logits + 0.16 * (2 * torch.rand(logits.shape, generator=noise) - 1)

    monkeypatch.setattr(acdc.model, "logits", rough)
    monkeypatch.setitem(TOLERANCE, torch.float32, 0.4)
    options = Options(max_new_tokens=24)
    alone = [acdc.reply([sample], options)[0].text for sample in samples()]

    def together() -> list[str]:
        scheduler = started(acdc)
        asked = [Asked(acdc, sample, options) for sample in samples()]
        scheduler.submit(*[one.job for one in asked])
        return [one.answer()[0] for one in asked]

    assert together() == alone
    monkeypatch.setitem(TOLERANCE, torch.float32, 0.0)  # without it the same rounding does change answers
    assert together() != alone


def test_draws_depend_on_their_own_seed_only(acdc, started):
    hot = [Options(max_new_tokens=12, temperature=1.5, top_p=0.9, seed=seed) for seed in (1, 1, 2, 3)]
    sample = samples()[1]
    alone = started(acdc)
    single = []
    for options in hot:
        asked = Asked(acdc, sample, options)
        alone.submit(asked.job)
        single.append(asked.answer()[0])
    together = started(acdc)
    asked = [Asked(acdc, sample, o) for o in [Options(max_new_tokens=5), *hot]]
    together.submit(*[one.job for one in asked])
    found = [one.answer()[0] for one in asked]
    assert found[1:] == single and single[0] == single[1] and len(set(single)) == 3
    assert found[0] == acdc.reply([sample], Options(max_new_tokens=5))[0].text


WAYS = [
    Options(60),
    Options(60, loop_guard=False),
    Options(24, repetition_penalty=1.7),
    Options(24, no_repeat_ngram_size=1),
    Options(24, stop=("e", "a")),
    Options(24, stop=("e", "a"), min_tokens=9),
    Options(12, min_tokens=12),
    Options(12, temperature=1.5, top_k=5, seed=3),
    Options(12, temperature=1.5, min_p=0.5, seed=3),
    Options(12, temperature=1.5, top_k=7, top_p=0.8, min_p=0.1, repetition_penalty=1.2, min_tokens=4),
]


@pytest.mark.parametrize(
    ("bias", "reasons"), [(2.5, {"stop", "length"}), (50.0, {"stop", "repetition", "length"})]
)
def test_every_option_means_the_same_in_the_engine_and_in_a_batch_of_others(acdc, started, bias, reasons):
    """The same text, length and reason, whatever the rows beside it are asked for."""
    sample = samples()[1]

    def prefer(head: torch.nn.Module, given: object, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_add(-1, torch.tensor([68]), torch.full((*logits.shape[:-1], 1), bias))

    acdc.model.lm_head.register_forward_hook(prefer)  # it tends to say "e", over and over
    alone = [acdc.reply([sample], options)[0] for options in WAYS]
    assert {reply.finish_reason for reply in alone} == reasons
    scheduler = started(acdc, max_rows=4)
    asked = [Asked(acdc, sample, options) for options in WAYS]
    scheduler.submit(*[one.job for one in asked])
    for reply, one in zip(alone, asked, strict=True):
        text, end = one.answer()
        assert (text, end.new_tokens, end.reason) == (reply.text, reply.num_tokens, reply.finish_reason)


def test_a_clip_is_encoded_once_and_the_cache_is_bounded(acdc, started, monkeypatch):
    encoded = []
    encode = acdc.model.model.encode
    monkeypatch.setattr(acdc.model.model, "encode", lambda *a: (encoded.append(len(a[0])), encode(*a))[1])
    scheduler = started(acdc)
    for seed in (0, 1, 0, 1, 0):
        asked = Asked(acdc, ask([sound(16_000, seed)], "What?"), Options(max_new_tokens=3))
        scheduler.submit(asked.job)
        asked.answer()
    assert len(encoded) == 2 and (scheduler.encoder_cache.hits, scheduler.encoder_cache.misses) == (3, 2)
    scheduler.encoder_cache.limit = scheduler.encoder_cache.size
    for seed in range(2, 9):
        scheduler.encoder_cache.frames([Clip("x", sound(16_000, seed))])
    assert scheduler.encoder_cache.size <= scheduler.encoder_cache.limit


def test_the_queue_is_bounded_and_a_closing_scheduler_finishes_what_it_has(acdc):
    scheduler = Scheduler(acdc, max_waiting=2)
    asked = [Asked(acdc, samples()[i], Options(max_new_tokens=20)) for i in range(3)]
    scheduler.submit(asked[0].job, asked[1].job)
    with pytest.raises(Busy, match="2 requests are waiting already"):
        scheduler.submit(asked[2].job)
    scheduler.start()
    scheduler.close(20)
    assert [one.answer()[1].reason for one in asked[:2]] != []
    with pytest.raises(Busy, match="shutting down"):
        scheduler.submit(asked[2].job)


def test_cancelled_and_late_jobs_stop_costing(acdc, started, monkeypatch):
    monkeypatch.setattr(Engine, "ends", lambda self: {10**6})
    scheduler = started(acdc)
    gone = Asked(acdc, samples()[0], Options(max_new_tokens=1800, temperature=1.0))
    late = Asked(acdc, samples()[1], Options(max_new_tokens=1800, loop_guard=False), timeout_s=0.3)
    scheduler.submit(gone.job, late.job)
    gone.events.get(timeout=10)
    gone.job.cancelled = True
    with pytest.raises(AnswerTimeout, match=r"answer was not complete within"):
        late.answer()
    deadline = time.monotonic() + 60
    while scheduler.batch.rows and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not scheduler.batch.rows and scheduler.new_tokens < 1800


def test_one_of_two_same_questions_can_leave_the_queue(acdc):
    scheduler = Scheduler(acdc)
    asked = [Asked(acdc, samples()[1], Options(4)) for _ in range(3)]
    scheduler.submit(*[one.job for one in asked])
    asked[1].job.cancelled = True
    scheduler.start()
    assert asked[0].answer() == asked[2].answer()
    scheduler.close(5)
    assert asked[1].events.empty()


def test_a_failing_job_or_step_harms_no_later_one(acdc, started, monkeypatch):
    scheduler = started(acdc)
    good, bad = Asked(acdc, samples()[0], Options(5)), Asked(acdc, samples()[0], Options(5000))
    scaled = Asked(acdc, samples()[0], Options(5, lora_scale=2.0))
    scheduler.submit(good.job, bad.job, scaled.job)
    assert good.answer()[1].new_tokens <= 5
    with pytest.raises(ValueError, match="more than the model's"):
        bad.answer()
    with pytest.raises(ValueError, match="no LoRA"):
        scaled.answer()
    monkeypatch.setattr(scheduler.batch, "step", lambda: 1 / 0)
    broken = Asked(acdc, samples()[0], Options(5))
    scheduler.submit(broken.job)
    with pytest.raises(ZeroDivisionError):
        broken.answer()
    monkeypatch.undo()
    again = Asked(acdc, samples()[0], Options(5))
    scheduler.submit(again.job)
    again.answer()


@pytest.mark.parametrize("place", ["batch.add", "batch.step", "batch.remove", "_emit", "_drop_finished"])
def test_whatever_fails_within_an_answer_ends_the_batch_and_not_the_thread(acdc, started, monkeypatch, place):
    monkeypatch.setattr(Engine, "ends", lambda self: {10**6})
    scheduler, prefix_cache = started(acdc), PrefixCache()
    one = Asked(acdc, samples()[0], Options(1500), prefix_cache=prefix_cache)
    scheduler.submit(one.job)
    assert one.events.get(timeout=10).text  # in the middle of its answer
    *owner, name = place.split(".")
    with monkeypatch.context() as broken:
        broken.setattr(getattr(scheduler, owner[0]) if owner else scheduler, name, lambda *given: 1 / 0)
        two = Asked(acdc, samples()[1], Options(3))
        scheduler.submit(two.job)
        for asked in (one, two):
            with pytest.raises(ZeroDivisionError):
                asked.answer()
            assert asked.events.empty()
    assert not scheduler.batch.rows and prefix_cache.cache.get_seq_length() == len(prefix_cache.ids) == 0
    for sample, known in ((samples()[0], prefix_cache), (samples()[1], None)):
        again = Asked(acdc, sample, Options(5), prefix_cache=known)
        scheduler.submit(again.job)
        assert again.answer()[0] == acdc.reply([sample], Options(5))[0].text


def test_a_conversation_with_a_memory_is_read_once(engine, started):
    scheduler, prefix_cache = started(engine), PrefixCache()
    messages: list = []
    read = []
    add = scheduler.batch.add
    scheduler.batch.add = lambda rows: (
        read.extend(len(r.embeds) for r in rows if r.job.prefix_cache),
        add(rows),
    )[1]
    noise = Asked(engine, samples()[4], Options(max_new_tokens=60))
    scheduler.submit(noise.job)
    for turn, audios in enumerate([[sound(30_000, 1)], [], [sound(20_000, 2)]]):
        messages += ask(audios, f"What now, {turn}?").messages
        sample = Sample(tuple(messages))
        asked = Asked(engine, sample, Options(max_new_tokens=8), prefix_cache=prefix_cache)
        scheduler.submit(asked.job)
        text, end = asked.answer()
        assert text == engine.reply([sample], Options(max_new_tokens=8))[0].text
        messages.append({"role": "assistant", "content": text})
    assert sum(read) < end.prompt_tokens + 3 * 8


def test_stop_sequences_end_an_answer_and_are_not_said(acdc, started):
    options = Options(max_new_tokens=40, temperature=1.0, seed=5)
    scheduler = started(acdc)
    whole = Asked(acdc, samples()[0], options, top_logprobs=3)
    scheduler.submit(whole.job)
    pieces = []
    while not isinstance(event := whole.events.get(timeout=20), End):
        pieces.append(event)
    text = "".join(piece.text for piece in pieces)
    scores = [score for piece in pieces for score in piece.scores]
    assert all(len(score.top) == 3 and score.logprob <= score.top[0][1] + 1e-5 for score in scores)
    at = max(3, len(text) // 2)
    stop = text[at : at + 3]
    cut = Asked(acdc, samples()[0], replace(options, stop=("\0never", stop)))
    scheduler.submit(cut.job)
    said, end = cut.answer()
    assert said == text[: text.find(stop)].rstrip() and end.reason == "stop"


def test_submitting_from_many_threads(acdc, started):
    scheduler = started(acdc, max_rows=8)
    wanted = {i: acdc.reply([samples()[i]], Options(6))[0].text for i in range(7)}
    found: dict[int, str] = {}

    def one(i: int) -> None:
        asked = Asked(acdc, samples()[i], Options(6))
        scheduler.submit(asked.job)
        found[i] = asked.answer()[0]

    threads = [threading.Thread(target=one, args=(i,)) for i in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == wanted


def test_threads_are_measured_anew_after_a_pause_and_told_the_rows_of_each_step(acdc, started):
    class Noted:
        def __init__(self) -> None:
            self.periods, self.rows = 0, []

        @contextmanager
        def set(self):
            self.periods += 1
            yield

        def step(self, seconds, rows=1):
            self.rows.append(rows)

    acdc.threads = noted = Noted()
    scheduler = started(acdc)
    for period in (1, 2):
        asked = [Asked(acdc, sample, Options(max_new_tokens=3)) for sample in samples()[:2]]
        scheduler.submit(*[one.job for one in asked])
        for one in asked:
            one.answer()
        wait = time.monotonic() + 20
        while scheduler.busy and time.monotonic() < wait:
            time.sleep(0.01)
        assert noted.periods == period
        time.sleep(0.05)
    assert max(noted.rows) == 2


def test_numbers_of_which_only_the_sum_is_infinite_are_answered(acdc, started, monkeypatch):
    real = acdc.model.logits

    def huge(hidden):
        found = real(hidden).clone()
        found[:, 3] = 3e38  # the sum of two rows is infinite, though each number is finite
        return found

    monkeypatch.setattr(acdc.model, "logits", huge)
    scheduler = started(acdc)
    asked = [Asked(acdc, sample, Options(max_new_tokens=2)) for sample in samples()[:2]]
    scheduler.submit(*[one.job for one in asked])
    for one in asked:
        assert one.answer()[1].new_tokens == 2
