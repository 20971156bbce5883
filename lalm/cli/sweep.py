"""``lalm sweep``: one recipe under several settings and seeds, and a table of what came of it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lalm.training.recipe import Recipe


def sweep(
    recipe: Annotated[
        str, typer.Argument(help="Recipe file, trained folder or shipped name.", show_default=False)
    ],
    changes: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE,VALUE,...",
            help="Run each of these values; may be repeated: every combination is run.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the runs and the table.")] = Path("sweep"),
) -> None:
    """Train under several settings; a table with intervals.

    Examples:

    lalm sweep mine.yaml --set optim.seed=1,2,3 --set optim.learning_rate=1e-3,1e-4

    The same command again goes on where it stopped. The table is in OUT/table.md.
    """
    from lalm.cli.weights import fetch_for_recipe
    from lalm.training.run import run
    from lalm.training.sweep import sweep as run_all
    from lalm.training.sweep import table

    def train(settings: "Recipe") -> None:
        fetch_for_recipe(settings)
        run(settings)

    def progress(done: int, total: int, name: str) -> None:
        print(f"run {done + 1} of {total}: {name}", file=sys.stderr)

    made = table(changes, run_all(recipe, changes, out, train, progress))
    (out / "table.md").write_text(made, encoding="utf-8")
    print(made, end="")
