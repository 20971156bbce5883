"""Several processes for losses that run the model in parts, which torch's DistributedDataParallel does not
take: it averages gradients only of what went through its own forward."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lalm.training.trainer import RecipeTrainer


class PartwiseTrainer(RecipeTrainer):
    """The recipe's trainer for such a loss, a mean over the rows of a batch.

    Of several processes each has the whole model, and their gradients are averaged after each step's last
    batch.
    """

    def __init__(self, **others: Any) -> None:
        super().__init__(**others)
        self.model_accepts_loss_kwargs = False  # the loss is a mean over rows, not over tokens

    def create_accelerator_and_postprocess(self) -> None:
        """The Trainer's accelerator, which leaves the model as it is."""
        super().create_accelerator_and_postprocess()
        if self.args.world_size > 1:
            self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The Trainer's; with the last batch of a step the gradients of all processes are averaged."""
        loss = super().training_step(*args, **kwargs)
        if self.args.world_size > 1 and self.accelerator.sync_gradients:
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    if parameter.grad is None:  # everywhere the same sums, in the same order
                        parameter.grad = torch.zeros_like(parameter)
                    torch.distributed.all_reduce(parameter.grad)
                    parameter.grad /= self.args.world_size
        return loss
