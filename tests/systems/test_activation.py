"""Activation tuning: which stories are kept, what trains, and what is said before and after."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny_parts import OPTIONS, noise

from lalm.cli.app import run
from lalm.data.readers import read_manifest
from lalm.data.sample import ask, message_text, write_manifest
from lalm.evaluate.perplexity import answer_nll, perplexities
from lalm.inference.engine import Engine, Reply
from lalm.models.assemble import build_model
from lalm.models.save import save_model
from lalm.systems.salmonn.activation import (
    ActivationError,
    good,
    learn,
    longest,
    without_audio,
    write_stories,
)
from lalm.systems.salmonn.prompts import prompts
from lalm.training import recipe

LONG = " ".join(f"word{i}" for i in range(60))


class Teller:
    """An engine whose replies are given; it remembers what was asked."""

    def __init__(self, texts):
        self.texts, self.asked, self.options = list(texts), [], []

    def reply(self, samples, options):
        self.asked += samples
        self.options.append(options)
        texts = [self.texts.pop(0) for _ in samples]
        return [Reply(t, (), 0.0, 0.0, 0.0, 60, "length" if t == LONG else "stop") for t in texts]


def clips(count):
    made = (replace(ask([f"{i}.wav"], "").with_target(f"Bird {i}."), id=f"c{i}") for i in range(count))
    return [replace(clip, task="caption", references=(f"bird {i}",)) for i, clip in enumerate(made)]


def test_good_stories_are_long_and_do_not_repeat():
    assert good(LONG) and not good(LONG[:100]) and not good("a b c d " * 20)


def test_long_stories_that_do_not_repeat_are_kept():
    other = LONG.replace("word", "sound")
    engine = Teller(["Birds.", LONG, "again and again and " * 20, other, LONG, LONG])
    made = write_stories(engine, clips(6), lora_scale=1.5, count=2, seed=3)
    assert [story.target for story in made.kept] == [LONG, other] and made.written == 4
    assert [story.truncated for story in made.kept] == [True, False]
    assert {options.lora_scale for options in engine.options} == {1.5}
    assert {options.max_new_tokens for options in engine.options} == {200}
    assert all(message_text(s.messages[0]) in prompts()["story"] for s in engine.asked)
    assert len({s.id for s in engine.asked}) == 4 and all(s.task == "story" for s in made.kept)
    assert made.kept[0].origin["caption"].startswith("Bird")
    with pytest.raises(ActivationError, match=r"of 3 stories at LoRA scale 2, 1 had 50 words"):
        write_stories(Teller([LONG, "no", "no"]), clips(3), lora_scale=2.0, count=2)


def test_an_interrupted_writing_goes_on(tmp_path):
    draft = tmp_path / "stories.draft.jsonl"
    texts = [LONG, "no", LONG, "no", LONG, "no"]
    whole = write_stories(Teller(list(texts)), clips(6), lora_scale=1.0, count=3)
    with pytest.raises(IndexError):  # it dies while writing the second batch
        write_stories(Teller(texts[:4]), clips(6), lora_scale=1.0, count=3, draft=draft)
    rest = Teller(texts[3:])
    again = write_stories(rest, clips(6), lora_scale=1.0, count=3, draft=draft)
    assert [s.id for s in again.kept] == [s.id for s in whole.kept] and again.written == whole.written == 6
    finished = write_stories(Teller([]), clips(6), lora_scale=1.0, count=3, draft=draft)
    assert [s.id for s in finished.kept] == [s.id for s in whole.kept]


def test_other_ways_of_table_5():
    rows = [clip.with_target("a " * n) for n, clip in enumerate(clips(5))]
    assert [len(row.target.split()) for row in longest(rows, 2)] == [4, 3]
    with pytest.raises(ActivationError, match="12 samples with an answer are needed, and there are 4"):
        longest(rows)
    story = write_stories(Teller([LONG]), clips(1), lora_scale=1.0, count=1).kept
    (bare,) = without_audio(story)
    assert bare.audios == [] and bare.target == LONG
    assert bare.messages[0]["content"] == f"Bird 0.\n{message_text(story[0].messages[0])}"
    with pytest.raises(ActivationError, match="no caption or transcript is known"):
        list(without_audio([replace(story[0], origin={})]))


@pytest.fixture
def stage(tiny_folders, tiny_beats, tmp_path):
    """A folder as stage 2 leaves it, with LoRA that has learned something, and a manifest."""
    whisper, llm = map(str, tiny_folders)
    lora = {"rank": 2, "alpha": 8.0, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}
    parts = {"encoder": whisper, "encoder_2": str(tiny_beats), "llm": llm}
    model, processor = build_model("salmonn", **parts, options=OPTIONS["salmonn"], lora=lora)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    save_model(model, processor, tmp_path / "stage2", slim=True)
    rows = []
    for i in range(3):
        path = noise(tmp_path / f"{i}.wav", 0.8 + 0.2 * i, seed=i)
        row = ask([path], "What?").with_target(f"Rain falls on roof {i}.")
        rows.append(replace(row, id=f"r{i}", task="caption"))
    asked = replace(ask([path], "Is it rain?"), id="p", task="presence", references=("yes",))
    write_manifest(tmp_path / "rows.jsonl", [*rows, asked])
    write_manifest(tmp_path / "stories.jsonl", [replace(ask([path], "A story!"), id="s", task="story")])
    return tmp_path / "stage2"


def test_lora_and_connector_go_on_from_the_stage_before(stage, tmp_path):
    before = load_file(stage / "model.safetensors")
    shared = {"steps": 2, "learning_rate": 1e-2, "seed": 0}
    learn(stage, tmp_path / "rows.jsonl", tmp_path / "both", connector=True, **shared)
    learn(stage, tmp_path / "rows.jsonl", tmp_path / "lora", connector=False, **shared)
    both, lora = (load_file(tmp_path / name / "model.safetensors") for name in ("both", "lora"))
    assert set(both) == set(lora) == set(before)
    for name, tensor in before.items():
        if "lora_" in name:
            assert not torch.equal(lora[name], tensor) and (lora[name] - tensor).abs().max() < 0.05
        elif "connector" in name:
            assert torch.equal(lora[name], tensor)
    assert not torch.equal(both["model.connector.queries"], before["model.connector.queries"])


def test_stages_start_from_each_other():
    for size in ("", "_small"):
        stages = [recipe.load(f"salmonn/{name}{size}") for name in ("1_pretrain", "2_instruct", "3_activate")]
        assert [stage.init.from_ for stage in stages] == [None, stages[0].out, stages[1].out]
        assert len({stage.lora.model_dump_json() for stage in stages}) == 1
        assert all(stage.trainable == ["connector"] for stage in stages)
        assert (stages[2].optim.max_steps, stages[2].optim.batch_size) == (12, 1)


def test_a_model_without_lora_cannot_be_activated(tiny, tmp_path):
    model, processor = tiny("salmonn")
    save_model(model, processor, tmp_path / "plain", slim=True)
    with pytest.raises(ActivationError, match="has no LoRA, so there is nothing to activate"):
        learn(
            tmp_path / "plain", tmp_path, tmp_path / "o", steps=1, learning_rate=1.0, connector=True, seed=0
        )


def test_the_command_activates_and_reports(stage, tmp_path, capsys):
    out, rows = tmp_path / "active", str(tmp_path / "rows.jsonl")
    words = ["activate", str(stage), "--clips", rows, "--out", str(out), "--way", "given", "--steps", "3"]
    words += ["--measure", rows, "--measure", str(tmp_path / "stories.jsonl"), "--learning-rate", "0.01"]
    assert run([*words, "--device", "cpu"]) == 0, capsys.readouterr().err
    report = json.loads((out / "activation.json").read_text())
    assert set(report["before"]) == set(report["after"]) == {"caption", "presence", "story"}
    assert report["after"]["caption"]["perplexity"] < report["before"]["caption"]["perplexity"]
    assert set(report["before"]["story"]) == {
        *("n", "diversity", "story_following", "repeat_rate", "unreadable")
    }
    assert {s.id for s in read_manifest(out / "stories.jsonl")} == {"r0", "r1", "r2"}
    assert "caption         perplexity" in capsys.readouterr().out
    learned = (out / "model.safetensors").stat().st_mtime_ns
    assert run([*words, "--device", "cpu"]) == 0  # as by a run that was killed right behind it
    assert "this very command finished before" in capsys.readouterr().out
    assert (out / "model.safetensors").stat().st_mtime_ns == learned


def test_one_step_after_another_leaves_what_one_run_leaves(stage, tmp_path):
    shared = {"learning_rate": 1e-2, "connector": True, "seed": 0}
    learn(stage, tmp_path / "rows.jsonl", tmp_path / "once", steps=2, **shared)
    for steps in (1, 2, 2):  # the last one finds all done, as after a kill between training and measuring
        learn(stage, tmp_path / "rows.jsonl", tmp_path / "each", steps=steps, save_every=1, **shared)
    once, each = (load_file(tmp_path / name / "model.safetensors") for name in ("once", "each"))
    assert all(torch.equal(once[name], each[name]) for name in once)


def test_every_step_is_measured_and_drawn(stage, tmp_path, capsys):
    """Figures 2 and 21: earlier stages, step 0 and every step; a killed one goes on."""
    rows, out = str(tmp_path / "rows.jsonl"), tmp_path / "each"
    words = ["activate", str(stage), "--clips", rows, "--way", "given", "--steps", "1", "--device", "cpu"]
    words += ["--measure", rows, "--per-task", "1", "--learning-rate", "0.01", "--out", str(out)]
    assert run([*words, "--each-step", "--earlier", str(stage)]) == 0, capsys.readouterr().err
    assert "activation_steps.png" in capsys.readouterr().out
    whole = json.loads((out / "activation_steps.json").read_text())
    assert [place["name"] for place in whole["places"]] == ["stage2", "0", "1"]
    first, second, last = [
        {(m["task"], m["metric"]): m["mean"] for m in place["measures"]} for place in whole["places"]
    ]
    assert first == second and last["caption", "perplexity"] < first["caption", "perplexity"]
    assert ("presence", "accuracy") in last and ("caption", "cider_d") in last
    for name in ("activation_steps.png", "activation_perplexity.png"):
        assert (out / name).read_bytes()[:4] == b"\x89PNG"
    (
        out / "activation.json"
    ).unlink()  # killed when all was measured: only the figures and the report are due
    assert run([*words, "--each-step", "--earlier", str(stage)]) == 0, capsys.readouterr().err
    assert json.loads((out / "activation_steps.json").read_text()) == whole
    assert "measured after" not in capsys.readouterr().out and (out / "activation.json").is_file()


def test_the_scales_command_measures_and_draws(stage, tmp_path, capsys):
    rows, out = str(tmp_path / "rows.jsonl"), tmp_path / "scales"
    words = ["scales", str(stage), "--measure", rows, "--out", str(out), "--device", "cpu"]
    words += ["--per-task", "1"]
    assert run([*words, "--scale", "4", "--scale", "0"]) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert "LoRA scale 0    caption" in shown and "scales.png" in shown
    assert (out / "scales.png").read_bytes()[:4] == (out / "scales_perplexity.png").read_bytes()[:4]
    places = json.loads((out / "scales.json").read_text())["places"]
    off, trained = [{m["metric"]: m["mean"] for m in p["measures"] if m["task"] == "caption"} for p in places]
    engine = Engine.load(str(stage), "cpu")
    samples = [next(s for s in read_manifest(rows) if s.task == "caption")]
    for found, scale in ((off, 0.0), (trained, None)):
        (wanted,) = perplexities(engine, samples, scale)
        assert found["perplexity"] == pytest.approx(wanted.pooled, rel=1e-5)
    assert run([*words, "--scale", "2"]) == 0  # what is there already is kept
    assert [p["name"] for p in json.loads((out / "scales.json").read_text())["places"]] == ["0", "2", "4"]
    other = [*words[:3], str(tmp_path / "stories.jsonl"), *words[4:], "--scale", "1"]
    assert run(other) == 2
    assert "was measured with other items: delete it, or give another --out" in capsys.readouterr().err


def test_what_cannot_be_is_refused_in_a_sentence(stage, tmp_path, capsys):
    rows, out = str(tmp_path / "rows.jsonl"), str(tmp_path / "out")
    activate = ["activate", str(stage), "--clips", rows, "--device", "cpu", "--steps", "2"]
    for words, said in (
        ([*activate, "--out", str(stage)], "is the model itself"),
        ([*activate, "--out", out, "--learning-rate", "-1"], "the learning rate must be above 0, not -1"),
        ([*activate, "--out", out, "--temperature", "-1"], "temperature must be 0 or more, not -1.0"),
        ([*activate, "--out", out, "--clips", "gone.jsonl"], "there is no manifest 'gone.jsonl'"),
        ([*activate, "--out", out, "--temperature", "0"], "stories at LoRA scale 2, 0 had 50 words"),
        ([*activate, "--out", out, "--each-step"], "need --measure, what is to be measured"),
        (["scales", str(stage), "--measure", rows, "--scale", "inf"], "lora_scale must be 0 or more"),
        (["perplexity", str(stage), "--data", rows, "--lora-scale", "inf"], "lora_scale must be 0 or more"),
    ):
        assert run(words) == 2 and said in (error := capsys.readouterr().err) and error.count("\n") == 1


def test_a_used_folder_is_refused_before_anything_is_written(stage, tmp_path, capsys):
    rows, out = str(tmp_path / "rows.jsonl"), tmp_path / "used"
    out.mkdir()
    (out / "stories.jsonl").write_text("mine\n")
    words = [
        "activate",
        str(stage),
        "--clips",
        str(rows),
        "--out",
        str(out),
        "--way",
        "given",
        "--steps",
        "2",
    ]
    assert run(words) == 2
    assert "is not empty and not from this very command" in capsys.readouterr().err
    assert (out / "stories.jsonl").read_text() == "mine\n" and len(list(out.iterdir())) == 1


def test_perplexity_is_that_of_the_answer_and_the_scale_is_put_back(stage, tmp_path):
    engine = Engine.load(str(stage), "cpu")
    model = engine.model.float()
    sample = next(read_manifest(tmp_path / "rows.jsonl"))
    batch = engine.processor.batch([sample], labels=True)
    labels = batch.pop("labels")[0]
    logits = model(**batch).logits[0].log_softmax(1)  # (L, V)
    places = [i for i in range(1, len(labels)) if labels[i] != -100]
    expected = -sum(logits[i - 1, labels[i]].item() for i in places)
    nll, count = answer_nll(engine, sample)
    assert count == len(places) == len("Rain falls on roof 0.") + 1
    assert nll == pytest.approx(expected, rel=1e-4)
    (trained,) = perplexities(engine, [sample])
    (off,) = perplexities(engine, [sample], 0.0)
    assert trained.mean == pytest.approx(2.718281828 ** (nll / count), rel=1e-4)
    assert off.mean != pytest.approx(trained.mean, rel=1e-3)
    assert perplexities(engine, [sample])[0] == trained


def test_the_perplexity_command_writes_numbers_and_a_plot(stage, tmp_path, capsys):
    out = tmp_path / "ppl"
    words = ["perplexity", str(stage), str(stage), "--data", str(tmp_path / "rows.jsonl"), "--out", str(out)]
    assert run([*words, "--per-task", "2", "--device", "cpu"]) == 0, capsys.readouterr().err
    rows = json.loads((out / "perplexity.json").read_text())
    assert [(row["task"], row["lora_scale"], row["num_answers"]) for row in rows] == [
        ("caption", None, 2),
        ("caption", 0.0, 2),
    ] * 2
    assert (out / "perplexity.png").read_bytes()[:4] == b"\x89PNG"
    assert run(["perplexity", str(stage), "--data", str(tmp_path / "stories.jsonl")]) == 2
    assert "has an answer" in capsys.readouterr().err
