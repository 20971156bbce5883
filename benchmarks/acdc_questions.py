"""AC/DC's claim at embedded size: which training target keeps the LLM's ability to follow instructions?

    python benchmarks/acdc_questions.py --data CORPUS --out results/acdc \
        --model response=runs/response --model caption=runs/caption [--shipped response] [--per-task 150]

Asks every model the held-out questions and instructions of the corpus; the shipped one also under the
controls (silent audio, shuffled audio, the true caption as text). Writes answers.jsonl, scores.json and a
table with 95 % bootstrap intervals over recordings. Answers already in answers.jsonl are not asked again.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from lalm.engine import Engine, Options
from lalm.evaluate import Control, Report, questions, run, spoil
from lalm.evaluate.scoring import CHANCE
from lalm.sample import Sample

SETS = ("known", "unseen")
CONTROLS: tuple[Control, ...] = ("audio", "silent", "shuffled", "caption")
SPOILED: tuple[Control, ...] = ("silent", "shuffled")  # say nothing about whether an instruction is followed


def ask_all(engine: Engine, samples: Sequence[Sample]) -> list[str]:
    """Greedy answers, in order, with the time it took."""
    began = time.monotonic()
    replies = engine.reply(samples, Options(max_new_tokens=40))
    print(f"    {len(samples)} questions in {time.monotonic() - began:.0f} s", flush=True)
    return [reply.text for reply in replies]


def one_run(engine_of, name: str, control: Control, samples: list[Sample], log: Path) -> Report:
    """Answers of one model under one control, from the log where they are."""
    known = {}
    if log.exists():
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        known = {r["id"]: r["answer"] for r in rows if (r["model"], r["control"]) == (name, control)}
    missing = [i for i, s in enumerate(samples) if s.id not in known]
    if missing:
        print(f"  {name} / {control}", flush=True)
        spoilt = spoil(samples, control)
        answers = ask_all(engine_of(), [spoilt[i] for i in missing])
        with log.open("a") as file:
            for sample, answer in zip([samples[i] for i in missing], answers, strict=True):
                row = {"model": name, "control": control, "id": sample.id, "task": sample.task}
                row |= {"references": list(sample.references), "answer": answer}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                known[sample.id] = answer
    return run(samples, lambda asked: [known[s.id] for s in asked])


def table(reports: dict[tuple[str, str], Report], shipped: str) -> str:
    """Markdown: a row a task, a column a run, then what the audio adds."""
    runs = list(reports)
    lines = [
        "| task | n | chance | "
        + " | ".join(f"{m} / {c}" for m, c in runs)
        + " | audio - silent | audio - shuffled |"
    ]
    lines.append("|---" * (5 + len(runs)) + "|")
    first = reports[(shipped, "audio")]
    for task in first.tasks():
        cells = [task, str(len(first.of(task))), "-" if CHANCE.get(task) is None else f"{CHANCE[task]:.2f}"]
        for key in runs:
            if task not in reports[key].tasks():
                cells.append("")
                continue
            got = reports[key].accuracy(task)
            cells.append(f"{got.mean:.3f} [{got.low:.3f}, {got.high:.3f}]")
        for control in SPOILED:
            if task not in reports[(shipped, control)].tasks():
                cells.append("")
                continue
            gain = first.gain_over(reports[(shipped, control)], task)
            cells.append(f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]")
        lines.append("| " + " | ".join(cells) + " |")
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
    parser.add_argument("--tasks", nargs="*", help="ask these tasks only, and no instructions")
    options = parser.parse_args()
    models = dict(pair.split("=", 1) for pair in options.model)
    shipped = options.shipped or next(iter(models))
    options.out.mkdir(parents=True, exist_ok=True)
    pages, scores = [], {}
    engines: dict[str, Engine] = {}
    for split in SETS:
        asked = questions(
            options.data / f"questions_{split}.jsonl", tasks=options.tasks or (), per_task=options.per_task
        )
        told = []
        if not options.tasks:
            told = questions(options.data / f"instructions_{split}.jsonl", per_task=options.per_instruction)
        reports: dict[tuple[str, str], Report] = {}
        print(f"{split}: {len(asked)} questions, {len(told)} instructions", flush=True)
        for name, folder in models.items():

            def engine_of(name: str = name, folder: str = folder) -> Engine:
                if name not in engines:
                    engines.clear()  # one model in memory at a time
                    engines[name] = Engine.load(folder)
                return engines[name]

            for control in CONTROLS if name == shipped else ("audio",):
                log = options.out / "answers.jsonl"
                samples = asked if control in SPOILED else [*asked, *told]
                reports[(name, control)] = one_run(engine_of, name, control, samples, log)
        pages.append(f"## {split}\n\n{table(reports, shipped)}\n")
        for (name, control), report in reports.items():
            for task in report.tasks():
                got = report.accuracy(task)
                scores[f"{split}/{task}/{name}/{control}"] = {
                    **got.__dict__,
                    "unreadable": report.unreadable(task),
                }
    (options.out / "table.md").write_text("\n".join(pages))
    (options.out / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    print("\n".join(pages))


if __name__ == "__main__":
    main()
