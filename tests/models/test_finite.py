"""A model that computes NaN says which of its tensors is to blame, wherever it is asked."""

import queue

import pytest
import torch

from lalm.cli.error_messages import explain
from lalm.data.sample import ask
from lalm.inference.engine import Engine, Options
from lalm.models.finite import NonFiniteError
from lalm.serve.error_responses import error_message, error_status
from lalm.serve.jobs import Job
from lalm.serve.scheduler import Scheduler


@pytest.fixture
def engine(tiny) -> Engine:
    torch.manual_seed(0)
    return Engine(*tiny("acdc"), "tiny")


def spoil(engine: Engine, part: str, value: float) -> str:
    """Put one such value into the first weight below ``part``; its name."""
    name = next(n for n, p in engine.model.named_parameters() if n.startswith(part) and p.dim() > 1)
    with torch.no_grad():
        engine.model.get_parameter(name).view(-1)[0] = value
    return name


SAMPLE = ask([torch.randn(16_000).numpy()], "What?")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "part", ["model.audio_tower", "model.connector", "model.language_model.layers", "lm_head"]
)
@pytest.mark.parametrize("options", [Options(4), Options(4, temperature=1.0), Options(4, beams=2)])
def test_an_answer_ends_with_the_name_of_the_tensor(engine, part, value, options):
    name = spoil(engine, part, value)
    with pytest.raises(NonFiniteError, match=name.replace(".", r"\.")):
        engine.reply([SAMPLE], options)
    with pytest.raises(NonFiniteError):
        list(engine.stream(SAMPLE, options))


def test_the_server_says_it_too_and_the_command_line_fails(engine, capsys):
    name = spoil(engine, "model.connector", float("nan"))
    scheduler, events = Scheduler(engine), queue.SimpleQueue()
    scheduler.start()
    scheduler.submit(Job(SAMPLE, engine.processor.clips(SAMPLE), Options(4), events.put))
    error = events.get(timeout=20)
    text_only = ask([], "Why?")
    scheduler.submit(Job(text_only, [], Options(4), events.put))
    assert not isinstance(events.get(timeout=20), Exception)  # the server goes on
    scheduler.close(5)
    assert isinstance(error, NonFiniteError) and error_status(error) == 500 and name in error_message(error)
    assert explain(error) == 1 and name in capsys.readouterr().err


def test_finite_weights_that_overflow_are_said_to_be_so(engine):
    with torch.no_grad():
        for parameter in engine.model.lm_head.parameters():
            parameter.fill_(3e38)
    with pytest.raises(NonFiniteError, match=r"all of its weights are finite.*float32"):
        engine.reply([SAMPLE], Options(4))
