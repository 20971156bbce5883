"""APT's stages through ``lalm train`` at tiny size: alignment, then answers with an encoder that trains."""

import json

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from tiny_parts import noise

from lalm.data.sample import Sample, ask, write_manifest
from lalm.evaluate.metrics import METRICS, Answer, Resources
from lalm.evaluate.metrics.classification import mean_average_precision
from lalm.evaluate.metrics.embeddings import AlignerTexts
from lalm.models.load import ModelError, load_hearing, load_model
from lalm.training import recipe
from lalm.training import run as train
from lalm.training.objectives.alignment import AlignError

ALIGNER = {
    **{"vocab_size": 90, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"intermediate_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}


def settings(world, out: str, **changes) -> recipe.Recipe:
    encoder, llm, bert, _ = world
    fields = {
        "system": "apt",
        "init": {
            **{"encoder": str(encoder), "aligner": str(bert), "llm": str(llm)},
            "options": {"num_queries": 3, "aligner": ALIGNER},
        },
        "align": True,
        "trainable": ["connector.norm", "connector.queries", "connector.aligner"],
        "data": {
            "train": [{"path": str(world[3] / "train.jsonl")}],
            "valid": [str(world[3] / "train.jsonl")],
        },
        "optim": {"learning_rate": 5e-3, "batch_size": 6, "max_steps": 16, "schedule": "constant"},
        "every": {"log": 1, "save": 8, "valid": 8},
        "cache": str(world[3] / "frames"),
        "out": str(world[3] / out),
    }
    return recipe.Recipe.model_validate(fields | changes)


@pytest.fixture(scope="module")
def world(tiny_folders, tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    samples = []
    for i, caption in enumerate(["a dog barks", "rain", "a bell", "wind blows", "a car", "an owl"]):
        clip = noise(folder / f"{i}.wav", 0.4 + 0.3 * i, seed=i)
        user = {"role": "user", "content": [{"type": "audio", "audio": str(clip)}]}
        samples.append(Sample((user, {"role": "assistant", "content": caption}), id=f"clip{i}"))
    write_manifest(folder / "train.jsonl", samples)
    return *tiny_folders, tiny_bert, folder


@pytest.fixture(scope="module")
def aligned(world):
    torch.set_num_threads(1)
    return train.run(settings(world, "aligned"))


def lines(out, key):
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[key] for line in found if key in line}


def test_alignment_learns_and_is_measured_by_recall(aligned):
    losses = lines(aligned, "loss")
    assert losses[16] < 0.85 * losses[1]
    for name in ("valid_loss", "valid_atc", "valid_atm", "valid_agtg", "valid_audio_to_text_recall_at_1"):
        assert sorted(lines(aligned, name)) == [8, 16], name
    assert lines(aligned, "valid_text_to_audio_recall_at_5")[16] > 0.8
    names = set(load_file(aligned / "model.safetensors"))
    assert "model.connector.heads.temperature" in names and not any("audio_tower" in name for name in names)


def test_of_longer_clips_alignment_hears_the_first_segment(world, tmp_path, capsys):
    """Clotho's clips are 15 to 30 s, WavCaps' minutes: the lineage cuts all of them to 10.24 s."""
    samples = []
    for i, caption in enumerate(["a dog barks", "rain", "a bell", "wind blows"]):
        long = noise(tmp_path / f"long{i}.wav", 12.0 + i, seed=i)
        start, _ = soundfile.read(long, frames=int(10.24 * 16_000), dtype="float32")
        soundfile.write(tmp_path / f"start{i}.wav", start, 16_000, subtype="FLOAT")
        for name in ("long", "start"):
            user = {"role": "user", "content": [{"type": "audio", "audio": str(tmp_path / f"{name}{i}.wav")}]}
            samples.append((name, Sample((user, {"role": "assistant", "content": caption}), id=f"{name}{i}")))
    curves = {}
    for name, cache in (("long", "frames"), ("start", "frames"), ("long", None)):
        write_manifest(tmp_path / f"{name}.jsonl", [s for kind, s in samples if kind == name])
        data = {"train": [{"path": str(tmp_path / f"{name}.jsonl")}]}
        optim = {"learning_rate": 1e-3, "batch_size": 4, "max_steps": 2}
        out = f"{name}-{cache}"
        place = str(tmp_path / cache) if cache else None
        made = train.run(settings(world, out, data=data, optim=optim, cache=place))
        curves[out] = [pytest.approx(v, abs=2e-3) for v in lines(made, "loss").values()]
    assert "of a longer clip the first 10.24 s" in " ".join(capsys.readouterr().out.split())
    assert [v.expected for v in curves["long-frames"]] == curves["start-frames"] == curves["long-None"]


def test_tags_are_scored_by_the_text_side_of_stage_0(world, aligned):
    """By hand: the mean of a class's token states, the answer's token nearest to it, no [CLS]."""
    classes, texts = ["a dog", "rain", "an owl"], ["rain on a roof", " ", "dog"]
    samples = [
        Sample(ask(["x.wav"], "").messages, id=t, references=(c,))
        for t, c in zip(texts, classes, strict=True)
    ]
    answers = [Answer(s, text, text) for s, text in zip(samples, texts, strict=True)]
    resources = Resources({"aligner": aligned})
    measured = METRICS["map"].measure(answers, resources)
    hearing, tokenizer = load_hearing(aligned)

    def states(text):
        found = tokenizer([text], return_tensors="pt")
        with torch.no_grad():
            return hearing.connector.read_text(found["input_ids"], found["attention_mask"])[0, 1:]

    names = sorted(classes)
    cosine = torch.nn.functional.cosine_similarity
    wanted = torch.stack(
        [
            torch.stack([cosine(states(text), states(name).mean(0)[None]).max() for name in names])
            if text.strip()
            else torch.zeros(3)
            for text in texts
        ]
    )
    found = AlignerTexts(aligned).scores(texts, names)
    torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-5, rtol=1e-5)
    truth = np.array([[float(c in s.references) for c in names] for s in samples])
    assert measured.value == mean_average_precision(wanted.numpy(), truth).value
    assert resources.used["map"].startswith("aligned (weights")
    with pytest.raises(ModelError, match="there is no model folder"):
        AlignerTexts(aligned / "none")


def test_a_stopped_alignment_goes_on_as_if_it_had_not_stopped(world, aligned):
    first = settings(world, "stopped", optim={**settings(world, "x").optim.model_dump(), "max_steps": 8})
    out = train.run(first)
    train.run(settings(world, "stopped"))
    assert lines(out, "loss") == lines(aligned, "loss")
    one, other = (load_file(folder / "model.safetensors") for folder in (aligned, out))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_next_stage_starts_from_it_and_keeps_a_trained_encoder_slim(world, aligned):
    fields = {
        "init": {"from": str(aligned)},
        "align": False,
        "trainable": ["connector", "audio_tower"],
        "cache": None,
        "optim": {"learning_rate": 1e-3, "batch_size": 2, "max_steps": 2},
        "every": {"log": 1, "save": 2, "valid": 0},
    }
    out = train.run(settings(world, "single", **fields))
    before, after = load_file(aligned / "model.safetensors"), load_file(out / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "model.connector.projection.weight" in moved and "model.connector.audio_token" in moved
    assert not any("heads" in name for name in moved)
    assert any(name.startswith("model.audio_tower.") for name in after)
    assert not any("language_model" in name for name in after)
    model, _ = load_model(out)
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in after.items())


def test_alignment_of_what_cannot_be_aligned_is_refused(world):
    with pytest.raises(AlignError, match=r"trains the connector alone, not model\.audio_tower"):
        train.run(settings(world, "no", trainable=["connector", "audio_tower"]))
    encoder, llm, _, _ = world
    acdc = {"encoder": str(encoder), "llm": str(llm), "options": {"group_size": 10, "connector_width": 8}}
    with pytest.raises(AlignError, match="reads no text"):
        train.run(settings(world, "nor", system="acdc", init=acdc, trainable=["connector"]))
    with pytest.raises(ValueError, match="'align' trains the connector alone: take out"):
        settings(world, "neither", lora={"rank": 2, "alpha": 4})
