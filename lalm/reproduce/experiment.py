"""An experiment: a paper's claim, the steps that test it and the rule of the verdict, read from one YAML file

Every step is a command of ``lalm`` (or "python -m ..."), so that a run holds nothing that could not be typed.
In commands ``$name`` is a setting of the size that is run ("quick", "small", "full"), and in a cell's also
``$cell`` and ``$seed``. Commands run in the work folder: paths in them are relative to it, but for
``$data``, the user's folder of corpora. A value may be a mapping of sizes, with ``else`` for the others.
"""

import hashlib
import shlex
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Any

import yaml
from pydantic import Field, ValidationError

from lalm.errors import LalmError
from lalm.training.sections import Name, Section

FOLDER = Path(__file__).parent
SIZES = ("quick", "small", "full")
Setting = str | int | float
Lines = str | list[str]


class ReproduceError(LalmError, ValueError):
    """An experiment that cannot be run as asked; the text says why."""


class Command(Section):
    """One or several commands of ``lalm`` that make files or folders; ``minutes`` on two cores (with size
    "full" on one accelerator); ``needs`` says in words what must be had before. ``shared``: it makes folders
    beside the work folder (``../``), which all experiments there use. ``only``: the cells that need it."""

    name: Name
    run: Lines | dict[str, Lines]
    makes: list[Name] = Field([])
    minutes: float | dict[str, float] = 0
    needs: list[Name] = Field([])
    shared: bool = False
    only: list[Name] = Field([])
    sizes: list[str] = Field(list(SIZES))


class Cell(Section):
    """A model of the paper's table: ``run`` trains it, once a seed, ``model`` is its folder; ``eval`` is
    added to the words of its evaluations. ``settings``: its own, for its commands alone. ``after``: the cell
    whose model of the same seed must be there before. ``paper``: the paper's numbers by set."""

    about: str
    settings: dict[str, Setting] = Field({})
    after: str = ""
    run: Lines | dict[str, Lines] = Field([])
    model: str | dict[str, str]
    eval: str = ""
    seeds: int | dict[str, int] = 1
    minutes: float | dict[str, float] = 0
    paper: dict[str, float] = Field({})


class Asked(Section):
    """A set that models are asked: the words of ``lalm eval`` after the model. ``tasks``: those that count
    (none: all); ``metric``: of them (none: each task's first). ``table``: of the paper. ``controls`` are
    asked of the cells in ``controlled``; ``only``: the cells that are asked at all.
    ``exact``: the metric that a judge's verdicts are compared with, where a judge is asked."""

    about: str
    eval: str | dict[str, str]
    tasks: list[str] = Field([])
    metric: str | None = None
    exact: str | None = None
    table: str = "1"
    controls: list[str] = Field([])
    controlled: list[str] = Field([])
    only: list[str] = Field([])
    sizes: list[str] = Field(list(SIZES))
    minutes: float | dict[str, float] = 0
    unit: str = ""


class Beside(Section):
    """What commands of their own measure beside the contrasts, of the models of the cells ``of``. The page
    shows the ``columns`` of ``numbers``, a JSON list of rows, and the ``picture``, a PNG or SVG."""

    about: str
    table: str
    of: list[Name]
    run: Lines | dict[str, Lines] = Field([])
    makes: list[Name] = Field([])
    numbers: str = ""
    columns: list[Name] = Field([])
    picture: str = ""
    minutes: float | dict[str, float] = 0
    sizes: list[str] = Field(list(SIZES))


class Side(Section):
    """One side of a contrast: a cell, under a control; ``control: constant`` is the best single answer."""

    cell: str
    control: str = "audio"


class Contrast(Section):
    """``plus`` minus ``minus`` on the same items of a set. It is *confirmed* when the 95 % interval lies
    above 0, *not confirmed* when it lies below ``worth``, the smallest difference that would matter, and
    else nobody can tell. Those that ``decide`` make the verdict on the claim."""

    about: str
    set: str
    plus: Side
    minus: Side
    worth: float = Field(0.0, ge=0)
    tasks: list[str] = Field([])
    metric: str | None = None
    lower_is_better: bool = False
    decides: bool = True
    paper: str = ""
    sizes: list[str] = Field(list(SIZES))


