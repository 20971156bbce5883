"""The parts of a recipe: its plain types, and the sections of what a run may learn from."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


def _address(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"an address begins with http:// or https://, not '{url}'")
    return url


Url = Annotated[str, AfterValidator(_address)]


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the bounds {bounds[0]} and {bounds[1]} stand the wrong way round")
    return bounds


Bounds = Annotated[tuple[float, float], AfterValidator(_rising)]


# Those of ``lalm.training.objectives.rewards``.
REWARDS = (
    *("right", "choice", "yes_no", "number", "names", "exact", "words", "times", "order"),
    *("json", "format", "length", "repeats", "vote", "judge"),
)
# Of one answer by itself these do not tell whether it is right.
TELL_NOTHING = ("vote", "format", "length", "repeats")


class Section(BaseModel):
    """A part of a recipe: fixed, and without keys that nothing reads."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class WarmStart(Section):
    """A short stage before the first step that needs no LLM pass, of one of two kinds.

    "steps" of an optimizer, for so many ``epochs`` at a ``learning_rate``
    (``lalm.training.objectives.warm_start``), or the connector's last linear map in closed form, by
    "least_squares" (``lalm.training.objectives.least_squares``).
    """

    kind: Literal["steps", "least_squares"] = "steps"
    epochs: float | None = Field(None, gt=0)
    learning_rate: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        given = [name for name in ("epochs", "learning_rate") if getattr(self, name) is not None]
        if self.kind == "steps" and len(given) < 2:
            raise ValueError(
                "give 'epochs' and 'learning_rate', or 'kind: least_squares', which needs neither"
            )
        if self.kind == "least_squares" and given:
            raise ValueError(f"'kind: least_squares' is solved at once: take out '{given[0]}'")
        return self


class Dpo(Section):
    """Learn from pairs of a ``chosen`` and a ``rejected`` answer; see ``lalm.training.objectives.dpo``.

    ``loss``: "dpo", or without a reference "simpo", whose ``margin`` the chosen answer must lead by, and
    "orpo", which holds the chosen answer itself (``lalm.training.objectives.reference_free``); "kto" learns
    from single answers, of which a sample may have one alone, good ones weighted by ``chosen_weight`` and bad
    ones by ``rejected_weight`` (``lalm.training.objectives.kto``).
    ``reference`` is the model as the run starts: a frozen "copy", the LLM without its "adapter" (fresh LoRA
    alone learns), or "precomputed" numbers. ``label_smoothing``: the share of pairs taken to be wrong.
    ``sft_weight`` adds the chosen answers' cross-entropy, a mean over tokens, so that they stay likely (Pang
    et al., Iterative reasoning preference optimization, eq. 1).
    """

    beta: float = Field(gt=0)
    loss: Literal["dpo", "simpo", "orpo", "kto"] = "dpo"
    margin: float = Field(0.0, ge=0)
    chosen_weight: float = Field(1.0, gt=0)
    rejected_weight: float = Field(1.0, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    sft_weight: float = Field(0.0, ge=0)
    reference: Literal["copy", "adapter", "precomputed"] = "copy"

    @model_validator(mode="after")
    def _of_its_loss(self) -> Self:
        if self.margin and self.loss != "simpo":
            raise ValueError("'margin' is SimPO's: say 'loss: simpo'")
        if self.loss == "kto" and (
            self.sft_weight or self.label_smoothing or self.reference == "precomputed"
        ):
            raise ValueError(
                "'kto' has no pairs: no 'sft_weight', 'label_smoothing' or 'precomputed' reference"
            )
        if self.loss != "kto" and (self.chosen_weight, self.rejected_weight) != (1, 1):
            raise ValueError("'chosen_weight' and 'rejected_weight' are KTO's: say 'loss: kto'")
        if self.loss in ("simpo", "orpo") and self.reference != "copy":
            raise ValueError(f"'{self.loss}' has no reference: take out 'reference'")
        if self.loss == "orpo" and (self.sft_weight or self.label_smoothing):
            raise ValueError("'orpo' holds the chosen answer itself: no 'sft_weight' or 'label_smoothing'")
        return self


class Distil(Section):
    """Learn what the LLM says that reads the caption; see ``lalm.training.objectives.distil``.

    ``weight``: the teacher's share of the loss, cross-entropy has the rest. ``temperature`` flattens both
    distributions; of the teacher's, the ``top_k`` likeliest tokens are kept one by one. ``on``: its "logits",
    or the "hidden" states before them. ``cache``: a folder in which its numbers are kept, at most
    ``cache_gb``; without, the teacher reads in every step.
    """

    weight: float = Field(1.0, gt=0, le=1)
    temperature: float = Field(1.0, gt=0)
    top_k: Positive = 64
    on: Literal["logits", "hidden"] = "logits"
    cache: Name | None = None
    cache_gb: float = Field(4.0, gt=0)

    @model_validator(mode="after")
    def _of_its_states(self) -> Self:
        if self.on == "hidden" and (self.temperature, self.top_k) != (1, 64):
            raise ValueError("'on: hidden' compares states: 'temperature' and 'top_k' are of 'on: logits'")
        return self


class Contrast(Section):
    """Bring clip and caption together in the LLM's layers; see ``lalm.training.objectives.contrast``.

    ``layers``: their numbers, 0 the embeddings, -1 the last (None: all).
    """

    temperature: float = Field(0.1, gt=0)
    layers: list[int] | None = Field(None, min_length=1)


class Reward(Section):
    """One reward and its weight; names are those of ``lalm.training.objectives.rewards``, or "mine.py:name".

    ``pattern``: the regular expression of "format"; ``between``: the fewest and most words of "length";
    ``schema``: the JSON schema of "json", a file or as it is; ``llm``: of "judge", by name, with ``url`` that
    of an OpenAI-compatible endpoint.
    """

    name: Name
    weight: float = 1.0
    pattern: str | None = None
    between: tuple[Count, Positive] | None = None
    schema_: Name | dict[str, Any] | None = Field(None, alias="schema")
    llm: Name | None = None
    url: Url | None = None

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.name not in REWARDS and ".py:" not in self.name:
            raise ValueError(
                f"there is no reward '{self.name}': take {', '.join(REWARDS)}, or your own, 'mine.py:name'"
            )
        if (self.name == "format") != (self.pattern is not None):
            raise ValueError("'pattern' is the regular expression of the reward 'format'")
        if (self.name == "length") != (self.between is not None):
            raise ValueError("'between' is the fewest and the most words of the reward 'length'")
        if self.between is not None and self.between[0] > self.between[1]:
            raise ValueError(f"'between' is [fewest, most] words, not {list(self.between)}")
        if self.schema_ is not None and self.name != "json":
            raise ValueError("'schema' is the JSON schema of the reward 'json'")
        if (self.name == "judge") != (self.llm is not None) or (self.url is not None and self.llm is None):
            raise ValueError("'llm', perhaps with its 'url', is who rates for the reward 'judge'")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"'pattern' is no regular expression: {error}") from None
        return self

    @property
    def label(self) -> str:
        """What it is called in the log."""
        return self.name.rpartition(":")[2]


