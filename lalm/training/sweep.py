"""Runs of one recipe under several settings and seeds, and their table with intervals over the seeds.

    lalm sweep mine.yaml --set optim.seed=1,2,3 --set optim.learning_rate=1e-4,3e-4

makes six runs, each in a folder of its own below ``out``. What a run measured is kept in ``sweep.json`` when
it is done, so the same sweep again goes on where it stopped; the run it stopped in resumes as any run does.
"""

import itertools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from lalm.training import recipe as recipes
from lalm.training.recipe import Recipe, RecipeError
from lalm.training.report import TrainError

SEED = "optim.seed"
FILE = "sweep.json"
# The 97.5 % points of Student's t for 1 to 30 degrees of freedom (any table of it); ``t_point`` goes beyond.
T_POINTS = (
    *(
        12.706,
        4.303,
        3.182,
        2.776,
        2.571,
        2.447,
        2.365,
        2.306,
        2.262,
        2.228,
        2.201,
        2.179,
        2.160,
        2.145,
        2.131,
    ),
    *(
        2.120,
        2.110,
        2.101,
        2.093,
        2.086,
        2.080,
        2.074,
        2.069,
        2.064,
        2.060,
        2.056,
        2.052,
        2.048,
        2.045,
        2.042,
    ),
)


def grid(changes: Sequence[str]) -> list[tuple[str, ...]]:
    """All combinations of "key=a,b,c" as the changes of one run each: [("key=a", ...), ...].

    Commas inside brackets, braces and quotes belong to a value. Raises RecipeError for a change without
    values.
    """
    axes = []
    for change in changes:
        key, equals, values = change.partition("=")
        parts = split_values(values)
        if not equals or not key.strip() or not all(parts):
            raise RecipeError(f"--set {change}: write it as key.path=value, or key.path=value,value,...")
        axes.append([f"{key.strip()}={value}" for value in parts])
    return list(itertools.product(*axes))


def split_values(text: str) -> list[str]:
    """The values between commas that are not inside brackets, braces or quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def run_name(changes: Sequence[str]) -> str:
    """The folder of a run: "seed=1,learning_rate=1e-4"; what a file name cannot hold is left out."""
    words = [f"{key.rpartition('.')[2]}={value}" for key, _, value in (c.partition("=") for c in changes)]
    return "".join(c if c.isalnum() or c in "=,.-_+" else "_" for c in ",".join(words))[:150] or "run"


def named(changes: Sequence[str]) -> list[tuple[tuple[str, ...], str]]:
    """Every combination and its run's name, which holds only what differs between the runs."""
    combinations = grid(changes)
    differ = [place for place, values in enumerate(zip(*combinations, strict=True)) if len(set(values)) > 1]
    return [(one, run_name([one[place] for place in differ] or one)) for one in combinations]


def sweep(
    recipe: str | Path,
    changes: Sequence[str],
    out: Path,
    train: Callable[[Recipe], object],
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> dict[str, dict[str, float]]:
    """Run every combination, and return what each measured, by its run's name.

    ``train`` is ``lalm.training.run.run``; ``progress`` is told before each run. All recipes are checked
    before the first one runs. Raises RecipeError, and TrainError when two runs would share a folder.
    """
    runs: dict[str, Recipe] = {}
    for combination, name in named(changes):
        if name in runs:
            raise TrainError(f"two runs of the sweep would be called '{name}': name each value once")
        runs[name] = recipes.load(recipe, [*combination, f"out={json.dumps(str(out / name))}"])
    out.mkdir(parents=True, exist_ok=True)
    file = out / FILE
    kept = json.loads(file.read_text()) if file.is_file() else {}
    found: dict[str, dict[str, float]] = {}
    for number, (name, settings) in enumerate(runs.items()):
        progress(number, len(runs), name)
        what = settings.model_dump(by_alias=True, mode="json", exclude={"out"})
        if kept.get(name, {}).get("recipe") != what:
            train(settings)
            kept[name] = {"recipe": what, "measured": measured(out / name)}
            draft = file.with_suffix(f".{os.getpid()}.part")
            draft.write_text(json.dumps(kept, indent=1) + "\n")
            draft.replace(file)
        found[name] = kept[name]["measured"]
    return found


def measured(out: Path) -> dict[str, float]:
    """The last value of each measure of a run, from its metrics.jsonl, and the lowest ``valid_loss``."""
    last: dict[str, float] = {}
    lowest = math.inf
    for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        last |= {k: float(v) for k, v in values.items() if isinstance(v, int | float)}
        lowest = min(lowest, values.get("valid_loss", math.inf))
    for name in ("epoch", "learning_rate", "grad_norm"):
        last.pop(name, None)
    return last | ({"lowest_valid_loss": lowest} if lowest < math.inf else {})


def groups(
    changes: Sequence[str], found: Mapping[str, Mapping[str, float]]
) -> list[tuple[str, list[Mapping[str, float]]]]:
    """The runs that differ in the seed alone, by what else they are: [("learning_rate=1e-4", [...]), ...]."""
    together: dict[str, list[Mapping[str, float]]] = {}
    varied = {
        key.strip() for key, _, values in (c.partition("=") for c in changes) if len(split_values(values)) > 1
    }
    for combination, name in named(changes):
        others = [c for c in combination if (key := c.partition("=")[0]) != SEED and key in varied]
        together.setdefault(run_name(others) if others else "all", []).append(found[name])
    return list(together.items())


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half the width of its 95 % interval by Student's t; None for one value."""
    if len(values) < 2:
        return mean(values), None
    degrees = len(values) - 1
    return mean(values), t_point(degrees) * stdev(values) / math.sqrt(len(values))


def t_point(degrees: int) -> float:
    """The 97.5 % point of Student's t; beyond the table the first terms of its series about the normal's
    (Abramowitz and Stegun, 26.7.5). The normal's own would be 4 % too small at 31 degrees of freedom."""
    if degrees <= len(T_POINTS):
        return T_POINTS[max(degrees, 1) - 1]
    normal = 1.959964
    second = (5 * normal**5 + 16 * normal**3 + 3 * normal) / (96 * degrees**2)
    return normal + (normal**3 + normal) / (4 * degrees) + second


def table(changes: Sequence[str], found: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: a row for each setting, a column for each measure, mean and interval over the seeds."""
    rows = groups(changes, found)
    names = [n for n in dict.fromkeys(k for _, runs in rows for run in runs for k in run) if n != "step"]
    lines = ["| setting | runs | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for setting, runs in rows:
        cells = []
        for name in names:
            values = [run[name] for run in runs if name in run]
            if not values:
                cells.append("")
                continue
            middle, half = interval(values)
            cells.append(f"{middle:.4g}" if half is None else f"{middle:.4g} ± {half:.2g}")
        lines.append(f"| {setting} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
