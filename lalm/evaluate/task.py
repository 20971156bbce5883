"""Evaluation tasks as data: where the items come from, how they are asked, read and scored.

One entry of a YAML file in ``lalm/evaluate/tasks/`` (or of a file of your own)::

    vocalsound:
      about: six human vocal sounds
      citation: Gong et al. 2022, arXiv 2205.03433
      layout: vocalsound                      # a reader of lalm.evaluate.task_data
      path: VocalSound/datafiles/te.json      # below --data
      prompts: ["Which human sound is it: {choices}?"]   # the first is asked, the others are paraphrases
      parser: label
      metrics: [accuracy, macro_f1]           # the first one leads

``like: vocalsound`` begins with another task's keys, and ``protocol: acdc/caption`` with a paper's protocol
for a kind of question (``lalm.inference.protocols``): its system text, wording, settings and judge.

A manifest's samples may name their task in ``task``; ``manifest=FILE`` scores each of them by it.
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lalm.errors import LalmError
from lalm.evaluate.answer_settings import Decoding
from lalm.evaluate.metrics import METRICS, is_metric
from lalm.evaluate.official.board import Board
from lalm.evaluate.parsers import PARSERS
from lalm.evaluate.task_data import LAYOUTS
from lalm.inference import protocols
from lalm.inference.protocols import Protocol, ProtocolError
from lalm.tasks.sources import Columns

FOLDER = Path(__file__).parent / "tasks"
Text = Annotated[str, Field(min_length=1)]
ByReference = Literal["quality", "quality_explained", "binary", "chat", "yes_no", "spoken_question"]
Otherwise = Literal["helpful", "refusal", "rubrics", "co_reasoning"]


class TaskError(LalmError, ValueError):
    """A task that is not there or cannot be asked; the text names it."""


class AbsentData(TaskError):
    """A task whose data is not here; others that are asked in the same call can be."""


class Task(BaseModel):
    """How items are asked and scored. ``prompts`` may hold {question}, {choices} ("a, b or c") and
    {options} (lettered lines); without prompts each sample brings its own. ``choices`` are the labels of a
    task whose samples bring none, ``system`` a text before all turns, for samples that bring none,
    ``split`` the only part of the samples that is asked,
    ``cluster`` the key of ``origin`` whose items count as one recording ("speaker"). ``kind`` is what a
    protocol calls its questions, where samples do not say it; with ``reworded`` the prompts take the place of
    what samples bring, and {question} may be what their ``origin`` has under ``question_from``.
    ``columns`` says what the columns of a table are (layout "columns"), ``official`` which metric is the
    benchmark's own, ``table`` a paper's columns: means over parts, which are means over their categories."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Text
    about: Text
    citation: str = ""
    kind: str = ""
    protocol: str = ""
    reworded: bool = False
    question_from: str = ""
    layout: Text = "manifest"
    path: str = ""
    split: str = ""
    cluster: str = ""
    prompts: tuple[Text, ...] = ()
    parser: Text = "text"
    metrics: tuple[Text, ...] = Field(min_length=1)
    choices: tuple[Text, ...] = ()
    language: str = ""
    target_language: str = ""
    columns: Columns | None = None
    official: Board | None = None
    judge: Literal[""] | ByReference | Otherwise = ""
    max_new_tokens: Annotated[int, Field(ge=1)] = 128
    system: str = ""
    beams: Annotated[int, Field(ge=1)] = 1
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] = 0
    stop: tuple[Text, ...] = ()
    min_tokens: Annotated[int, Field(ge=0)] = 0
    thinking_tokens: Annotated[int, Field(ge=0)] = 0
    table: dict[Text, tuple[tuple[Text, ...], ...]] = {}

    @property
    def decoding(self) -> Decoding:
        """How its answers are generated."""
        return Decoding(**{name: getattr(self, name) for name in Decoding._fields})

    @field_validator("parser", "layout")
    @classmethod
    def _known(cls, value: str, info: Any) -> str:
        known = PARSERS if info.field_name == "parser" else LAYOUTS
        if value not in known:
            raise ValueError(f"there is no {info.field_name} '{value}'; there are {', '.join(known)}")
        return value

    @field_validator("metrics")
    @classmethod
    def _metrics(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if not is_metric(value):
                known = ", ".join(METRICS)
                raise ValueError(f"there is no metric '{value}'; there are {known}; your own needs --code")
        return values


def read_tasks(path: Path) -> dict[str, Task]:
    """The tasks of a YAML file by name. Raises TaskError naming file, task and key."""
    entries = _entries(path)
    tasks = {}
    for name, entry in entries.items():
        try:
            tasks[str(name)] = Task(name=str(name), **_whole(entry, {**_shipped(), **entries}))
        except ProtocolError as error:
            raise TaskError(f"{path.name}: {name}.protocol: {error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise TaskError(
                f"{path.name}: {name}.{place}: {first['msg'].removeprefix('Value error, ')}"
            ) from None
        except TaskError as error:
            raise TaskError(f"{path.name}: {name}.{error}") from None
    return tasks


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TaskError(
            f"there is no task file '{path}'; `lalm tasks` lists the tasks that need none"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TaskError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise TaskError(f"{path.name} is not a mapping of task names to their keys")
    return entries


@cache
def _shipped() -> dict[str, dict[str, Any]]:
    """The entries of the package's own files."""
    return {name: entry for path in sorted(FOLDER.glob("*.yaml")) for name, entry in _entries(path).items()}


def _whole(entry: dict[str, Any], others: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The entry's keys over those of its protocol, over those of the task that it is like."""
    own = {key: value for key, value in entry.items() if key != "like"}
    if (like := entry.get("like")) is not None:
        if like not in others or "like" in others[like]:
            raise TaskError(f"like: '{like}' is no task whose keys could be taken")
        own = {**_whole(others[like], others), **own}
    if isinstance(named := entry.get("protocol"), str) and named:
        name, _, kind = named.partition("/")
        own = {**own, "kind": kind, **settings_of(protocols.find_protocol(name), kind), **entry}
        own.pop("like", None)
    return own


def settings_of(protocol: Protocol, kind: str, language: str = "") -> dict[str, Any]:
    """What a protocol says of a kind of question, as keys of ``Task``."""
    found: dict[str, Any] = dict(protocol.generation)
    if (wording := protocol.wording(kind, language)) is not None:
        keys = ("system", "prompts", "question_from", "metrics", "judge", "parser")
        found |= {key: value for key in keys if (value := getattr(wording, key))}
        found["reworded"] = bool(wording.prompts)
    return found


@cache
def known_tasks() -> dict[str, Task]:
    """The tasks that come with the package."""
    found: dict[str, Task] = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        found |= read_tasks(path)
    return found