class RolloutServer(Section):
    """A vLLM server that draws GRPO's answers; see ``lalm.training.objectives.rollout_server``.

    ``url``: its OpenAI API. ``folder``: where the weights lie for it to load, under the same path there
    (None: ``served`` in the run's folder). ``cap``: the most that a token counts which the model, as it is
    here, would draw more often than the server did.
    """

    url: Url
    folder: Name | None = None
    cap: float = Field(2.0, ge=1)


class Grpo(Section):
    """Learn from rewards of answers drawn in groups; see ``lalm.training.objectives.grpo``.

    ``group`` answers a prompt at ``temperature`` (``top_p``, ``top_k``, ``min_p``), each of at most
    ``max_new_tokens``; ``updates``: optimizer steps on the same answers. ``kl``: weight of the distance to
    the ``reference`` (a frozen "copy", or the LLM without its "adapter"). ``overlong``: so many tokens
    before the limit cost more and more; ``drop_cut``: answers that the limit cut off teach nothing.
    ``unheard_weight``: what a prompt counts that is answered rightly without its recordings.
    ``curriculum``: so many answers are drawn to each prompt before the first step, and the prompts come from
    easy to hard (``lalm.training.objectives.curriculum``; 0: in a drawn order). ``rollouts``: who draws the
    answers (None: the model itself, in this process).
    """

    rewards: list[Reward] = Field(min_length=1)
    loss: Literal["grpo", "dr_grpo", "gspo", "dapo"] = "grpo"
    group: Annotated[int, Field(ge=2)] = 8
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: Count = 0
    min_p: float = Field(0.0, ge=0, le=1)
    max_new_tokens: Positive = 64
    updates: Positive = 1
    clip: tuple[Annotated[float, Field(gt=0, lt=1)], Annotated[float, Field(gt=0)]] = (0.2, 0.2)
    kl: float = Field(0.0, ge=0)
    reference: Literal["copy", "adapter"] = "copy"
    overlong: Count = 0
    drop_cut: bool = False
    unheard_weight: float = Field(1.0, ge=0, le=1)
    curriculum: Count = 0
    rollouts: RolloutServer | None = None

    @model_validator(mode="after")
    def _within_the_limit(self) -> Self:
        if self.rollouts is not None and (self.top_p, self.top_k, self.min_p) != (1, 0, 0):
            raise ValueError(
                "'rollouts' weighs tokens by the server's log-probabilities, which 'top_p', 'top_k' and "
                "'min_p' cut off: take them out"
            )
        if self.unheard_weight < 1 and self.rewards[0].name in TELL_NOTHING:
            raise ValueError(
                "'unheard_weight' asks the first reward whether an answer is right, which "
                f"'{self.rewards[0].name}' does not tell: put another first, such as 'right'"
            )
        if self.overlong > self.max_new_tokens:
            raise ValueError(f"'overlong' is at most max_new_tokens ({self.max_new_tokens})")
        return self
