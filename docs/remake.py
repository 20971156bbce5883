"""Make again what the docs show of the programs: python docs/remake.py [--with-model]

Without more: what is made from the code and the results alone, in a minute. ``--with-model``: also every
example of the command line and the blocks of pages that show them, the terminal of the README, and the
notebooks with their curves, by the model that comes with the package (half an hour on two cores; pip
install 'lalm[test]', and flite). Read what ``git diff`` shows afterwards.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FROM_CODE = ("tree.py", "fields.py", "findings.py", "diagrams.py")
WITH_MODEL = ("examples.py", "terminal.py", "notebooks.py")


def main(*words: str) -> None:
    """Run the scripts one after the other. Raises CalledProcessError where one fails."""
    for script in FROM_CODE + (WITH_MODEL if "--with-model" in words else ()):
        print(f"docs/{script}", flush=True)
        subprocess.run([sys.executable, f"docs/{script}"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
