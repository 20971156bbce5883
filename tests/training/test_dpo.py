"""Preference learning: the loss against TRL's and its own definition, its three references, whole runs."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_parts import byte_tokenizer, llama_folder, noise, whisper_folder
from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM

from lalm.data.readers import read_manifest
from lalm.data.sample import Sample, write_manifest
from lalm.models.assemble import build_model
from lalm.models.load import load_model
from lalm.models.lora import add_lora, set_lora_scale
from lalm.models.loss import row_numbers
from lalm.models.packing import pack
from lalm.training import recipe
from lalm.training import run as train
from lalm.training.objectives import dpo
from lalm.training.objectives.reference_free import orpo_loss, simpo_loss


def pair(chosen: str, rejected: str, seconds: float = 1.0, **fields: Any) -> Sample:
    audio = np.random.default_rng(int(seconds * 10)).standard_normal(int(seconds * 16_000)) * 0.1
    parts: list[Any] = [{"type": "audio", "audio": audio.astype(np.float32), "rate": 16_000}]
    parts.append({"type": "text", "text": "What is it?"})
    return Sample(({"role": "user", "content": parts},), chosen=chosen, rejected=rejected, **fields)


PAIRS = [pair("a dog barks", "a cat", 1.0), pair("rain", "wind and more wind", 2.3)]


@pytest.fixture
def setup(tiny) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model, processor = tiny("qwen2-audio")
    return model.eval(), processor


def by_hand(model: Any, processor: Any, sample: Sample, answer: str) -> float:
    """log p(answer and its end | prompt), with nothing but the model's logits."""
    prompt = processor.batch([sample])
    ids = processor.tokenizer(answer + "<|im_end|>", add_special_tokens=False)["input_ids"]
    prompt["input_ids"] = torch.cat([prompt["input_ids"], torch.tensor([ids])], 1)
    prompt["attention_mask"] = torch.ones_like(prompt["input_ids"])
    with torch.no_grad():
        logits = model(**prompt).logits[0, -len(ids) - 1 : -1]
    return float(log_softmax(logits, 1)[range(len(ids)), ids].sum())


def log_probs(model: Any, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        found = dpo.response_logits(model, dpo.encoded_once(model, batch))
    return dpo.row_log_probs(*found, len(batch["labels"]))


def test_log_probabilities_are_of_the_answers_and_their_ends_alone(setup):
    found = log_probs(setup[0], dpo.pair_batch(setup[1], PAIRS))
    wanted = [by_hand(*setup, s, s.chosen) for s in PAIRS] + [by_hand(*setup, s, s.rejected) for s in PAIRS]
    torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-3, rtol=1e-4)
    alone = log_probs(setup[0], dpo.pair_batch(setup[1], PAIRS[1:]))
    torch.testing.assert_close(found[1::2], alone, atol=1e-3, rtol=1e-4)


def test_earlier_answers_do_not_count(setup):
    turns = (
        *PAIRS[0].messages,
        {"role": "assistant", "content": "a bell"},
        {"role": "user", "content": "Sure?"},
    )
    sample = Sample(turns, chosen="yes", rejected="no way")
    batch = dpo.pair_batch(setup[1], [sample])
    learned = [setup[1].tokenizer.decode(row[row != -100]) for row in batch["labels"]]
    assert learned == ["yes<|im_end|>", "no way<|im_end|>"]


def test_packed_rows_give_the_log_probabilities_of_padded_ones(setup):
    """Chosen and rejected answers behind one another in a single row, each with its own clip."""
    model, processor = setup
    plain = log_probs(model, dpo.pair_batch(processor, PAIRS))
    packed = pack(dpo.pair_batch(processor, PAIRS))
    assert len(packed["labels"]) == 1 and row_numbers(packed["labels"], packed["position_ids"]).max() == 3
    with torch.no_grad():
        found = dpo.response_logits(model, dpo.encoded_once(model, packed))
    torch.testing.assert_close(dpo.row_log_probs(*found, 4), plain, atol=1e-3, rtol=1e-4)


def test_each_audio_is_encoded_once(setup, monkeypatch):
    model, processor = setup
    batch = dpo.pair_batch(processor, PAIRS)
    assert len(batch["input_values"]) == 2 and len(batch["input_ids"]) == 4
    heard = []
    encode = model.model.encode
    monkeypatch.setattr(
        model.model, "encode", lambda *given: (heard.append(len(given[0])), encode(*given))[1]
    )
    log_probs(model, batch)
    assert heard == [2]


