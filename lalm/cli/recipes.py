"""``lalm recipes``: the recipes inside the package, listed, printed and copied."""

from pathlib import Path

from lalm.training.recipe import RecipeError, shipped


def list_all() -> None:
    """Print every recipe's name and first line."""
    for name, path in shipped().items():
        print(f"{name:<20} {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")


def show(name: str) -> None:
    """Print a recipe with its comments."""
    print(_text(name), end="")


def copy(name: str, file: Path) -> None:
    """Write a shipped recipe to a new file; an existing one is never overwritten."""
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
    recipes = shipped()
    if name not in recipes:
        raise RecipeError(f"there is no recipe '{name}'; there are: {', '.join(recipes)}")
    return recipes[name].read_text(encoding="utf-8")
