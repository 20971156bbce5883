"""In which numbers a run begins: what trains is float32, also where the model was opened in bfloat16."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors import safe_open
from torch import Tensor, nn

from lalm.inference.device import is_slow, pick_dtype
from lalm.training import recipe as recipes
from lalm.training.recipe import Recipe
from lalm.training.report import TrainError, say


def settled_dtype(recipe: Recipe, start: Path | None, console: Console) -> Recipe:
    """The recipe with ``optim.dtype`` "auto" replaced by what this machine computes fast, or by what the run
    began with whose checkpoint is ``start``: on another machine it goes on as it was.

    Where bfloat16 is asked for on a CPU that multiplies it slowly, that is said.
    """
    asked: str = recipe.optim.dtype
    if asked == "auto" and start is not None:
        asked = recipes.load(start / "recipe.yaml").optim.dtype
    elif asked == "auto":
        asked = str(frozen_dtype(recipe)).removeprefix("torch.")
    if asked == "bfloat16" and _device().type == "cpu" and is_slow(asked):
        say(
            console,
            "This processor has no instructions for bfloat16, which may take forty times as long as float32: "
            + ("optim.dtype=auto takes float32 here." if start is None else "the run began so on another."),
            "yellow",
        )
    return recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"dtype": asked})})


def frozen_dtype(recipe: Recipe) -> torch.dtype:
    """The number format that a recipe's frozen parts are opened in."""
    asked = recipe.optim.dtype
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    return named.get(asked) or pick_dtype(_device())


def _device() -> torch.device:
    """Where a run trains: the accelerator if there is one, of whatever kind."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


@torch.no_grad()
def trained_in_float32(model: Any, folder: Path | None) -> None:
    """Have what trains in float32, with the numbers that the ``folder`` of a whole model keeps.

    Buffers of parts that train as a whole (a connector's mean and scale of frames) go with them, and a frozen
    head with its LLM. ``folder``: where the model was opened from; None for a new or a changed one.

    Raises TrainError where other weights are in bfloat16 and the LLM trains in part: layers could not read
    one another.
    """
    _llm_is_of_one_piece(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, buffer in _buffers_of_trained_parts(model):
        buffer.data = buffer.data.float()
        trained[name] = buffer
    for file in sorted(folder.glob("model*.safetensors")) if folder else ():
        with safe_open(file, "pt") as kept:
            saved: Any = kept
            for name in trained.keys() & set(saved.keys()):
                if tuple(saved.get_slice(name).get_shape()) == trained[name].shape:
                    trained[name].copy_(saved.get_tensor(name))


def _buffers_of_trained_parts(model: Any) -> Iterator[tuple[str, Tensor]]:
    for prefix, part in model.named_modules():
        parameters = list(part.parameters())
        if parameters and all(parameter.requires_grad for parameter in parameters):
            for name, buffer in part.named_buffers(prefix, recurse=False):
                if buffer.is_floating_point():
                    yield name, buffer


def _llm_is_of_one_piece(model: Any) -> None:
    body, head = model.model.language_model, model.lm_head
    own = {name: p for name, p in body.named_parameters() if "lora_" not in name}
    learning = sorted(name for name, p in own.items() if p.requires_grad)
    if not learning or all(p.dtype == torch.float32 for p in own.values()):
        return
    if still := sorted(own.keys() - set(learning)):
        raise TrainError(
            f"optim.dtype: 'language_model.{learning[0]}' trains and 'language_model.{still[0]}' does not; "
            "so the LLM cannot be bfloat16: let all of it train ('language_model'), or say float32"
        )
    if type(head) is nn.Linear:
        head.float()
