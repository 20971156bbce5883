"""Likelihoods of answers: equal to the model's own loss, one option at a time, whatever the system."""

import numpy as np
import pytest
import torch

from lalm.data.audio_inputs import CachedFrames
from lalm.data.sample import ask
from lalm.inference.engine import Engine, Options
from lalm.inference.likelihood import answered, log_likelihoods
from lalm.models.processing import pad_audio

OPTIONS = ["Yes.", "No, it is not.", "x"]


def sound(num_samples, seed=0):
    return (np.random.default_rng(seed).standard_normal(num_samples) * 0.1).astype(np.float32)


@pytest.mark.parametrize("system", ["acdc", "apt", "qwen2-audio", "salmonn"])
def test_they_are_the_losses_of_whole_rows(tiny, system):
    model, processor = tiny(system)
    engine = Engine(model, processor, "tiny")
    question = ask([sound(16_000), sound(20_000, 1)], "Is it a horse?")
    found = log_likelihoods(engine, question, OPTIONS)
    for option, likelihood in zip(OPTIONS, found, strict=True):
        batch = processor.batch([question.with_target(option)], labels=True)
        with torch.no_grad():
            loss = model(**batch, num_items_in_batch=1).loss
        assert likelihood == pytest.approx(-float(loss), abs=2e-3)
    assert len(set(found)) == 3
    assert log_likelihoods(engine, question, OPTIONS[:1]) == pytest.approx(found[:1], abs=1e-3)


def test_an_answer_in_words_costs_no_second_reading(tiny):
    """The same answer as the engine's, and the same likelihoods, of decoded clips and of encoded ones."""
    model, processor = tiny("apt")
    engine = Engine(model, processor, "tiny")
    question = ask([sound(16_000), sound(20_000, 1)], "Is it a horse?")
    clips = engine.processor.clips(question)
    text, found = answered(engine, question, OPTIONS, clips, 5)
    assert text == engine.reply([question], Options(max_new_tokens=5))[0].text and text
    assert found == pytest.approx(log_likelihoods(engine, question, OPTIONS), abs=1e-3)
    with torch.no_grad():
        audio = pad_audio(clips)
        frames, lengths = model.model.encode(audio["input_values"], audio["audio_lengths"])
    encoded = [CachedFrames(row[:length]) for row, length in zip(frames, lengths.tolist(), strict=True)]
    again, likelihoods = answered(engine, question, OPTIONS, encoded, 5)
    assert again == text and likelihoods == pytest.approx(found, abs=1e-3)


def test_an_empty_option_is_refused(tiny):
    engine = Engine(*tiny("acdc"), "tiny")
    with pytest.raises(ValueError, match="empty text"):
        log_likelihoods(engine, ask([sound(16_000)], "?"), ["Yes.", " "])
