"""``lalm train``: the parts that a recipe names are fetched, then the model is trained as it says."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[
        str, typer.Argument(help="Recipe file, trained folder or shipped name.", show_default=False)
    ],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the recipe; may be repeated."),
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on from the newest checkpoint in the recipe's out.")
    ] = True,
) -> None:
    """Train as a recipe says; run it again to resume.

    Examples:

    lalm train mine.yaml

    lalm train mine.yaml --set optim.learning_rate=1e-4 --set out=runs/second

    lalm recipes copy modular/own mine.yaml    # a recipe to begin with
    """
    from lalm.cli.weights import fetch_for_recipe
    from lalm.training import recipe as recipes

    read = recipes.load(recipe, changes or [])
    from lalm.training.manifests import training_sources

    if read.code and Path(recipe).is_dir():
        raise ValueError(
            f"the recipe in '{recipe}' runs {', '.join(read.code)}: if you trust that code, name the "
            f"recipe's own file, {Path(recipe) / 'recipe.yaml'}"
        )
    from lalm.training.run import run

    training_sources(read)  # what is wrong with the data is said before anything is fetched
    fetch_for_recipe(read)

    run(read, resume=resume)
    from torch import distributed

    if distributed.is_initialized():  # its threads, left to the end of the process, may abort it
        distributed.destroy_process_group()
