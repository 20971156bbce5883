"""The plan of a run: which steps of an experiment come in which order, each a command as it will run"""

import hashlib
import shlex
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template

from lalm.reproduce.experiment import (
    Asked,
    Beside,
    Cell,
    Experiment,
    ReproduceError,
    Setting,
    of_size,
    seeds_of,
)


@dataclass(frozen=True)
class Step:
    """One step as it will run. ``chain``: a digest of its commands and of all that it rests on; a shared
    step rests on nothing. ``after``: the steps that must be done before."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    makes: tuple[str, ...]
    minutes: float
    needs: tuple[str, ...]
    chain: str
    shared: bool = False
    after: tuple[str, ...] = ()


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


def plan(
    experiment: Experiment,
    size: str,
    *,
    changes: Mapping[str, str] | None = None,
    data: Path | None = None,
    table: str | None = None,
    rows: Collection[str] = (),
    every: bool = False,
) -> Plan:
    """What a run of this size will do; ``changes`` are settings in place of the size's own, ``table`` and
    ``rows`` keep the sets of one table and some cells. ``every``: also cells that this size leaves out unless
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
        if size in one.sizes and table in (None, one.table) and (not rows or not set(rows).isdisjoint(one.of))
    }
    sets = {
        name: asked
        for name, asked in experiment.sets.items()
        if size in asked.sizes and (table is None or table in _tables(asked))
    }
    had_cells = {name: cell for name, cell in experiment.cells.items() if size in cell.sizes}
    cells = {name: cell for name, cell in had_cells.items() if not rows or name in rows}
    for row in rows:
        if row not in had_cells:
            where = f"size '{size}' has no row" if row in experiment.cells else "there is no row"
            raise ReproduceError(f"{where} '{row}': the rows are {', '.join(had_cells)}")
    if table is not None and not sets and not beside:
        every_set: list[Asked | Beside] = [*experiment.sets.values(), *experiment.beside.values()]
        had = ", ".join(sorted({name for own in every_set if size in own.sizes for name in _tables(own)}))
        raise ReproduceError(f"size '{size}' has nothing for table '{table}': it has {had}")
    num_seeds = {name: max(seeds_of(cell, size), int(every or name in rows)) for name, cell in cells.items()}
    trains = {name for name, count in num_seeds.items() if count}
    steps, of_data = _of_data(experiment, size, settings, trains)
    data_steps = {own.name: own.only for own in experiment.steps}
    newest = dict[tuple[str, int], tuple[str, tuple[str, ...]]]()
    evaluations = list[Evaluation]()

    def trained(name: str, seed: int) -> tuple[str, tuple[str, ...]]:
        """The chain of a cell's model, whose steps are planned once, and the steps that it waits for."""
        if (name, seed) not in newest:
            cell = experiment.cells[name]
            chain, after = trained(cell.after, seed) if cell.after else (of_data.get(name, of_data[""]), ())
            of_it = (step.name for step in steps if name in (data_steps.get(step.name) or [name]))
            after += tuple(own for own in of_it if own in data_steps)
            made = _train(name, cell, size, _own(settings, name, cell, seed), chain)
            steps.extend(replace(step, after=after) for step in made)
            newest[name, seed] = (made[-1].chain, (*after, made[-1].name)) if made else (chain, after)
        return newest[name, seed]

    for name, cell in cells.items():
        for seed in range(num_seeds[name]):
            for key, asked in sets.items():
                if not asked.only or name in asked.only:
                    chain, after = trained(name, seed)
                    own = _own(settings, name, cell, seed)
                    step = _ask(name, cell, seed, key, asked, size, own, chain)
                    steps.append(replace(step, after=after))
                    evaluations.append(Evaluation(step.name, name, seed, key, f"eval/{name}-{seed}-{key}"))
    for key, one in beside.items():
        made = [trained(name, n) for name in one.of for n in range(seeds_of(experiment.cells[name], size))]
        if lines := of_size(one.run, size):
            chain, after = "".join(own for own, _ in made), tuple(name for _, own in made for name in own)
            step = _step(key, lines, one.makes, of_size(one.minutes, size), settings, chain)
            steps.append(replace(step, after=after))
    asked_for = {one.cell for one in evaluations}.union(*(one.of for one in beside.values()))
    if unasked := [row for row in rows if row not in asked_for]:
        way = (
            f" for table '{table}': leave out --row or --table" if table else ": it is asked in another size"
        )
        raise ReproduceError(f"size '{size}' asks row '{unasked[0]}' nothing{way}")
    return Plan(experiment, size, settings, tuple(steps), tuple(evaluations), beside)


def _tables(own: Asked | Beside) -> list[str]:
    return [own.table] if isinstance(own.table, str) else own.table


def _of_data(
    experiment: Experiment, size: str, settings: Mapping[str, Setting], cells: Set[str]
) -> tuple[list[Step], dict[str, str]]:
    """The steps before the cells, and by cell the chain of all that it rests on; "": of what all need."""
    steps, chains = list[Step](), {"": ""}
    for own in experiment.steps:
        if size not in own.sizes or (own.only and cells.isdisjoint(own.only)):
            continue
        before = "" if own.shared else chains[""]
        minutes, lines = of_size(own.minutes, size), of_size(own.run, size)
        step = _step(own.name, lines, own.makes, minutes, settings, before, own.needs)
        steps.append(replace(step, shared=own.shared, after=tuple(one.name for one in steps)))
        for name in own.only or [""]:
            chains[name] = _digest(chains.get(name, chains[""]), step.chain)
    return steps, chains


def _own(settings: Mapping[str, Setting], name: str, cell: Cell, seed: int) -> dict[str, Setting]:
    own = cell.settings.items()
    filled = {k: Template(v).safe_substitute(settings) if isinstance(v, str) else v for k, v in own}
    return {**settings, **filled, "cell": name, "seed": seed}


def _train(name: str, cell: Cell, size: str, own: Mapping[str, Setting], chain: str) -> list[Step]:
    lines, made = of_size(cell.run, size), of_size(cell.model, size) + "/config.json"
    about = f"train {name}, seed {own['seed']}"
    return [_step(about, lines, [made], of_size(cell.minutes, size), own, chain)] if lines else []


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
    words = ["eval", of_size(cell.model, size), of_size(asked.eval, size), cell.eval, "--out", out]
    words += [f"--control {one}" for one in controls] or ["--no-controls"]
    minutes = of_size(asked.minutes, size) * (1 + len(controls))
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


def _filled(text: str, settings: Mapping[str, Setting]) -> str:
    try:
        return Template(text).substitute(settings)
    except (KeyError, ValueError) as error:
        raise ReproduceError(f"'{text}' names a setting that there is not: {error}") from None
