"""DeepSpeed ZeRO: shards gradients and AdamW's states (ZeRO-2), and weights too (ZeRO-3).

Checkpoints are those of a run without sharding: the first process gathers them one tensor at a time, so they
open on any number of processes, also without DeepSpeed. It needs main memory for all trained weights and
AdamW's states (12 bytes a parameter). Trained weights stay float32, frozen ones keep their dtype.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed import get_rank, get_world_size

MOMENTS = ("exp_avg", "exp_avg_sq")


def deepspeed_arguments(shard: Literal["zero2", "zero3"]) -> dict[str, Any]:
    """The Trainer's arguments for ZeRO stage 2 or 3. Raises ValueError without DeepSpeed."""
    try:
        import deepspeed
    except ImportError:
        raise ValueError(f"shard: {shard} needs DeepSpeed: pip install 'lalm[deepspeed]'") from None
    if (
        not torch.accelerator.is_available()
    ):  # it would compile an operation of its own; gloo has all it needs
        deepspeed.ops.__compatible_ops__ = {}
    from_recipe = ["train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"]
    return {
        "deepspeed": {
            **dict.fromkeys([*from_recipe, "gradient_clipping"], "auto"),
            "zero_optimization": {"stage": int(shard[-1])},
            "zero_allow_untested_optimizer": True,  # torch's AdamW, as without DeepSpeed
            "zero_force_ds_cpu_optimizer": False,
        }
    }


def gather_zero_weights(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Whole tensors of a model's state by name, on the CPU of the first process; all call it together."""
    from deepspeed.runtime.zero import GatheredParameters

    state = {**model.state_dict(), **dict(model.named_parameters(remove_duplicate=False))}
    whole = {}
    for name in names:
        with GatheredParameters([state[name]]):
            if get_rank() == 0:
                whole[name] = state[name].detach().to("cpu", copy=True)
    return whole


def gather_optimizer_state(zero_optimizer: Any, groups: Sequence[Sequence[nn.Parameter]]) -> dict[str, Any]:
    """AdamW's full ``state_dict``; complete on the first process, all call it together.

    ``zero_optimizer`` is DeepSpeed's optimizer, ``groups`` the parameters that AdamW was made with.
    """
    from deepspeed.utils import safe_get_full_optimizer_state as gather

    adamw = zero_optimizer.optimizer
    step = next(iter(adamw.state.values()))["step"]
    states: dict[int, dict[str, Tensor]] = {}
    packed = []
    for settings, parameters in zip(adamw.param_groups, groups, strict=True):
        first = len(states)
        for parameter in parameters:
            moments = {key: gather(parameter, key) for key in MOMENTS}
            if get_rank() == 0:
                moments = {key: moment.to("cpu", copy=True) for key, moment in moments.items()}
            states[len(states)] = {"step": step.clone(), **moments} if get_rank() == 0 else {}
        packed.append({**settings, "params": list(range(first, len(states)))})
    return {"state": states, "param_groups": packed}


def scatter_optimizer_state(
    zero_optimizer: Any, groups: Sequence[Sequence[nn.Parameter]], saved: dict[str, Any]
) -> None:
    """Give every process its part of AdamW's states; ``saved`` is the full ``state_dict``."""
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    adamw, stage_3 = zero_optimizer.optimizer, isinstance(zero_optimizer, DeepSpeedZeroOptimizer_Stage3)
    step = next(iter(saved["state"].values()))["step"]
    parts = (
        zero_optimizer.fp32_partitioned_groups_flat
        if stage_3
        else zero_optimizer.single_partition_of_fp32_groups
    )
    for part in parts:  # AdamW would make them at its first step
        adamw.state[part] = {"step": step.clone(), **{key: torch.zeros_like(part) for key in MOMENTS}}
    if not stage_3:
        zero_optimizer._lazy_init_hp_params_optimizer_state()
    parameters = [parameter for group in groups for parameter in group]
    for number, states in saved["state"].items():
        parameter = parameters[number]
        for key in MOMENTS:
            if stage_3:
                safe_set_local_optimizer_state(parameter, _own_partition(states[key], parameter), key)
            else:
                safe_set_full_optimizer_state(parameter, states[key], key)
    for settings, group in zip(saved["param_groups"], adamw.param_groups, strict=True):
        group.update({key: value for key, value in settings.items() if key != "params"})


def first_moment(parameter: nn.Parameter) -> Tensor:
    """The running mean of a parameter's gradients, whole; ZeRO keeps no gradients after a step."""
    from deepspeed.utils import safe_get_full_optimizer_state

    return safe_get_full_optimizer_state(parameter, MOMENTS[0])


def _own_partition(whole: Tensor, parameter: Any) -> Tensor:
    """This process's part of a tensor as ZeRO-3 partitions it: flat, equal parts, zero-padded at the end."""
    size = parameter.ds_tensor.numel()
    padded = nn.functional.pad(whole.flatten(), (0, size * get_world_size() - whole.numel()))
    return padded[size * get_rank() :][:size]
