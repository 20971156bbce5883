"""Where a model runs and in which number format, chosen by what is here."""

import logging
import platform
from pathlib import Path
from typing import Literal, TypeAlias

import torch

from lalm.models.int8 import packs
from lalm.models.load import keeps_int8

log = logging.getLogger("lalm.device")
X86 = platform.machine().lower() in ("x86_64", "amd64")

Precision: TypeAlias = torch.dtype | Literal["auto", "float32", "bfloat16", "float16", "int8", "int4"]
"""Of a model's weights, as people name it; "int8": the LLM's linear layers in 8 bits, the rest bfloat16;
"int4": the lower ones in 4 bits while an answer is decoded."""


def pick_device(name: str | None) -> torch.device:
    """The device of that name, or the best one here: CUDA, else CPU."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"there is no device '{name}': say cpu, cuda or cuda:1") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"there is no device '{name}': say cpu, cuda or cuda:1")
    absent = {
        "cpu": False,
        "cuda": (device.index or 0) >= torch.cuda.device_count(),
        "mps": not torch.backends.mps.is_available(),
    }
    if absent[device.type]:
        raise ValueError(f"device '{name}' is not available on this machine: say cpu")
    return device


def pick_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it fast (GPUs; CPUs with AMX or AVX512-BF16), else float32."""
    if device.type != "cpu":
        return torch.bfloat16
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def is_slow(asked: torch.dtype | str) -> bool:
    """Whether this x86 CPU has no instructions for products of that format: bfloat16 and float16 without AMX
    and AVX512-BF16, 8 and 4 bits without VNNI (prompts are read in 8). Of other CPUs nothing was measured."""
    if not X86:
        return False
    if asked in ("int8", "int4"):
        return not packs()
    half = asked in ("bfloat16", "float16", torch.bfloat16, torch.float16)
    return half and pick_dtype(torch.device("cpu")) == torch.float32


def pick_precision(
    model: str | Path, device: torch.device, asked: Precision | None
) -> torch.dtype | Literal["int8", "int4"]:
    """The number format of a model's weights: the one that is asked for, or ("auto", None) the fastest here
    that costs no quality that could be measured (docs/results.md).

    That is int8 on CPUs that multiply it fast, where the LLM's int8 weights are kept once they are made, else
    ``pick_dtype``'s. A warning tells of a format that this CPU computes slowly.
    """
    if asked not in (None, "auto") and device.type == "cpu" and is_slow(asked):
        log.warning(
            "this processor has no instructions for %s, which may take several times as long as float32: "
            "'auto' takes the fastest",
            str(asked).removeprefix("torch."),
        )
    if isinstance(asked, torch.dtype):
        return asked
    if asked in ("int8", "int4"):
        return asked
    if asked in (None, "auto"):
        return "int8" if device.type == "cpu" and packs() and keeps_int8(model) else pick_dtype(device)
    named: torch.dtype = getattr(torch, str(asked))
    return named
