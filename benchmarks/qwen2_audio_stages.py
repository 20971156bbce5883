"""What the stages of Qwen2-Audio give at small size, from runs of `lalm eval`: spoken against typed
questions, and preferred against not, with 95 % intervals over recordings.

    python benchmarks/qwen2_audio_stages.py spoken eval/2-typed eval/2-spoken --out results/spoken.json
    python benchmarks/qwen2_audio_stages.py preferred eval/3-judged eval/2-judged --out results/preferred.json

``spoken``: two runs of the same questions, the second from `lalm build spoken`; accuracy of each, and the
difference paired by question. ``preferred``: two judged runs (`--judge`) of the same items; the share of
items on which the first run's answer has the higher score, ties counting half.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from lalm.data.sample import ask
from lalm.evaluate.answering import rows_of
from lalm.evaluate.metrics import METRICS, Answer, Resources
from lalm.evaluate.metrics.intervals import bootstrap, difference, each, mean_of
from lalm.evaluate.task import known_tasks

Row = dict


def rows(folder: Path) -> dict[str, Row]:
    """A run's answers by the id of the question, spoken or typed."""
    found = [row for _, row in rows_of(folder / "predictions.jsonl") if row["control"] == "audio"]
    return {row["id"].removeprefix("spoken-"): row for row in found}


def points(row: Row) -> float:
    """The leading metric of the row's task for its answer alone."""
    metric = METRICS[known_tasks()[row["task"]].metrics[0]]
    sample = ask([], row["question"] or "?")
    sample = type(sample)(sample.messages, references=tuple(row["references"]), choices=tuple(row["choices"]))
    return float(each(metric.measure([Answer(sample, row["text"], row["read"])], Resources()))[0])


def recordings(first: dict[str, Row], names: list[str]) -> list[str]:
    return [first[name]["origin"].get("recording", name) for name in names]


def spoken(typed: Path, said: Path) -> dict:
    """Accuracy of both, by task and in all, and how much is lost by asking aloud."""
    a, b = rows(typed), rows(said)
    shared = [name for name in a if name in b]
    report = {}
    for task in ["all", *sorted({a[name]["task"] for name in shared})]:
        names = [name for name in shared if task in ("all", a[name]["task"])]
        mine, theirs = ([points(run[name]) for name in names] for run in (a, b))
        where = recordings(a, names)
        report[task] = {
            "items": len(names),
            "typed": asdict(bootstrap(mine, where)),
            "spoken": asdict(bootstrap(theirs, where)),
            "spoken minus typed": asdict(difference(mean_of(theirs), mean_of(mine), where)),
        }
    return report


def preferred(first: Path, second: Path) -> dict:
    """How often the first run's answer is the better one; items that either lacks a score for are told."""
    a, b = rows(first), rows(second)
    shared = [name for name in a if name in b and "judged" in a[name] and "judged" in b[name]]
    if not shared:
        raise SystemExit("no item was judged in both runs")
    wins = [
        0.5 + 0.5 * ((a[n]["judged"] > b[n]["judged"]) - (a[n]["judged"] < b[n]["judged"])) for n in shared
    ]
    different = [n for n in shared if a[n]["text"] != b[n]["text"]]
    return {
        "items": len(shared),
        "answered differently": len(different),
        "not judged in both": len(set(a) | set(b)) - len(shared),
        "first preferred": asdict(bootstrap(wins, recordings(a, shared))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["spoken", "preferred"])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    report = {"spoken": spoken, "preferred": preferred}[given.what](given.first, given.second)
    text = json.dumps(report, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
