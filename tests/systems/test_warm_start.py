"""The warm start moves audio tokens to the words of what sounds at their time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lalm.sample import ask
from lalm.systems.acdc.warm_start import NamePull, event_groups, name_words, warm_start


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


@pytest.mark.parametrize("tokens_per_group", [1, 2])
def test_tokens_point_to_their_events_names(tiny, tmp_path, tokens_per_group):
    torch.manual_seed(0)
    model, processor = tiny("acdc")
    model.config.tokens_per_group = tokens_per_group
    model.model.connector = model.model.build_connector()
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
    table = torch.stack([name_words(processor, name, tokens_per_group, weights) for name in names])
    pull = NamePull(model.model.connector, table, weights.mean(0)).eval()
    best = pull(groups.frames, groups.names)["cosines"].argmax(1)
    assert (best == groups.names).float().mean() > 0.9


def test_names_leave_out_little_words_and_share_the_rest(tiny):
    model, processor = tiny("acdc")
    weights = model.get_input_embeddings().weight.detach()

    def word(text):
        return weights[processor.tokenizer(f" {text}", add_special_tokens=False)["input_ids"]]

    def words(caption, count):
        return name_words(processor, caption, count, weights)

    assert torch.equal(words("a dog barks at the man", 1), words("dog barks man", 1))
    mean = torch.cat([word("dog"), word("barks")]).mean(0)
    torch.testing.assert_close(words("a dog barks", 1), mean[None])
    dog, barks, man = (word(text).mean(0) for text in ("dog", "barks", "man"))
    torch.testing.assert_close(words("a dog barks", 2), torch.stack([dog, barks]))
    torch.testing.assert_close(words("a dog barks at the man", 2), torch.stack([mean, man]))
    torch.testing.assert_close(words("a dog barks at the man", 3), torch.stack([dog, barks, man]))
    torch.testing.assert_close(words("dog", 2), torch.stack([dog, dog]))


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