class Experiment(Section):
    """A paper's experiment. ``steps_of``: steps of other experiments, by name, that come first; ``weights``:
    size of parts that only the Hub has; ``disk_gb``: what a run writes, corpus and frames included;
    ``result``: what the steps make, where there are no cells."""

    title: str
    arxiv: str = ""
    claim: str = ""
    in_paper: str = ""
    limits: str = ""
    sizes: dict[str, dict[str, Setting]]
    steps_of: dict[str, list[str]] = Field({})
    steps: list[Command] = Field([])
    cells: dict[str, Cell] = Field({})
    sets: dict[str, Asked] = Field({})
    contrasts: list[Contrast] = Field([])
    beside: dict[str, Beside] = Field({})
    weights: dict[str, str] = Field({})
    disk_gb: dict[str, float] = Field({})
    result: str = ""


@dataclass(frozen=True)
class Step:
    """One step as it will run. ``chain``: a digest of its commands and of all that it rests on; a shared
    step rests on nothing."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    makes: tuple[str, ...]
    minutes: float
    needs: tuple[str, ...]
    chain: str
    shared: bool = False


@dataclass(frozen=True)
class Evaluation:
    """The folder of one evaluation, which it is, and the name of its step."""

    step: str
    cell: str
    seed: int
    set: str
    folder: str


@dataclass(frozen=True)
class Plan:
    """All that a run will do: its steps in order, the evaluations among them, and what is measured beside
    them, by name; that of its step where it has one."""

    experiment: Experiment
    size: str
    settings: Mapping[str, Setting]
    steps: tuple[Step, ...]
    evaluations: tuple[Evaluation, ...]
    beside: Mapping[str, Beside]


def names() -> list[str]:
    """The experiments that come along."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> Experiment:
    """An experiment by its name or file. Raises ReproduceError naming the key."""
    path = Path(name) if name.endswith(".yaml") else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ReproduceError(f"there is no experiment '{name}': take one of {', '.join(names())}")
    try:
        found = Experiment.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ReproduceError(f"{path.name}: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ReproduceError(f"{path.name}: {key}: {first['msg']}") from None
    shared = [one for other, own in found.steps_of.items() for one in load(other).steps if one.name in own]
    found = found.model_copy(update={"steps": [*shared, *found.steps]})
    for contrast in found.contrasts:
        if contrast.set not in found.sets or not {contrast.plus.cell, contrast.minus.cell} <= set(
            found.cells
        ):
            raise ReproduceError(f"{path.name}: '{contrast.about}' names a set or cell that there is not")
    return found


def reads_corpora(experiment: Experiment, size: str) -> bool:
    """Whether any step of a size reads the user's corpora."""
    lines = [_of(own.run, size) for own in experiment.steps if size in own.sizes]
    return any("$data" in str(line) for line in lines)


def plan(
    experiment: Experiment,
    size: str,
    *,
    changes: Mapping[str, str] | None = None,
    data: Path | None = None,
    table: str | None = None,
    row: str | None = None,
    every: bool = False,
) -> Plan:
    """What a run of this size will do; ``changes`` are settings in place of the size's own, ``table`` and
    ``row`` keep the sets of one table and one cell. ``every``: also cells that this size leaves out unless
    they are asked for. Raises ReproduceError for what there is not."""
    if size not in experiment.sizes:
        had = ", ".join(experiment.sizes)
        raise ReproduceError(f"{experiment.title} has no size '{size}': it has {had}")
    settings: dict[str, Setting] = dict(experiment.sizes[size])
    for key, value in (changes or {}).items():
        if key not in settings:
            raise ReproduceError(f"size '{size}' has no setting '{key}': it has {', '.join(settings)}")
        settings[key] = value
    settings["data"] = str(data.resolve()) if data else "DATA"
    beside = {
        name: one
        for name, one in experiment.beside.items()
        if size in one.sizes and table in (None, one.table) and (row is None or row in one.of)
    }
    sets = {
        name: asked
        for name, asked in experiment.sets.items()
        if size in asked.sizes and table in (None, asked.table)
    }
    cells = {name: cell for name, cell in experiment.cells.items() if row in (None, name)}
    if row is not None and not cells:
        raise ReproduceError(f"there is no row '{row}': the rows are {', '.join(experiment.cells)}")
    if table is not None and not sets and not beside:
        tables = [(own.table, own.sizes) for own in experiment.sets.values()]
        tables += [(own.table, own.sizes) for own in experiment.beside.values()]
        had = ", ".join(sorted({name for name, sizes in tables if size in sizes}))
        raise ReproduceError(f"size '{size}' has nothing for table '{table}': it has {had}")
    num_seeds = {name: max(seeds_of(cell, size), int(every or row == name)) for name, cell in cells.items()}
    trains = {name for name, count in num_seeds.items() if count}
    steps, of_data = _of_data(experiment, size, settings, trains)
    newest = dict[tuple[str, int], str]()
    evaluations = list[Evaluation]()

    def trained(name: str, seed: int) -> str:
        """The chain of a cell's model, whose steps are planned once."""
        if (name, seed) not in newest:
            cell = experiment.cells[name]
            chain = trained(cell.after, seed) if cell.after else of_data.get(name, of_data[""])
            made = _train(name, cell, size, _own(settings, name, cell, seed), chain)
            steps.extend(made)
            newest[name, seed] = made[-1].chain if made else chain
        return newest[name, seed]

    for name, cell in cells.items():
        for seed in range(num_seeds[name]):
            for key, asked in sets.items():
                if not asked.only or name in asked.only:
                    chain = trained(name, seed)
                    own = _own(settings, name, cell, seed)
                    step = _ask(name, cell, seed, key, asked, size, own, chain)
                    steps.append(step)
                    evaluations.append(Evaluation(step.name, name, seed, key, f"eval/{name}-{seed}-{key}"))
    for key, one in beside.items():
        chains = [trained(name, n) for name in one.of for n in range(seeds_of(experiment.cells[name], size))]
        if lines := _of(one.run, size):
            steps.append(_step(key, lines, one.makes, _of(one.minutes, size), settings, "".join(chains)))
    return Plan(experiment, size, settings, tuple(steps), tuple(evaluations), beside)


def _of_data(
    experiment: Experiment, size: str, settings: Mapping[str, Setting], cells: Set[str]
) -> tuple[list[Step], dict[str, str]]:
    """The steps before the cells, and by cell the chain of all that it rests on; "": of what all need."""
    steps, chains = list[Step](), {"": ""}
    for own in experiment.steps:
        if size not in own.sizes or (own.only and cells.isdisjoint(own.only)):
            continue
        before = "" if own.shared else chains[""]
        minutes, lines = _of(own.minutes, size), _of(own.run, size)
        step = _step(own.name, lines, own.makes, minutes, settings, before, own.needs)
        steps.append(replace(step, shared=own.shared))
        for name in own.only or [""]:
            chains[name] = _digest(chains.get(name, chains[""]), step.chain)
    return steps, chains


def _own(settings: Mapping[str, Setting], name: str, cell: Cell, seed: int) -> dict[str, Setting]:
    own = cell.settings.items()
    filled = {k: Template(v).safe_substitute(settings) if isinstance(v, str) else v for k, v in own}
    return {**settings, **filled, "cell": name, "seed": seed}


def _train(name: str, cell: Cell, size: str, own: Mapping[str, Setting], chain: str) -> list[Step]:
    lines, made = _of(cell.run, size), _of(cell.model, size) + "/config.json"
    about = f"train {name}, seed {own['seed']}"
    return [_step(about, lines, [made], _of(cell.minutes, size), own, chain)] if lines else []


def _ask(
    name: str,
    cell: Cell,
    seed: int,
    key: str,
    asked: Asked,
    size: str,
    own: Mapping[str, Setting],
    chain: str,
) -> Step:
    out = f"eval/{name}-{seed}-{key}"
    controls = asked.controls if name in asked.controlled else []
    words = ["eval", _of(cell.model, size), _of(asked.eval, size), cell.eval, "--out", out]
    words += [f"--control {one}" for one in controls] or ["--no-controls"]
    minutes = _of(asked.minutes, size) * (1 + len(controls))
    about = f"ask {name}, seed {seed}: {key}"
    return _step(about, " ".join(words), [f"{out}/report.html"], minutes, own, chain)


def _step(
    name: str,
    lines: str | Sequence[str],
    makes: Sequence[str],
    minutes: float,
    settings: Mapping[str, Setting],
    chain: str,
    needs: Sequence[str] = (),
) -> Step:
    lines = [lines] if isinstance(lines, str) else lines
    commands = tuple(tuple(shlex.split(_filled(line, settings))) for line in lines)
    made, wanted = ([_filled(text, settings) for text in texts] for texts in (makes, needs))
    return Step(name, commands, tuple(made), minutes, tuple(wanted), _digest(chain, commands))


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def seeds_of(cell: Cell, size: str) -> int:
    """How many seeds of a cell a size trains; 0: it leaves the cell out."""
    return int(_of(cell.seeds, size))


def _of(value: Any, size: str) -> Any:
    """The value for a size, of a mapping of sizes; 0 for one that a mapping does not hold."""
    return value.get(size, value.get("else", 0)) if isinstance(value, dict) else value


def _filled(text: str, settings: Mapping[str, Setting]) -> str:
    try:
        return Template(text).substitute(settings)
    except (KeyError, ValueError) as error:
        raise ReproduceError(f"'{text}' names a setting that there is not: {error}") from None
