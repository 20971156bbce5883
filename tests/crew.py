"""A process that has imported everything once, and from which the tests of other processes fork theirs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

Crew: TypeAlias = Callable[..., list[int]]

PROGRAM = """
import json, os, sys, torch, lalm.cli.app, lalm.training.run  # what takes seconds, once for all
torch.set_num_threads(1)
for order in sys.stdin:
    code, environments, said = json.loads(order)
    crew = []
    for rank, environment in enumerate(environments):
        crew.append(os.fork())
        if crew[-1] == 0:
            os.environ |= environment
            file = os.open(said + str(rank), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1), os.dup2(file, 2)
            try:
                exec(code, {"__name__": "__main__"})
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
            except BaseException:
                import traceback
                traceback.print_exc()
                status = 1
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(status)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in crew]), flush=True)
"""


@pytest.fixture(scope="session")
def crew() -> Iterator[Crew]:
    """``crew(code, environments, said)``: the exit codes of one process for each of the environments.

    What each prints lies in the file ``said`` with its number behind.
    """
    paths = {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parents[1])])}
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, env=os.environ | paths, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin and process.stdout

        def run(code: str, environments: list[dict[str, str]], said: Path) -> list[int]:
            assert process.stdin and process.stdout
            process.stdin.write(json.dumps([code, environments, str(said)]) + "\n")
            process.stdin.flush()
            codes: list[int] = json.loads(process.stdout.readline())
            return codes

        yield run
        process.stdin.close()
