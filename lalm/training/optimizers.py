"""Optimizers that a recipe may choose: AdamW, AdamW with 8-bit states, SGD, Muon.

adamw        torch's; the states are 8 bytes a trained parameter
adamw_8bit   bitsandbytes': states of 2 bytes a parameter, in blocks (Dettmers et al. 2022)
sgd          with momentum 0.9
muon         torch's (2.9 and newer), for matrices: their momentum made orthogonal (Jordan et al. 2024),
             its step as large as AdamW's, so that AdamW's learning rates fit. All else has AdamW
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch.optim import AdamW

from lalm.training.report import TrainError

TRAINER_NAMES = {"adamw": "adamw_torch", "adamw_8bit": "adamw_bnb_8bit", "sgd": "sgd", "muon": "adamw_torch"}
TRAINER_ARGUMENTS = {"sgd": "momentum=0.9"}


def check_optimizer(name: str) -> None:
    """Raises TrainError for an optimizer whose library is not here."""
    if name == "adamw_8bit" and find_spec("bitsandbytes") is None:
        raise TrainError("optim.optimizer: adamw_8bit needs bitsandbytes: pip install 'lalm[quantize]'")
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        raise TrainError(f"optim.optimizer: muon needs torch 2.9 or newer, and this is {torch.__version__}")


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for matrices, AdamW for everything else, as one optimizer.

    ``groups`` are AdamW's groups ("params", "lr", "weight_decay"); each is split by what is a matrix.
    """

    def __init__(self, groups: Sequence[dict[str, Any]]) -> None:
        split: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        for group in groups:
            for is_matrix, members in split.items():
                params = [p for p in group["params"] if (p.ndim == 2) == is_matrix]
                if params:
                    kept = {key: group[key] for key in ("lr", "weight_decay")}
                    members.append({"params": params, **kept})
        if not split[True]:
            raise TrainError(
                "optim.optimizer: muon is for matrices, and nothing that trains is one: say adamw"
            )
        muon: Any = torch.optim.Muon
        self._parts: list[torch.optim.Optimizer] = [muon(split[True], adjust_lr_fn="match_rms_adamw")]
        if split[False]:
            self._parts.append(AdamW(split[False]))
        super().__init__(
            [{"params": list(g["params"])} for part in self._parts for g in part.param_groups], {}
        )
        self._share()

    def _share(self) -> None:
        """Have the parts' own groups and states as one's own: a schedule sets rates in both at once."""
        self.param_groups = [group for part in self._parts for group in part.param_groups]
        self.state.clear()
        for part in self._parts:
            self.state.update(part.state)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of each."""
        loss = None if closure is None else closure()
        for part in self._parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of both, in their order; ``param_groups`` as torch's own tools expect them."""
        parts = [part.state_dict() for part in self._parts]
        return {
            "state": dict(enumerate(parts)),
            "param_groups": [g for p in parts for g in p["param_groups"]],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what ``state_dict`` gave."""
        for number, part in enumerate(self._parts):
            part.load_state_dict(state_dict["state"][number])
        self._share()
