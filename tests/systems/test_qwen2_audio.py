"""Qwen2-Audio against transformers' own classes: prompts, lengths, logits, answers, files both ways."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_qwen2_audio import clip, original, question, theirs_of
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from lalm.cli import info
from lalm.cli.export import export
from lalm.data.sample import Message, Sample
from lalm.doctor.checks import examine
from lalm.inference.engine import Engine, Options
from lalm.models.load import load_model
from lalm.models.lora import add_lora
from lalm.models.save import save_model
from lalm.systems.qwen2_audio import released
from lalm.systems.qwen2_audio.model import Qwen2AudioLMConfig
from lalm.systems.qwen2_audio.prompts import TASKS


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    folder = tmp_path_factory.mktemp("released")
    return *original("small", folder), folder


BATCHES = {
    "one clip": [question(40_123)],
    "several clips": [question(16_000, 321, 52_000)],
    "mixed lengths": [question(3_000), question(63_999), question(16_001, 40_000), question(64_000)],
    "text only": [question()],
    "text among audio": [question(), question(24_000)],
}


@pytest.mark.parametrize("size, names", [("small", list(BATCHES)), ("medium", ["mixed lengths"])])
def test_released_weights_give_the_logits_and_answers_of_transformers(size, names, tmp_path):
    model, processor = original(size, tmp_path)
    engine = Engine(*load_model(tmp_path), "released")
    for name in names:
        rows = BATCHES[name]
        batch, our_batch = theirs_of(processor, rows), engine.processor.batch(rows)
        assert torch.equal(batch["input_ids"], our_batch["input_ids"]), name
        real = batch["attention_mask"].bool()
        positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            logits = model(**batch, position_ids=positions).logits[real]
            found = engine.model(**our_batch, position_ids=positions).logits[real]
        assert float(logits.std()) > 0.05
        torch.testing.assert_close(found, logits, atol=1e-4, rtol=0)
        ids = model.generate(**batch, max_new_tokens=6, do_sample=False)[:, batch["input_ids"].shape[1] :]
        texts = [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]
        assert [r.text for r in engine.reply(rows, Options(max_new_tokens=6))] == texts, name
        assert len(texts[0]) > 0


def test_the_folder_is_sharded_as_on_the_hub_and_nothing_may_be_missing(small, tmp_path):
    _, _, folder = small
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert "audio_tower.layers.0.fc1.weight" in index["weight_map"]
    assert "language_model.model.embed_tokens.weight" in index["weight_map"]
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = tmp_path / index["weight_map"]["multi_modal_projector.linear.weight"]
    tensors = load_file(shard)
    del tensors["multi_modal_projector.linear.weight"]
    save_file(tensors | {"audio_tower.extra": torch.zeros(1)}, shard, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"do not fit its config.json: 1 missing keys, e.g. .*connector.linear"
    ):
        load_model(tmp_path)
    save_file(load_file(folder / shard.name) | {"audio_tower.extra": torch.zeros(1)}, shard, {"format": "pt"})
    with pytest.raises(ValueError, match="1 unexpected keys"):
        load_model(tmp_path)
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(ValueError, match="cannot be read"):
        load_model(tmp_path)


def test_export_is_the_release_again(small, tmp_path):
    model, processor, folder = small
    ours, our_processor = load_model(folder)
    released.export(ours, our_processor, tmp_path, max_shard_size="100KB")
    again, report = Qwen2AudioForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    names = {
        file: set(json.loads((f / "model.safetensors.index.json").read_text())["weight_map"])
        for file, f in (("theirs", folder), ("ours", tmp_path))
    }
    assert names["ours"] == names["theirs"]
    theirs = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(theirs, Qwen2AudioProcessor)
    assert theirs.feature_extractor.to_dict() == processor.feature_extractor.to_dict()
    assert theirs.chat_template == processor.chat_template
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields["architectures"] == ["Qwen2AudioForConditionalGeneration"]
    assert fields["model_type"] == "qwen2_audio" and fields["audio_token_index"] == 260


def test_a_model_of_ours_with_lora_exports_merged_and_transformers_hears_the_same(tiny, tmp_path):
    """Another family's LLM, whose table ends before the audio token, takes Qwen's place."""
    model, processor = tiny("qwen2-audio")
    add_lora(model, {"rank": 2, "alpha": 4, "targets": ["q_proj", "v_proj"]})
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    save_model(model, processor, tmp_path / "mine", slim=True)
    rows = [question(16_000, 50_000), question(9_000)]
    batch = processor.batch(rows, padding_side="right")
    with torch.no_grad():
        logits = model(**batch).logits
    export(str(tmp_path / "mine"), "qwen2-audio", tmp_path / "out", "float32")
    theirs, report = Qwen2AudioForConditionalGeneration.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(report.values()), report
    their_processor = AutoProcessor.from_pretrained(tmp_path / "out")
    their_processor.tokenizer.padding_side = "right"
    inputs = theirs_of(their_processor, rows)
    assert torch.equal(inputs["input_ids"], batch["input_ids"])
    with torch.no_grad():
        found = theirs.eval()(**inputs).logits
    real = batch["attention_mask"].bool()
    assert found.shape[2] == len(processor.tokenizer) > logits.shape[2]
    torch.testing.assert_close(found[..., : logits.shape[2]][real], logits[real], atol=1e-4, rtol=0)
    reopened, _ = load_model(tmp_path / "out")
    torch.testing.assert_close(
        reopened(**batch).logits[..., : logits.shape[2]][real], logits[real], atol=1e-4, rtol=0
    )


def test_other_models_are_not_exported(tiny, tmp_path):
    model, processor = tiny("acdc")
    with pytest.raises(ValueError, match="only a qwen2-audio model has this layout, not lalm_acdc"):
        released.export(model, processor, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is not empty"):
        export("any", "qwen2-audio", tmp_path, "float32")


def test_lora_on_released_weights_is_a_slim_checkpoint(small, tmp_path):
    _, _, folder = small
    model, processor = load_model(folder)
    add_lora(model, {"rank": 2, "alpha": 4, "targets": ["q_proj"]})
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "connector" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_model(model, processor, tmp_path, slim=True)
    again, _ = load_model(tmp_path)
    batch = processor.batch([question(16_000)])
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits)


CHATS: dict[str, list[Message]] = {
    "a question": list(question(16_000).messages),
    "text only": [{"role": "user", "content": "Hello."}],
    "own system": [{"role": "system", "content": "Be brief."}, *question(16_000).messages],
    "voice chat": [{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}]}],
    "turns": [
        *question(16_000, 9_000).messages,
        {"role": "assistant", "content": "Rain, then a dog.\n"},
        {"role": "user", "content": [{"type": "text", "text": "And "}, {"type": "audio", "audio": "b.wav"}]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Sure?"},
    ],
}


@pytest.mark.parametrize("chat", CHATS)
def test_the_prompt_is_the_releases(small, tiny, chat):
    _, processor, folder = small
    _, opened = load_model(folder)
    theirs = processor.apply_chat_template(CHATS[chat], add_generation_prompt=True, tokenize=False)
    assert opened.render(Sample(tuple(CHATS[chat])))[0] == theirs
    _, new = tiny("qwen2-audio")
    bare = theirs.replace("<|audio_bos|>", "").replace("<|audio_eos|>", "")  # its LLM has no such tokens
    assert new.render(Sample(tuple(CHATS[chat])))[0] == bare


def test_the_prompt_in_full(small):
    _, processor = load_model(small[2])
    assert processor.render(question(16_000))[0] == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\nWhat is it?<|im_end|>\n<|im_start|>assistant\n"
    )


def without_template(folder: Path, out: Path, ends: list[str]) -> Path:
    """A copy of a released folder that holds no template anywhere and whose answers stop at ``ends``."""
    out.mkdir(parents=True)
    for file in folder.iterdir():
        if "template" not in file.name:
            (out / file.name).write_bytes(file.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(out)
    GenerationConfig(eos_token_id=tokenizer.convert_tokens_to_ids(ends)).save_pretrained(out)
    return out


def test_a_folder_without_a_chat_template_is_told_by_where_its_answers_end(small, tmp_path):
    base = without_template(small[2], tmp_path / "base", ["<|endoftext|>"])
    model, processor = load_model(base)
    parts: list[Any] = [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": TASKS["caption"]}]
    asked = Sample(({"role": "user", "content": parts},))
    prompt = "<|audio_bos|><|AUDIO|><|audio_eos|>Generate the caption in English:"
    assert processor.render(asked)[0] == prompt and not model.config.role_markers
    assert processor.template_from.endswith("answers do not end with <|im_end|>")
    text, spans = processor.render(asked.with_target(" Glass breaks."), labels=True)
    assert text == prompt + " Glass breaks.<|endoftext|>"
    assert [text[a:b] for a, b in spans] == [" Glass breaks.<|endoftext|>"]
    released.export(model, processor, tmp_path / "out")  # says itself how it is asked, to transformers too
    theirs = AutoProcessor.from_pretrained(tmp_path / "out")
    assert theirs.apply_chat_template(CHATS["a question"], tokenize=False).startswith("<|audio_bos|>")
    again, opened = load_model(tmp_path / "out")
    assert opened.render(asked)[0] == prompt and not again.config.role_markers
    chat = without_template(small[2], tmp_path / "chat", ["<|endoftext|>", "<|im_end|>"])
    model, processor = load_model(chat)
    assert model.config.role_markers and processor.template_from.endswith("transformers' default")
    theirs = AutoProcessor.from_pretrained(chat)
    wanted = theirs.apply_chat_template(CHATS["turns"], tokenize=False, add_generation_prompt=True)
    assert processor.render(Sample(tuple(CHATS["turns"])))[0] == wanted


TEXT_ALONE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def test_a_template_that_lies_with_the_tokenizer_is_read(small, tmp_path):
    """One, several by name, and an LLM's that has no place for audio, where transformers' default holds."""
    mine = small[1].chat_template.replace("helpful", "terse")
    several = [{"name": "tool_use", "template": TEXT_ALONE}, {"name": "default", "template": mine}]
    for number, (given, says, origin) in enumerate(
        [
            (mine, "a terse assistant", "tokenizer_config.json"),
            (several, "a terse assistant", "tokenizer_config.json"),
            (TEXT_ALONE, "a helpful assistant", "transformers' default"),
        ]
    ):
        folder = without_template(small[2], tmp_path / str(number), ["<|im_end|>"])
        fields = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(fields | {"chat_template": given}))
        _, processor = load_model(folder)
        assert says in processor.render(question(16_000))[0]
        assert processor.template_from.endswith(origin)


@pytest.mark.parametrize("file", ["chat_template.jinja", "chat_template.json"])
def test_a_template_without_a_place_for_audio_is_refused_at_load(small, tmp_path, file):
    folder = without_template(small[2], tmp_path / "deaf", ["<|im_end|>"])
    text = TEXT_ALONE.replace("m.content", "m.content if m.content is string else 'hm'")
    (folder / file).write_text(text if file.endswith("jinja") else json.dumps({"chat_template": text}))
    with pytest.raises(ValueError, match=rf"\({file}\) writes 0 places for one recording"):
        load_model(folder)
    (folder / "chat_template.json").write_text("{")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"chat_template.json' is damaged"):
        load_model(folder)


def test_answers_of_all_turns_are_learned_with_their_ends(small):
    _, processor = load_model(small[2])
    end: list[Message] = [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes"}]
    messages = [*CHATS["turns"][:2], *end]
    labels = processor.batch([Sample(tuple(messages))], labels=True)["labels"][0]
    text = processor.tokenizer.decode(labels[labels != -100])
    assert text == "Rain, then a dog.\n<|im_end|>Yes<|im_end|>"


# samples -> 10 ms frames -> tokens; the feature extractor and the released formula stop at 30 s, we go on.
LENGTHS = [
    *[(1, 1, 0), (320, 2, 0), (321, 3, 1), (640, 4, 1), (960, 6, 1), (961, 7, 2), (16_000, 100, 25)],
    *[(160_000, 1000, 250), (480_000, 3000, 750)],
]


def test_lengths_are_those_of_the_release(small):
    extractor = WhisperFeatureExtractor(feature_size=128, return_attention_mask=True)
    processor = Qwen2AudioProcessor(extractor, small[1].tokenizer)
    config = Qwen2AudioLMConfig()
    for num_samples, frames, tokens in LENGTHS:
        inputs = processor(text="<|AUDIO|>", audio=[clip(num_samples)], sampling_rate=16_000)
        assert int(np.asarray(inputs["feature_attention_mask"]).sum()) == frames
        assert len(inputs["input_ids"][0]) == tokens == config.num_audio_tokens(num_samples)
    assert config.num_audio_tokens(720_000) == 1125  # 45 s; the release hears 750
    assert config.num_audio_tokens(480_320) == 750 and config.num_audio_tokens(480_960) == 751


def test_too_short_a_clip_is_refused_by_name(small):
    _, processor = load_model(small[2])
    with pytest.raises(ValueError, match=r"array: 0\.020 s is too short to give one audio token"):
        processor.batch([question(320)])
    assert processor.batch([question(321)])["input_ids"].shape[0] == 1


def test_longer_clips_are_their_windows_in_time_order(small):
    model, _ = load_model(small[2])
    whole = torch.from_numpy(clip(2 * 64_000 + 30_000))
    with torch.no_grad():
        tokens = model.get_audio_features(whole[None], torch.tensor([len(whole)])).pooler_output
        pieces = [
            model.get_audio_features(p[None], torch.tensor([len(p)])).pooler_output
            for p in whole.split(64_000)
        ]
    torch.testing.assert_close(tokens, torch.cat(pieces), atol=1e-5, rtol=1e-4)


def test_the_full_size_model_has_8_397_billion_parameters():
    found = info.of_system("qwen2-audio")
    counts = {part.role: part.parameters for part in found.parts}
    assert counts == {"encoder": 636_968_960, "connector": 5_246_976, "llm": 7_754_878_976}
    assert found.parameters == 8_397_094_912
    assert found.audio_tokens_per_second == 25


def test_info_says_whether_a_released_folder_is_a_base_or_a_chat_model(small, tmp_path):
    base = without_template(small[2], tmp_path / "base", ["<|endoftext|>"])
    chat = without_template(small[2], tmp_path / "chat", ["<|endoftext|>", "<|im_end|>"])
    assert info.of_folder(small[2]).asked == "chat model, in turns (chat_template.jinja)"
    assert info.of_folder(base).asked.startswith("base model, in plain text (the folder has no template")
    assert info.of_folder(chat).asked.startswith("chat model, in turns (the folder has no template")
    for folder in (base, chat):
        found = info.of_folder(folder).asked
        checks = examine(Engine(*load_model(folder), "a"), folder)
        assert next(check.found for check in checks if check.name == "base or chat") == found
    (base / "tokenizer_config.json").unlink()
    (base / "tokenizer.json").unlink()
    assert info.of_folder(base).asked.startswith("not known: ")


def test_info_reads_a_released_folder(small):
    model, _, folder = small
    found = info.of_folder(folder)
    assert found.system == "qwen2-audio"
    assert found.parameters == sum(p.numel() for p in model.parameters())


def test_any_whisper_becomes_its_encoder(tiny):
    model, _ = tiny("qwen2-audio")
    encoder = model.config.audio_config
    assert encoder.model_type == "lalm_whisper" and encoder.d_model == 16
    assert encoder.qwen2_audio and encoder.pool == 2


def test_a_damaged_configuration_is_one_sentence(small, tmp_path):
    fields = json.loads((small[2] / "config.json").read_text())
    fields["text_config"] = {"model_type": "nonsense"}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"config.json is no Qwen2-Audio configuration"):
        load_model(tmp_path)
