"""A benchmark's leaderboard: which metric is its own, and what a run must be to stand beside its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass(frozen=True)
class Board:
    """``metric``: lalm's name of the number that the leaderboard shows. ``board``: where it is. ``items``:
    how many a whole run has (0: not known). ``judge``: the judge that it uses. ``unlike``: what is not done
    here as there, for which reason no number may stand beside, unless the judge is asked in the benchmark's
    own ``words`` (the digest of ``lalm.evaluate.judge_prompt.JudgePrompt``), or the libraries that it
    ``needs`` are installed. ``dataset`` and ``task_id``: its
    names on the Hub.
    ``submission``: what its own scoring program takes, key -> "id", "question", "choices", "reference",
    "text" (the answer), "raw" (with its reasoning), "category" or another key of the sample's origin."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    metric: str
    board: str
    items: int = 0
    judge: str = ""
    unlike: str = ""
    words: str = ""
    needs: tuple[str, ...] = ()
    dataset: str = ""
    task_id: str = ""
    submission: Mapping[str, str] = field(default_factory=dict)
    file: Literal["json", "jsonl"] = "jsonl"
