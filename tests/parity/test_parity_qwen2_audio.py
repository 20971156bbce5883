"""Qwen2-Audio folders as four versions of transformers write them, and what those versions make of them.

Fixture ``qwen2_audio/``: one set of tiny weights, saved by transformers 4.45, 4.52, 4.57 and 5.23 with and
without the processor's chat template; see README.md there.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from parity_fixtures import FIXTURES, signal
from safetensors.torch import load_file

from lalm.data.sample import Sample
from lalm.inference.engine import Engine, Options
from lalm.models.load import load_model
from lalm.models.processing import pad_audio

HERE = FIXTURES / "qwen2_audio"
# FAULTS at 2351384:
# v4.45, v4.52: the template of those versions knows an audio part by a key "audio" or "audio_url", not by its
#   type, and processing._bare_parts keeps the type alone. No slot is written: every question with audio ends
#   in "1 audios but 0 audio places in the text".
# v4.45_tokenizer_template: released._template looks for chat_template.jinja and .json only, passes over the
#   template in tokenizer_config.json, and asks as the base model is asked.
# v4.45_no_template, v5.23_no_template: for folders that hold no template transformers' processor has one
#   (ChatML, "Audio 1: ..."), and says that it is there because the Hub's folder still needs it. lalm takes
#   such a folder for the base model, without a word.
LAYOUTS = sorted(path.name for path in HERE.iterdir() if path.is_dir())
CHATS = ("one", "two", "text")


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """``engines(layout)``: lalm's engine over that folder, its weights beside it."""
    opened = {}

    def of(layout):
        if layout not in opened:
            folder = tmp_path_factory.mktemp("qwen2") / layout
            shutil.copytree(HERE / layout, folder)
            shutil.copy(HERE / "weights.safetensors", folder / "model.safetensors")
            opened[layout] = Engine(*load_model(folder), layout)
        return opened[layout]

    return of


def sample_of(facts):
    """The recorded conversation with the clips that were heard in it."""
    clips = iter(facts["clips"])

    def part(given):
        if given["type"] != "audio":
            return given
        samples = signal(*next(clips)).astype(np.float32) / 32768
        return {"type": "audio", "audio": samples, "rate": 16_000}

    def content(given):
        return given if isinstance(given, str) else [part(p) for p in given]

    return Sample(tuple({"role": m["role"], "content": content(m["content"])} for m in facts["messages"]))


def expanded(facts, slot):
    """The recorded ids, each unexpanded slot (4.45 expands in the model) as long as its clip."""
    ids = facts["input_ids"]
    if ids.count(slot) != len(facts["clips"]):
        return ids
    lengths = iter(facts["clips"])
    result = []
    for token in ids:
        frames = -(-next(lengths)[0] // 160) if token == slot else None
        result += [token] if frames is None else [slot] * ((((frames - 1) // 2 + 1) - 2) // 2 + 1)
    return result


def facts_of(layout, chat):
    return json.loads((HERE / f"{layout}.outputs.json").read_text("utf-8"))["chats"][chat]


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_text_and_ids_are_those_of_the_version_that_wrote_the_folder(layout, chat, engines):
    engine, facts = engines(layout), facts_of(layout, chat)
    sample = sample_of(facts)
    assert engine.processor.render(sample)[0] == facts["text"]
    ids = engine.processor.batch([sample])["input_ids"][0].tolist()
    assert ids == expanded(facts, engine.processor.audio_token_id)


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_answers_are_those_of_the_version_that_wrote_the_folder(layout, chat, engines):
    facts = facts_of(layout, chat)
    [reply] = engines(layout).reply([sample_of(facts)], Options(max_new_tokens=6))
    assert reply.text == facts["answer"].strip()


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_of_the_recorded_ids_are_those_of_the_version_that_wrote_the_folder(layout, chat, engines):
    engine, facts = engines(layout), facts_of(layout, chat)
    wanted = load_file(HERE / f"{layout}.outputs.safetensors")[f"{chat}.logits"]
    ids = torch.tensor([expanded(facts, engine.processor.audio_token_id)])
    audio = pad_audio(engine.processor.clips(sample_of(facts)))
    with torch.no_grad():
        logits = engine.model(input_ids=ids, attention_mask=torch.ones_like(ids), **audio).logits[0, -1]
    assert float(wanted.std()) > 0.2
    torch.testing.assert_close(logits[: len(wanted)], wanted, atol=2e-4, rtol=1e-3)


def test_only_the_templates_place_and_words_differ_between_the_layouts():
    """What each version writes: the file that holds the template, if any."""
    found = {
        layout: sorted(p.name for p in (HERE / layout).iterdir() if p.name.startswith("chat_template"))
        for layout in LAYOUTS
    }
    assert found == {
        "v4.45": ["chat_template.json"],
        "v4.45_no_template": [],
        "v4.45_tokenizer_template": [],
        "v4.52": ["chat_template.jinja"],
        "v4.57": ["chat_template.jinja"],
        "v5.23": ["chat_template.jinja"],
        "v5.23_no_template": [],
    }
    config = json.loads((HERE / "v4.45_tokenizer_template" / "tokenizer_config.json").read_text("utf-8"))
    assert "<|AUDIO|>" in config["chat_template"]
