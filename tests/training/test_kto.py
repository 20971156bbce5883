"""KTO: the loss against TRL's, the rows of a batch against each alone, a run from thumbs up and down."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_parts import byte_tokenizer
from tiny_runs import settings, training_world
from transformers import AutoModelForCausalLM

from lalm.data.readers import read_manifest
from lalm.data.sample import Sample, write_manifest
from lalm.models.packing import pack
from lalm.training import run as train
from lalm.training.objectives import dpo, kto
from lalm.training.sections import Dpo


def asked(seconds: list[float], **answers: Any) -> Sample:
    parts: list[Any] = [{"type": "text", "text": "What is it?"}]
    for one in seconds:
        audio = np.random.default_rng(int(one * 10)).standard_normal(int(one * 16_000)) * 0.1
        parts.append({"type": "audio", "audio": audio.astype(np.float32), "rate": 16_000})
    return Sample(({"role": "user", "content": parts},), **answers)


def test_on_text_the_loss_is_trls(tiny_folders, tmp_path):
    """TRL's own trainer, policy, reference and mismatched answers, over conversations without audio."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    told = [
        ("Hi. ", "Good day.", True),
        ("A bell? ", "It rings.", True),
        ("Well? ", "I will not say.", False),
    ]
    torch.manual_seed(1)
    reference = AutoModelForCausalLM.from_pretrained(tiny_folders[1])
    policy = AutoModelForCausalLM.from_pretrained(tiny_folders[1])
    for parameter in policy.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    arguments = trl.KTOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=3,
        beta=0.3,
        desirable_weight=1.2,
        undesirable_weight=0.8,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    rows = [{"prompt": p, "completion": c, "label": good} for p, c, good in told]
    trainer = trl.KTOTrainer(
        model=policy,
        ref_model=reference,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=byte_tokenizer(),
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    trainer.model.eval()
    theirs = trainer.compute_loss(trainer.model, inputs).detach()

    def ratios(kind: str) -> torch.Tensor:
        ids, mask = inputs[f"{kind}input_ids"], inputs[f"{kind}attention_mask"]
        answer = inputs[f"{kind}completion_mask"][:, 1:].bool()
        found = []
        with torch.no_grad():
            for model in (policy, reference):
                chances = model(ids, attention_mask=mask).logits[:, :-1].float().log_softmax(2)
                found.append((chances.gather(2, ids[:, 1:, None])[..., 0] * answer).sum(1))
        return found[0] - found[1]

    kl = ratios("KL_").mean().clamp(min=0)
    assert float(kl) > 0
    ours = kto.kto_loss(ratios(""), inputs["label"].bool(), kl, 0.3, (1.2, 0.8))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_rows_of_a_batch_are_each_answer_alone_and_the_next_ones(tiny):
    torch.manual_seed(0)
    model, processor = tiny("qwen2-audio")
    model.eval()
    samples = [
        asked([1.0, 0.7], chosen="a dog", rejected="a cat"),
        asked([2.3], rejected="rain, much"),
        asked([], chosen="silence"),
    ]
    audios = [processor.clips(sample) for sample in samples]
    batch = kto.answer_batch(processor, samples, audios)
    assert batch[kto.KINDS].tolist() == [1, 0, 0, 1, -1, -1, -1]
    assert len(batch["input_values"]) == 3 and batch[kto.CLIPS].tolist() == [0, 1, 0, 1, 2, 0, 1, 2]
    wanted = [(0, "a dog"), (0, "a cat"), (1, "rain, much"), (2, "silence")]
    wanted += [(0, "rain, much"), (1, "silence"), (2, "a dog")]
    alone = []
    for number, answer in wanted:
        pair = Sample(samples[number].messages, chosen=answer, rejected="x")
        found = dpo.response_logits(model, dpo.encoded_once(model, dpo.pair_batch(processor, [pair])))
        alone.append(dpo.row_log_probs(*found, 2)[0])
    for made in (batch, pack(batch)):
        plain = {name: value for name, value in made.items() if name not in (kto.KINDS, kto.CLIPS)}
        given = kto.heard(model, plain, batch[kto.CLIPS])
        found = dpo.row_log_probs(*dpo.response_logits(model, given), 7)
        torch.testing.assert_close(found, torch.stack(alone), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("reference", ["copy", "adapter"])
def test_a_run_learns_from_thumbs_up_and_down(tmp_path, reference):
    world = training_world(tmp_path, dropout=0.0)
    samples = [
        Sample(one.prompt().messages, id=one.id, **({"chosen": "yes"} if i % 2 else {"rejected": "no no"}))
        for i, one in enumerate(read_manifest(world / "train.jsonl"))
    ]
    write_manifest(world / "thumbs.jsonl", samples)
    fields: dict[str, Any] = {
        "trainable": [] if reference == "adapter" else ["connector"],
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.0},
        "dpo": {"beta": 0.5, "loss": "kto", "reference": reference},
        "data": {"train": [{"path": str(world / "thumbs.jsonl")}], "valid": [str(world / "thumbs.jsonl")]},
        "optim": {"learning_rate": 2e-2, "batch_size": 4, "max_steps": 8},
        "valid": {"samples": 8, "generate": 0},
    }
    out = train.run(settings(world, tmp_path / "out", **fields))
    rows = [json.loads(line) for line in Path(out / "metrics.jsonl").read_text().splitlines()]
    first, *_, last = [row for row in rows if "loss" in row]
    assert first["loss"] == pytest.approx(0.5, abs=1e-4)  # policy and reference are one at first
    valid = [row for row in rows if "valid_loss" in row][-1]
    assert last["loss"] < 0.49 and valid["valid_margin"] > 0.05 and valid["valid_accuracy"] > 0.6
    with pytest.raises(ValueError, match=r"'optim.batch_size' is 2 or more"):
        settings(world, tmp_path / "no", **{**fields, "optim": {"batch_size": 1, "max_steps": 1}})
    with pytest.raises(ValueError, match="'kto' has no pairs"):
        Dpo(beta=0.1, loss="kto", reference="precomputed")
    write_manifest(world / "thumbs.jsonl", [samples[0], Sample(samples[1].messages, id="none")])
    with pytest.raises(ValueError, match="none has no 'chosen' and no 'rejected' answer"):
        train.run(settings(world, tmp_path / "none", **fields))
