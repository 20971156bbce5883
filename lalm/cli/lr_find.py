"""``lalm lr-find``: which learning rate a recipe learns with, by a range test."""

from typing import Annotated

import typer

ROWS = 24  # of the table


def lr_find(
    recipe: Annotated[
        str, typer.Argument(help="Recipe file, trained folder or shipped name.", show_default=False)
    ],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the recipe; may be repeated."),
    ] = None,
    lowest: Annotated[float, typer.Option("--from", help="Rate of the first step.")] = 1e-6,
    highest: Annotated[float, typer.Option("--to", help="Rate of the last step.")] = 1.0,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 100,
) -> None:
    """Find a learning rate by raising it until the loss leaves.

    A table of rates and losses, averaged over some steps, and what they suggest. Nothing is kept.
    """
    from lalm.cli.weights import fetch_for_recipe
    from lalm.training import recipe as recipes
    from lalm.training.lr_find import find_rate
    from lalm.training.manifests import training_sources

    read = recipes.load(recipe, changes or [])
    training_sources(read)
    fetch_for_recipe(read)
    found = find_rate(read, lowest=lowest, highest=highest, steps=steps)
    print("| learning rate | loss |\n|---|---|")
    every = -(-len(found.rates) // ROWS)
    for rate, loss in list(zip(found.rates, found.losses, strict=True))[::every]:
        print(f"| {rate:.2g} | {loss:.4f} |")
    if found.steepest is None:
        print("\nThe loss never fell: look for other reasons than the rate, or begin with a lower --from.")
        return
    lowest_at = 10 * found.careful if found.careful else found.steepest
    print(f"\nThe loss falls fastest at {found.steepest:.1g} and is lowest at {lowest_at:.1g}.")
    if lowest_at >= 0.99 * found.rates[-1]:
        print("It fell to the end: few recordings are soon known by heart. Try it on more of them.")
    print(f"Try: --set optim.learning_rate={found.steepest:.1g}")
