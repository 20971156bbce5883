"""What every system promises, checked on tiny random models."""

import re

import numpy as np
import pytest
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

from lalm.data.audio_inputs import CachedFrames
from lalm.data.sample import Sample, ask
from lalm.models.load import load_model
from lalm.models.prefill import PER_CLIP
from lalm.models.save import save_model
from lalm.systems import SYSTEMS

# APT's text branch ends in its last layer: only alignment (stage 0) reads what comes out there.
TEXT_ONLY = re.compile(r"aligner\.encoder\.layer\.1\.(intermediate|output)\.")
LENGTHS = [1600, 16_000, 16_001, 40_123, 80_000]


@pytest.fixture(params=sorted(SYSTEMS))
def pair(request, tiny):
    torch.manual_seed(0)
    model, processor = tiny(request.param)
    return model.eval(), processor


def clip(num_samples: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(num_samples) * 0.1
    return (noise + 0.3 * np.sin(np.arange(num_samples) * (0.02 + 0.01 * seed))).astype(np.float32)


def question(*lengths: int, text: str = "What is it?") -> Sample:
    sample = ask([clip(n, seed=n % 7) for n in lengths], text)
    parts = [{**p, "rate": 16_000} if p["type"] == "audio" else p for p in sample.messages[0]["content"]]
    return Sample(messages=({"role": "user", "content": parts},))


@pytest.mark.parametrize("num_samples", [*LENGTHS, 31 * 16_000])
def test_slot_formula_equals_tokens_produced(pair, num_samples):
    model, _ = pair
    audio = torch.from_numpy(clip(num_samples))[None]
    tokens = model.get_audio_features(audio, torch.tensor([num_samples])).pooler_output
    assert len(tokens) == model.config.num_audio_tokens(num_samples)


def test_padded_batch_gives_the_tokens_of_single_runs(pair):
    model, _ = pair
    clips = [torch.from_numpy(clip(n, i)) for i, n in enumerate(LENGTHS)]
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    together = model.get_audio_features(batch, torch.tensor(LENGTHS)).pooler_output
    alone = [model.get_audio_features(c[None], torch.tensor([len(c)])).pooler_output for c in clips]
    torch.testing.assert_close(together, torch.cat(alone), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side_does_not_change_the_logits(pair, side):
    model, processor = pair
    rows = [question(16_000), question(48_000, 20_000), question(8_000, text="Why? " * 9)]
    batch = processor.batch(rows, padding_side=side)
    mask = batch["attention_mask"]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(**batch, position_ids=positions).logits
    for i, row in enumerate(rows):
        single = model(**processor.batch([row])).logits[0]
        torch.testing.assert_close(logits[i][mask[i].bool()], single, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_batched_answers_equal_single_answers(pair, options):
    model, processor = pair
    rows = [question(16_000, 30_000), question(50_000, 9_000), question(12_000)]
    options = {"max_new_tokens": 8, "do_sample": False, **options}
    together = processor.decode_new(model.generate(**processor.batch(rows), **options))
    alone = [processor.decode_new(model.generate(**processor.batch([r]), **options))[0] for r in rows]
    assert together == alone


def test_order_of_two_clips_matters(pair):
    model, processor = pair
    a, b = (model(**processor.batch([question(*o)])).logits for o in [(16_000, 50_000), (50_000, 16_000)])
    assert a.shape == b.shape
    assert not torch.allclose(a[0, -1], b[0, -1], atol=1e-4)


def test_text_only_rows_need_no_audio(pair):
    model, processor = pair
    rows = [Sample(messages=({"role": "user", "content": "Hello."},)), question(16_000)]
    logits = model(**processor.batch(rows)).logits
    assert torch.isfinite(logits).all()


def test_cached_frames_give_the_logits_of_audio(pair):
    model, processor = pair
    rows = [question(16_000, 48_000), question(24_000)]
    audio = processor.batch(rows)
    frames, lengths = model.model.encode(audio["input_values"], audio["audio_lengths"])
    clips = [CachedFrames(f[:n]) for f, n in zip(frames, lengths.tolist(), strict=True)]
    cached = processor.batch(rows, audios=[clips[:2], clips[2:]])
    torch.testing.assert_close(model(**cached).logits, model(**audio).logits, atol=1e-4, rtol=1e-3)


def test_labels_mark_the_answer_and_its_end_only(pair):
    _, processor = pair
    sample = question(16_000).with_target("a dog barks")
    batch = processor.batch([sample], labels=True)
    learned = batch["labels"][0]
    ids = learned[learned != -100]
    text = processor.tokenizer.decode(ids)
    assert text.lstrip().startswith("a dog barks") and len(text.lstrip()) > len("a dog barks")
    cut = processor.batch([Sample(messages=sample.messages, truncated=True)], labels=True)["labels"][0]
    assert processor.tokenizer.decode(cut[cut != -100]).lstrip() == "a dog barks"


def test_loss_equals_the_plain_formula(pair):
    model, processor = pair
    rows = [question(16_000).with_target("a dog barks"), question(40_000).with_target("rain")]
    batch = processor.batch(rows, labels=True)
    loss = model(**batch).loss
    labels = batch.pop("labels")
    logits = model(**batch).logits
    plain = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(loss, plain)


def test_gradients_reach_the_connector_and_nothing_else(pair):
    model, processor = pair
    model.set_trainable(["connector"])
    model.train()
    assert not model.model.audio_tower.training and not model.model.language_model.training
    model(**processor.batch([question(16_000).with_target("yes")], labels=True)).loss.backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    learning = {n for n, _ in model.named_parameters() if n.startswith("model.connector.")}
    assert reached == {name for name in learning if not TEXT_ONLY.search(name)}


def test_overfits_one_batch(pair):
    model, processor = pair
    model.set_trainable(["connector", "language_model", "lm_head"])
    rows = [question(16_000).with_target("a dog"), question(40_000).with_target("rain")]
    batch = processor.batch(rows, labels=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(30):
        loss = model(**batch).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]


def test_whole_checkpoint_round_trip_through_auto_classes(pair, tmp_path):
    model, processor = pair
    save_model(model, processor, tmp_path, slim=False)
    again, processor_again = (
        AutoModelForMultimodalLM.from_pretrained(tmp_path),
        AutoProcessor.from_pretrained(tmp_path),
    )
    sample = question(30_000)
    torch.testing.assert_close(
        again.eval()(**processor_again.batch([sample])).logits, model(**processor.batch([sample])).logits
    )
    loaded, _ = load_model(tmp_path)
    assert {n for n, _ in loaded.named_parameters()} == {n for n, _ in model.named_parameters()}


def test_too_few_slots_is_an_error_with_both_numbers(pair):
    model, processor = pair
    batch = processor.batch([question(16_000)])
    for name in set(batch) & set(PER_CLIP):
        batch[name] = torch.cat([batch[name]] * 2)
    with pytest.raises(ValueError, match=r"\d+ audio slots but the audio gives \d+ audio tokens"):
        model(**batch)


def test_too_short_clip_is_refused_by_name(pair):
    _, processor = pair
    if processor.config.num_audio_tokens(10) > 0:
        assert processor.batch([question(10)])["input_ids"].shape[0] == 1
    else:
        with pytest.raises(ValueError, match="too short to give one audio token"):
            processor.batch([question(10)])
