"""The warm start moves audio tokens to the words of what sounds at their time."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from lalm.data.sample import ask
from lalm.training.objectives.warm_start import warm_start
from lalm.training.objectives.warm_start_targets import (
    ACTIVITY_WORDS,
    EventClips,
    GroupTokenLoss,
    QueryTokenLoss,
    activity,
    event_frame_groups,
    mean_embedding,
    name_targets,
)


def scene(seed: int, question: str = ""):
    """One second of tone, then one of noise; arrays at 16 kHz."""
    rng = np.random.default_rng(seed)
    tone = np.sin(np.arange(16_000) * 0.3 + rng.uniform(0, 6)).astype(np.float32) * 0.5
    noise = rng.standard_normal(16_000).astype(np.float32) * 0.2
    events = (
        {"label": "a/tone", "caption": "a whistle blows", "onset_s": 0.0, "offset_s": 1.0},
        {"label": "a/noise", "caption": "rain falls", "onset_s": 1.0, "offset_s": 2.0},
    )
    return replace(ask([np.concatenate([tone, noise])], question), events=events)


def encoded(model, processor, sample):
    """The encoder's frames of a sample's clip, (T, W)."""
    (clip,) = processor.clips(sample)
    audio = torch.from_numpy(clip.audio)[None]
    return model.model.encode(audio, torch.tensor([audio.shape[1]]))[0][0].detach()


CHANGES = [
    ("acdc", {"tokens_per_group": 1}),
    ("acdc", {"tokens_per_group": 2}),
    ("salmonn", {"num_queries": 1, "window_s": 0.1, "stride_s": 0.1}),
    ("salmonn", {"num_queries": 2, "window_s": 0.1, "stride_s": 0.1}),
    ("qwen2-audio", {}),
]


@pytest.mark.parametrize(("system", "changes"), CHANGES, ids=str)
def test_tokens_point_to_their_events_names(tiny, tmp_path, system, changes):
    torch.manual_seed(0)
    model, processor = tiny(system)
    for name, value in changes.items():
        setattr(model.config, name, value)
    model.model.connector = model.model.build_connector()
    samples = [scene(i) for i in range(4)]

    frames_of = partial(encoded, model, processor)
    names = {"a whistle blows": 0, "rain falls": 1}
    groups = event_frame_groups(model, samples, frames_of, names)
    assert groups.frames.shape[1] == model.config.token_groups[0]
    assert groups.names.tolist() == ([0] * (len(groups) // 8) + [1] * (len(groups) // 8)) * 4
    before = [p.clone() for p in model.model.connector.parameters()]
    warm_start(model, processor, samples, frames_of, epochs=60, learning_rate=1e-2, folder=str(tmp_path))
    after = model.model.connector.parameters()
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True) if a.ndim == 2)

    weights = model.get_input_embeddings().weight.detach()
    name_embeddings = torch.stack(
        [name_targets(processor, name, model.config.token_groups[2], weights) for name in names]
    )
    loss_model = GroupTokenLoss(model.model.connector, name_embeddings, weights.mean(0)).eval()
    best = loss_model(groups.frames, groups.names)["cosines"].argmax(1)
    assert (best == groups.names).float().mean() > 0.9


def test_queries_that_see_a_whole_clip_point_to_what_sounds_in_their_window(tiny, tmp_path):
    torch.manual_seed(0)
    model, processor = tiny("apt")
    model.config.num_queries, model.config.segment_s = 6, 3.0  # three windows of a second
    model.model.connector = model.model.build_connector()
    samples = [scene(i, f"Question {i}?") for i in range(4)]

    frames_of = partial(encoded, model, processor)
    name_ids = {"a whistle blows": 0, "rain falls": 1, "silence": 2}
    clips = EventClips(model, samples, frames_of, name_ids)
    assert [clips[i]["names"].tolist() for i in range(4)] == [[0, 1, 2]] * 4
    items = [clips[i] for i in range(4)]
    told = [item["instruction"] for item in items]
    batch = clips.collate(processor, items)
    read = processor.instructions.batch_decode(batch["instruction_ids"], skip_special_tokens=True)
    assert [text.lower() for text in read] == [text.lower() for text in [*told[1:], told[0]]]

    warm_start(model, processor, samples, frames_of, epochs=60, learning_rate=5e-3, folder=str(tmp_path))
    assert model.model.connector.frame_mean.abs().sum() > 0
    weights = model.get_input_embeddings().weight.detach()
    name_embeddings = torch.stack([name_targets(processor, name, 2, weights) for name in name_ids])
    loss_model = QueryTokenLoss(
        model.model.connector, name_embeddings, weights.mean(0), *activity_embeddings(model, processor)
    ).eval()
    best = loss_model(**batch)["cosines"].argmax(1)
    assert (best == batch["names"].flatten()).float().mean() > 0.9


def activity_embeddings(model, processor):
    weights = model.get_input_embeddings().weight.detach()
    seconds = torch.stack([mean_embedding(processor, str(n), weights) for n in range(30)])
    return torch.cat([name_targets(processor, word, 1, weights) for word in ACTIVITY_WORDS]), seconds


def test_shares_of_the_time_are_filled_and_begun():
    found = activity(scene(0), "a/noise", 3, 4 / 3)
    torch.testing.assert_close(found, torch.tensor([[0.25, 1.0], [0.5, 0.0], [0.0, 0.0]]))
    assert not activity(scene(0), "a/bell", 3, 4 / 3).any()
    assert activity(scene(0), "a/noise", 2, 0.5).sum() == 0  # it begins where the pass ends


def test_queries_that_are_asked_about_a_sound_mark_it(tiny, tmp_path):
    torch.manual_seed(0)
    model, processor = tiny("apt")
    model.config.num_queries, model.config.segment_s = 6, 3.0
    model.model.connector = model.model.build_connector()
    both = ("a/tone", "a/noise")
    samples = [replace(scene(i, name[2:]), origin={"asked": name}) for i in range(4) for name in both]
    samples.append(replace(scene(9), origin={"asked": "1.0s and 2.0s"}))

    frames_of = partial(encoded, model, processor)
    name_ids = {"a whistle blows": 0, "rain falls": 1, "silence": 2}
    clips = EventClips(model, samples, frames_of, name_ids)
    items = [clips[i] for i in range(len(samples))]
    assert [item["asked"] for item in items] == [True] * 8 + [False]
    assert items[1]["activity"].tolist() == [[0, 0], [0, 0], [1, 1], [1, 0], [0, 0], [0, 0]]
    batch = clips.collate(processor, items)
    read = processor.instructions.batch_decode(batch["instruction_ids"], skip_special_tokens=True)
    assert read[:8] == ["tone", "noise"] * 4  # a question about a sound stays with its clip

    warm_start(model, processor, samples, frames_of, epochs=110, learning_rate=5e-3, folder=str(tmp_path))
    tokens = model.model.connector(
        *(batch[name] for name in ("frames", "lengths", "instruction_ids", "instruction_mask"))
    )[0][:, 1:]
    (no, _), seconds = activity_embeddings(model, processor)
    words = torch.cat([seconds[:3], no[None]])
    nearest = torch.cdist(tokens[:8, :4], words).argmin(2)  # of the two seconds there are
    there = batch["activity"][:8, :4, 0] > 0.5
    wanted = torch.where(there, torch.tensor([0, 0, 1, 1]), 3)
    assert (nearest == wanted).float().mean() > 0.9


def test_names_leave_out_little_words_and_share_the_rest(tiny):
    model, processor = tiny("acdc")
    weights = model.get_input_embeddings().weight.detach()

    def word(text):
        return weights[processor.tokenizer(f" {text}", add_special_tokens=False)["input_ids"]]

    def words(caption, count):
        return name_targets(processor, caption, count, weights)

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


def test_overlapping_windows_belong_to_the_event_at_their_start(tiny):
    model, _ = tiny("salmonn")
    model.config.window_s, model.config.stride_s = 0.2, 0.1
    frames = torch.arange(100.0)[:, None].expand(100, 32)
    groups = event_frame_groups(model, [scene(0)], lambda s: frames, {"a whistle blows": 0, "rain falls": 1})
    assert groups.frames.shape == (19, 10, 32)
    assert groups.frames[3, :, 0].tolist() == [15.0 + i for i in range(10)]
    assert groups.names.tolist() == [0] * 10 + [1] * 9


def test_standardised_linear_connector_is_one_linear_layer(tiny):
    connector = tiny("qwen2-audio")[0].model.connector
    frames = torch.randn(1, 6, connector.linear.in_features) * 3 + 5
    mean, scale = frames.mean((0, 1)), 1 / frames.std((0, 1))
    lengths = torch.tensor([6])
    wanted = connector((frames - mean) * scale, lengths)[0]
    connector.standardise(mean, scale)
    torch.testing.assert_close(connector(frames, lengths)[0], wanted, rtol=1e-4, atol=1e-4)
