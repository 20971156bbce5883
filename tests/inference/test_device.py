"""In which number format a model runs, by what the processor computes fast."""

import logging

import pytest
import torch

from lalm.inference import device

CPU = torch.device("cpu")


@pytest.mark.parametrize("fast", [True, False])
def test_a_format_that_this_processor_computes_slowly_is_told(fast, tmp_path, monkeypatch, caplog):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported", "_is_vnni_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: fast)
    monkeypatch.setattr(device, "X86", True)
    caplog.set_level(logging.WARNING, "lalm.device")
    for asked in ("bfloat16", torch.bfloat16, "float16", "int8", "int4"):
        caplog.clear()
        device.pick_precision(tmp_path, CPU, asked)
        said = [record.getMessage() for record in caplog.records]
        told = f"this processor has no instructions for {str(asked).removeprefix('torch.')}, which may"
        assert not said if fast else len(said) == 1 and said[0].startswith(told), asked
    caplog.clear()
    device.pick_precision(tmp_path, CPU, "float32")
    device.pick_precision(tmp_path, torch.device("cuda"), "bfloat16")
    monkeypatch.setattr(device, "X86", False)  # of which nothing was measured
    device.pick_precision(tmp_path, CPU, "int8")
    assert not caplog.records
    assert device.pick_dtype(CPU) == (torch.bfloat16 if fast else torch.float32)
