"""SALMONN's figure 3 and activation tuning at embedded size: what LoRA's scale does to trained tasks and to
instructions that were never trained.

    python benchmarks/salmonn_scale.py --data FOLDER --out results/salmonn_small \
        --model stage2=runs/salmonn-small-2 --model stage3=runs/salmonn-small-3 [--scales 0 1 2 3 4]

FOLDER holds manifests; a file with several tasks is as many sets. The first model is evaluated at every
scale, the others at ``--trained-scale``, as ``lalm eval --lora-scale`` does it, into OUT/MODEL-SCALE each
(the same call again goes on where it stopped). Writes OUT/scores.json, with the differences between the
others and the first, and OUT/scale.svg.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lalm.data.mixture import open_manifest
from lalm.evaluate.answering import Local
from lalm.evaluate.run import Job, run
from lalm.evaluate.scores import Scored, gap, plain
from lalm.evaluate.task import Asked, Task, known_tasks
from lalm.inference.engine import Engine

# Spoken questions: appendix C counts a transcript in place of an answer as not following.
SQQA = Task(
    name="sqqa",
    about="answers to spoken questions",
    metrics=("following", "names"),
    max_new_tokens=64,
)


def sets(folder: Path) -> list[Asked]:
    """A task a file, or one a file and task where a file has several."""
    known = {**known_tasks(), "sqqa": SQQA}
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        rows = open_manifest(path)
        tasks = sorted({row.task for row in rows})
        for task in tasks:
            own = tuple(row for row in rows if row.task == task)
            name = path.stem if len(tasks) == 1 else f"{path.stem}_{task}"
            found.append(Asked(known[task].model_copy(update={"name": name}), own, str(path)))
    return found


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel a set's metric, a line a model, with the intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = list(dict.fromkeys((row["set"], row["metric"]) for row in rows))
    width = min(5, len(panels))
    height = -(-len(panels) // width)
    figure, grid = pyplot.subplots(
        height, width, figsize=(2.6 * width, 2.1 * height), layout="constrained", squeeze=False
    )
    for axes, (name, metric) in zip(grid.flat, panels, strict=False):
        own = [row for row in rows if (row["set"], row["metric"]) == (name, metric)]
        for number, model in enumerate(dict.fromkeys(row["model"] for row in own)):
            line = sorted((row for row in own if row["model"] == model), key=lambda row: row["lora_scale"])
            x = [row["lora_scale"] for row in line]
            axes.plot(x, [row["mean"] for row in line], "o-", color=f"C{number}", label=model, markersize=3)
            low, high = [row["low"] for row in line], [row["high"] for row in line]
            axes.fill_between(x, low, high, color=f"C{number}", alpha=0.15)
        axes.set_title(f"{name}\n{metric}", fontsize="small")
    for axes in list(grid.flat)[len(panels) :]:
        axes.axis("off")
    figure.supxlabel("LoRA scale")
    grid.flat[0].legend(fontsize="small")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--scales", nargs="*", type=float, default=[0.0, 1.0, 2.0, 3.0, 4.0])
    parser.add_argument("--trained-scale", type=float, default=4.0, help="where models are compared")
    options = parser.parse_args()
    models = dict(pair.split("=", 1) for pair in options.model)
    first, *others = models
    asked = sets(options.data)
    rows: list[dict[str, Any]] = []
    scored: dict[tuple[str, float, str], Scored] = {}
    for model, folder in models.items():
        engine = Engine.load(folder)
        for scale in options.scales if model == first else [options.trained_scale]:
            out = options.out / f"{model}-{scale:g}"
            result = run(Job(asked, out, folder=Path(folder)), Local(engine, scale))
            for (name, _), own in result.scored.items():
                scored[model, scale, name] = own
                for metric, numbers in result.card["tasks"][name]["metrics"].items():
                    rows.append(
                        {"model": model, "lora_scale": scale, "set": name, "metric": metric, **numbers}
                    )
                    print(
                        f"{model} {scale:g} {name:<22}{metric:<16}{numbers['mean']:8.3f} "
                        f"[{numbers['low']:.3f}, {numbers['high']:.3f}] n={numbers['num_items']}",
                        flush=True,
                    )
    changes = []
    for model in others:
        for asked_set in asked:
            before = scored[first, options.trained_scale, asked_set.task.name]
            after = scored[model, options.trained_scale, asked_set.task.name]
            for metric in after.measured:
                change = {"model": model, "minus": first, "set": asked_set.task.name, "metric": metric}
                changes.append({**change, **plain(gap(after, before, metric))})
                print(json.dumps(changes[-1]))
    text = json.dumps({"scores": rows, "changes": changes}, indent=1)
    (options.out / "scores.json").write_text(text + "\n", "utf-8")
    plot(rows, options.out / "scale.svg")


if __name__ == "__main__":
    main()
