"""Recipes: a training run as one flat YAML file, checked against one strict type.

``load`` opens a file, a shipped recipe ("acdc/train") or a trained folder's own ``recipe.yaml``; ``dump``
writes the same format back. No inheritance, no interpolation, no class paths: what a file says is the run.
Paths inside a recipe are relative to the folder the run is started from.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from lalm.errors import LalmError
from lalm.training.sections import Bounds, Count, Distil, Dpo, Grpo, Name, Positive, Section, WarmStart


class RecipeError(LalmError, ValueError):
    """A recipe that cannot be used; the text names the file and the key."""


class Init(Section):
    """Where the weights come from: a checkpoint folder (``from``), or one or two encoders and an LLM by name.

    Names are pinned ones (``lalm weights list``), folders, or Hub ids; ``options`` are the system config's
    own fields ("group_size"), with the encoders' under "encoder" and "encoder_2". The second encoder's
    frames stand beside the first's, at the first's times. ``aligner`` is the BERT that a connector starts
    from which hears instructions (APT's). Beside ``from``, a slim checkpoint's, ``options`` are those that
    change, such as "segment_s"; its tensors must still fit.
    """

    from_: Name | None = Field(None, alias="from")
    encoder: Name | None = None
    encoder_2: Name | None = None
    aligner: Name | None = None
    llm: Name | None = None
    options: dict[str, Any] = Field({})

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        parts = (self.encoder, self.llm)
        if self.from_ is None and None in parts:
            raise ValueError("give either 'from', or both 'encoder' and 'llm'")
        if self.from_ is not None and {*parts, self.encoder_2, self.aligner} != {None}:
            raise ValueError("'from' stands without parts: its folder already names encoders and llm")
        return self


class Lora(Section):
    """LoRA matrices on the LLM's layers of these names; they always train."""

    rank: Positive
    alpha: float = Field(gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: list[Name] = Field(["q_proj", "v_proj"], min_length=1)


class Source(Section):
    """One manifest. Per epoch each of its samples is seen ``weight`` times (0.5: every second epoch)."""

    path: Name
    weight: float = Field(1.0, gt=0)


class Filters(Section):
    """Which training samples are left out; see ``lalm.synthesis.filters``.

    ``duplicates``: the same turns again; ``words``: answers outside [fewest, most]; ``duration_s``: samples
    with a recording outside [shortest, longest] seconds; ``languages``: answers in
    other ones (ISO codes); ``contradictions``: an LLM (a name, or with ``url`` an endpoint's) that finds
    answers which what is known of the recording contradicts.
    """

    duplicates: bool = False
    words: tuple[Count, Positive] | None = None
    duration_s: Bounds | None = None
    languages: list[Name] = Field([])
    contradictions: Name | None = None
    url: Name | None = None

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.words is not None and self.words[0] > self.words[1]:
            raise ValueError(f"'words' is [fewest, most], not {list(self.words)}")
        if self.duration_s is not None and self.duration_s[0] < 0:
            raise ValueError(f"'duration_s' is [shortest, longest] in seconds, not {list(self.duration_s)}")
        if self.url is not None and self.contradictions is None:
            raise ValueError("'url' is that of the LLM in 'contradictions', which is missing")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"'url' must begin with http:// or https://, not '{self.url}'")
        return self


class Data(Section):
    """Manifests, what of them is left out, and how many processes prepare batches beside the training one.

    With ``separate`` a batch is of one manifest, and the manifests take turns in proportion to their samples.
    """

    train: list[Source] = Field(min_length=1)
    separate: bool = False
    filters: Filters | None = None
    valid: list[Name] = Field([])
    workers: Count = 0


class Optim(Section):
    """AdamW and its schedule, counted in optimizer steps; a step sees batch_size * accumulation samples.

    That is in all, however many processes share it. With ``batch_tokens`` or ``batch_s``, limits on what a
    padded batch holds (tokens, seconds of audio), a batch has as many samples as fit, at most batch_size.
    ``dtype`` is that of the frozen parts; what trains is always float32. With "int8" and "nf4" the LLM's
    linear layers have 8 or 4 bits a weight, the rest is bfloat16. ``learning_rates`` are those of parts, by
    the names ``trainable`` takes (the first that fits counts); all else has ``learning_rate``.
    ``packing`` puts the rows of a training batch behind one another, without padding. Of the LLM's layers,
    ``gradient_checkpointing`` keeps the inputs alone (a third slower), and ``compile`` compiles each.
    """

    learning_rate: float = Field(gt=0)
    learning_rates: dict[Name, Annotated[float, Field(gt=0)]] = Field({})
    warmup_steps: Count = 0
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: float = Field(0.0, ge=0)
    batch_size: Positive
    batch_tokens: Positive | None = None
    batch_s: float | None = Field(None, gt=0)
    accumulation: Positive = 1
    max_steps: Positive | None = None
    epochs: float | None = Field(None, gt=0)
    max_grad_norm: float = Field(1.0, ge=0)
    dtype: Literal["float32", "bfloat16", "int8", "nf4"] = "float32"
    packing: bool = False
    gradient_checkpointing: bool = False
    compile: bool = False
    seed: Count = 0

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError("give either 'max_steps' or 'epochs'")
        return self


class Augment(Section):
    """What may happen to a training waveform, each with ``probability``; see ``lalm.data.augment``.

    Bounds are drawn from evenly: ``gain_db``, ``speed`` (1.1: a tenth faster), ``reverb_s`` (until a sound
    has fallen by 60 dB), ``mix_snr_db`` (another training clip below this one), ``noise_snr_db`` (a clip of
    ``noise``, a folder or manifest). ``masks``: SpecAugment's gaps and bands, so many of each.
    """

    probability: float = Field(0.5, gt=0, le=1)
    gain_db: Bounds | None = None
    speed: Bounds | None = None
    reverb_s: Bounds | None = None
    mix_snr_db: Bounds | None = None
    noise: Name | None = None
    noise_snr_db: Bounds | None = None
    masks: Count = 0
    mask_s: float = Field(0.5, gt=0)
    mask_mels: float = Field(0.2, gt=0, lt=1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.noise is None) != (self.noise_snr_db is None):
            raise ValueError("give noise and noise_snr_db together")
        for name, bounds, least in (("speed", self.speed, 0.25), ("reverb_s", self.reverb_s, 0.01)):
            if bounds is not None and bounds[0] < least:
                raise ValueError(f"{name} must be at least {least}")
        return self


class Every(Section):
    """Optimizer steps between log lines, checkpoints and validations (0: no validation)."""

    log: Positive = 10
    save: Positive = 500
    valid: Count = 500


class Valid(Section):
    """How many validation samples give the loss, and for how many an answer is printed.

    ``protocol``: the paper's way in which those are asked (``lalm.inference.protocols``), else as they stand.
    """

    samples: Positive = 200
    generate: Count = 3
    protocol: Name | None = None


class Recipe(Section):
    """One training run. ``trainable`` names what learns ("connector"; * is allowed); the rest is frozen.

    With ``align`` the connector learns from clips and captions alone, without the LLM; see
    ``lalm.training.objectives.alignment``.
    ``shard`` divides weights, gradients and AdamW's states over the processes; see
    ``lalm.training.parallel``.
    """

    system: Literal["acdc", "apt", "qwen2-audio", "salmonn"]
    init: Init
    trainable: list[Name] = Field(["connector"])
    lora: Lora | None = None
    warm_start: WarmStart | None = None
    dpo: Dpo | None = None
    distil: Distil | None = None
    grpo: Grpo | None = None
    augment: Augment | None = None
    align: bool = False
    data: Data
    optim: Optim
    every: Every = Every()
    valid: Valid = Valid()
    shard: Literal["fsdp2", "zero2", "zero3"] | None = None
    cache: Name | None = None
    cache_gb: float | None = Field(None, gt=0)
    out: Name

    @model_validator(mode="after")
    def _something_learns(self) -> Self:
        if not self.trainable and self.lora is None:
            raise ValueError("nothing learns: 'trainable' is empty and there is no 'lora'")
        if self.align and (self.dpo is not None or self.lora is not None):
            raise ValueError("'align' trains the connector alone: take out 'dpo' and 'lora'")
        own = [name for name in ("dpo", "distil", "grpo") if getattr(self, name) is not None]
        if len(own) > 1 or (own and self.align):
            others = [*own, *(["align"] if self.align else [])]
            raise ValueError(f"a run has one objective: take out all but one of {', '.join(others)}")
        if own and own != ["dpo"] and self.shard is not None:
            raise ValueError(f"'shard' goes with no '{own[0]}'")
        if self.grpo is not None and (self.optim.packing or self.augment is not None):
            raise ValueError("'grpo' draws its answers itself, and goes with no 'optim.packing' or 'augment'")
        if self.shard is not None and self.optim.dtype in ("int8", "nf4"):
            raise ValueError(f"'shard' goes with no weights in {self.optim.dtype}")
        if self.shard is not None and (self.dpo is not None or self.align or self.warm_start is not None):
            raise ValueError("'shard' goes with no 'dpo', 'align' or 'warm_start'")
        if self.optim.packing and self.align:
            raise ValueError("'optim.packing' is for answers, and goes with no 'align'")
        if self.grpo is not None and self.grpo.updates > 1 and self.lora is not None and self.lora.dropout:
            raise ValueError("'grpo.updates' above 1 compares with what was drawn: set 'lora.dropout' to 0")
        if self.data.separate and (self.optim.batch_tokens or self.optim.batch_s):
            raise ValueError(
                "'data.separate' needs a fixed 'batch_size': take out 'batch_tokens' and 'batch_s'"
            )
        if self.warm_start is not None and self.cache is None:
            raise ValueError("'warm_start' reads encoder frames from the frame cache: give 'cache'")
        if self.augment is not None and (self.warm_start is not None or self.dpo is not None or self.align):
            raise ValueError("'augment' changes waveforms, and goes with no 'warm_start', 'dpo' or 'align'")
        return self


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file or trained folder, or the shipped one of that name; overrides: ``key.path=value``.

    Example: ``load("acdc/small", ["optim.learning_rate=1e-5", "out=runs/try"])``.
    Raises RecipeError naming file and key.
    """
    file = _find(path)
    try:
        fields = yaml.safe_load(file.read_text(encoding="utf-8"))
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
        value = yaml.safe_load(text)
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


def _sentence(error: ValidationError) -> str:
    """Every problem as "key.path: what", joined."""
    problems = []
    for item in error.errors():
        where = ".".join(str(key) for key in item["loc"])
        what = item["msg"].removeprefix("Value error, ")
        problems.append(f"{where}: {what}" if where else what)
    return "; ".join(problems)
