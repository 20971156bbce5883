"""PEFT adapters: what PEFT trains on transformers' own Qwen2-Audio opens here, and ours opens there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_qwen2_audio import original, question, theirs_of
from transformers import Qwen2AudioForConditionalGeneration

from lalm.cli import info
from lalm.cli.weights import fetch_for
from lalm.models.adapter import AdapterError
from lalm.models.load import load_model, model_folder, model_name, open_processor
from lalm.models.lora import add_lora
from lalm.models.save import save_model
from lalm.systems.qwen2_audio import released


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("base")
    return folder, original("small", folder)[1]


def trained_by_peft(base: Path, out: Path, **settings: Any) -> Any:
    """An adapter with noise in all its tensors, saved by PEFT; its model."""
    torch.manual_seed(1)
    plain = Qwen2AudioForConditionalGeneration.from_pretrained(base).eval()
    model = get_peft_model(plain, LoraConfig(**({"r": 4, "lora_alpha": 8} | settings)))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(out)
    return model


ROWS = [question(16_000, 321), question(40_123)]
KINDS: dict[str, tuple[dict[str, Any], bool]] = {  # settings, and whether it stays LoRA
    "the LLM": ({"target_modules": r".*language_model.*\.(q_proj|v_proj)"}, True),
    "rank-stabilised, with the projector": (
        {
            "target_modules": r".*language_model.*\.(q_proj|down_proj)",
            "use_rslora": True,
            "modules_to_save": ["multi_modal_projector"],
        },
        True,
    ),
    "layers with a rank and alpha of their own": (
        {
            "target_modules": r".*language_model.*\.(q_proj|up_proj)",
            "rank_pattern": {r"layers\.1\.mlp\.up_proj": 2},
            "alpha_pattern": {"q_proj": 3},
        },
        True,
    ),
    "by names that the encoder has too": ({"target_modules": ["q_proj", "v_proj"]}, False),
    "all linear layers": ({"target_modules": "all-linear"}, False),
    "some layers, and the head": (
        {
            "target_modules": r".*language_model.*layers\.1.*\.(k_proj|up_proj)",
            "rank_pattern": {"up_proj": 2},
            "alpha_pattern": {"up_proj": 3},
            "modules_to_save": ["lm_head"],
        },
        False,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_peft_gives_the_logits_of_peft(base, tmp_path, kind):
    folder, processor = base
    settings, stays = KINDS[kind]
    model = trained_by_peft(folder, tmp_path / "adapter", **settings)
    batch = theirs_of(processor, ROWS)
    with torch.no_grad():
        wanted = model(**batch, position_ids=(batch["attention_mask"].cumsum(1) - 1).clamp(min=0)).logits
    ours, our_processor = load_model(tmp_path / "adapter")
    assert bool(ours.config.lora) == stays
    inputs = our_processor.batch(ROWS)
    assert torch.equal(inputs["input_ids"], batch["input_ids"])
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        found = ours(**inputs, position_ids=(inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)).logits
        plain = load_model(folder)[0](**inputs).logits
    torch.testing.assert_close(found[real], wanted[real], atol=1e-4, rtol=1e-4)
    assert float((plain[real] - found[real]).abs().max()) > 0.01
    assert open_processor(tmp_path / "adapter").render(ROWS[0]) == our_processor.render(ROWS[0])
    if stays:  # and goes on as a checkpoint of ours
        save_model(ours, our_processor, tmp_path / "slim", slim=True)
        again, _ = load_model(tmp_path / "slim")
        torch.testing.assert_close(again(**inputs).logits, ours(**inputs).logits)


def test_a_released_model_with_lora_of_ours_opens_with_peft(base, tmp_path):
    folder, processor = base
    ours, our_processor = load_model(folder)
    patterns = {"rank_pattern": {r"layers\.0\..*": 3}, "alpha_pattern": {"up_proj": 1.5}}
    add_lora(ours, {"rank": 2, "alpha": 4, "targets": ["q_proj", "up_proj"], **patterns})
    for name, parameter in ours.named_parameters():
        if "lora_B" in name or "connector" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    released.export_adapter(ours, tmp_path / "adapter")
    plain = Qwen2AudioForConditionalGeneration.from_pretrained(folder)
    theirs = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    batch = theirs_of(processor, ROWS)
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        found = theirs(**batch, position_ids=positions).logits
        wanted = ours(**our_processor.batch(ROWS), position_ids=positions).logits
    torch.testing.assert_close(found[real], wanted[real], atol=1e-4, rtol=1e-4)
    again, _ = load_model(tmp_path / "adapter")
    assert again.config.lora["targets"] == ["q_proj", "up_proj"]


def test_what_is_no_adapter_of_the_model_is_named(base, tmp_path, tiny):
    folder, _ = base
    trained_by_peft(folder, tmp_path / "a", target_modules=r".*language_model.*\.q_proj")
    file = tmp_path / "a" / "adapter_config.json"
    fields = json.loads(file.read_text())
    for change, says in (
        ({"use_dora": True}, "has use_dora: merge it with PEFT"),
        ({"peft_type": "PREFIX_TUNING"}, "is no LoRA adapter"),
        ({"base_model_name_or_path": None}, "does not say which model it belongs to"),
        ({"base_model_name_or_path": "nobody/nothing"}, "'nobody/nothing' is no folder here"),
    ):
        file.write_text(json.dumps(fields | change))
        with pytest.raises(ValueError, match=says):
            load_model(tmp_path / "a")
    file.write_text(json.dumps(fields))
    (tmp_path / "a" / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(AdapterError, match="is damaged"):
        load_model(tmp_path / "a")
    model, _ = tiny("qwen2-audio")
    add_lora(model, {"rank": 2, "alpha": 4, "targets": ["q_proj"]})
    with pytest.raises(AdapterError, match="needs a base in the released layout"):
        released.export_adapter(model, tmp_path / "b")


def test_a_hub_id_is_a_model_wherever_a_folder_is(base, tmp_path, monkeypatch):
    """From the Hub's local cache, as it lies there, with no network."""
    folder, _ = base
    snapshot = tmp_path / "hub" / "models--Qwen--Qwen2-Audio-7B-Instruct" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(folder)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name = "Qwen/Qwen2-Audio-7B-Instruct"
    assert model_folder(name) == snapshot
    model, opened = load_model(name)
    assert model.config.parts == {"model": name}
    assert opened.render(ROWS[0])[0].startswith("<|im_start|>system")
    with pytest.raises(ValueError, match="'Qwen/other' is no folder here"):
        load_model("Qwen/other")


def test_commands_take_a_hub_id(base, tmp_path, monkeypatch):
    """``info``, the fetching of pinned parts, and vLLM's server, which calls the model by its id."""
    for name, folder in (("org--released", base[0]), ("org--slim", tmp_path / "slim")):
        snapshot = tmp_path / "hub" / f"models--{name}" / "snapshots" / "abc"
        snapshot.parent.mkdir(parents=True)
        snapshot.symlink_to(folder)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("abc")
    (tmp_path / "slim").mkdir()
    (tmp_path / "slim" / "config.json").write_text('{"parts": {"encoder": "whisper-base"}}')
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert info.of_folder("org/released").name == "org/released"
    assert info.of_folder(base[0]).name == base[0].name
    fetched: list[list[str]] = []
    monkeypatch.setattr("lalm.cli.weights.fetch_with_bar", fetched.append)
    fetch_for("org/slim")
    assert fetched == [["whisper-base"]]
    assert model_name("org/released") == "org/released"
    assert model_name(base[0]) == base[0].name and model_name("org/slim") == "org/slim"
