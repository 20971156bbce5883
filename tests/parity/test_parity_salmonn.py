"""A checkpoint that the authors' own ``save_checkpoint`` wrote, with BEATs, gives their numbers.

Fixture ``salmonn/``: bytedance/SALMONN (branch salmonn) run on tiny random parts; see README.md there.
"""

import hashlib
import json

import numpy as np
import pytest
import torch
from parity_fixtures import FIXTURES, signal, unpack, wav
from safetensors.torch import load_file

from lalm.cli.app import run
from lalm.data.sample import ask
from lalm.encoders import load_encoder
from lalm.inference.engine import Engine, Options
from lalm.models.load import load_model
from lalm.systems.salmonn.released import read

HERE = FIXTURES / "salmonn"
FACTS = json.loads((HERE / "outputs.json").read_text("utf-8"))
WANTED = load_file(HERE / "outputs.safetensors")
QUESTION, TARGET = FACTS["prompt"]["question"], FACTS["prompt"]["target"]
CLIPS = {"two_seconds": (32_000, 1), "half_second": (8_000, 2), "stereo": (20_000, 3), "long": (112_345, 5)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with checkpoint_0.pth and beats.pt as the authors' code has them."""
    folder = tmp_path_factory.mktemp("salmonn")
    unpack("salmonn/checkpoint_0.pth", folder)
    unpack("salmonn/beats.pt", folder)
    return folder


ATOL = 2e-4  # of numbers around 1; a clip or a frame in the wrong place makes 1e-1 and more


def imported(checkpoint, files, out):
    pytest.importorskip("sentencepiece")  # reads the tokenizer; see test_parity_vicuna.py
    words = ["import", "salmonn", checkpoint, "--llm", HERE / "vicuna", "--whisper", HERE / "whisper"]
    return run([str(w) for w in [*words, "--beats", files / "beats.pt", "--out", out]])


@pytest.fixture(scope="module")
def engine(files, tmp_path_factory):
    """The imported model. Names of BEATs are taken out first, so that the numbers below are compared even
    where the file as written is refused; ``test_the_file_as_written_is_imported`` is about that."""
    folder = tmp_path_factory.mktemp("imported")
    content = torch.load(files / "checkpoint_0.pth", weights_only=True)
    content["model"] = {k: v for k, v in content["model"].items() if not k.startswith("beats.")}
    torch.save(content, folder / "own.pth")
    assert imported(folder / "own.pth", files, folder / "model") == 0
    return Engine(*load_model(folder / "model"), "salmonn")


def question(name, tmp_path):
    """The first channel of a clip: the authors' code hears no other."""
    samples = signal(*CLIPS[name])
    return ask([str(wav(tmp_path / f"{name}.wav", samples))], QUESTION)


def test_the_clips_are_those_that_the_authors_code_heard():
    for name, (length, seed) in CLIPS.items():
        if name != "stereo":
            assert hashlib.sha256(signal(length, seed).tobytes()).hexdigest() == FACTS[name]["sha256"]


# FAULT at 2351384: save_checkpoint takes out the frozen names of named_parameters(), which names a shared
# parameter once. So the aliases of BEATs' shared table, layer 1 and up, stay in the file of every run with
# BEATs, and released.read refuses them ("tensors that no SALMONN has").
def test_the_file_as_written_is_imported(files, tmp_path, capsys):
    names = torch.load(files / "checkpoint_0.pth", weights_only=True)["model"]
    aliases = [k for k in names if k.startswith("beats.")]
    assert aliases == [f"beats.encoder.layers.{i}.self_attn.relative_attention_bias.weight" for i in (1, 2)]
    code = imported(files / "checkpoint_0.pth", files, tmp_path / "out")
    assert code == 0, capsys.readouterr().err


# FAULT at 2351384: as above.
def test_every_tensor_of_the_file_is_read_or_known(files):
    found = read(files / "checkpoint_0.pth")
    names = torch.load(files / "checkpoint_0.pth", weights_only=True)["model"]
    assert len(found.tensors) - 2 + len(found.skipped) == len(names)
    assert (found.llm_width, found.llm_layers, found.speech_width, found.audio_width) == (32, 2, 8, 16)
    assert found.lora["rank"] == 8 and found.lora["alpha"] == 32


def test_beats_gives_the_authors_frames(files):
    beats = load_encoder(files / "beats.pt")
    for name, (length, seed) in CLIPS.items():
        audio = torch.from_numpy(signal(length, seed).astype("float32") / 32768)
        audio = torch.nn.functional.pad(audio, (0, max(0, 16_000 - length)))  # theirs: at least 1 s
        with torch.no_grad():
            frames, _ = beats(audio[None], torch.tensor([len(audio)]))
        torch.testing.assert_close(frames[0], WANTED[f"{name}.beats"], atol=2e-4, rtol=1e-3)


def test_whisper_gives_the_authors_frames():
    whisper = load_encoder(HERE / "whisper", {"pad_to_window": True})
    audio = torch.from_numpy(signal(*CLIPS["two_seconds"]).astype("float32") / 32768)
    with torch.no_grad():
        frames, _ = whisper(audio[None], torch.tensor([len(audio)]))
    torch.testing.assert_close(frames[0, :200], WANTED["two_seconds.whisper_head"], atol=2e-4, rtol=1e-3)


# FAULT at 2351384 for "half_second": the authors' loader pads to 1 s before BEATs, ours gives BEATs the clip
# as it is: 24 frames, and zeros where theirs has 24 frames of (encoded) silence.
@pytest.mark.parametrize("name", CLIPS)
def test_tokens_and_logits_are_the_authors(engine, name, tmp_path):
    batch = engine.processor.batch([question(name, tmp_path)])
    with torch.no_grad():
        tokens = engine.model.get_audio_features(batch["input_values"], batch["audio_lengths"]).pooler_output
        logits = engine.model(**batch).logits[0, -1]
    torch.testing.assert_close(tokens, WANTED[f"{name}.encode_speech"], atol=ATOL, rtol=1e-3)
    size = len(WANTED["vicuna.logits"][0])  # theirs has a row more for [PAD], ours for the audio token
    torch.testing.assert_close(logits[:size], WANTED[f"{name}.logits"][:size], atol=ATOL, rtol=1e-3)


@pytest.mark.xfail(strict=True, reason="lalm hears the mean of the channels, the authors' loader the first")
def test_a_stereo_file_is_heard_as_the_authors_hear_it(engine, tmp_path):
    both = np.stack([signal(20_000, 3), signal(20_000, 4)], 1)
    assert hashlib.sha256(both.tobytes()).hexdigest() == FACTS["stereo"]["sha256"]
    batch = engine.processor.batch([ask([str(wav(tmp_path / "both.wav", both))], QUESTION)])
    with torch.no_grad():
        tokens = engine.model.get_audio_features(batch["input_values"], batch["audio_lengths"]).pooler_output
    torch.testing.assert_close(tokens, WANTED["stereo.encode_speech"], atol=ATOL, rtol=1e-3)


def test_prompt_ids_are_the_authors(engine, tmp_path):
    ids = engine.processor.batch([question("two_seconds", tmp_path)])["input_ids"][0].tolist()
    slot = engine.processor.audio_token_id
    wanted = [1, *FACTS["prompt"]["before"], *[slot] * 88, *FACTS["prompt"]["after"]]
    assert ids == wanted


def test_target_ids_and_loss_are_the_authors(engine, tmp_path):
    sample = question("two_seconds", tmp_path).with_target(TARGET)
    batch = engine.processor.batch([sample], labels=True)
    labels = batch["labels"][0]
    assert labels[labels != -100].tolist() == FACTS["prompt"]["target_ids"]
    with torch.no_grad():
        loss = float(engine.model(**batch).loss)
    # 4e-4 more in theirs: its softmax has the untrained row that [PAD] adds to the LLM, one of 385 here
    assert loss == pytest.approx(FACTS["two_seconds"]["loss"], abs=1e-3)


# FAULT at 2351384 for "half_second": see above.
@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", CLIPS)
def test_answers_are_the_authors(engine, name, beams, tmp_path):
    [reply] = engine.reply([question(name, tmp_path)], Options(max_new_tokens=8, beams=beams))
    wanted = FACTS[name]["answers"][str(beams)].removeprefix("<s>").removesuffix("</s>").strip()
    assert reply.text == wanted
