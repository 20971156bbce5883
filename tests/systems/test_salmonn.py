"""What SALMONN's paper and released code state: token counts, parameters, the prompt; and the LoRA dial."""

import math
from dataclasses import replace

import pytest
import torch
from tiny_parts import noise, sentencepiece_llama
from transformers import AutoConfig, AutoTokenizer

from lalm.cli import info
from lalm.data.sample import ask, write_manifest
from lalm.inference.engine import Engine, Options
from lalm.models.assemble import build_model
from lalm.models.classes import classes_of
from lalm.models.load import load_model
from lalm.models.lora import add_lora, set_lora_scale
from lalm.models.processing import AudioLMProcessor
from lalm.models.save import save_model, trained_names
from lalm.systems.salmonn.model import SALMONNConfig, WindowQFormer
from lalm.training import recipe
from lalm.training import run as train

LORA = {"rank": 2, "alpha": 8.0, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}
SMALL = {"qformer_width": 24, "qformer_heads": 2, "qformer_inner": 32, "qformer_dropout": 0.0}


def clip(num_samples: int, seed: int = 0):
    return (torch.randn(num_samples, generator=torch.Generator().manual_seed(seed)) * 0.1).numpy()


def test_counts_are_the_papers():
    config = SALMONNConfig()
    assert config.audio_config.width == 2048 and config.num_frames(480_000) == 1500
    assert (config.window_frames, config.stride_frames) == (17, 17)
    assert config.num_audio_tokens(480_000) == 88
    assert SALMONNConfig(remainder="pad").num_audio_tokens(480_000) == 89  # ceil(1500 / 17), section 3.1
    assert SALMONNConfig(stride_s=0.1667).num_audio_tokens(480_000) == 186
    assert SALMONNConfig(num_queries=3).num_audio_tokens(480_000) == 3 * 88


def test_short_clips_cost_what_they_are_long_unless_asked_otherwise():
    config = SALMONNConfig()
    assert [config.num_audio_tokens(s * 16_000) for s in (1, 5, 10, 60)] == [2, 14, 29, 176]
    assert config.num_audio_tokens(160) == 1
    fixed = config.audio_config.to_dict()
    fixed["first"]["pad_to_window"] = True
    assert [SALMONNConfig(audio_config=fixed).num_audio_tokens(s * 16_000) for s in (1, 30)] == [88, 88]


@pytest.mark.parametrize("remainder", ["drop", "pad"])
@pytest.mark.parametrize(("window", "stride"), [(1, 1), (3, 3), (4, 2), (2, 5), (17, 17)])
def test_windows_are_those_of_the_definition(window, stride, remainder):
    audio = {"model_type": "lalm_whisper", "d_model": 8}
    config = SALMONNConfig(
        audio,
        window_s=window / 50,
        stride_s=stride / 50,
        remainder=remainder,
        qformer_width=8,
        qformer_heads=2,
    )
    connector = WindowQFormer(config)
    for num_frames in range(1, 45):
        frames = torch.arange(1.0, num_frames + 1)[None, :, None].expand(1, num_frames, 8)
        count = config.num_windows(num_frames)
        starts = [s for s in range(0, num_frames, stride) if s + window <= num_frames]
        if remainder == "pad" and (not starts or starts[-1] + window < num_frames):
            starts.append(starts[-1] + stride if starts else 0)
        starts = starts or [0]
        assert count == len(starts)
        found = connector.windows(frames, count)[0, :, :, 0]
        wanted = [[t + 1.0 if t < num_frames else 0.0 for t in range(s, s + window)] for s in starts]
        assert found.tolist() == wanted


def test_windows_are_views():
    connector = WindowQFormer(SALMONNConfig({"model_type": "lalm_whisper", "d_model": 8}, **SMALL))
    frames = torch.randn(2, 51, 8)
    windows = connector.windows(frames, 3)
    assert windows.shape == (2, 3, 17, 8) and windows.data_ptr() == frames.data_ptr()
    assert windows.reshape(-1, 17, 8).data_ptr() == frames.data_ptr()


def test_each_token_hears_its_window_only(tiny):
    model, _ = tiny("salmonn")
    connector = model.model.connector.eval()
    frames = torch.randn(1, 51, 32)
    changed = frames.clone()
    changed[0, 20] = torch.randn(32)
    before, after = (connector(f, torch.tensor([51]))[0] for f in (frames, changed))
    moved = ((before - after).abs().sum(2) > 1e-6)[0].view(3, 2).any(1)
    assert moved.tolist() == [False, True, False]


