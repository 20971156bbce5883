"""Checks of a model's weights: missing tensors, and matrices that look freshly initialised."""

import json
import math
from pathlib import Path

from safetensors import safe_open
from torch import Tensor, nn

from lalm.models.load import check_frozen, read_config
from lalm.weights.identity import PartChangedError

SMALLEST_SIDE = 64  # of a matrix that can be judged
NUM_DEVIATIONS = 4.0
SHARE = 0.5  # of a part's matrices that must look random; some trained ones do


def missing_tensors(model: nn.Module, folder: Path) -> list[str]:
    """Names of the model's tensors that a whole checkpoint folder lacks; loading made them up.

    Slim and converted folders name their tensors otherwise, and their loaders check every name themselves.
    """
    fields = json.loads((folder / "config.json").read_text())
    if fields.get("lalm_slim") or not str(fields.get("model_type")).startswith("lalm_"):
        return []
    stored: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            stored |= set(file.keys())
    state = model.state_dict()
    filled = {tensor.data_ptr() for name, tensor in state.items() if name in stored}  # tied ones share it
    return sorted(n for n, tensor in state.items() if n not in stored and tensor.data_ptr() not in filled)


def other_parts(folder: Path) -> str:
    """What is wrong with a slim model's frozen parts, every byte compared; "" when nothing is."""
    if not json.loads((folder / "config.json").read_text()).get("lalm_slim"):
        return ""
    try:
        check_frozen(folder, read_config(folder)[1], full=True)
    except PartChangedError as error:
        return str(error)
    return ""


def parts_that_look_random(model: nn.Module) -> tuple[int, list[str], bool]:
    """Matrices judged, parts of which most look random, and whether there is a LoRA whose second matrices
    are all zero, as before training."""
    looks: dict[str, list[bool]] = {}
    lora: list[bool] = []
    for name, parameter in model.named_parameters():
        tensor = parameter.detach()
        if "lora_" in name:
            if "lora_B" in name:
                lora.append(not bool(tensor.any()))
        elif tensor.ndim >= 2 and min(tensor.shape[0], tensor[0].numel()) >= SMALLEST_SIDE:
            looks.setdefault(_part(name), []).append(looks_random(tensor))
    random = [part for part, own in looks.items() if sum(own) > SHARE * len(own)]
    return sum(map(len, looks.values())), random, bool(lora) and all(lora)


def looks_random(weight: Tensor) -> bool:
    """True when the mean squares of rows, and of columns, vary only as those of independent numbers would.

    For entries of any one distribution the variance of a row's mean square is that of the squares over the
    row's length; trained matrices have strong and weak rows and columns, and vary several times as much.
    """
    squares = weight.detach().float().flatten(1).square()  # (rows, columns)
    spread = float(squares.var())
    if spread == 0:
        return True
    for means, length in ((squares.mean(1), squares.shape[1]), (squares.mean(0), squares.shape[0])):
        ratio = float(means.var()) * length / spread
        if abs(ratio - 1) > NUM_DEVIATIONS * math.sqrt(2 / len(means)):
            return False
    return True


def _part(name: str) -> str:
    if name.startswith("model.connector."):
        return "connector"
    return "LLM" if name.startswith(("model.language_model.", "lm_head.")) else "encoder"
