"""Recipes: strict, typed, and the same in a file, in a checkpoint and on the command line."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lalm.training import recipe

GOOD: dict[str, Any] = {
    "system": "acdc",
    "init": {"encoder": "whisper-base", "llm": "smollm2-135m-instruct", "options": {"group_size": 10}},
    "lora": {"rank": 8, "alpha": 16},
    "data": {"train": [{"path": "train.jsonl", "weight": 2}], "valid": ["valid.jsonl"]},
    "optim": {"learning_rate": 1e-4, "batch_size": 4, "max_steps": 10},
    "out": "runs/x",
}


def write(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **(changes or {})}))
    return path


def test_a_number_that_yaml_reads_as_text_becomes_a_number(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text().replace("learning_rate: 0.0001", "learning_rate: 1e-4"))
    assert yaml.safe_load(path.read_text())["optim"]["learning_rate"] == "1e-4"  # PyYAML's YAML 1.1 float
    assert recipe.load(path).optim.learning_rate == 1e-4
    assert recipe.load(path, ["optim.learning_rate=1e-5"]).optim.learning_rate == 1e-5


def test_a_mapping_is_a_recipe_and_stays_as_it_was(tmp_path: Path) -> None:
    before = yaml.safe_dump(GOOD)
    assert recipe.load(GOOD, ["out=runs/y"]).out == "runs/y" and yaml.safe_dump(GOOD) == before
    assert recipe.load(GOOD) == recipe.load(write(tmp_path))
    with pytest.raises(recipe.RecipeError, match=r"the recipe: optim\.max_steps"):
        recipe.load(GOOD, ["optim.max_steps=never"])


def test_on_is_a_key_and_no_truth_value(tmp_path: Path) -> None:
    """YAML 1.1, which PyYAML reads, takes ``on`` for true: ``distil: {on: hidden}`` was refused."""
    text = write(tmp_path, {}).read_text() + "distil:\n  on: hidden\n"
    (tmp_path / "own.yaml").write_text(text)
    read = recipe.load(tmp_path / "own.yaml")
    assert read.distil is not None and read.distil.on == "hidden"
    again = recipe.load(tmp_path / "own.yaml", ["distil={on: logits}", "optim.gradient_checkpointing=yes"])
    assert again.distil is not None and again.distil.on == "logits"
    assert again.optim.gradient_checkpointing is True


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"lora": {"rnak": 8, "alpha": 16, "rank": 8}}, "lora.rnak: Extra inputs are not permitted"),
        ({"optim": {**GOOD["optim"], "batch_size": 0}}, "optim.batch_size: Input should be greater than"),
        (
            {"optim": {**GOOD["optim"], "learning_rate": "fast"}},
            "optim.learning_rate: Input should be a valid number",
        ),
        ({"optim": {**GOOD["optim"], "learning_rate": float("nan")}}, "optim.learning_rate: Input should be"),
        ({"optim": {**GOOD["optim"], "epochs": 2}}, "optim: give either 'max_steps' or 'epochs'"),
        ({"system": "salmon"}, "there is no system 'salmon'"),
        ({"init": {"encoder": "whisper-base"}}, "init: give either 'from', or both 'encoder' and 'llm'"),
        ({"init": {"from": "x", "llm": "y"}}, "init: 'from' stands without parts"),
        ({"data": {"train": []}}, "data.train: List should have at least 1 item"),
        (
            {"data": {"train": [{"path": "a", "weight": 0}]}},
            "data.train.0.weight: Input should be greater than 0",
        ),
        ({"trainable": [], "lora": None}, "nothing learns"),
        ({"warm_start": "steps"}, "warm_start: this is a section with keys of its own, such as {key: value}"),
        (
            {"grpo": {"rewards": ["right"]}},
            "grpo.rewards.0: this is a section with keys of its own, such as {key: value}, not 'right'",
        ),
        ({"contrast": {"layers": 3}}, "contrast.layers: this is a list, such as [one, another], not 3"),
        (
            {"grpo": {"rewards": [{"name": "right"}], "clip": 0.2}},
            "grpo.clip: this is a list of two, such as [first, second], not 0.2",
        ),
        (
            {"contrast": {}, "optim": {**GOOD["optim"], "batch_size": 1}},
            "'contrast' tells the clips of a batch apart: 'optim.batch_size' is 2 or more",
        ),
        (
            {"align": True, "lora": None, "optim": {**GOOD["optim"], "batch_size": 1}},
            "'align' tells the clips of a batch apart",
        ),
        ({"distil": {"on": "hidden", "top_k": 5}}, "distil: 'on: hidden' compares states"),
        (
            {"grpo": {"rewards": [{"name": "judge", "llm": "x", "url": "localhost"}]}},
            "grpo.rewards.0.url: an address begins with http:// or https://, not 'localhost'",
        ),
        (
            {"grpo": {"rewards": [{"name": "right"}], "rollouts": {"url": "localhost:8000"}}},
            "grpo.rollouts.url: an address begins with",
        ),
    ],
)
def test_errors_name_file_and_key(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    path = write(tmp_path, changes)
    with pytest.raises(recipe.RecipeError) as caught:
        recipe.load(path)
    assert str(caught.value).startswith(f"{path}: {text}")


def test_shares_make_ratios_of_manifests_of_any_size(tmp_path: Path) -> None:
    sources = [{"path": "a", "share": 3}, {"path": "b", "share": 1}]
    data = recipe.load(write(tmp_path, {"data": {"train": sources}})).data
    sizes = [50, 950]
    weights = data.weights(sizes)
    assert [w * n for w, n in zip(weights, sizes, strict=True)] == pytest.approx([750, 250])
    plain = recipe.load(write(tmp_path)).data
    assert plain.weights([7]) == [2.0]
    for odd, said in (
        ([{"path": "a", "share": 3}, {"path": "b"}], "'b' has no 'share', and 'a' has one"),
        ([{"path": "a", "share": 3, "weight": 2}], "'a' has 'weight' and 'share': give one of them"),
    ):
        with pytest.raises(recipe.RecipeError, match=said):
            recipe.load(write(tmp_path, {"data": {"train": odd}}))


def test_overrides_are_typed_and_reach_every_key(tmp_path: Path) -> None:
    loaded = recipe.load(
        write(tmp_path),
        [
            "lora.dropout=0.1",
            "data.train.0.weight=0.5",
            "data.valid=[a.jsonl, b.jsonl]",
            "init.options.remainder=pad",
        ],
    )
    assert loaded.lora is not None and loaded.lora.dropout == 0.1
    assert loaded.data.train[0].weight == 0.5
    assert loaded.data.valid == ["a.jsonl", "b.jsonl"]
    assert loaded.init.options == {"group_size": 10, "remainder": "pad"}


def test_an_override_builds_an_absent_section_and_null_removes_one(tmp_path: Path) -> None:
    path = write(tmp_path, {"lora": None})
    made = recipe.load(path, ["lora.rank=4", "lora.alpha=8", "every.save=5"])
    assert made.lora is not None and made.lora.rank == 4 and made.every.save == 5
    assert recipe.load(write(tmp_path), ["lora=null"]).lora is None


@pytest.mark.parametrize(
    "override",
    ["optim.learning_rate", "=3", "data.train.7.weight=1", "out.x=1", "optim.batch_size=four", "optm.x=1"],
)
def test_bad_overrides_are_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(recipe.RecipeError):
        recipe.load(write(tmp_path), [override])


def test_dump_reads_back_equal(tmp_path: Path) -> None:
    loaded = recipe.load(write(tmp_path))
    (tmp_path / "recipe.yaml").write_text(recipe.dump(loaded))
    assert recipe.load(tmp_path) == loaded  # a trained folder is named by itself
    (tmp_path / "from.yaml").write_text(
        recipe.dump(loaded.model_copy(update={"init": recipe.Init.model_validate({"from": "runs/a"})}))
    )
    assert recipe.load(tmp_path / "from.yaml").init.from_ == "runs/a"


def test_every_shipped_recipe_loads_and_cites_its_numbers() -> None:
    found = recipe.shipped()
    assert {"acdc/train", "acdc/train_lora", "acdc/caption", "acdc/small"} <= set(found)
    for name in found:
        assert recipe.load(name).system == name.split("/")[0]
    for line in found["acdc/train"].read_text().splitlines():
        if any(character.isdigit() for character in line.partition("#")[0]):
            assert "#" in line, line


def test_the_paper_recipe_has_the_papers_numbers() -> None:
    paper = recipe.load("acdc/train")
    assert (paper.optim.batch_size, paper.optim.learning_rate, paper.optim.warmup_steps) == (4, 1e-4, 1000)
    assert (paper.optim.schedule, paper.optim.max_steps, paper.every.valid) == ("linear", 100_000, 1000)
    assert paper.lora is None and paper.trainable == ["connector"]
    assert recipe.load("acdc/train_lora").lora is not None


def test_unknown_recipe_and_broken_yaml(tmp_path: Path) -> None:
    with pytest.raises(recipe.RecipeError, match=r"no recipe 'acdc/nothing'.*acdc/train"):
        recipe.load("acdc/nothing")
    (tmp_path / "bad.yaml").write_text("system: [acdc")
    with pytest.raises(recipe.RecipeError, match=r"bad\.yaml: not YAML"):
        recipe.load(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(recipe.RecipeError, match=r"list\.yaml: a recipe is a mapping"):
        recipe.load(tmp_path / "list.yaml")


def leaves(value: object) -> int:
    if isinstance(value, dict) and value:
        return sum(leaves(item) for item in value.values())
    return sum(leaves(item) for item in value) if isinstance(value, list) and value else 1


def test_a_recipe_stays_small(tmp_path: Path) -> None:
    """Some fifty keys at most: the recipe of a run is read on one screen; what it leaves out is off."""
    everything = yaml.safe_load(recipe.dump(recipe.load(write(tmp_path))))
    assert leaves(everything) <= 50
