"""``lalm recipes``: the recipes inside the package, listed, printed and copied."""

import re
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Training recipes that come with the package.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Such as acdc/small.", show_default=False)]


@app.command("list")
def list_all() -> None:
    """The recipes that come with the package."""
    from lalm.training.recipe import shipped

    recipes = shipped()
    width = max(map(len, recipes))
    for name, path in recipes.items():
        print(f"{name:<{width}}  {_about(path.read_text(encoding='utf-8'))}")


def _about(text: str) -> str:
    """The first sentence of a recipe's comment."""
    lines = takewhile(lambda line: line.startswith("#"), text.splitlines())
    return re.split(r"(?<=\.) (?=[A-Z])", " ".join(line.lstrip("# ") for line in lines))[0]


@app.command()
def show(name: Name) -> None:
    """Print a recipe with its comments."""
    print(_text(name), end="")


@app.command()
def copy(
    name: Name,
    file: Annotated[Path, typer.Argument(help="The file to write.", show_default=False)],
) -> None:
    """Copy a recipe to a file of your own.

    An existing file is kept.
    """
    from lalm.training.recipe import RecipeError

    recipe = _text(name)
    if not file.parent.is_dir():
        raise RecipeError(f"there is no folder '{file.parent}' for '{file}'")
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(recipe)
    except FileExistsError:
        raise RecipeError(f"'{file}' is there already: name a new file") from None
    print(file)


def _text(name: str) -> str:
    from lalm.training.recipe import RecipeError, shipped

    recipes = shipped()
    if name not in recipes:
        raise RecipeError(f"there is no recipe '{name}'; there are: {', '.join(recipes)}")
    return recipes[name].read_text(encoding="utf-8")