def test_the_loss_is_its_definition():
    policy, reference = torch.tensor([-3.0, -5.0, -4.0, -2.0]), torch.tensor([-3.5, -4.0, -3.0, -2.0])
    margins = [0.3 * ((-3 + 3.5) - (-4 + 3)), 0.3 * ((-5 + 4) - (-2 + 2))]
    for smoothing in (0.0, 0.2):
        loss, found = dpo.preference_loss(policy, reference, 0.3, smoothing)
        terms = [
            (1 - smoothing) * math.log(1 + math.exp(-m)) + smoothing * math.log(1 + math.exp(m))
            for m in margins
        ]
        assert float(loss) == pytest.approx(sum(terms) / 2, abs=1e-6)
        assert found.tolist() == pytest.approx(margins, abs=1e-6)
    equal, _ = dpo.preference_loss(policy, policy, 0.3)
    assert float(equal) == pytest.approx(math.log(2), abs=1e-7)
    swapped = dpo.preference_loss(policy.roll(2), reference.roll(2), 0.3)[1]
    torch.testing.assert_close(swapped, -torch.tensor(margins))


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_on_text_the_loss_is_trls(tiny_folders, tmp_path, weight):
    """TRL's own trainer, policy and reference, over conversations without audio."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    texts = [("Hi. ", "Good day.", "No."), ("What is a bell? ", "It rings.", "I will not say, ever.")]
    tokenizer = byte_tokenizer()
    torch.manual_seed(1)
    reference = AutoModelForCausalLM.from_pretrained(tiny_folders[1])
    policy = AutoModelForCausalLM.from_pretrained(tiny_folders[1])
    for parameter in policy.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    arguments = trl.DPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        beta=0.3,
        loss_type=["sigmoid", "sft"],
        loss_weights=[1.0, weight],
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in texts]
    trainer = trl.DPOTrainer(
        model=policy,
        ref_model=reference,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    theirs = trainer.compute_loss(trainer.model, inputs).detach()
    batch = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    batch["labels"] = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    wrapped = [_as_ours(tiny_folders, model.eval()) for model in (policy, reference)]
    ours, _ = dpo.preference_loss(*(log_probs(m, batch) for m in wrapped), 0.3)
    _, _, places = dpo.response_logits(wrapped[0], batch)
    ours = ours + weight * dpo.chosen_loss(log_probs(wrapped[0], batch), places)
    assert float(theirs) != pytest.approx(math.log(2), abs=1e-3)
    assert float(ours) == pytest.approx(float(theirs), abs=1e-5)


def _as_ours(folders: tuple[Path, Path], llm: Any) -> Any:
    """That LLM inside one of our models."""
    model, _ = build_model("qwen2-audio", encoder=str(folders[0]), llm=str(folders[1]))
    model.model.language_model, model.lm_head = llm.model, llm.lm_head
    return model


def test_a_copy_stays_as_it_was_and_shares_what_never_changes(setup):
    model, processor = setup
    model.set_trainable(["language_model"])
    twin = dpo.frozen_copy(model)
    assert twin.model.audio_tower is model.model.audio_tower
    batch = dpo.pair_batch(processor, PAIRS)
    before = log_probs(model, batch)
    for parameter in model.model.language_model.parameters():
        parameter.data += 0.1
    assert torch.equal(log_probs(twin, batch), before)
    assert not torch.allclose(log_probs(model, batch), before)
    assert not any(p.requires_grad for p in twin.parameters())
    assert any(p.requires_grad for p in model.parameters())


def test_without_its_adapter_the_llm_is_the_one_before(setup):
    model, processor = setup
    batch = dpo.pair_batch(processor, PAIRS)
    before = log_probs(model, batch)
    add_lora(model, {"rank": 2, "alpha": 4, "targets": ["q_proj"]})
    model.set_trainable(["*lora_*"])
    dpo.check_adapter(model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    after = log_probs(model, batch)
    with dpo.reference_model(model, None) as reference:
        assert torch.equal(log_probs(reference, batch), before)
    assert not torch.allclose(after, before) and torch.equal(log_probs(model, batch), after)
    with pytest.raises(ValueError, match="would forget what this LoRA has learned"):
        dpo.check_adapter(model)
    model.set_trainable(["*lora_*", "connector"])
    with pytest.raises(ValueError, match="needs LoRA to be all that learns"):
        dpo.check_adapter(model)


def test_pairs_are_checked_by_name():
    with pytest.raises(ValueError, match=r"p\.jsonl: row7 has no 'rejected' answer"):
        dpo.check_pairs([PAIRS[0], pair("x", "", id="row7")], "p.jsonl")
    with pytest.raises(ValueError, match=r"p\.jsonl: sample 2 prefers an answer to itself"):
        dpo.check_pairs([PAIRS[0], pair("x", "x")], "p.jsonl")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts and eight pairs in which the chosen answer is always the same word."""
    folder = tmp_path_factory.mktemp("pairs")
    whisper_folder(folder / "encoder")
    llama_folder(folder / "llm")
    samples = []
    for i in range(8):
        clip = noise(folder / f"{i}.wav", 0.5 + 0.2 * i, seed=i)
        user: Any = {"role": "user", "content": [{"type": "audio", "audio": str(clip)}]}
        samples.append(Sample((user,), chosen="yes", rejected="no " * (1 + i % 3), id=f"pair{i}"))
    write_manifest(folder / "pairs.jsonl", samples)
    return folder


