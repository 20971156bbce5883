"""Papers' protocols: what is asked, heard and computed, in `lalm eval`, `lalm ask` and validation."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from tiny_qwen2_audio import original

from lalm.cli.app import run
from lalm.data.sample import Sample, ask, message_text, write_manifest
from lalm.evaluate.items import put
from lalm.evaluate.task import known_tasks
from lalm.inference.engine import Engine, Options
from lalm.inference.protocol_run import folder_settings, follow, unlike_ours, weights_format
from lalm.inference.protocols import ProtocolError, asked, find_protocol, known_protocols, read_prompts
from lalm.models.save import save_model

# As the authors publish them: a test file has a text a name, a training file several; {} is the row's Q.
PROMPTS = {
    "asr": "<Speech><SpeechHere></Speech> Write it down.",
    "asr_zh": "<Speech><SpeechHere></Speech> In Chinese, please.",
    "QA": "<Speech><SpeechHere></Speech> {}",
    "slot_filling": "<Speech><SpeechHere></Speech> Tell me the {}.",
    "audiocaption": [
        "<Speech><SpeechHere></Speech> Describe it.",
        "<Speech><SpeechHere></Speech> What is it?",
    ],
}
SYSTEMS = {"acdc": "acdc", "apt": "apt", "salmonn": "salmonn", "qwen2_audio": "qwen2-audio"}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "test_prompt.json"
    file.write_text(json.dumps(PROMPTS))
    return file


@pytest.fixture
def rows(tmp_path: Path) -> list[Sample]:
    """One sample a kind of question, the caption's as `lalm build` instructs it."""
    tone = np.sin(np.arange(16_000) * 0.05).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, np.zeros_like(tone)], 1), 16_000)
    clip = str(tmp_path / "a.wav")
    return [
        replace(ask([clip], "Describe the sounds."), id="c", task="caption", references=("a tone",)),
        replace(ask([clip], "Is it loud?"), id="q", task="audio_qa", references=("yes",)),
    ]


def test_a_protocols_words_take_the_place_of_an_instruction_and_hold_a_question(rows, prompts):
    caption, question = rows
    for name, (told, said) in {
        "acdc": ("Describe the audio content in one 10-word sentence.", "."),
        "apt": ("", "Describe the audio clip concisely."),
        "qwen2_audio": ("", "Generate the caption in English:"),
        "salmonn": ("", "Describe the sounds."),
        "qwen2_audio_instruct": ("", "Describe the sounds."),
    }.items():
        made = asked(caption, find_protocol(name))
        assert message_text(made.messages[-1]) == said and made.audios == caption.audios
        assert [m["content"] for m in made.messages[:-1]] == ([told] if told else [])
    learned = replace(caption, messages=({"role": "system", "content": "Caption."}, *caption.messages))
    for kind in ("caption", "response"):  # rows of `lalm respond`: with a system text of their own, or none
        told, said = asked(replace(learned, task=kind), find_protocol("acdc")).messages
        assert told["content"].startswith("Describe the audio content") and message_text(said) == "."
    made = asked(question, find_protocol("acdc"))
    assert message_text(made.messages[-1]) == ". Question: Is it loud?,"
    spoken = replace(question, task="asr", origin={"language": "de"})
    made = asked(spoken, find_protocol("qwen2_audio"))
    assert message_text(made.messages[-1]) == "Detect the language and recognize the speech: <|de|>"
    with pytest.raises(ProtocolError, match=r"no protocol 'qwen2-audi' \(did you mean qwen2_audio\?\)"):
        find_protocol("qwen2-audi")


