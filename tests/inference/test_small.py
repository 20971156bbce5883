"""The embedded default, with its real weights, on real recordings."""

from pathlib import Path

import pytest
import torch

from lalm import Engine, Options, ask
from lalm.models import SMALL

SAMPLES = Path(__file__).parents[2] / "samples"

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def engine():
    return Engine.load()


def test_it_is_small_and_its_recipe_is_beside_it():
    assert sum(f.stat().st_size for f in SMALL.iterdir()) < 20e6
    assert {"config.json", "model.safetensors", "recipe.yaml", "README.md"} <= {
        f.name for f in SMALL.iterdir()
    }


def test_it_answers_about_a_recording_and_says_what_it_heard(engine):
    (reply,) = engine.reply([ask([SAMPLES / "train.ogg"], "What do you hear?")], Options(max_new_tokens=16))
    assert reply.text
    (heard,) = reply.heard
    assert heard.seconds_given == pytest.approx(heard.seconds_heard)


def test_the_audio_decides_what_the_llm_expects(engine):
    """The right word is likelier after its own recording than after the others."""
    words = {"horse": " horse", "applause": " applause", "water": " water"}
    ids = {
        k: engine.processor.tokenizer(w, add_special_tokens=False)["input_ids"][0] for k, w in words.items()
    }
    scores = {}
    for name in words:
        batch = engine.processor.batch([ask([SAMPLES / f"{name}.ogg"], "What do you hear?")])
        with torch.no_grad():
            tokens = engine.model.get_audio_features(batch["input_values"], batch["audio_lengths"])
        table = engine.model.get_input_embeddings().weight.float()
        away = tokens.pooler_output.float() - table.mean(0)
        for word, i in ids.items():
            scores[name, word] = torch.cosine_similarity(away, table[i] - table.mean(0), dim=1).max().item()
    right = sum(max(words, key=lambda name: scores[name, word]) == word for word in words)
    assert right >= 2
