"""How many answers change when another recording stands in for the one that is asked about.

    python benchmarks/answers_changed.py runs/reproduce/learning-quick/eval/*-checked

Reads folders of ``lalm eval`` with controls; answers are compared as they were read (an option, a number, yes
or no), else as their texts. Intervals (95 %) are over recordings.
"""

import argparse
from pathlib import Path

from lalm.evaluate.metrics.intervals import interval, proportion
from lalm.evaluate.run import read_answers


def changed(folder: Path, control: str) -> dict[str, str]:
    """Of each task the share of answers that are others under a control, with its interval, in words."""
    heard, other = read_answers(folder), read_answers(folder, control)
    found = {}
    for task in sorted(heard.keys() & other.keys()):
        there = {kept.answer.sample.id: kept.answer for kept in other[task]}
        both = [(a, there[a.sample.id]) for kept in heard[task] if (a := kept.answer).sample.id in there]
        values = [float((a.read or a.text) != (b.read or b.text)) for a, b in both]
        found[task] = str(interval(proportion(values), [a.recording for a, _ in both]))
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--control", default="shuffled")
    args = parser.parse_args()
    print("| run | task | answers that change |")
    print("|---|---|---|")
    for folder in args.folders:
        for task, share in changed(folder, args.control).items():
            print(f"| {folder.name} | {task} | {share} |")


if __name__ == "__main__":
    main()
