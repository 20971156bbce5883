"""``lalm doctor``: is this model wired right? A green or red line a check, with the fix in words."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lalm.cli.options import Device, Json

if TYPE_CHECKING:
    from rich.text import Text

    from lalm.doctor.checks import Check

MARKS = {True: ("ok", "green"), False: ("WRONG", "bold red"), None: ("-", "dim")}


def doctor(
    model: Annotated[
        str | None, typer.Argument(help="Model folder or Hub id (default: the embedded small model).")
    ] = None,
    golden: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="AUDIO NPY",
            help="For an EAT encoder: a recording, and the released model's frames of it.",
        ),
    ] = None,
    as_json: Json = False,
    device: Device = None,
) -> int:
    """Check that a model is wired right; say how to fix what is not.

    Each check prints one line. The exit code is 1 when a check fails.
    """
    from rich.console import Console

    from lalm.cli.opening import open_engine
    from lalm.doctor.checks import examine
    from lalm.inference.engine import SMALL
    from lalm.models.load import model_folder

    engine = open_engine(model, device)
    console, checks = Console(highlight=False), []
    for check in examine(engine, SMALL if model is None else model_folder(model), golden):
        checks.append(check)
        if not as_json:
            console.print(line(check), soft_wrap=True)
    passed = all(check.passed is not False for check in checks)
    if as_json:
        rows = [asdict(check) for check in checks]
        print(json.dumps({"model": engine.name, "passed": passed, "checks": rows}, indent=2))
    return 0 if passed else 1


def line(check: "Check") -> "Text":
    """A check as a line for the terminal."""
    from rich.text import Text

    mark, colour = MARKS[check.passed]
    said = f"  {check.name}: {check.found}" + (f" -> {check.fix}" if check.fix else "")
    return Text.assemble((f"{mark:>5}", colour), said)