def test_the_authors_wording_is_read_from_the_users_file(rows, prompts, tmp_path):
    from lalm.inference.protocols import with_prompts

    protocol = with_prompts(find_protocol("salmonn"), prompts)
    caption, question = rows
    assert message_text(asked(caption, protocol).messages[-1]) == "Describe it."
    assert message_text(asked(question, protocol).messages[-1]) == "Is it loud?"
    spoken = replace(caption, task="asr")
    assert message_text(asked(spoken, protocol).messages[-1]) == "Write it down."
    spoken = replace(spoken, origin={"language": "zh"})
    assert message_text(asked(spoken, protocol).messages[-1]) == "In Chinese, please."
    slot = replace(question, task="slots", origin={"category": "date"})
    assert message_text(asked(slot, protocol).messages[-1]) == "Tell me the date."
    story = replace(caption, task="story")
    assert message_text(asked(story, protocol).messages[-1]) == "Describe the sounds."  # not in the file
    bad = tmp_path / "bad.json"
    for text, said in (
        ("[1]", "is no object of names and prompts"),
        ('{"asr": 1}', "'asr' is neither a text nor a list of texts"),
        ('{"asr": "<Speech><SpeechHere></Speech>"}', "'asr' asks nothing"),
        ("{", "is not JSON"),
        ('{"other": "x"}', "has none of the prompts that 'salmonn' names"),
    ):
        bad.write_text(text)
        with pytest.raises(ProtocolError, match=said):
            with_prompts(find_protocol("salmonn"), bad)
    with pytest.raises(ProtocolError, match="it takes no file of prompts"):
        with_prompts(find_protocol("acdc"), prompts)
    with pytest.raises(ProtocolError, match="there is no file of prompts"):
        read_prompts(tmp_path / "gone.json")


