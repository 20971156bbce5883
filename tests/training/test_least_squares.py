"""The start in closed form: the regression against torch's own, tokens that point to their words."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import settings, training_world

from lalm.data.readers import read_manifest
from lalm.data.sample import Sample, ask, write_manifest
from lalm.training import run as train
from lalm.training.objectives import least_squares as ls
from lalm.training.objectives.warm_start import warm_start
from lalm.training.objectives.warm_start_targets import name_targets
from lalm.training.report import TrainError
from lalm.training.sections import WarmStart

EVENTS = (
    {"label": "a/tone", "caption": "a whistle blows", "onset_s": 0.0, "offset_s": 1.0},
    {"label": "a/noise", "caption": "rain falls", "onset_s": 1.0, "offset_s": 2.0},
)


def scene(seed: int) -> Sample:
    rng = np.random.default_rng(seed)
    tone = np.sin(np.arange(16_000) * 0.3 + rng.uniform(0, 6)).astype(np.float32) * 0.5
    noise = rng.standard_normal(16_000).astype(np.float32) * 0.2
    heard = ask([np.concatenate([tone, noise])], "")
    return Sample(heard.messages, events=EVENTS)  # type: ignore[arg-type]


def encoded(model: Any, processor: Any, sample: Sample) -> torch.Tensor:
    (clip,) = processor.clips(sample)
    audio = torch.from_numpy(clip.audio)[None]
    return model.model.encode(audio, torch.tensor([audio.shape[1]]))[0][0].detach()


def test_the_solution_is_ridge_regressions_and_the_error_is_its_own():
    torch.manual_seed(0)
    x, y = torch.randn(50, 7).double() * torch.arange(1, 8) + 3, torch.randn(50, 4).double()
    sums = ls.Sums(7, 4)
    for rows in ((0, 13), (13, 50)):  # summed up piece by piece
        sums.add(x[slice(*rows)], y[slice(*rows)])
    sums.settle()
    deviation = x.std(0, correction=0)
    stacked = torch.cat([(x - x.mean(0)) / deviation, torch.eye(7).double() * (0.1 * 50) ** 0.5])
    wanted = torch.linalg.lstsq(stacked, torch.cat([y - y.mean(0), torch.zeros(7, 4).double()])).solution
    weight, bias = sums.solve(0.1, bias=True)
    torch.testing.assert_close(weight, (wanted / deviation[:, None]).T)
    torch.testing.assert_close(bias, y.mean(0) - weight @ x.mean(0))
    assert sums.error(weight, bias) == pytest.approx(float(((x @ weight.T + bias - y) ** 2).sum()))
    assert sums.spread() == pytest.approx(float(((y - y.mean(0)) ** 2).sum()))
    plain, none = sums.solve(1e-9, bias=False)
    torch.testing.assert_close(plain.T, torch.linalg.lstsq(x, y).solution, atol=1e-6, rtol=1e-6)
    assert not none.any()


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("acdc", {"tokens_per_group": 2}),
    ("qwen2-audio", {}),
    ("salmonn", {"num_queries": 2, "window_s": 0.1, "stride_s": 0.1}),
    ("modular", {"connector": "swiglu", "connector_options": {"stack": 4, "hidden": 64}}),
    ("modular", {"connector": "pooling", "connector_options": {"stack": 4}}),
    ("modular", {"connector": "cnn", "connector_options": {"hidden": 64}}),
]


@pytest.mark.parametrize(("system", "changes"), KINDS, ids=str)
def test_tokens_point_to_their_events_names_at_once(tiny, system, changes):
    torch.manual_seed(0)
    model, processor = tiny(system)
    for name, value in changes.items():
        setattr(model.config, name, value)
    model.model.connector = model.model.build_connector()
    samples = [scene(i) for i in range(6)]
    frames_of = partial(encoded, model, processor)
    done = ls.least_squares_start(model, processor, samples, frames_of)
    assert done.explained > 0.7  # of recordings that were not learned from
    weights = model.get_input_embeddings().weight.detach()
    names = {"a whistle blows": 0, "rain falls": 1}
    count = (model.config.token_groups or (1, 1, 1))[2]
    words = torch.stack([name_targets(processor, name, count, weights) for name in names])
    unseen = frames_of(scene(100))[None]
    tokens = model.model.connector.eval()(unseen, torch.tensor([unseen.shape[1]]))[0].detach()[0]
    groups = tokens.unflatten(0, (-1, count))  # of two seconds; the one between them is left out
    nearest = ((groups[:, None] - words[None]) ** 2).sum((2, 3)).argmin(1)
    half = len(nearest) // 2
    assert (nearest[: half - 1] == 0).float().mean() > 0.9
    assert (nearest[half + 1 : 2 * half] == 1).float().mean() > 0.9


def test_connectors_without_a_last_linear_map_of_their_frames_are_refused(tiny):
    model, processor = tiny("apt")
    with pytest.raises(ValueError, match="say 'kind: steps'"):
        ls.least_squares_start(model, processor, [scene(0)], partial(encoded, model, processor))
    with pytest.raises(ValueError, match="no training sample has events"):
        ls.least_squares_start(model, processor, [ask([np.zeros(1600, np.float32)], "")], lambda s: s)  # type: ignore[arg-type,return-value]
    modular, processor = tiny("modular")
    modular.config.connector, modular.config.connector_options = "cnn", {"hidden": 64}
    with pytest.raises(ValueError, match="say 'kind: least_squares'"):
        warm_start(
            modular, processor, [scene(0)], lambda s: torch.zeros(1), epochs=1, learning_rate=1.0, folder=""
        )
    after = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    squashed: Any = type("Squashed", (torch.nn.Module,), {"forward": lambda self, f, n: (self.maps(f), n)})()
    squashed.maps = after
    with pytest.raises(ValueError, match="not what one linear map makes"):
        ls.last_map(squashed, torch.randn(2, 1, 4))


def test_a_recipe_starts_so_and_says_what_it_found(tmp_path, capsys):
    world = training_world(tmp_path)
    samples = [
        Sample(s.messages, id=s.id, events=(dict(EVENTS[i % 2], onset_s=0.0, offset_s=9.0),))  # type: ignore[arg-type]
        for i, s in enumerate(read_manifest(world / "train.jsonl"))
    ]
    write_manifest(world / "train.jsonl", samples)
    (world / "clips" / "3.wav").write_bytes(b"no sound")  # is left out here, and named where it is trained on
    fields: dict[str, Any] = {"warm_start": {"kind": "least_squares"}, "optim": {"max_steps": 1}}
    fields["cache"] = str(tmp_path / "frames")
    train.run(settings(world, tmp_path / "out", **fields))
    assert "Warm start in closed form" in capsys.readouterr().out
    trains = {"trainable": ["connector", "audio_tower"], "lora": None}
    with pytest.raises(TrainError, match="warm_start: frames are read once, so the encoder cannot train"):
        train.run(settings(world, tmp_path / "encoder", **fields, **trains))
    clip = str(world / "clips" / "1.wav")
    twice = ask([clip, clip], "Which is louder?").with_target("Neither.")
    write_manifest(world / "train.jsonl", [replace(s, messages=twice.messages) for s in samples])
    with pytest.raises(TrainError, match="no training sample has one recording that can be read and events"):
        train.run(settings(world, tmp_path / "two", **fields))
    with pytest.raises(ValueError, match="give 'epochs' and 'learning_rate'"):
        WarmStart(epochs=1)
    with pytest.raises(ValueError, match="take out 'epochs'"):
        WarmStart(kind="least_squares", epochs=1)
