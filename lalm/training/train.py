"""Training by a recipe's name, file or value: what ``lalm.train`` is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lalm.training.recipe import Recipe, changed, load
from lalm.training.run import run


def train(
    recipe: str | Path | Recipe | Mapping[str, Any], changes: Sequence[str] = (), *, resume: bool = True
) -> Path:
    """Train as a recipe says, and return the folder of the trained model.

    ``recipe`` is a shipped one's name, a file, a trained folder, a ``Recipe`` or its mapping; ``changes`` are
    written ``key.path=value``. The same call again goes on where it stopped, unless ``resume`` is off.
    Raises RecipeError naming file and key, and TrainError.
    Example: ``lalm.train("acdc/small", ["out=runs/mine"])``.
    """
    settings = changed(recipe, changes) if isinstance(recipe, Recipe) else load(recipe, changes)
    return run(settings, resume=resume)
