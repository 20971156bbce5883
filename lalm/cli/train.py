"""``lalm train``: the parts that a recipe names are fetched, then the model is trained as it says."""

from typing import Annotated

import typer


def train(
    recipe: Annotated[
        str, typer.Argument(help="Recipe file, trained folder or shipped name.", show_default=False)
    ],
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key; may be repeated.")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on from the newest checkpoint in the recipe's out.")
    ] = True,
) -> None:
    """Train as a recipe says; run it again to resume."""
    from lalm.cli.weights import fetch_with_bar
    from lalm.training import recipe as recipes

    read = recipes.load(recipe, changes or [])
    filters = read.data.filters
    judge = filters.contradictions if filters is not None and filters.url is None else None
    parts = (read.init.encoder, read.init.encoder_2, read.init.aligner, read.init.llm, judge)
    fetch_with_bar([name for name in parts if name])
    from lalm.training.run import run

    run(read, resume=resume)
