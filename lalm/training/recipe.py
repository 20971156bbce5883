"""Recipes: a training run as one flat YAML file, checked against one strict type.

``load`` opens a file, a shipped recipe ("acdc/train") or a trained folder's own ``recipe.yaml``; ``dump``
writes the same format back. No inheritance, no interpolation, no class paths: what a file says is the run.
Paths inside a recipe are relative to the folder the run is started from.
"""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from lalm.errors import LalmError
from lalm.systems import SYSTEMS, find
from lalm.training.ingredients import (
    Augment,
    Data,
    Every,
    Filters,
    Init,
    Keep,
    Lora,
    Manifest,
    Optim,
    Source,
    Valid,
)
from lalm.training.sections import Contrast, Distil, Dpo, Grpo, Name, Section, WarmStart

__all__ = [
    "Augment",
    "Data",
    "Distil",
    "Dpo",
    "Every",
    "Filters",
    "Grpo",
    "Init",
    "Keep",
    "Lora",
    "Manifest",
    "Optim",
    "Recipe",
    "RecipeError",
    "Source",
    "Valid",
    "WarmStart",
    "changed",
    "dump",
    "load",
    "shipped",
]


class PlainYAML(yaml.SafeLoader):
    """YAML whose only truth values are true and false, as in YAML 1.2: ``on:`` in ``distil`` is a name."""


_BOOL = "tag:yaml.org,2002:bool"
PlainYAML.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rows if tag != _BOOL]
    for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
PlainYAML.add_implicit_resolver(_BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


class RecipeError(LalmError, ValueError):
    """A recipe that cannot be used; the text names the file and the key."""


class Recipe(Section):
    """One training run. ``trainable`` names what learns ("connector"; * is allowed); the rest is frozen.

    ``report_to``: trackers besides metrics.jsonl and TensorBoard (``lalm.training.trackers``).

    With ``align`` the connector learns from clips and captions alone, without the LLM; see
    ``lalm.training.objectives.alignment``.
    ``transcript`` says whether what is said in a clip is read as text beside its audio tokens: "given" takes
    the transcripts of the samples, "whisper" makes those that are missing, once; without it, it is as in the
    checkpoint of ``init``, else "none" (``lalm.models.transcript``).
    ``code`` names Python files of one's own that bring a system, a connector or an encoder; see
    ``lalm.systems``.
    ``shard`` divides weights, gradients and AdamW's states over the processes; see
    ``lalm.training.parallel``.
    """

    system: Name
    code: list[Name] = Field([])
    init: Init
    trainable: list[Name] = Field(default=["connector"])
    lora: Lora | None = None
    warm_start: WarmStart | None = None
    dpo: Dpo | None = None
    distil: Distil | None = None
    grpo: Grpo | None = None
    contrast: Contrast | None = None
    augment: Augment | None = None
    align: bool = False
    transcript: Literal["none", "given", "whisper"] | None = None
    data: Data
    optim: Optim
    every: Every = Every()
    valid: Valid = Valid()
    keep: Keep | None = None
    report_to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] | None = None
    shard: Literal["fsdp2", "zero2", "zero3"] | None = None
    cache: Name | None = None
    cache_gb: float | None = Field(None, gt=0)
    out: Name

    @model_validator(mode="after")
    def _something_learns(self) -> Self:
        if self.system not in SYSTEMS and not self.code:
            find(self.system)
        if not self.trainable and self.lora is None:
            raise ValueError("nothing learns: 'trainable' is empty and there is no 'lora'")
        if self.align and (self.dpo is not None or self.lora is not None):
            raise ValueError("'align' trains the connector alone: take out 'dpo' and 'lora'")
        own = [name for name in ("dpo", "distil", "grpo", "contrast") if getattr(self, name) is not None]
        if len(own) > 1 or (own and self.align):
            others = [*own, *(["align"] if self.align else [])]
            raise ValueError(f"a run has one objective: take out all but one of {', '.join(others)}")
        if own and own != ["dpo"] and self.shard is not None:
            raise ValueError(f"'shard' cannot be combined with '{own[0]}': take one of them out")
        alone = "contrast" if self.contrast is not None else "align" if self.align else ""
        if alone and self.optim.batch_size < 2:
            raise ValueError(f"'{alone}' tells the clips of a batch apart: 'optim.batch_size' is 2 or more")
        if self.contrast is not None and self.optim.packing:
            raise ValueError("'contrast' compares clips of a batch: take out 'optim.packing'")
        if self.grpo is not None and (self.optim.packing or self.augment is not None):
            raise ValueError("'grpo' draws its answers itself: take out 'optim.packing' and 'augment'")
        if self.shard is not None and self.optim.dtype in ("int8", "nf4"):
            raise ValueError(f"'shard' cannot divide weights in {self.optim.dtype}: take another optim.dtype")
        if self.shard is not None and self.dpo is not None:
            raise ValueError(
                "'shard' cannot be combined with 'dpo', whose reference would be a second model in one "
                "piece: train LoRA with dpo.reference 'adapter' in several processes instead"
            )
        if self.shard is not None and (self.align or self.warm_start is not None):
            raise ValueError(
                "'shard' is not for 'align' or 'warm_start', where a connector trains alone: take it out"
            )
        if self.shard is not None and (self.optim.optimizer != "adamw" or self.optim.average):
            raise ValueError("'shard' divides AdamW's states alone: take out 'optim.optimizer' and 'average'")
        if self.dpo is not None and self.dpo.loss == "kto" and self.optim.batch_size < 2:
            raise ValueError("'kto' reads each prompt with another's answer: 'optim.batch_size' is 2 or more")
        if self.keep is not None and self.keep.best and not (self.data.valid and self.every.valid):
            raise ValueError("'keep.best' needs validations: give 'data.valid' and 'every.valid'")
        if self.optim.packing and self.align:
            raise ValueError("'optim.packing' packs answers, and 'align' has none: take it out")
        if self.grpo is not None and self.grpo.updates > 1 and self.lora is not None and self.lora.dropout:
            raise ValueError("'grpo.updates' above 1 compares with what was drawn: set 'lora.dropout' to 0")
        if self.grpo is not None and self.grpo.rollouts and self.optim.dtype in ("int8", "nf4"):
            raise ValueError(f"'grpo.rollouts' sends whole weights, not such in {self.optim.dtype}")
        packed = self.data.separate or self.optim.batch_tokens or self.optim.batch_s
        if self.grpo is not None and self.grpo.curriculum and packed:
            raise ValueError(
                "'grpo.curriculum' orders the prompts: take out 'data.separate', 'batch_tokens' and 'batch_s'"
            )
        if self.data.separate and (self.optim.batch_tokens or self.optim.batch_s):
            raise ValueError(
                "'data.separate' needs a fixed 'batch_size': take out 'batch_tokens' and 'batch_s'"
            )
        if self.warm_start is not None and self.cache is None:
            raise ValueError("'warm_start' reads encoder frames from the frame cache: give 'cache'")
        if self.augment is not None and self.align:
            raise ValueError("'augment' is not applied in 'align': take it out")
        if self.augment is not None and self.dpo is not None and self.dpo.reference == "precomputed":
            raise ValueError(
                "'augment' cannot be combined with 'dpo.reference: precomputed', whose numbers are of the "
                "sound as it is: say copy or adapter"
            )
        return self


