"""GRPO's further means: JSON that fits a schema, a judge as the last resort, prompts from easy to hard."""

import json
from typing import Any

import pytest
from tiny_runs import lines, settings, training_world

from lalm.data.mixture import Mixture
from lalm.data.readers import read_manifest
from lalm.data.sample import Sample, ask, write_manifest
from lalm.synthesis.completions import Completion
from lalm.training import run as train
from lalm.training.objectives import curriculum, rewards
from lalm.training.objectives.judge_reward import JudgeReward
from lalm.training.objectives.rewards import RewardError
from lalm.training.sections import Reward

SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["dog", "rain"]}, "count": {"type": "integer", "minimum": 0}},
    "required": ["label"],
    "additionalProperties": False,
}
ASKED = ask(["a.wav"], "What is it?")


def test_json_is_rewarded_where_it_fits_the_schema(tmp_path):
    pytest.importorskip("jsonschema")
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    known = Sample(ASKED.messages, references=('{"label": "dog", "count": 2}',))
    for given in (SCHEMA, str(tmp_path / "schema.json")):
        fits = rewards.reward_of(Reward(name="json", schema=given))
        said = [
            *('{"label": "dog"}', '```json\n{"label": "rain", "count": 2}\n```', '{"label": "cat"}'),
            *('{"label": "dog", "count": -1}', '{"label": "dog", "loud": 1}', '["dog"]', "dog"),
        ]
        assert fits(ASKED, said) == [1, 1, 0, 0, 0, 0, 0]
        assert fits(known, said)[:2] == [0.5, 0.5]  # the share of the reference's keys that agree
    for bad in ({"type": "dog"}, str(tmp_path / "none.json")):
        with pytest.raises(RewardError, match="'schema' is no JSON schema"):
            rewards.reward_of(Reward(name="json", schema=bad))
    with pytest.raises(ValueError, match="'schema' is the JSON schema of the reward 'json'"):
        Reward(name="right", schema=SCHEMA)


class Ratings:
    """A judge that gives 10 to answers with a dog, and something else to others."""

    name = "ratings"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def complete(self, chats: Any, seeds: Any, sampling: Any) -> list[Completion]:
        self.asked += [chat[-1]["content"] for chat in chats]
        told = [chat[-1]["content"].partition("answer: ")[2] for chat in chats]
        return [
            Completion("10" if "dog" in one else "perhaps" if "hm" in one else "Rating: 4", False)
            for one in told
        ]


def test_a_judge_rates_from_0_to_1(monkeypatch):
    writer = Ratings()
    monkeypatch.setattr(JudgeReward, "_writer", lambda self: writer)
    judge = rewards.reward_of(Reward(name="judge", llm="any"))
    known = Sample(ASKED.messages, references=("a barking animal",))
    assert judge(known, ["a dog", "rain", "hm"]) == pytest.approx([1, 1 / 3, 0])
    assert "a barking animal" in writer.asked[0] and "What is it?" in writer.asked[0]
    with pytest.raises(RewardError, match="clip7: the reward 'judge' needs references"):
        rewards.check_rewardable([Reward(name="judge", llm="any")], ASKED, "clip7")
    for wrong in ({"name": "judge"}, {"name": "right", "llm": "any"}, {"name": "right", "url": "http://a"}):
        with pytest.raises(ValueError, match="is who rates for the reward 'judge'"):
            Reward(**wrong)


def test_ranked_prompts_come_in_their_order_every_epoch():
    samples = [[ask([f"{s}{i}.wav"], "?") for i in range(6)] for s in "ab"]
    mixture = Mixture([(own, 1.0) for own in samples], lambda s: 1.0, batch_size=2, parts=2, seed=3)
    before = [mixture.keys(i) for i in range(12)]
    mixture.rank([[5, 3, 1, 9, 7, 11], [4, 2, 0, 10, 8, 6]])
    values = [
        {(0, i): v for i, v in enumerate([5, 3, 1, 9, 7, 11])},
        {(1, i): v for i, v in enumerate([4, 2, 0, 10, 8, 6])},
    ]
    rank = values[0] | values[1]
    for epoch in range(2):
        order = [rank[key] for i in range(6 * epoch, 6 * epoch + 6) for key in mixture.keys(i)]
        assert order == list(range(12))
    assert sorted(key for keys in before[:6] for key in keys) == sorted(rank)


def test_a_run_begins_with_the_prompts_it_answers_best(tmp_path):
    """Its own answers decide; what they were worth is kept, and a second start asks nothing."""
    world = training_world(tmp_path, dropout=0.0)
    (tmp_path / "by_id.py").write_text("def late(sample, answer):\n    return int(sample.id[4:]) / 12\n")
    own = [
        Sample(s.prompt().messages, id=s.id, references=("a",)) for s in read_manifest(world / "train.jsonl")
    ]
    write_manifest(world / "train.jsonl", own)
    fields: dict[str, Any] = {
        "lora": {"rank": 2, "alpha": 4, "dropout": 0.0},
        "grpo": {
            "rewards": [{"name": f"{tmp_path}/by_id.py:late"}],
            "group": 2,
            "max_new_tokens": 3,
            "curriculum": 2,
        },
        "optim": {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-3},
        "every": {"log": 1, "save": 3},
    }
    out = train.run(settings(world, tmp_path / "out", **fields))
    rewarded = list(lines(out, "reward").values())
    assert rewarded == pytest.approx(
        [(11 + 10 + 9 + 8) / 48, (7 + 6 + 5 + 4) / 48, (3 + 2 + 1) / 48], abs=1e-5
    )
    kept = (out / curriculum.FILE).read_text()
    assert len(kept.splitlines()) == 12
    again = settings(world, tmp_path / "out", **{**fields, "optim": {**fields["optim"], "max_steps": 4}})
    train.run(again)
    assert (out / curriculum.FILE).read_text() == kept
    assert lines(out, "reward")[4] == pytest.approx((11 + 10 + 9 + 8) / 48, abs=1e-5)
    with pytest.raises(ValueError, match=r"'grpo.curriculum' orders the prompts"):
        settings(world, tmp_path / "no", **{**fields, "optim": {**fields["optim"], "batch_s": 9.0}})


def test_votes_teach_without_any_answer_known(tmp_path):
    """AQA-TTRL's test-time form: nothing but prompts; the answers of a group come to agree."""
    world = training_world(tmp_path, dropout=0.0)
    bare = [Sample(s.prompt().messages, id=s.id) for s in read_manifest(world / "train.jsonl")]
    write_manifest(world / "train.jsonl", bare)
    fields: dict[str, Any] = {
        "grpo": {"rewards": [{"name": "vote"}], "group": 8, "max_new_tokens": 1, "temperature": 0.7},
        "optim": {"learning_rate": 2e-2, "batch_size": 4, "max_steps": 25, "schedule": "constant"},
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.0},
        "data": {"valid": []},
        "every": {"log": 1, "save": 50, "valid": 0},
    }
    agreed = list(lines(train.run(settings(world, tmp_path / "run", **fields)), "reward_vote").values())
    assert sum(agreed[-5:]) / 5 > sum(agreed[:5]) / 5 + 0.2
