"""FSDP2: shards a model's weights, gradients and optimizer states over processes.

That is torch's ``fully_shard`` as accelerate applies it, layer by layer. Checkpoints hold what trains and
the optimizer in torch's distributed format, a file a process, and open on any number of processes, one
included. Its list of contents is a pickle: open such checkpoints of your own runs only. What a run leaves in
its ``out`` at the end is as safe as any other model.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, DistributedType
from torch import Tensor, nn
from torch.distributed import is_initialized
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

METADATA = ".metadata"  # of torch's distributed checkpoints
TRAINED = StateDictOptions(ignore_frozen_params=True)


def fsdp_arguments(model: nn.Module) -> dict[str, Any]:
    """The Trainer's arguments for FSDP2: each layer of encoder and LLM is gathered when it is computed."""
    layers = {type(m).__name__ for m in model.modules() if isinstance(m, GradientCheckpointingLayer)}
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "transformer_layer_cls_to_wrap": sorted(layers),
            "reshard_after_forward": True,
            "state_dict_type": "SHARDED_STATE_DICT",
        },
    }


def shard_on_cpus(accelerator: Accelerator, plugin: Any) -> None:
    """Make accelerate shard on CPUs too, as it does on every kind of accelerator.

    accelerate 1.15 (``AcceleratorState``) leaves out CPUs, so each process would silently hold the whole
    model. gloo supports what FSDP2 needs.
    """
    if accelerator.distributed_type == DistributedType.MULTI_CPU:
        state = AcceleratorState._shared_state
        state["distributed_type"], state["fsdp_plugin"] = DistributedType.FSDP, plugin


def save_shards(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write what trains and the optimizer into ``folder``; all processes call it together."""
    weights, states = get_state_dict(model, optimizer, options=TRAINED)
    warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process alone is meant
    save({"model": weights, "optimizer": states}, checkpoint_id=folder, no_dist=not is_initialized())


def load_shards(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Read what ``save_shards`` wrote, on any number of processes."""
    weights, states = get_state_dict(model, optimizer, options=TRAINED)
    warnings.filterwarnings("ignore", "torch.distributed is disabled")
    load({"model": weights, "optimizer": states}, checkpoint_id=folder, no_dist=not is_initialized())
    set_state_dict(
        model,
        optimizer,
        model_state_dict=weights,
        optim_state_dict=states,
        options=StateDictOptions(ignore_frozen_params=True, strict=False),
    )


def gather_weights(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Whole tensors of a model's state by name, on the CPU; all processes call it together."""
    state = model.state_dict()
    return {name: full_tensor_of(state[name]).detach().cpu() for name in names}


def full_tensor_of(tensor: Tensor) -> Tensor:
    """The full tensor, gathered from all processes if it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_gradient(parameter: nn.Parameter) -> Tensor | None:
    """A parameter's gradient, if it has one; all processes call it together."""
    return None if parameter.grad is None else full_tensor_of(parameter.grad)