def load(path: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, trained folder or mapping, or the shipped one of that name.

    ``overrides``: ``key.path=value``.

    Example: ``load("acdc/small", ["optim.learning_rate=1e-5", "out=runs/try"])``.
    Raises RecipeError naming file and key.
    """
    if isinstance(path, Mapping):
        return _valid(deepcopy(dict(path)), overrides, "the recipe")
    file = _find(path)
    try:
        fields = yaml.load(file.read_text(encoding="utf-8"), PlainYAML)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(fields, dict):
        raise RecipeError(f"{file}: a recipe is a mapping of keys to values")
    return _valid(fields, overrides, str(file))


def changed(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """The recipe with ``key.path=value`` changes. Raises RecipeError naming the key."""
    return _valid(recipe.model_dump(by_alias=True), overrides, "the recipe")


def _valid(fields: dict[str, Any], overrides: Sequence[str], name: str) -> Recipe:
    for override in overrides:
        _apply(fields, override)
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        raise RecipeError(f"{name}: {_sentence(error)}") from None


def shipped() -> dict[str, Path]:
    """Recipes that come with the package: "system/stage" -> file."""
    systems = Path(__file__).parents[1] / "systems"
    return {f"{p.parent.name.replace('_', '-')}/{p.stem}": p for p in sorted(systems.glob("*/*.yaml"))}


def dump(recipe: Recipe) -> str:
    """The recipe as YAML text that ``load`` reads back to an equal recipe."""
    fields = recipe.model_dump(by_alias=True, exclude_none=True)
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def _find(path: str | Path) -> Path:
    recipes = shipped()
    file = Path(path)
    if file.is_dir() and (file / "recipe.yaml").is_file():
        return file / "recipe.yaml"
    if file.is_file():
        return file
    if str(path) in recipes:
        return recipes[str(path)]
    raise RecipeError(
        f"there is no recipe '{path}': no such file, and the shipped ones are {', '.join(recipes)}"
    )


def _apply(fields: dict[str, Any], override: str) -> None:
    """Set one ``key.path=value`` in ``fields``; a number in the path indexes a list."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set {override}: write it as key.path=value")
    try:
        value = yaml.load(text, PlainYAML)
    except yaml.YAMLError:
        raise RecipeError(f"--set {override}: the value is not YAML") from None
    place: Any = fields
    for i, key in enumerate(keys):
        last = i == len(keys) - 1
        index: Any = key
        if isinstance(place, list):
            if not key.isdigit() or int(key) >= len(place):
                raise RecipeError(f"--set {override}: {'.'.join(keys[:i])} has no item {key}")
            index = int(key)
        elif not isinstance(place, dict):
            raise RecipeError(f"--set {override}: {'.'.join(keys[:i])} holds no keys")
        elif place.get(key) is None and not last:
            place[key] = {}
        if last:
            place[index] = value
        else:
            place = place[index]


# What pydantic calls an instance, a list or a tuple.
FORMS = {
    "model_type": "a section with keys of its own, such as {key: value}",
    "list_type": "a list, such as [one, another]",
    "tuple_type": "a list of two, such as [first, second]",
}


def _sentence(error: ValidationError) -> str:
    """Every problem as "key.path: what", joined."""
    problems = []
    for item in error.errors():
        where = ".".join(str(key) for key in item["loc"])
        what = item["msg"].removeprefix("Value error, ")
        if form := FORMS.get(item["type"]):
            what = f"this is {form}, not {item['input']!r}"
        problems.append(f"{where}: {what}" if where else what)
    return "; ".join(problems)