@pytest.mark.parametrize("name", list(known_protocols()))
def test_every_protocol_evaluates_a_model(name, tiny, rows, tmp_path, capsys):
    model, processor = tiny(SYSTEMS[name.removesuffix("_instruct")])
    save_model(model, processor, tmp_path / "model", slim=False)
    if name == "qwen2_audio_instruct":
        settings = {
            "do_sample": True,
            "temperature": 0.7,
            "top_p": 0.5,
            "top_k": 20,
            "repetition_penalty": 1.1,
        }
        (tmp_path / "model" / "generation_config.json").write_text(json.dumps(settings))
    write_manifest(tmp_path / "rows.jsonl", rows)
    words = ["eval", str(tmp_path / "model"), "--task", f"manifest={tmp_path / 'rows.jsonl'}", "--json"]
    words += ["--protocol", name, "--max-new-tokens", "3", "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert run(words) == 0, capsys.readouterr().err
    shown = capsys.readouterr()
    tasks = json.loads(shown.out)["tasks"]
    known = find_protocol(name)
    for kind, entry in tasks.items():
        assert entry["protocol"] == (f"{name}/{kind}" if known.wording(kind) else name)
        assert entry["max_new_tokens"] == 3 and entry.get("beams", 1) == known.generation.get("beams", 1)
    if name == "qwen2_audio_instruct":
        assert "temperature 0.7 (lalm's own: 0), top_p 0.5 (lalm's own: 1)" in shown.err
        assert tasks["audio_qa"]["top_k"] == 20 and tasks["audio_qa"]["repetition_penalty"] == 1.1
    if name == "salmonn":
        said = (
            "only channel 0 is heard",
            "the first 30 s",
            "on a CPU there is no float16 autocast",
            "--prompts",
        )
        assert all(sentence in shown.err for sentence in said)
        assert json.loads(shown.out)["model"]["longest_s"] == 30


def test_tasks_of_a_protocol_are_those_of_table_3():
    tasks = known_tasks()
    for name, like in (("asr_clean", "librispeech_clean"), ("story", "story"), ("sac", "sac")):
        own, other = tasks[f"salmonn_{name}"], tasks[like]
        assert (own.path, own.metrics, own.judge, own.prompts) == (
            *(other.path, other.metrics, other.judge, other.prompts),
        )
        assert own.decoding.beams == 4 and own.decoding.max_new_tokens == 200
    asked_ = put(tasks["acdc_aac"], ask(["a.wav"], "Describe the sounds."))
    assert message_text(asked_.messages[-1]) == "."
    assert tasks["acdc_aqa"].judge == "quality_explained"


def test_a_protocol_hears_one_channel_and_the_first_seconds(tiny, tmp_path):
    left = np.sin(np.arange(31 * 16_000) * 0.05).astype(np.float32)
    stereo = np.stack([left, np.zeros_like(left)], 1)
    soundfile.write(tmp_path / "stereo.wav", stereo, 16_000)
    soundfile.write(tmp_path / "left.wav", left[: 30 * 16_000], 16_000)
    soundfile.write(tmp_path / "mix.wav", stereo[: 30 * 16_000].mean(1), 16_000)
    engine = Engine(*tiny("salmonn"), "tiny")
    save_model(engine.model, engine.processor, tmp_path / "model", slim=False)
    follow(engine, find_protocol("salmonn"))
    assert engine.model.config.shortest_s == 1
    opened = Engine.load(str(tmp_path / "model"), "cpu")
    assert opened.model.config.shortest_s == 0
    follow(opened, find_protocol("salmonn"))
    short = ask([left[:4800]], "What?")
    for one in (engine, opened):  # 0.3 s with silence up to 1 s: as many tokens as a second
        counts = [
            one.processor.batch([ask([left[:n]], "What?")])["input_ids"].shape[1] for n in (4800, 16_000)
        ]
        assert counts[0] == counts[1] and one.reply([short], Options(2))
    about = {name: ask([str(tmp_path / f"{name}.wav")], "What?") for name in ("stereo", "left", "mix")}
    (heard,) = engine.heard(about["stereo"])
    assert (heard.seconds_given, heard.seconds_heard) == (31, 30)
    inputs = {name: engine._clips(sample)[0].audio for name, sample in about.items()}
    assert np.array_equal(inputs["stereo"], inputs["left"]) and len(inputs["mix"]) == len(inputs["left"])
    assert not np.allclose(inputs["stereo"], inputs["mix"], atol=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_numbers_and_not_the_weights(tiny, dtype, monkeypatch):
    """What a GPU does with float16, here on a CPU: encoders stay float32, the LLM's own weights do not."""
    engine = Engine(*tiny("salmonn"), "tiny")
    from lalm.inference import protocol_run

    protocol_run._recast(engine.model, dtype)
    engine.autocast = dtype
    formats = {name.split(".")[1]: p.dtype for name, p in engine.model.named_parameters() if "." in name}
    assert formats["audio_tower"] == formats["connector"] == torch.float32
    assert formats["language_model"] == dtype
    seen = []
    layer = engine.model.model.connector.projection
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    clip = np.sin(np.arange(16_000) * 0.05).astype(np.float32)
    assert engine.reply([ask([clip], "What?")], Options(2, beams=4))[0].text is not None
    assert seen[0] == dtype


def test_the_folders_format_and_settings_are_read(tmp_path):
    (tmp_path / "config.json").write_text('{"torch_dtype": "bfloat16"}')
    assert weights_format(find_protocol("qwen2_audio"), tmp_path) == torch.bfloat16
    assert weights_format(find_protocol("acdc"), tmp_path) is None
    (tmp_path / "config.json").write_text('{"dtype": "int8"}')
    with pytest.raises(ProtocolError, match="has weights in int8"):
        weights_format(find_protocol("qwen2_audio"), tmp_path)
    assert folder_settings(tmp_path) == {}
    file = tmp_path / "generation_config.json"
    file.write_text('{"do_sample": false, "temperature": 0.7, "repetition_penalty": 1.1}')
    assert unlike_ours(folder_settings(tmp_path)) == "repetition_penalty 1.1 (lalm's own: 1)"
    file.write_text('{"do_sample": true, "top_p": 3}')
    with pytest.raises(ProtocolError, match=r"generation_config\.json: top_p must be above 0"):
        folder_settings(tmp_path)


def test_ask_takes_a_protocol_and_a_prompt_by_its_name(tiny, rows, prompts, tmp_path, capsys):
    model, processor = tiny("salmonn")
    save_model(model, processor, tmp_path / "model", slim=False)
    words = ["ask", str(tmp_path / "a.wav"), "--model", str(tmp_path / "model"), "--device", "cpu", "--json"]
    follow_ = ["--protocol", "salmonn", "--max-new-tokens", "2"]
    assert run([*words, *follow_, "--prompts", str(prompts), "--prompt", "audiocaption"]) == 0
    shown = capsys.readouterr()
    assert "beams 4 (lalm's own: 1)" in shown.err and json.loads(shown.out)["finish_reason"] == "length"
    assert "without sound and left out" not in shown.err  # the first channel, not a mix of both
    assert run([*words, *follow_, "What?", "--channel", "1"]) == 0 and "decoded already" not in shown.err
    for more, said in (
        (["--prompts", str(prompts)], "--prompts needs --prompt"),
        (["--prompts", str(prompts), "--prompt", "nope"], "has no prompt 'nope'; it has asr, asr_zh"),
        (["--prompt", "asr"], "there is no prompt 'asr': kinds of questions are none without --protocol"),
        (["--protocol", "nope"], "there is no protocol 'nope'"),
    ):
        assert run([*words, "What?", *more]) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]


def test_validation_asks_as_the_protocol_does(tiny, rows, tmp_path):
    from rich.console import Console

    from lalm.training.trainer import Answers

    model, processor = tiny("acdc")
    seen = {}

    def generate(**given):
        seen.update(given)
        return type(model).generate(model, **given | {"max_new_tokens": 2})

    spied = SimpleNamespace(
        generate=generate, device=model.device, config=model.config, generation_config=model.generation_config
    )
    written = []
    report = SimpleNamespace(write=lambda step, found: written.append(found))
    known = find_protocol("acdc")
    answers = Answers(
        rows[:1], processor, processor.clips, report, Console(quiet=True), together=False, protocol=known
    )
    state = SimpleNamespace(is_world_process_zero=True, global_step=1)
    answers.on_evaluate(None, state, None, spied)
    assert seen["generation_config"].num_beams == 4 and seen["generation_config"].max_new_tokens == 64
    text = processor.tokenizer.decode(seen["input_ids"][0])
    assert "one 10-word sentence." in text and "Describe the sounds" not in text
    assert written[0]["answers"][0]["id"] == "c"


def test_an_unknown_protocol_stops_a_run_before_it_begins(tmp_path):
    from tiny_runs import settings

    from lalm.training.run import run as train

    with pytest.raises(ProtocolError, match="there is no protocol 'nope'"):
        train(settings(tmp_path, tmp_path / "out", valid={"protocol": "nope"}))
    assert not (tmp_path / "out").exists()


def test_a_released_folders_own_settings_are_said_aloud_and_taken_when_asked_for(rows, tmp_path, capsys):
    """Qwen2-Audio-7B-Instruct's generation_config.json, and the number format of its config.json."""
    original("small", tmp_path / "released")
    settings = {"do_sample": True, "temperature": 0.7, "top_p": 0.5, "top_k": 20, "repetition_penalty": 1.1}
    (tmp_path / "released" / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": 5}))
    config = json.loads((tmp_path / "released" / "config.json").read_text())
    (tmp_path / "released" / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    write_manifest(tmp_path / "rows.jsonl", rows[1:])
    words = ["eval", str(tmp_path / "released"), "--task", f"manifest={tmp_path / 'rows.jsonl'}", "--json"]
    words += ["--max-new-tokens", "2", "--device", "cpu"]
    assert run([*words, "--out", str(tmp_path / "ours")]) == 0
    shown = capsys.readouterr()
    odd = "temperature 0.7 (lalm's own: 0), top_p 0.5 (lalm's own: 1), top_k 20 (lalm's own: 0)"
    assert f"released's generation_config.json asks for {odd}" in shown.err and "left aside" in shown.err
    assert "temperature" not in json.loads(shown.out)["tasks"]["audio_qa"]
    assert run([*words, "--out", str(tmp_path / "theirs"), "--protocol", "qwen2_audio_instruct"]) == 0
    shown = capsys.readouterr()
    assert f"answers are generated with {odd}" in shown.err and "computed in bfloat16" in shown.err
    card = json.loads(shown.out)
    assert card["tasks"]["audio_qa"]["temperature"] == 0.7 and card["model"]["dtype"] == "bfloat16"
    answers = tmp_path / "ours" / "predictions.jsonl"
    words[1:2] = [str(answers)]
    assert run([*words, "--out", str(tmp_path / "given"), "--protocol", "qwen2_audio_instruct"]) == 0
    assert "temperature" not in json.loads(capsys.readouterr().out)["tasks"]["audio_qa"]  # no folder here
