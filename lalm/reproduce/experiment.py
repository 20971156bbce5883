"""An experiment: a paper's claim, the steps that test it and the rule of the verdict, read from one YAML file

Every step is a command of ``lalm`` (or "python -m ..."), so that a run holds nothing that could not be typed.
In commands ``$name`` is a setting of the size that is run ("quick", "small", "full"), and in a cell's also
``$cell`` and ``$seed``. Commands run in the work folder: paths in them are relative to it, but for
``$data``, the user's folder of corpora. A value may be a mapping of sizes, with ``else`` for the others.
"""

from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Any

import yaml
from pydantic import Field, ValidationError

from lalm.errors import LalmError
from lalm.training.sections import Name, Section

FOLDER = Path(__file__).parent
SIZES = ("quick", "small", "full")
BY_SIZE = ("run", "minutes", "model", "seeds", "eval", "picture", "disk_gb")  # may be mappings of sizes
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
    whose model of the same seed must be there before. ``paper``: the paper's numbers by set. A size in
    ``sizes`` with no ``seeds`` trains it when its row is asked for; in others it cannot be trained."""

    about: str
    settings: dict[str, Setting] = Field({})
    after: str = ""
    run: Lines | dict[str, Lines] = Field([])
    model: str | dict[str, str]
    eval: str = ""
    seeds: int | dict[str, int] = 1
    minutes: float | dict[str, float] = 0
    paper: dict[str, float] = Field({})
    sizes: list[str] = Field(list(SIZES))


class Asked(Section):
    """A set that models are asked: the words of ``lalm eval`` after the model. ``tasks``: those that count
    (none: all); ``metric``: of them (none: each task's first). ``table``: of the paper, or several.
    ``controls`` are asked of the cells in ``controlled``; ``only``: the cells that are asked at all.
    ``exact``: the metric that a judge's verdicts are compared with, where a judge is asked."""

    about: str
    eval: str | dict[str, str]
    tasks: list[str] = Field([])
    metric: str | None = None
    exact: str | None = None
    table: str | list[str] = "1"
    controls: list[str] = Field([])
    controlled: list[str] = Field([])
    only: list[str] = Field([])
    sizes: list[str] = Field(list(SIZES))
    minutes: float | dict[str, float] = 0
    unit: str = ""


class Beside(Section):
    """What commands of their own measure beside the contrasts, of the models of the cells ``of``. The page
    shows the ``columns`` of ``numbers``, a JSON list of rows, the ``picture``, a PNG or SVG, and what the
    ``paper`` has there, in words."""

    about: str
    table: str
    of: list[Name]
    run: Lines | dict[str, Lines] = Field([])
    makes: list[Name] = Field([])
    numbers: str = ""
    columns: list[Name] = Field([])
    picture: str | dict[str, str] = ""
    paper: str = ""
    minutes: float | dict[str, float] = 0
    sizes: list[str] = Field(list(SIZES))


class Side(Section):
    """One side of a contrast: a cell, under a control; ``control: constant`` is the best single answer."""

    cell: str
    control: str = "audio"


class Contrast(Section):
    """``plus`` minus ``minus`` on the same items of a set. It is *confirmed* when the 95 % interval lies
    above 0, *not confirmed* when it lies below ``worth``, the smallest difference that would matter, and
    else nobody can tell; nor from one seed of two models that were trained apart. Those that ``decide``
    make the verdict on the claim."""

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
    steps = list[Command]()
    for other, own in found.steps_of.items():
        there = {one.name: one for one in load(other).steps}
        if odd := next((step for step in own if step not in there), None):
            raise ReproduceError(f"{path.name}: steps_of.{other}: there is no step '{odd}'")
        steps += [one for name, one in there.items() if name in own]
    found = found.model_copy(update={"steps": [*steps, *found.steps]})
    if fault := next(faults(found), None):
        raise ReproduceError(f"{path.name}: {fault}")
    return found


def faults(found: Experiment) -> Iterator[str]:
    """What would otherwise be left out without a word, or be found after the last step: names that there are
    not, and sizes, controls and metrics of contrasts."""
    from lalm.evaluate.controls import CONTROLS, RECOGNISED, UNSEEN
    from lalm.evaluate.metrics import METRICS

    known_controls = {*CONTROLS, RECOGNISED, UNSEEN}
    sections: list[tuple[str, Section]] = [("", found), *((f"'{one.name}': ", one) for one in found.steps)]
    for of, group in (("cells", found.cells), ("sets", found.sets), ("beside", found.beside)):
        sections += [(f"{of}.{name}: ", one) for name, one in group.items()]
    sections += [(f"'{one.about}': ", one) for one in found.contrasts]
    for where, one in sections:
        for key, value in one:
            by_size = isinstance(value, dict) and key in BY_SIZE
            sizes = {*value} if key == "sizes" or by_size else set[str]()
            if odd := sorted(sizes - {*SIZES, *(["else"] if by_size else [])}):
                yield f"{where}{key}: there is no size '{odd[0]}': the sizes are {', '.join(SIZES)}"
            cells = (
                {*value} if key in ("only", "controlled", "of") else {value} - {""} if key == "after" else ()
            )
            if odd := sorted({*cells} - {*found.cells}):
                yield f"{where}{key}: there is no cell '{odd[0]}'"
            if key in ("metric", "exact") and value and value not in METRICS:
                yield f"{where}there is no metric '{value}'"
            if odd := sorted({*value} - known_controls) if key == "controls" else []:
                yield f"{where}there is no control '{odd[0]}': there are {', '.join(sorted(known_controls))}"
    for contrast in found.contrasts:
        yield from _faults_of(found, contrast)


def _faults_of(found: Experiment, contrast: Contrast) -> Iterator[str]:
    if contrast.set not in found.sets or not {contrast.plus.cell, contrast.minus.cell} <= {*found.cells}:
        yield f"'{contrast.about}' names a set or cell that there is not"
        return
    asked = found.sets[contrast.set]
    for side in (contrast.plus, contrast.minus):
        if asked.only and side.cell not in asked.only:
            yield f"'{contrast.about}': {contrast.set} is not asked of {side.cell} ('only')"
        had = asked.controls if side.cell in asked.controlled else []
        if side.control not in ("audio", "constant", *had):
            yield f"'{contrast.about}': {contrast.set} has no control '{side.control}' for {side.cell}"


def reads_corpora(experiment: Experiment, size: str) -> bool:
    """Whether any step or set of a size reads the user's corpora."""
    lines = [of_size(own.run, size) for own in experiment.steps if size in own.sizes]
    lines += [of_size(own.eval, size) for own in experiment.sets.values() if size in own.sizes]
    return any("$data" in str(line) for line in lines)


def seeds_of(cell: Cell, size: str) -> int:
    """How many seeds of a cell a size trains; 0: it leaves the cell out."""
    return int(of_size(cell.seeds, size)) if size in cell.sizes else 0


def two_trainings(experiment: Experiment, size: str, one: str, other: str) -> bool:
    """Whether two cells are models trained apart: another folder, and at least one of them by a step here."""
    folders = {
        Template(of_size(experiment.cells[name].model, size)).safe_substitute(cell=name)
        for name in (one, other)
    }
    return len(folders) == 2 and any(of_size(experiment.cells[name].run, size) for name in (one, other))


def of_size(value: Any, size: str) -> Any:
    """The value for a size, of a mapping of sizes; 0 for one that a mapping does not hold."""
    return value.get(size, value.get("else", 0)) if isinstance(value, dict) else value
