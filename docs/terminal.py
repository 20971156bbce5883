"""Write docs/pictures/terminal.svg: commands of the README's tour, run here, and what they print.

python docs/terminal.py
"""

import io
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

COMMANDS = (
    'lalm ask samples/bell.flac "What do you hear?"',
    'lalm ask samples/bird.ogg "Is somebody speaking?"',
    "lalm describe samples/horse.ogg tests/fixtures/speech.ogg",
    'lalm ask notes.wav "What do you hear?"',
)


def main() -> None:
    """Run the commands one after the other and draw them."""
    console = Console(record=True, width=96, file=io.StringIO())
    for command in COMMANDS:
        call = [sys.executable, "-m", *shlex.split(command)]
        done = subprocess.run(call, capture_output=True, text=True, timeout=600)
        console.print(Text.assemble(("$ ", "green"), (command, "bold")))
        console.print(Text((done.stdout + done.stderr).strip()))
        console.print()
    console.save_svg(str(Path(__file__).parent / "pictures" / "terminal.svg"), title="lalm", theme=MONOKAI)


if __name__ == "__main__":
    main()
