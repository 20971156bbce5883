"""``lalm recipes``: the recipes inside the package as text and as files."""

from pathlib import Path

from lalm.recipe import RecipeError, shipped


def text(name: str) -> str:
    """A shipped recipe with its comments."""
    recipes = shipped()
    if name not in recipes:
        raise RecipeError(f"there is no recipe '{name}'; there are: {', '.join(recipes)}")
    return recipes[name].read_text(encoding="utf-8")


def copy(name: str, file: Path) -> None:
    """Write a shipped recipe to a new file; an existing one is never overwritten."""
    recipe = text(name)
    if not file.parent.is_dir():
        raise RecipeError(f"there is no folder '{file.parent}' for '{file}'")
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(recipe)
    except FileExistsError:
        raise RecipeError(f"'{file}' is there already: name a new file") from None