def test_missing_frames_of_one_encoder_stay_zero_after_its_norm(tiny):
    model, _ = tiny("salmonn")
    connector = model.model.connector
    torch.nn.init.constant_(connector.norms[1].bias, 5.0)
    frames = torch.randn(1, 20, 32)
    frames[0, 17:, 16:] = 0.0  # BEATs ended three frames early
    found = connector.normalised(frames, torch.tensor([19]))[0]
    assert not found[17:, 16:].any() and found[17:19, :16].any() and not found[19].any()
    plain = torch.nn.functional.layer_norm(frames[0, :17, 16:], (16,)) + 5.0
    torch.testing.assert_close(found[:17, 16:], plain)


@pytest.mark.parametrize(
    ("llm", "total", "tensors"),
    [(info.VICUNA_13B, 33_332_992, 221), ("7b", 30_186_240, 189)],
    ids=["13B", "7B"],
)
def test_trainable_parameters_are_the_papers(llm, total, tensors):
    if llm == "7b":
        shape = {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 11_008}
        llm = info.VICUNA_13B | shape | {"num_attention_heads": 32, "num_key_value_heads": 32}
    stage = recipe.load("salmonn/1_pretrain")
    config = SALMONNConfig(
        text_config=AutoConfig.for_model(**llm), lora=stage.lora.model_dump(), **stage.init.options
    )
    model = info._shapes(config, classes_of("salmonn").model)
    names = set(model.set_trainable([*stage.trainable, "*lora_*"]))
    sizes = [p.numel() for n, p in model.named_parameters() if n in names]
    assert sum(sizes) == total and len(sizes) == tensors


def test_info_shows_the_papers_model():
    found = info.of_system("salmonn")
    assert found.trainable_parameters == 33_332_992
    assert {p.role: p.parameters for p in found.parts} == {
        "encoder": 636_784_640,
        "encoder_2": 90_311_664,
        "connector": 26_779_392,
        "llm": 13_015_864_320,
        "lora": 6_553_600,
    }


def test_prompt_is_vicunas_with_its_pieces_tokenised_apart(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(sentencepiece_llama(tmp_path))
    config = SALMONNConfig({"model_type": "lalm_whisper", "d_model": 8})
    processor = AudioLMProcessor.build(tokenizer, config, classes_of("salmonn").question_prompt)
    sample = ask([clip(16_000)], "Describe it")
    text, _ = processor.render(sample)
    assert text == "<s>USER: <Speech><|audio|></Speech> Describe it\nASSISTANT:"
    target = sample.with_target("A dog barks.")
    text, ((start, end),) = processor.render(target, labels=True)
    assert text == "<s>USER: <Speech><|audio|></Speech> Describe it\nASSISTANT: A dog barks.</s>"
    assert text[start:end] == " A dog barks.</s>"
    batch = processor.batch([target], labels=True)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    pieces = ["USER: <Speech>", "</Speech> Describe it\nASSISTANT:", "A dog barks."]
    first, second, answer = (plain(p, add_special_tokens=False)["input_ids"] for p in pieces)
    slots = [processor.audio_token_id] * 2
    assert batch["input_ids"][0].tolist() == [1, *first, *slots, *second, *answer, 2]
    labels = batch["labels"][0]
    assert labels[labels != -100].tolist() == [*answer, 2]


@pytest.fixture
def tuned(tiny):
    """A tiny SALMONN whose LoRA matters, and its processor."""
    torch.manual_seed(0)
    model, processor = tiny("salmonn")
    add_lora(model, LORA)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return model.eval(), processor


def test_lora_scale_is_the_factor_of_the_matrices(tuned):
    model, processor = tuned
    batch = processor.batch([ask([clip(20_000)], "What is it?")])
    layers = [
        m for m in model.modules() if type(m).__name__ == "Linear" and "lora_A" in dict(m.named_children())
    ]
    assert len(layers) == 4
    plain = {id(m): m.base_layer.weight.detach().clone() for m in layers}
    for scale in (4.0, 2.0, 0.5, 0.0, None):
        set_lora_scale(model, scale)
        found = model(**batch).logits
        set_lora_scale(model, 0.0)
        for m in layers:  # W + scale B A, written into W
            delta = m.lora_B["default"].weight @ m.lora_A["default"].weight
            m.base_layer.weight.data = plain[id(m)] + (4.0 if scale is None else scale) * delta
        torch.testing.assert_close(found, model(**batch).logits, atol=1e-4, rtol=1e-4)
        for m in layers:
            m.base_layer.weight.data = plain[id(m)]


def test_lora_scale_belongs_to_the_request(tuned):
    engine = Engine(*tuned, "tiny")
    row = ask([clip(20_000)], "What is it?")
    said = {s: engine.reply([row], Options(12, lora_scale=s))[0].text for s in (None, 0.0, 4.0, 0.5, None)}
    assert said[None] == said[4.0] != said[0.0]
    assert engine.reply([row], Options(12))[0].text == said[None]
    assert "".join(engine.stream(row, Options(12, lora_scale=0.0))) == said[0.0]


def test_lora_scale_of_a_model_without_lora_is_refused(tiny):
    engine = Engine(*tiny("salmonn"), "tiny")
    with pytest.raises(ValueError, match="this model has no LoRA"):
        engine.reply([ask([clip(20_000)], "What?")], Options(4, lora_scale=2.0))
    with pytest.raises(ValueError, match="lora_scale must be 0 or more, not -1"):
        Options(lora_scale=-1.0)


def test_slim_checkpoint_names_both_encoders(tuned, tmp_path):
    model, processor = tuned
    save_model(model, processor, tmp_path / "run", slim=True)
    again, processor_again = load_model(tmp_path / "run")
    assert set(again.config.parts) == {"encoder", "encoder_2", "llm"}
    batch = processor.batch([ask([clip(20_000)], "What is it?")])
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits)
    assert processor_again.config.num_audio_tokens(16_000) == processor.config.num_audio_tokens(16_000)


