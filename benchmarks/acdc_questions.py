"""AC/DC's claim at embedded size: which training target keeps the LLM's ability to follow instructions?

    python benchmarks/acdc_questions.py --data CORPUS --out results/acdc \
        --model response=runs/response --model caption=runs/caption [--shipped response] [--per-task 150]

Asks every model the held-out questions and instructions of the corpus with ``lalm eval``; the shipped one
also under the controls. Writes a run's folder for each model and set, and table.md with 95 % intervals.
"""

import argparse
from pathlib import Path
from typing import Any

from lalm.evaluate.answering import Local
from lalm.evaluate.run import Job, run
from lalm.evaluate.task import open_task
from lalm.inference.engine import Engine

SETS = ("known", "unseen")


def table(cards: dict[str, dict[str, Any]], shipped: str) -> str:
    """Markdown: a row a task, a column a model, then what the audio adds to the shipped one."""
    lines = [f"| task | n | chance | {' | '.join(cards)} | audio - silent | audio - shuffled |"]
    lines.append("|---" * (5 + len(cards)) + "|")
    for name, entry in cards[shipped]["tasks"].items():
        metric, own = next(iter(entry["metrics"].items()))
        found = [card["tasks"][name]["metrics"][metric] for card in cards.values()]
        found += [entry["controls"][control]["minus"][metric] for control in ("silent", "shuffled")]
        cells = [f"{f['mean']:.3f} [{f['low']:.3f}, {f['high']:.3f}]" for f in found]
        chance = "-" if entry["chance"] is None else f"{entry['chance']:.2f}"
        lines.append(f"| {' | '.join([name, str(own['num_items']), chance, *cells])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--shipped", help="the model that also gets the controls (default: the first)")
    parser.add_argument("--per-task", type=int, default=150, help="questions of each task and set")
    parser.add_argument("--per-instruction", type=int, default=50)
    options = parser.parse_args()
    models = dict(pair.split("=", 1) for pair in options.model)
    shipped = options.shipped or next(iter(models))
    cards: dict[str, dict[str, dict[str, Any]]] = {split: {} for split in SETS}
    for name, folder in models.items():
        answerer = Local(Engine.load(folder))
        for split in SETS:
            tasks = [
                asked
                for kind, limit in (
                    ("questions", options.per_task),
                    ("instructions", options.per_instruction),
                )
                for asked in open_task(f"manifest={options.data}/{kind}_{split}.jsonl", Path(), limit=limit)
            ]
            controls = ("silent", "shuffled", "cascade") if name == shipped else ()
            job = Job(tasks, options.out / f"{name}_{split}", controls, options.per_task, 0, Path(folder))
            result = run(job, answerer)
            assert result is not None
            cards[split][name] = result.card
    pages = [f"## {split}\n\n{table(cards[split], shipped)}\n" for split in SETS]
    (options.out / "table.md").write_text("\n".join(pages))
    print("\n".join(pages))


if __name__ == "__main__":
    main()
