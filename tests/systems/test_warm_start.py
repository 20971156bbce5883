"""The warm start moves audio tokens to the words of what sounds at their time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lalm.sample import ask
from lalm.systems.acdc.warm_start import NamePull, event_groups, name_ids, warm_start


def scene(seed: int):
    """One second of tone, then one of noise; arrays at 16 kHz."""
    rng = np.random.default_rng(seed)
    tone = np.sin(np.arange(16_000) * 0.3 + rng.uniform(0, 6)).astype(np.float32) * 0.5
    noise = rng.standard_normal(16_000).astype(np.float32) * 0.2
    events = (
        {"label": "a/tone", "caption": "a whistle blows", "onset_s": 0.0, "offset_s": 1.0},
        {"label": "a/noise", "caption": "rain falls", "onset_s": 1.0, "offset_s": 2.0},
    )
    return replace(ask([np.concatenate([tone, noise])], ""), events=events)


def test_tokens_point_to_their_events_names(tiny, tmp_path):
    torch.manual_seed(0)
    model, processor = tiny("acdc")
    samples = [scene(i) for i in range(4)]

    def frames_of(sample):
        (clip,) = processor.clips(sample)
        audio = torch.from_numpy(clip.audio)[None]
        return model.model.encode(audio, torch.tensor([audio.shape[1]]))[0][0].detach()

    names = {"a whistle blows": 0, "rain falls": 1}
    groups = event_groups(model, samples, frames_of, names)
    assert groups.frames.shape[1] == model.config.group_size
    assert groups.names.tolist() == ([0] * (len(groups) // 8) + [1] * (len(groups) // 8)) * 4
    before = model.model.connector.linear_2.weight.clone()
    warm_start(model, processor, samples, frames_of, epochs=60, learning_rate=1e-2, folder=str(tmp_path))
    assert not torch.equal(before, model.model.connector.linear_2.weight)

    weights = model.get_input_embeddings().weight.detach()
    table = torch.stack([weights[name_ids(processor, name)].mean(0) for name in names])
    pull = NamePull(model.model.connector, table, weights.mean(0)).eval()
    best = pull(groups.frames, groups.names)["cosines"].argmax(1)
    assert (best == groups.names).float().mean() > 0.9


def test_names_leave_out_little_words(tiny):
    _, processor = tiny("acdc")
    assert name_ids(processor, "a dog barks at the man") == name_ids(processor, "dog barks man")


def test_manifest_without_events_is_refused(tiny, tmp_path):
    model, processor = tiny("acdc")
    with pytest.raises(ValueError, match="no training sample has events"):
        warm_start(
            model,
            processor,
            [ask([np.zeros(1600, np.float32)], "")],
            lambda s: torch.zeros(1, 1),
            epochs=1,
            learning_rate=1e-3,
            folder=str(tmp_path),
        )
