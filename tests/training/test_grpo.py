"""Group relative policy optimisation: the loss against TRL's, rewards by hand, runs that learn and resume."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_parts import byte_tokenizer
from tiny_runs import lines, settings, training_world
from transformers import AutoModelForCausalLM

from lalm.data.readers import read_manifest
from lalm.data.sample import Event, Sample, ask, write_manifest
from lalm.training import run as train
from lalm.training.objectives import grpo, rewards, rollouts
from lalm.training.objectives.rewards import RewardError
from lalm.training.sections import REWARDS, Grpo, Reward

DOG = Event(label="dog", caption="A dog barks", onset_s=0.0, offset_s=1.0)
RAIN = Event(label="rain", caption="Rain falls", onset_s=2.0, offset_s=4.0)
ASKED = ask(["a.wav"], "What is it?")


def of(name: str, answer: str, **known: Any) -> float:
    (value,) = rewards.reward_of(Reward(name=name))(replace(ASKED, **known), [answer])
    return value


@pytest.mark.parametrize(
    ("name", "answer", "known", "value"),
    [
        ("right", "It is (B), rain.", {"choices": ("dog", "rain"), "references": ("rain",)}, 1),
        ("right", "A. dog", {"choices": ("dog", "rain"), "references": ("rain",)}, 0),
        ("right", "Yes, it barks.", {"references": ("yes",)}, 1),
        ("right", "There is no dog.", {"references": ("Yes.",)}, 0),
        ("right", "I count three.", {"references": ("3",)}, 1),
        ("right", "A dog is barking.", {"references": ("dog",)}, 1),
        ("right", "There is no dog.", {"references": ("dog",)}, 0),
        ("right", "(B)", {"choices": ("dog", "rain"), "references": ("B",)}, 1),
        ("choice", "dog", {"choices": ("dog", "rain"), "references": ("(B) rain",)}, 0),
        ("yes_no", "hm", {"references": ("yes",)}, 0),
        ("number", "many", {"references": ("3",)}, 0),
        ("exact", "a Dog!", {"references": ("A dog.",)}, 1),
        ("exact", "a dog barks", {"references": ("a dog",)}, 0),
        ("words", "the cat sat", {"references": ("The cat sat down.",)}, 0.75),
        ("words", "no such thing at all today", {"references": ("hello",)}, 0),
        ("times", "From 0.5 to 1.0 s", {"events": (DOG,)}, 0.5),
        ("times", "from 2 s to 4 s", {"events": (DOG, RAIN), "origin": {"asked": "rain"}}, 1),
        ("times", "I hear none", {"events": (DOG,), "origin": {"asked": "rain"}}, 1),
        ("times", "from 1 to 2 s", {"references": ("1.0 - 3.0 s",)}, 0.5),
        ("order", "A dog, then rain.", {"events": (RAIN, DOG)}, 1),
        ("order", "Rain and then a dog.", {"events": (DOG, RAIN)}, 0),
        ("json", '```json\n{"is": "dog", "n": 2}\n```', {"references": ('{"is": "dog", "n": 3}',)}, 0.5),
        ("json", "a dog", {}, 0),
        ("json", "{}", {}, 1),
        ("repeats", "a b c d a b c d", {}, 0.2),
    ],
)  # fmt: skip
def test_answers_are_worth_what_is_right_of_them(name, answer, known, value):
    assert of(name, answer, **known) == pytest.approx(value)


def test_most_votes_count_as_right():
    chosen = replace(ASKED, choices=("dog", "rain"))
    assert rewards.vote(chosen, ["A", "the dog", "B. rain", "hm"]) == [1, 1, 0, 0]
    assert rewards.vote(ASKED, ["No.", "no", "Yes, it is"]) == [1, 1, 0]
    assert rewards.vote(ASKED, ["", ""]) == [0, 0]


def test_form_and_length_and_functions_of_ones_own(tmp_path):
    tagged = Reward(name="format", pattern="<think>.*</think>.+")
    assert rewards.reward_of(tagged)(ASKED, ["<think>a\nb</think> dog", "dog"]) == [1, 0]
    short = rewards.reward_of(Reward(name="length", between=(1, 2)))
    assert short(ASKED, ["", "a dog", "a big dog"]) == [0, 1, 0]
    (tmp_path / "mine.py").write_text("def brief(sample, answer):\n    return 1 / (1 + len(answer))\n")
    assert rewards.reward_of(Reward(name=f"{tmp_path}/mine.py:brief"))(ASKED, ["abc"]) == [0.25]
    for name, said in (("mine.py:long", "has no function 'long'"), ("your.py:x", "there is no file")):
        with pytest.raises(RewardError, match=said):
            rewards.reward_of(Reward(name=f"{tmp_path}/{name}"))
    (tmp_path / "bad.py").write_text("import nothing_like_that\n")
    with pytest.raises(RewardError, match=r"'.*bad\.py' cannot be run: ModuleNotFoundError"):
        rewards.reward_of(Reward(name=f"{tmp_path}/bad.py:x"))
    (tmp_path / "odd.py").write_text(
        "def bare(answer): return 1\n"
        "def breaks(sample, answer): return 1 / 0\n"
        "def text(sample, answer): return 'good'\n"
    )
    for function, said in (
        ("bare", "failed on the answer 'a dog': TypeError: bare\\(\\) takes 1"),
        ("breaks", "failed on the answer 'a dog': ZeroDivisionError: division by zero"),
        ("text", "gave 'good' instead of a number"),
    ):
        with pytest.raises(RewardError, match=f"odd.py:{function}' {said}"):
            rewards.reward_of(Reward(name=f"{tmp_path}/odd.py:{function}"))(ASKED, ["a dog"])
    with pytest.raises(ValueError, match=r"'between' is \[fewest, most\] words, not \[5, 2\]"):
        Reward(name="length", between=(5, 2))
    with pytest.raises(ValueError, match="there is no reward 'best'"):
        Reward(name="best")
    for name in REWARDS:
        more = {"format": {"pattern": "x"}, "length": {"between": (1, 2)}, "judge": {"llm": "x"}}
        extra: Any = more.get(name, {})
        assert callable(rewards.reward_of(Reward(name=name, **extra)))


def test_a_library_that_a_reward_lacks_is_said_first(monkeypatch):
    monkeypatch.setattr("lalm.training.objectives.rewards.find_spec", lambda name: None)
    with pytest.raises(RewardError, match=r"'words' needs jiwer: pip install 'lalm\[evaluate\]'"):
        rewards.reward_of(Reward(name="words"))


def test_samples_that_cannot_be_rewarded_are_named():
    for name, said in (("right", "needs references"), ("order", "two events"), ("choice", "needs choices")):
        with pytest.raises(RewardError, match=f"clip7: the reward '{name}'.*{said}|clip7: .*{said}"):
            rewards.check_rewardable([Reward(name=name)], ASKED, "clip7")
    rewards.check_rewardable([Reward(name="json"), Reward(name="vote")], ASKED, "clip7")
    for name, true, said in (
        ("yes_no", "a dog", "needs yes or no, and right is 'a dog': take 'right'"),
        ("number", "a dog", "needs a number, and right is 'a dog': take 'right'"),
        ("choice", "a cat", "'a cat' is right, and none of its choices is that"),
        ("right", "a cat", "'a cat' is right, and none of its choices is that"),
    ):
        known = replace(ASKED, references=(true,), choices=("dog", "rain"))
        with pytest.raises(RewardError, match=f"clip7: .*{said}"):
            rewards.check_rewardable([Reward(name=name)], known, "clip7")
    for first in ({"name": "vote"}, {"name": "length", "between": (1, 9)}):
        with pytest.raises(ValueError, match=f"asks the first reward .*'{first['name']}' does not tell"):
            Grpo(rewards=[first, {"name": "right"}], unheard_weight=0.5)


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "gspo", "dapo"])
def test_on_text_the_loss_is_trls(tiny_folders, tmp_path, loss):
    """TRL's own loss of the same answers, with a policy that has moved since they were drawn, and a KL."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    tokenizer = byte_tokenizer()
    policy = AutoModelForCausalLM.from_pretrained(tiny_folders[1])
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=5,
        temperature=0.8,
        beta=0.3,
        epsilon=0.1,
        epsilon_high=0.3,
        use_bias_correction_kl=False,  # DeepSeekMath's KL, as ours
        loss_type={"gspo": "grpo"}.get(loss, loss),
        importance_sampling_level="sequence" if loss == "gspo" else "token",
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    trainer = trl.GRPOTrainer(
        model=policy,
        reward_funcs=lambda **given: [0.0] * len(given["completions"]),
        args=arguments,
        train_dataset=datasets.Dataset.from_list([{"prompt": "Hi"}] * 4),
        processing_class=tokenizer,
    )
    torch.manual_seed(3)
    prompts, answers = torch.randint(0, 200, (4, 3)), torch.randint(0, 200, (4, 5))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    old, reference = (torch.randn(4, 5) * 0.2 - 5.5 for _ in range(2))
    given = torch.tensor([1.0, 0.0, 0.5, 0.0])
    advantage = grpo.advantages(given, 4, loss)
    inputs = {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": answers,
        "completion_mask": mask,
        "advantages": advantage,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.eval()
    theirs = trainer._compute_loss(trainer.model, inputs)
    with torch.no_grad():
        logits = policy(torch.cat([prompts, answers], 1)).logits[:, 2:-1].float() / 0.8
    new = logits.log_softmax(2).gather(2, answers[..., None])[..., 0]
    kept = mask.bool()
    rows = torch.arange(4)[:, None].expand_as(mask)[kept]
    section = Grpo(
        rewards=[Reward(name="vote")], loss=loss, clip=(0.1, 0.3), kl=0.3, max_new_tokens=5, temperature=0.8
    )
    ours, found = grpo.policy_loss(new[kept], old[kept], rows, advantage, section, reference[kept])
    assert float(ours) == pytest.approx(float(theirs), abs=1e-5)
    assert abs(float(ours)) > 1e-3 and float(found["kl"]) > 0


def test_advantages_are_of_the_group():
    given = torch.tensor([1.0, 0.0, 0.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    found = grpo.advantages(given, 4, "grpo")
    deviation = given[:4].std()
    torch.testing.assert_close(found[:4], torch.tensor([0.5, -0.5, -0.5, 0.5]) / (deviation + 1e-4))
    assert not found[4:].any()
    torch.testing.assert_close(grpo.advantages(given, 4, "dr_grpo")[:4], torch.tensor([0.5, -0.5, -0.5, 0.5]))


def test_each_row_keeps_its_recordings():
    batch = {"input_ids": torch.tensor([[1], [2]]), "frames": torch.tensor([[10], [11], [20]])}
    made = rollouts.repeated(batch, [2, 1], 2)
    assert made["input_ids"].flatten().tolist() == [1, 1, 2, 2]
    assert made["frames"].flatten().tolist() == [10, 11, 10, 11, 20, 20]
    assert rollouts.unheard(ASKED).audios == []
    assert rollouts.row_seeds(3, 5, 4) == rollouts.row_seeds(3, 5, 4) != rollouts.row_seeds(3, 6, 4)


def test_drawn_answers_are_the_rows_that_are_learned(tiny):
    """Greedy answers, read again with their prompts, are the likeliest tokens there; the audio goes along."""
    torch.manual_seed(0)
    model, processor = tiny("qwen2-audio")
    parts = [{"type": "audio", "audio": torch.randn(16_000 * n).numpy(), "rate": 16_000} for n in (1, 2)]
    samples = [Sample(({"role": "user", "content": [part]},)) for part in parts]
    prompts = rollouts.prompt_batch(processor, samples, [processor.clips(s) for s in samples])
    clips = prompts.pop("clips")
    prompts.pop("samples")
    greedy = Grpo(rewards=[Reward(name="vote")]).model_copy(update={"temperature": 0.0})
    drawn = rollouts.draw(model, processor, prompts, clips, 2, greedy, 6, [0] * 4)
    assert drawn.texts[0] == drawn.texts[1] and len(drawn.texts) == 4
    seen = []
    model.eval()
    with torch.no_grad():
        model(
            **drawn.batch,
            answer_loss=lambda hidden, targets, rows: (
                seen.extend((model.logits(hidden).argmax(1) == targets).tolist()) or hidden.sum()
            ),
        )
    assert all(seen) and len(seen) == int((drawn.batch["labels"] >= 0).sum())


@pytest.mark.parametrize("system", ["qwen2-audio", "apt"])
def test_a_prompt_is_read_once_for_all_its_answers(tiny, monkeypatch, system):
    """The same answers as when each reads its prompt itself, from a group-th of the positions."""
    torch.manual_seed(0)
    model, processor = tiny(system)
    parts = [{"type": "audio", "audio": torch.randn(16_000 * n).numpy(), "rate": 16_000} for n in (1, 2, 3)]
    words = ["Why?", "What is it that one hears there?", "And?"]
    texts = [{"type": "text", "text": text} for text in words]
    samples = [Sample(({"role": "user", "content": list(said)},)) for said in zip(parts, texts, strict=True)]
    prompts = rollouts.prompt_batch(processor, samples, [processor.clips(s) for s in samples])
    clips = prompts.pop("clips")
    prompts.pop("samples")
    drawing = Grpo(rewards=[Reward(name="vote")])
    asked = (prompts, clips, 4, drawing, 6, list(range(12)))
    positions: list[int] = []

    def count(module: Any, args: Any, given: dict[str, Any]) -> None:
        positions.append(given["inputs_embeds"][..., 0].numel())

    model.model.language_model.register_forward_pre_hook(count, with_kwargs=True)
    drawn = rollouts.draw(model, processor, *asked)
    once = sum(positions)
    positions.clear()
    monkeypatch.setattr(rollouts, "read_once", lambda *given: None)
    each = rollouts.draw(model, processor, *asked)
    assert drawn.texts == each.texts and len(set(drawn.texts)) > 3
    assert drawn.cut == each.cut
    assert {name: value.tolist() for name, value in drawn.batch.items()} == {
        name: value.tolist() for name, value in each.batch.items()
    }
    prompt = int(prompts["attention_mask"].sum()) - len(samples)  # the last position is read with the answer
    assert once <= sum(positions) - 3 * prompt


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve questions; what is right is to say an e, as often as can be."""
    folder = training_world(tmp_path_factory.mktemp("grpo"), dropout=0.0)
    (folder / "mine.py").write_text("def many_e(sample, answer):\n    return answer.count('e') / 8\n")
    samples = [replace(s.prompt(), references=("e",)) for s in read_manifest(folder / "train.jsonl")]
    write_manifest(folder / "train.jsonl", samples)
    write_manifest(folder / "valid.jsonl", samples[:3])
    return folder


def run(world: Path, out: Path, section: dict[str, Any], steps: int = 4, **changes: Any) -> Path:
    every_e = [{"name": f"{world}/mine.py:many_e"}, {"name": "repeats", "weight": -0.1}]
    fields = {
        "grpo": {"rewards": every_e, "group": 6, "max_new_tokens": 8, **section},
        "optim": {"learning_rate": 2e-2, "batch_size": 2, "max_steps": steps, "schedule": "constant"},
        "data": {"valid": [str(world / "valid.jsonl")]},
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.0},
        "every": {"log": 1, "save": 2, "valid": 0},
    }
    return train.run(settings(world, out, **(fields | changes)))


def test_a_run_learns_what_is_rewarded(world, tmp_path):
    every = {"log": 1, "save": 50, "valid": 30}
    section = {"unheard_weight": 0.5, "overlong": 4}
    out = run(world, tmp_path / "run", section, steps=30, every=every)
    given = list(lines(out, "reward").values())
    assert sum(given[-5:]) / 5 > sum(given[:5]) / 5 + 0.1
    assert lines(out, "reward_many_e") and lines(out, "valid_reward")[30] > given[0]
    for name in ("spread", "cut", "entropy", "tokens", "unheard"):
        assert lines(out, name), name
    shown = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines() if "drawn" in line]
    assert len(shown[0]["drawn"][0]["answers"]) == 6


TWICE = {"updates": 3, "kl": 0.05, "reference": "adapter", "loss": "dr_grpo"}


@pytest.mark.parametrize("section", [{}, TWICE], ids=["once", "three updates"])
def test_a_resumed_run_is_the_run_that_was_not_stopped(world, tmp_path, section):
    alone = {"trainable": []} if section else {}  # the LLM without its LoRA is the reference
    whole = run(world, tmp_path / "whole", section, **alone)
    for steps in (2, 4):
        parted = run(world, tmp_path / "parted", section, steps, **alone)
    assert lines(parted) == lines(whole) and lines(parted, "reward") == lines(whole, "reward")
    one, other = (load_file(folder / "model.safetensors") for folder in (parted, whole))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_cannot_be_drawn_is_refused(world, tmp_path):
    with pytest.raises(RewardError, match="the encoder cannot train"):
        run(world, tmp_path / "tower", {}, lora=None, trainable=["audio_tower"])
    write_manifest(tmp_path / "text.jsonl", [Sample(({"role": "user", "content": "Hi"},), id="a")])
    mixed = {"train": [{"path": str(world / "train.jsonl")}, {"path": str(tmp_path / "text.jsonl")}]}
    with pytest.raises(ValueError, match="nothing of it trains: take them out, or add 'lora'"):
        run(world, tmp_path / "deaf", {}, lora=None, data=mixed)
    with pytest.raises(ValueError, match=r"'grpo\.updates' above 1"):
        run(world, tmp_path / "drop", {"updates": 2}, lora={"rank": 2, "alpha": 4, "dropout": 0.1})