def settings(world: Path, out: Path, reference: str, **changes: Any) -> recipe.Recipe:
    fields: dict[str, Any] = {
        "system": "qwen2-audio",
        "init": {"encoder": str(world / "encoder"), "llm": str(world / "llm")},
        "trainable": [] if reference == "adapter" else ["language_model"],
        "lora": {"rank": 2, "alpha": 4} if reference == "adapter" else None,
        "dpo": {"beta": 0.5, "label_smoothing": 0.05, "reference": reference},
        "data": {"train": [{"path": str(world / "pairs.jsonl")}], "valid": [str(world / "pairs.jsonl")]},
        "optim": {
            "learning_rate": 5e-3,
            "batch_size": 2,
            "accumulation": 2,
            "max_steps": 4,
            "warmup_steps": 0,
        },
        "every": {"log": 1, "save": 4, "valid": 4},
        "valid": {"samples": 4, "generate": 1},
        "out": str(out),
    }
    return recipe.Recipe.model_validate(fields | changes)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_runs_learn_the_preference_whatever_the_reference(world, tmp_path):
    steps = {}
    for reference in ("copy", "precomputed", "adapter"):
        out = train.run(settings(world, tmp_path / reference, reference))
        rows = [line for line in lines(out) if "loss" in line]
        assert rows[0]["loss"] == pytest.approx(
            math.log(2), abs=1e-4
        )  # policy and reference are one at first
        assert rows[0]["margin"] == pytest.approx(0, abs=1e-4)
        assert rows[-1]["margin"] > 0.05 and rows[-1]["accuracy"] > 0.5
        assert ("kl" in rows[0]) == (reference != "precomputed")
        (valid,) = [line for line in lines(out) if "valid_loss" in line]
        assert valid["valid_loss"] < rows[0]["loss"] and valid["valid_accuracy"] > 0.5
        steps[reference] = [row["loss"] for row in rows]
        if reference != "precomputed":
            assert rows[0]["kl"] == pytest.approx(0, abs=1e-5) and rows[-1]["kl"] > 1e-4
    assert steps["copy"] == pytest.approx(steps["precomputed"], abs=1e-4)
    packed = settings(world, tmp_path / "packed", "copy")
    optim = packed.optim.model_copy(update={"packing": True})
    rows = lines(train.run(packed.model_copy(update={"optim": optim})))
    assert [r["loss"] for r in rows if "loss" in r] == pytest.approx(steps["copy"], abs=1e-4)
    tensors = load_file(tmp_path / "adapter" / "model.safetensors")
    assert all("lora_" in name or "connector" in name for name in tensors)


def test_a_manifest_without_pairs_is_refused(world, tmp_path):
    write_manifest(tmp_path / "plain.jsonl", [Sample(({"role": "user", "content": "Hi"},), id="a")])
    with pytest.raises(ValueError, match=r"plain\.jsonl: a has no 'chosen' answer"):
        data = {"train": [{"path": str(tmp_path / "plain.jsonl")}]}
        train.run(settings(world, tmp_path / "out", "copy", data=data))


