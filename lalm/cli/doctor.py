"""``lalm doctor``: is this model wired right? A green or red line a check, with the fix in words."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lalm.cli.ask import silence_transformers
from lalm.cli.weights import fetch_for
from lalm.doctor.checks import Check, examine
from lalm.inference.engine import SMALL, Engine

MARKS = {True: ("ok", "green"), False: ("WRONG", "bold red"), None: ("-", "dim")}


def run(model: str | None, golden: tuple[Path, Path] | None, *, device: str | None, as_json: bool) -> int:
    """Print the checks as they are done; 1 when one failed, else 0."""
    fetch_for(model)
    silence_transformers()
    engine = Engine.load(model, device)
    console, checks = Console(highlight=False), list[Check]()
    for check in examine(engine, Path(model) if model is not None else SMALL, golden):
        checks.append(check)
        if not as_json:
            console.print(line(check), soft_wrap=True)
    passed = all(check.passed is not False for check in checks)
    if as_json:
        rows = [asdict(check) for check in checks]
        print(json.dumps({"model": engine.name, "passed": passed, "checks": rows}, indent=2))
    return 0 if passed else 1


def line(check: Check) -> Text:
    """A check as a line for the terminal."""
    mark, colour = MARKS[check.passed]
    said = f"  {check.name}: {check.found}" + (f" -> {check.fix}" if check.fix else "")
    return Text.assemble((f"{mark:>5}", colour), said)
