"""``lalm doctor``: is this model wired right? A green or red line a check, with the fix in words."""

import json
import tempfile
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
        str | None,
        typer.Argument(help="Model folder, Hub id or recipe file (default: the embedded small model)."),
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
    """Check that a model is wired right; say how to mend it.

    Each check prints one line. The exit code is 1 when a check fails. Of a recipe file the model is put
    together as training would start from it, with the parts of your own that it names under code.
    """
    if model is not None and model.endswith((".yaml", ".yml")):
        with tempfile.TemporaryDirectory() as folder:
            _put_together(model, Path(folder))
            return _examined(folder, Path(model).stem, golden, as_json, device)
    return _examined(model, None, golden, as_json, device)


def _put_together(recipe: str, folder: Path) -> None:
    """Write the recipe's model, untrained, as a slim folder."""
    from lalm.cli.weights import fetch_for_recipe
    from lalm.models.save import save_model
    from lalm.training import recipe as recipes
    from lalm.training.run import build

    read = recipes.load(recipe)
    fetch_for_recipe(read)
    model, processor = build(read)
    save_model(model, processor, folder, slim=True)


def _examined(
    model: str | None, name: str | None, golden: tuple[Path, Path] | None, as_json: bool, device: str | None
) -> int:
    """Print the checks of a model folder, called ``name`` if that is given; the exit code."""
    from rich.console import Console

    from lalm.cli.opening import open_engine
    from lalm.doctor.checks import examine
    from lalm.models import SMALL
    from lalm.models.load import model_folder

    engine = open_engine(model, device)
    console, checks = Console(highlight=False), []
    place = SMALL if model is None else model_folder(model)
    for check in examine(engine, place, golden, untrained=name is not None):
        checks.append(check)
        if not as_json:
            console.print(line(check), soft_wrap=True)
    passed = all(check.passed is not False for check in checks)
    if as_json:
        rows = [asdict(check) for check in checks]
        print(json.dumps({"model": name or engine.name, "passed": passed, "checks": rows}, indent=2))
    return 0 if passed else 1


def line(check: "Check") -> "Text":
    """A check as a line for the terminal."""
    from rich.text import Text

    mark, colour = MARKS[check.passed]
    said = f"  {check.name}: {check.found}" + (f" -> {check.fix}" if check.fix else "")
    return Text.assemble((f"{mark:>5}", colour), said)