def test_a_run_with_lora_is_the_reference_of_a_fresh_one(world, tmp_path):
    """2_sft_small -> 3_dpo_lora: what the first LoRA learned is merged, in the run and when opened again."""
    first = settings(
        world, tmp_path / "sft", "copy", trainable=["connector"], dpo=None, lora={"rank": 4, "alpha": 8}
    )
    data = {"train": [{"path": str(tmp_path / "sft.jsonl")}], "valid": []}
    samples = [s.with_target("maybe") for s in read_manifest(world / "pairs.jsonl")]
    write_manifest(tmp_path / "sft.jsonl", samples)
    train.run(first.model_copy(update={"data": recipe.Data.model_validate(data)}))
    learned, processor = load_model(tmp_path / "sft")
    out = train.run(settings(world, tmp_path / "dpo", "adapter", init={"from": str(tmp_path / "sft")}))
    rows = [line for line in lines(out) if "loss" in line]
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-4) and rows[-1]["margin"] > 0.05
    both, _ = load_model(out)
    assert both.config.lora == {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}
    batch = processor.batch([samples[0].prompt()])
    wanted = learned(**batch).logits
    set_lora_scale(both, 0.0)
    torch.testing.assert_close(both(**batch).logits, wanted, atol=1e-4, rtol=1e-4)
    set_lora_scale(both, None)
    assert float((both(**batch).logits - wanted).abs().max()) > 1e-3


def test_the_base_models_format_is_followed_by_the_chat(world, tmp_path):
    """1_pretrain -> 2_sft by ``role_markers``, whole and slim, as the options of ``from``."""
    write_manifest(tmp_path / "a.jsonl", [s.with_target("yes") for s in read_manifest(world / "pairs.jsonl")])
    data = {"train": [{"path": str(tmp_path / "a.jsonl")}], "valid": []}
    parts = {"encoder": str(world / "encoder"), "llm": str(world / "llm"), "options": {"role_markers": False}}
    for kind, trainable in (("whole", ["connector", "language_model"]), ("slim", ["connector"])):
        first = {"trainable": trainable, "dpo": None, "data": data}
        base = train.run(settings(world, tmp_path / kind, "copy", **first, init=parts))
        asked = next(iter(read_manifest(tmp_path / "a.jsonl"))).prompt()
        model, processor = load_model(base)
        assert not model.config.role_markers and processor.render(asked)[0] == "<|AUDIO|>"
        text, _ = processor.render(asked.with_target("yes"), labels=True)
        assert text == "<|AUDIO|>yes<|im_end|>"  # this LLM's own end, as it has no <|endoftext|>
        onward = {"from": str(base), "options": {"role_markers": True}}
        chat = train.run(settings(world, tmp_path / f"{kind}-chat", "copy", **first, init=onward))
        model, processor = load_model(chat)
        assert model.config.role_markers
        assert processor.render(asked)[0].endswith("Audio 1: <|AUDIO|>\n<|im_end|>\n<|im_start|>assistant\n")


def test_losses_without_a_reference_are_trls():
    policy = torch.tensor([-6.0, -9.0, -4.0, -20.0])  # two chosen answers, then two rejected ones
    lengths = torch.tensor([3, 4, 2, 5])
    chosen, rejected = (policy / lengths).chunk(2)
    loss, margins = simpo_loss(policy, lengths, 2.0, 0.5, 0.1)
    own = 2.0 * (chosen - rejected) - 0.5
    torch.testing.assert_close(margins, own)
    wanted = -(0.9 * torch.nn.functional.logsigmoid(own) + 0.1 * torch.nn.functional.logsigmoid(-own)).mean()
    torch.testing.assert_close(loss, wanted)
    device = {"accelerator": SimpleNamespace(device=torch.device("cpu"))}
    orpo = pytest.importorskip("trl.experimental.orpo")
    theirs, *_ = orpo.ORPOTrainer.odds_ratio_loss(SimpleNamespace(beta=0.3, **device), chosen, rejected)
    torch.testing.assert_close(orpo_loss(policy, lengths, 0.3)[0], -theirs.mean())
    cpo = pytest.importorskip("trl.experimental.cpo")
    settings = {"beta": 2.0, "label_smoothing": 0.1, "simpo_gamma": 0.5, "loss_type": "simpo"}
    settings |= {"alpha": 0.0, **device}
    theirs, *_ = cpo.CPOTrainer.cpo_loss(SimpleNamespace(**settings), chosen, rejected)
    torch.testing.assert_close(loss, theirs.mean())


@pytest.mark.parametrize("loss", ["simpo", "orpo"])
def test_runs_learn_the_preference_without_a_reference(world, tmp_path, loss):
    made = settings(world, tmp_path / loss, "copy", dpo={"beta": 0.5, "loss": loss})
    rows = [line for line in lines(train.run(made)) if "loss" in line]
    assert rows[-1]["margin"] > rows[0]["margin"] and "kl" not in rows[0]
    with pytest.raises(ValueError, match="has no reference"):
        settings(world, tmp_path / "no", "adapter", dpo={"beta": 0.5, "loss": loss, "reference": "adapter"})
