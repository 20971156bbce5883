"""``lalm export --to transformers``: a folder that needs no other, its chat template says everything."""

import json
from importlib import resources

import pytest
import torch
from safetensors import SafetensorError
from tiny_parts import noise
from transformers import AutoModelForMultimodalLM, AutoProcessor, AutoTokenizer

from lalm import Sample, ask
from lalm.cli.app import run
from lalm.doctor import exported, outside
from lalm.inference.engine import Engine, Options
from lalm.models.chat_template import with_parts
from lalm.models.conditioning import instructions, instructions_in
from lalm.models.load import load_model
from lalm.models.lora import add_lora
from lalm.models.save import save_model

TURNS = {  # role and parts: "a" is a clip, anything else is text
    "asked": [("user", ["a", "What is it?"])],
    "two clips": [("user", ["a", "a", " Which is louder? ", "Say one word."])],
    "audio last": [("user", ["Listen:", "a"])],
    "audio between": [("user", ["First", "a", "then", "a"])],
    "audio alone": [("user", ["a"])],
    "text alone": [("user", ["Hello"])],
    "own system": [("system", "Be brief."), ("user", ["a", "What is it?"])],
    "a chat": [("user", ["a", "What is it?"]), ("assistant", "A dog."), ("user", ["a", "And {audio} now?"])],
    "strings": [("user", "Hello"), ("assistant", "Hi."), ("user", ["a", "What's {question}?"])],
}


def sample(case: str, clip: str) -> Sample:
    part = {"a": {"type": "audio", "audio": clip}}
    return Sample(
        [
            {
                "role": role,
                "content": said
                if isinstance(said, str)
                else [part.get(piece, {"type": "text", "text": piece}) for piece in said],
            }
            for role, said in TURNS[case]
        ]
    )


@pytest.mark.parametrize("case", TURNS)
@pytest.mark.parametrize("system", ["acdc", "salmonn", "apt"])
def test_the_template_says_what_the_processor_says(tiny, system, case):
    _, processor = tiny(system)
    asked = sample(case, "x.wav")
    expected, _ = processor.render(asked)
    template = with_parts(processor.chat_template, processor.question_prompt, processor.audio_token)
    messages = [
        {
            "role": m["role"],
            "content": m["content"]
            if isinstance(m["content"], str)
            else [{k: v for k, v in part.items() if k != "audio"} for part in m["content"]],
        }
        for m in asked.messages
    ]
    assert (
        processor.tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True
        )
        == expected
    )
    assert ("<|audio|>" in expected) == (case != "text alone")


def here(kind, *words):
    """The check's program in this process, which has what it imports already."""
    outside.main(kind, *map(str, words))


@pytest.mark.parametrize("system", ["acdc", "apt", "qwen2-audio", "salmonn"])
def test_an_exported_folder_answers_alike(tiny, tmp_path, system, monkeypatch, capsys):
    if system != "apt":  # that of APT is opened in a fresh process, as the command does
        monkeypatch.setattr(exported, "_elsewhere", here)
    model, processor = tiny(system)
    add_lora(model, {"rank": 2, "alpha": 8.0, "targets": ["q_proj", "v_proj"]})
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    save_model(model, processor, tmp_path / "slim", slim=True)
    asked = [ask([noise(tmp_path / "a.wav", 1.3)], "What is it?"), sample("a chat", str(tmp_path / "a.wav"))]
    options = Options(max_new_tokens=6)
    before = Engine(model, processor, "tiny").reply(asked, options)

    out = tmp_path / "whole"
    argv = ["export", str(tmp_path / "slim"), "--to", "transformers", "--out", str(out), "--dtype", "float32"]
    assert run(argv) == 0, capsys.readouterr().err
    assert "another sound moves the logits" in capsys.readouterr().err

    opened, again = load_model(out)
    assert opened.config.lora is None and "lora_" not in " ".join(opened.state_dict())
    after = Engine(opened, again, "whole").reply(asked, options)
    assert [r.text for r in after] == [r.text for r in before]
    assert again.batch(asked)["input_ids"].equal(processor.batch(asked)["input_ids"])
    # What others than lalm go by: transformers' own classes, and the tokenizer's chat template.
    assert type(AutoModelForMultimodalLM.from_pretrained(out)) is type(model)
    assert type(AutoProcessor.from_pretrained(out)) is type(processor)
    assert AutoTokenizer.from_pretrained(out).chat_template == again.chat_template
    fields = json.loads((out / "config.json").read_text())
    assert fields["architectures"] == [type(model).__name__] and fields["dtype"] == "float32"
    ends = json.loads((out / "generation_config.json").read_text())
    assert ends["eos_token_id"] == [processor.tokenizer.eos_token_id]


@pytest.mark.parametrize("to", ["transformers", "qwen2-audio"])
def test_of_an_export_that_finds_no_room_nothing_is_left(tiny, tmp_path, monkeypatch, capsys, to):
    save_model(*tiny("qwen2-audio"), tmp_path / "slim", slim=True)
    full = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def half(model, processor, folder, **given):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")
        raise full

    monkeypatch.setattr("lalm.models.save.save_model", half)
    monkeypatch.setattr("lalm.systems.qwen2_audio.released.export", half)
    out = tmp_path / "out"
    for there in (False, True):  # an empty folder that was there stays
        if there:
            out.mkdir()
        assert run(["export", str(tmp_path / "slim"), "--to", to, "--out", str(out)]) == 1
        assert capsys.readouterr().err.endswith(f"lalm: the disk is full '{out}'\n")
        assert list(out.iterdir()) == [] if there else not out.exists()


@pytest.mark.parametrize("scope", ["own", "whole"])
@pytest.mark.parametrize("case", TURNS)
def test_instructions_can_be_read_from_the_prompt(tiny, case, scope):
    _, processor = tiny("apt")
    asked = sample(case, "x.wav")
    text, _ = processor.render(asked)
    turn = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
    told = instructions_in(text, processor.audio_token, turn, scope)
    assert [" ".join(one.split()) for one in told] == instructions(asked, scope)


@pytest.mark.parametrize("scope", ["own", "whole"])
def test_without_role_markers_a_prompt_is_one_turn(tiny, scope):
    _, processor = tiny("apt")
    plain = resources.files("lalm.models") / "templates" / "plain.jinja"
    processor.chat_template = plain.read_text()
    for case in ("asked", "two clips", "audio last", "audio between", "audio alone", "text alone"):
        asked = sample(case, "x.wav")
        text, _ = processor.render(asked)
        assert "<|im_start|>" not in text
        told = instructions_in(text, processor.audio_token, ("", ""), scope)
        assert [" ".join(one.split()) for one in told] == instructions(asked, scope)


def test_a_folder_in_use_is_not_written_to(tmp_path, capsys):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").touch()
    argv = ["export", "lalm/models/small", "--to", "transformers", "--out", str(tmp_path / "x")]
    assert run(argv) == 2
    assert "is not empty" in capsys.readouterr().err
