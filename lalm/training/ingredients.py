"""The ingredients of a recipe: its weights, its data, its optimizer, and what stays of a run."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from lalm.data.readers import Reading
from lalm.training.sections import Bounds, Count, Name, Positive, Section


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
    """LoRA matrices on the LLM's layers of these names; they always train.

    Without ``targets``: on queries and values, whatever the LLM's family calls them. ``rank_pattern`` and
    ``alpha_pattern`` give layers a rank or alpha of their own, by regular expressions for the end of a
    layer's name, as in PEFT: {"layers\\.2[0-9]\\..*": 32}; the first that fits counts.
    """

    rank: Positive
    alpha: float = Field(gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: list[Name] | None = Field(None, min_length=1)
    rank_pattern: dict[Name, Positive] = Field({})
    alpha_pattern: dict[Name, Annotated[float, Field(gt=0)]] = Field({})

    @model_validator(mode="after")
    def _regular(self) -> Self:
        for pattern in (*self.rank_pattern, *self.alpha_pattern):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"'{pattern}' is no regular expression: {error}") from None
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What a model's config keeps; patterns only where there are some."""
        given = self.model_dump()
        return {k: v for k, v in given.items() if v or k not in ("rank_pattern", "alpha_pattern")}


class Manifest(Section):
    """A SOURCE (``lalm.data.readers``), with what it does not say itself.

    ``columns``: role -> column ("audio: path"); ``prompt``: what is asked about recordings that come without
    a question, one of several for each, drawn by ``prompt_seed``; ``audio``: where relative paths start.
    """

    path: Name
    columns: dict[Name, Name] | None = None
    prompt: Name | list[Name] | None = None
    prompt_seed: Count | None = None
    audio: Name | None = None

    @property
    def reading(self) -> Reading:
        """How it is read. Raises ReaderError for a role that there is not."""
        prompts = (self.prompt,) if isinstance(self.prompt, str) else tuple(self.prompt or ())
        return Reading(
            self.columns or {}, prompts, self.prompt_seed or 0, Path(self.audio) if self.audio else None
        )


class Source(Manifest):
    """A manifest to learn. Per epoch each sample is seen ``weight`` times (0.5: every second epoch).

    Where papers state ratios, all manifests have a ``share`` instead: so much of an epoch, relative to the
    others' shares, is of this one, whatever their sizes; an epoch then has as many samples as there are.
    """

    weight: float = Field(1.0, gt=0)
    share: float | None = Field(None, gt=0)


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
    valid: list[Name | Manifest] = Field([])
    workers: Count = 0

    @model_validator(mode="after")
    def _weights_or_shares(self) -> Self:
        shared = [source for source in self.train if source.share is not None]
        if odd := next((source for source in self.train if shared and source not in shared), None):
            raise ValueError(f"'{odd.path}' has no 'share', and '{shared[0].path}' has one")
        if odd := next((source for source in shared if source.weight != 1), None):
            raise ValueError(f"'{odd.path}' has 'weight' and 'share': give one of them")
        return self

    def weights(self, sizes: Sequence[int]) -> list[float]:
        """How often per epoch each sample of the manifests is seen, whose numbers of samples are told."""
        shares = [source.share for source in self.train if source.share is not None]
        if not shares:
            return [source.weight for source in self.train]
        whole = sum(sizes) / sum(shares)
        return [share * whole / size for share, size in zip(shares, sizes, strict=True)]


class Optim(Section):
    """The optimizer and its schedule, in optimizer steps; a step sees batch_size * accumulation samples.

    That is in all, however many processes share it. With ``batch_tokens`` or ``batch_s``, limits on what a
    padded batch holds (tokens, seconds of audio), a batch has as many samples as fit, at most batch_size.
    ``dtype`` is that of the frozen parts; what trains is always float32. "auto" is bfloat16 where the
    hardware multiplies it fast, else float32, and a run keeps what it began with. With "int8" and "nf4" the
    LLM's linear layers have 8 or 4 bits a weight, the rest is as "auto" has it. ``learning_rates`` are those
    of parts, by the names ``trainable`` takes (the first that fits counts); all else has ``learning_rate``.
    ``packing`` puts the rows of a training batch behind one another, without padding. Of the LLM's layers,
    ``gradient_checkpointing`` keeps the inputs alone (a third slower), and ``compile`` compiles each.
    ``optimizer``: see ``lalm.training.optimizers``. ``average``: the decay of a moving average of what
    trains, which is validated and left as the model (``lalm.training.averaging``).
    """

    optimizer: Literal["adamw", "adamw_8bit", "sgd", "muon"] = "adamw"
    average: float | None = Field(None, gt=0, lt=1)

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
    dtype: Literal["auto", "float32", "bfloat16", "int8", "nf4"] = "float32"
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


class Keep(Section):
    """Which checkpoints stay: the ``last`` ones, and with ``best`` the model of the best validation.

    ``best`` is a measure of validation in metrics.jsonl ("valid_loss"); its best model lies in ``out/best``
    and is the run's at the end. ``patience``: stop after so many validations without a better one.
    """

    last: Positive = 2
    best: Name | None = None
    patience: Positive | None = None

    @model_validator(mode="after")
    def _measured(self) -> Self:
        if self.patience is not None and self.best is None:
            raise ValueError("'patience' needs 'best', the measure that must get better (valid_loss)")
        if self.best is not None and not self.best.startswith("valid_"):
            raise ValueError(f"'best' is a measure of validation, such as valid_loss, not '{self.best}'")
        return self


class Valid(Section):
    """How many validation samples give the loss, and for how many an answer is printed.

    ``protocol``: the paper's way in which those are asked (``lalm.inference.protocols``), else as they stand.
    """

    samples: Positive = 200
    generate: Count = 3
    protocol: Name | None = None
