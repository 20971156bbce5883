"""``lalm interpolate``: the weights between two models."""

from pathlib import Path
from typing import Annotated

import typer


def interpolate(
    first: Annotated[str, typer.Argument(help="Model folder, before a stage.", show_default=False)],
    second: Annotated[str, typer.Argument(help="The same model after it.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder to write.", show_default=False)],
    share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="How far to go from the first to the second.")
    ] = 0.5,
) -> None:
    """Write the weights between a model before and after a stage.

    Much of what the stage taught stays, and less is unlearned.

    Example:

    lalm interpolate runs/before runs/after --share 0.6 --out runs/between

    The second must have been trained from the first. Choose the share by questions that you do not report.
    """
    from lalm.models.interpolation import interpolate as write

    write(first, second, share, out)
    print(out)
