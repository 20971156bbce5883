"""SALMONN's figure 3 and activation tuning at embedded size: what LoRA's scale does to trained tasks and to
instructions that were never trained.

    python benchmarks/salmonn_scale.py --data FOLDER --out results/salmonn_small \
        --model stage2=runs/salmonn-small-2 --model stage3=runs/salmonn-small-3 [--scales 0 1 2 3 4]

FOLDER holds a manifest a task (asr*.jsonl, caption*.jsonl, story.jsonl, sqqa.jsonl, ...; what a row is, its
``task`` says). Every model answers every row at every LoRA scale, greedily. Writes answers.jsonl (what stands
there is not asked again), scores.json with 95 % bootstrap intervals over recordings, and scale.svg.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from lalm.data import open_manifest
from lalm.engine import Engine, Options
from lalm.evaluate import errors, following
from lalm.evaluate.captions import cider_d, content_f1
from lalm.evaluate.intervals import Interval, Measured, difference, interval, mean_of
from lalm.evaluate.scoring import score_choice, score_number, score_one_word, score_open, score_yes_no
from lalm.sample import Sample

ANSWER_TOKENS = 64
Measure = Callable[[Sequence[Sample], Sequence[str]], Measured]


def scored(score: Callable[[Sample, str], float | None]) -> Measure:
    """The mean of a score, where an answer that cannot be read counts 0."""
    return lambda rows, said: mean_of([score(r, a) or 0.0 for r, a in zip(rows, said, strict=True)])


def references(rows: Sequence[Sample]) -> list[Sequence[str]]:
    return [row.references for row in rows]


def spoken(rows: Sequence[Sample]) -> list[str]:
    return [str(row.origin["transcript"]) for row in rows]


# task -> measure -> what computes it
MEASURES: dict[str, dict[str, Measure]] = {
    "asr": {"WER": lambda rows, said: errors.word_errors(said, references(rows), ["en"] * len(rows))},
    "caption": {
        "CIDEr-D": lambda rows, said: cider_d(said, references(rows)),
        "content F1": lambda rows, said: content_f1(said, references(rows)),
    },
    "presence": {"accuracy": scored(score_yes_no)},
    "speech": {"accuracy": scored(score_yes_no)},
    "what": {"accuracy": scored(score_open)},
    "gender": {"accuracy": scored(score_choice)},
    "language": {"accuracy": scored(score_choice)},
    "which_of_two": {"accuracy": scored(score_choice)},
    "what_choice": {"accuracy": scored(score_choice)},
    "order": {"accuracy": scored(score_choice)},
    "how_many": {"accuracy": scored(score_number)},
    "one_word": {"followed": scored(score_one_word)},
    "sqqa": {
        "followed": lambda rows, said: following.question_following(said, spoken(rows)),
        "accuracy": scored(score_open),
    },
    "story": {
        "followed": lambda rows, said: following.story_following(said),
        "different words": lambda rows, said: following.diversity(said),
        "repeating": lambda rows, said: following.repeat_rate(said),
    },
}


def sets(folder: Path) -> dict[str, list[Sample]]:
    """The rows of every manifest by ``FILE`` or, where a file has several tasks, ``FILE/TASK``."""
    found: dict[str, list[Sample]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        rows = open_manifest(path)
        tasks = sorted({row.task for row in rows})
        for task in tasks:
            own = [row for row in rows if row.task == task]
            if task not in MEASURES:
                print(f"{path.name}: no measure for task '{task}', {len(own)} rows left out")
                continue
            found[path.stem if len(tasks) == 1 else f"{path.stem}/{task}"] = own
    return found


def answers(log: Path, model: str, engine_of: Callable[[], Engine], scale: float, rows: Sequence[Sample]):
    """Greedy answers of a model at a scale, from the log where they are."""
    known = {}
    if log.exists():
        for line in log.read_text("utf-8").splitlines():
            row = json.loads(line)
            if (row["model"], row["lora_scale"]) == (model, scale):
                known[row["id"]] = row["answer"]
    missing = [row for row in rows if row.id not in known]
    if missing:
        began = time.monotonic()
        limit = following.STORY_TOKENS if missing[0].task == "story" else ANSWER_TOKENS
        replies = engine_of().reply(missing, Options(limit, lora_scale=scale))
        with log.open("a", encoding="utf-8") as file:
            for row, reply in zip(missing, replies, strict=True):
                known[row.id] = reply.text
                kept = {"model": model, "lora_scale": scale, "id": row.id, "task": row.task}
                file.write(json.dumps({**kept, "answer": reply.text}, ensure_ascii=False) + "\n")
        print(f"    {len(missing)} answers in {time.monotonic() - began:.0f} s", flush=True)
    return [known[row.id] for row in rows]


def recordings(rows: Sequence[Sample]) -> list[str]:
    return [str(row.origin.get("recording", row.id)) for row in rows]


def plot(scores: list[dict], path: Path, measures: Sequence[tuple[str, str]]) -> None:
    """A panel a measure, a line a model, with the intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        2, (len(measures) + 1) // 2, figsize=(3 * ((len(measures) + 1) // 2), 5.4), layout="constrained"
    )
    for axes, (name, measure) in zip(panels.flat, measures, strict=False):
        own = [s for s in scores if (s["set"], s["measure"]) == (name, measure)]
        for number, model in enumerate(dict.fromkeys(s["model"] for s in own)):
            rows = sorted((s for s in own if s["model"] == model), key=lambda s: s["lora_scale"])
            x = [s["lora_scale"] for s in rows]
            axes.plot(x, [s["mean"] for s in rows], "o-", color=f"C{number}", label=model, markersize=3)
            low, high = [s["low"] for s in rows], [s["high"] for s in rows]
            axes.fill_between(x, low, high, color=f"C{number}", alpha=0.15)
        axes.set(title=f"{name}: {measure}", xlabel="LoRA scale")
    panels.flat[0].legend(fontsize="small")
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
    options.out.mkdir(parents=True, exist_ok=True)
    asked = sets(options.data)
    scores: list[dict] = []
    measured: dict[tuple[str, float, str, str], Measured] = {}
    for model, folder in models.items():
        loaded: list[Engine] = []

        def engine_of(folder: str = folder, loaded: list[Engine] = loaded) -> Engine:
            if not loaded:
                loaded.append(Engine.load(folder))
            return loaded[0]

        for scale in options.scales:
            print(f"{model} at LoRA scale {scale:g}", flush=True)
            for name, rows in asked.items():
                said = answers(options.out / "answers.jsonl", model, engine_of, scale, rows)
                for measure, compute in MEASURES[rows[0].task].items():
                    found = compute(rows, said)
                    measured[(model, scale, name, measure)] = found
                    got: Interval = interval(found, recordings(rows))
                    print(f"  {name:<20}{measure:<16}{got}", flush=True)
                    row = {"model": model, "lora_scale": scale, "set": name, "measure": measure}
                    scores.append({**row, **asdict(got)})
    changes = []
    first, *others = models
    for model in others:
        for (owner, scale, name, measure), found in measured.items():
            if owner == first and scale == options.trained_scale:
                later = measured[(model, scale, name, measure)]
                change = difference(later, found, recordings(asked[name]))
                row = {"model": model, "minus": first, "set": name, "measure": measure}
                changes.append({**row, **asdict(change)})
                print(f"{model} - {first}  {name:<20}{measure:<16}{change}  p {change.p_value:.3g}")
    text = json.dumps({"scores": scores, "changes": changes}, indent=1)
    (options.out / "scores.json").write_text(text + "\n", "utf-8")
    shown = list(dict.fromkeys((s["set"], s["measure"]) for s in scores))
    plot(scores, options.out / "scale.svg", shown)


if __name__ == "__main__":
    main()
