"""Freed memory stays: touching a large block again costs no page faults."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, resource, sys
import numpy as np
from lalm.training.malloc import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(8_000_000)  # 64 MB
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps(faults))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is Linux's")
def test_a_block_used_again_costs_no_page_faults():
    given_back, kept = (
        json.loads(
            subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, check=True).stdout
        )
        for how in ("give", "keep")
    )
    assert min(given_back) > 10 * max(kept[1:])
