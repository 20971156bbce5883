"""Contrastive pre-alignment: the loss of a layer by hand, and a run in which clips find their captions."""

from dataclasses import replace

import pytest
import torch
from tiny_runs import lines, settings, training_world

from lalm.data.readers import read_manifest
from lalm.data.sample import write_manifest
from lalm.training import run as train
from lalm.training.objectives.contrast import ContrastError, contrastive_loss, mean_states


def test_the_loss_is_its_definition():
    audio, text = torch.eye(3)[:, :3] + 0.1, torch.eye(3) * 2.0
    apart = torch.eye(3, dtype=torch.bool)
    loss, recall = contrastive_loss(audio, text, apart, 0.1)
    cosines = torch.nn.functional.cosine_similarity(audio[:, None], text[None], dim=2) / 0.1
    wanted = -(cosines.log_softmax(1).diagonal().mean() + cosines.log_softmax(0).diagonal().mean()) / 2
    torch.testing.assert_close(loss, wanted)
    assert recall == 1 and contrastive_loss(audio, text[[1, 2, 0]], apart, 0.1)[1] == 0
    twins = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)  # two clips of one caption
    both = contrastive_loss(audio[[0, 0, 2]], text[[0, 0, 2]], twins, 0.1)[0]
    assert both < contrastive_loss(audio[[0, 0, 2]], text[[0, 0, 2]], apart, 0.1)[0]


def test_means_leave_padding_out():
    states = torch.tensor([[[1.0], [3.0], [100.0]]])
    assert mean_states([states], torch.tensor([[True, True, False]]))[0].item() == 2


def test_clips_find_their_captions(tmp_path):
    world = training_world(tmp_path, dropout=0.0)
    read = enumerate(read_manifest(world / "train.jsonl"))
    samples = [replace(sample, origin={"caption": f"{i} {'x' * i}"}) for i, sample in read]
    write_manifest(world / "train.jsonl", samples)
    write_manifest(world / "valid.jsonl", samples[:3])
    fields = {
        "optim": {"learning_rate": 2e-2, "batch_size": 6, "max_steps": 30},
        "data": {"valid": [str(world / "valid.jsonl")]},
        "every": {"log": 1, "save": 30, "valid": 30},
        "valid": {"samples": 3, "generate": 0},
    }
    made = settings(world, tmp_path / "out", lora=None, contrast={}, **fields)
    losses = list(lines(train.run(made)).values())
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    with pytest.raises(ContrastError, match=r"there is no layer 99: the LLM has 0 to \d"):
        train.run(settings(world, tmp_path / "odd", lora=None, contrast={"layers": [0, 99]}, **fields))
    assert lines(tmp_path / "out", "recall") and lines(tmp_path / "out", "valid_loss")
    write_manifest(world / "train.jsonl", [replace(s, origin={}) for s in samples])
    with pytest.raises(ValueError, match="no training sample says what is heard"):
        train.run(settings(world, tmp_path / "none", lora=None, contrast={}))