def test_any_system_takes_any_encoders(tiny_folders, tiny_beats):
    whisper, llm = map(str, tiny_folders)
    acdc = {"group_size": 5, "connector_width": 8, "remainder": "pad"}
    for system, options, second in (
        ("acdc", acdc, {"encoder_2": str(tiny_beats)}),
        ("salmonn", SMALL, {}),
        ("salmonn", SMALL | {"encoder": {"pool": 4}}, {"encoder_2": str(tiny_beats)}),
    ):
        model, processor = build_model(system, encoder=whisper, **second, llm=llm, options=options)
        logits = model(**processor.batch([ask([clip(20_000), clip(1000)], "What?")])).logits
        assert torch.isfinite(logits).all()
    assert model.config.window_frames == 4 and math.isclose(model.config.audio_config.frames_per_second, 12.5)
    with pytest.raises(ValueError, match="options for encoder_2, but no encoder_2"):
        build_model("salmonn", encoder=whisper, llm=llm, options=SMALL | {"encoder_2": {"window_frames": 32}})


def test_recipe_with_two_encoders_trains_from_a_warm_start(tiny_folders, tiny_beats, tmp_path):
    """Frames of the pair are cached, warm start and LoRA learn, the next stage starts from the folder."""
    whisper, llm = map(str, tiny_folders)
    samples = []
    for i in range(4):
        path = str(noise(tmp_path / f"{i}.wav", 1.0 + 0.3 * i, seed=i))
        events = ({"label": "noise/white", "caption": "rain falls", "onset_s": 0.0, "offset_s": 1.0},)
        samples.append(replace(ask([path], "What?").with_target(f"rain {i}"), events=events, id=str(i)))
    write_manifest(tmp_path / "train.jsonl", samples)
    fields = {
        "system": "salmonn",
        "init": {
            "encoder": whisper,
            "encoder_2": str(tiny_beats),
            "llm": llm,
            "options": SMALL | {"encoder": {"pool": 2}, "encoder_2": {"window_frames": 64}},
        },
        "lora": {"rank": 2, "alpha": 8},
        "warm_start": {"epochs": 2, "learning_rate": 1e-3},
        "data": {"train": [{"path": str(tmp_path / "train.jsonl")}]},
        "optim": {"learning_rate": 1e-2, "batch_size": 2, "max_steps": 4},
        "every": {"log": 1, "save": 4, "valid": 0},
        "cache": str(tmp_path / "cache"),
        "out": str(tmp_path / "one"),
    }
    train.run(recipe.Recipe.model_validate(fields))
    first, _ = load_model(tmp_path / "one")
    assert first.config.audio_config.first.pool == 2 and first.config.audio_config.second.window_frames == 64
    connector = first.model.connector
    assert connector.frame_mean.abs().sum() > 0 and not torch.equal(connector.frame_scale, torch.ones(32))
    stage = fields | {"init": {"from": str(tmp_path / "one")}, "out": str(tmp_path / "two")}
    del stage["warm_start"]
    train.run(recipe.Recipe.model_validate(stage))
    second, _ = load_model(tmp_path / "two")
    before, after = first.state_dict(), second.state_dict()
    moved = {n for n in after if not torch.equal(before[n], after[n])}
    assert moved <= set(trained_names(second)) and any("lora_B" in n for n in moved)
    assert any("connector.queries" in n for n in moved)
