"""Runs an evaluation: asks tasks of a model, also under controls, scores them and writes a folder.

OUT/predictions.jsonl   every answer with the seconds given and heard, what was read, what was right
OUT/card.json           what the run rests on, and its numbers
OUT/report.html         the same for the eyes, in one file
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lalm.audio.account import Tally
from lalm.data.sample import Sample, ask
from lalm.errors import LalmError
from lalm.evaluate import card as cards
from lalm.evaluate.answering import Answerer, Key, Said, Share, Wanted, collect, likelihood_of, rows_of
from lalm.evaluate.controls import AUDIO, WORDED, Impossible, asked
from lalm.evaluate.judge import Judge
from lalm.evaluate.metrics import Answer, Resources
from lalm.evaluate.page import write_page
from lalm.evaluate.parsers import PARSERS
from lalm.evaluate.scores import Scored, gap, numbers, plain, score
from lalm.evaluate.task import Asked, question_of
from lalm.inference.final_answer import without_reasoning

Progress = Callable[[int, int], None]


class RunError(LalmError, ValueError):
    """A folder that belongs to another run, or items that cannot be asked."""


@dataclass(frozen=True)
class Job:
    """What is asked, and where the results go. ``folder`` is the local model's, for its hash."""

    tasks: Sequence[Asked]
    out: Path
    controls: Sequence[str] = ()
    limit: int = 0
    seed: int = 0
    folder: Path | None = None


@dataclass(frozen=True)
class Result:
    """A finished run: its card, and every task's scores by (task, control)."""

    card: dict[str, Any]
    scored: dict[tuple[str, str], Scored] = field(default_factory=dict)


def run(
    job: Job,
    answerer: Answerer,
    resources: Resources | None = None,
    judge: Judge | None = None,
    progress: Progress | None = None,
    share: Share | None = None,
) -> Result | None:
    """Ask, score and write. The same call again goes on where it stopped; another one into the same folder
    is refused. With a ``share``, each process answers its part, and the first scores and writes; the others
    return None. Raises RunError, and whatever the model refuses."""
    resources, share = resources or Resources(), share or Share()
    job.out.mkdir(parents=True, exist_ok=True)
    log = job.out / "predictions.jsonl"
    if share.rank:
        share.wait()  # until the first has begun
        collect(_wanted(job, _shown(job)[0]), answerer, job.out, None, share)
        return None
    try:
        with FileLock(job.out / ".lock", timeout=0):
            card = _begin(job, answerer, judge)
            share.wait()
            tasks = {opened.task.name: opened for opened in job.tasks}
            shown, impossible = _shown(job)
            said = collect(_wanted(job, shown), answerer, job.out, progress, share)
            scored = {}
            for (name, control), items in shown.items():
                answers = _answers(tasks[name], control, items, said, judge)
                scored[name, control] = score(tasks[name].task, answers, resources, judged=judge is not None)
            _finish(card, job, scored, said, impossible, judge)
            _write_rows(log, scored, said, shown)
            card["finished"] = True
            write_page(job.out / "report.html", card, scored, said, shown)
            _write_json(job.out / "card.json", card)  # last: a run whose page failed is not finished
    except Timeout:
        raise RunError(f"another run is writing {job.out}") from None
    return Result(card, scored)


def _begin(job: Job, answerer: Answerer, judge: Judge | None) -> dict[str, Any]:
    """The card as far as it is known before the first answer; it must be that of what lies in the folder."""
    names = [opened.task.name for opened in job.tasks]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RunError(f"the task '{twice}' is asked for twice")
    card: dict[str, Any] = {
        "versions": cards.versions(),
        "model": cards.model_card(answerer, job.folder),
        "seed": job.seed,
        "limit": job.limit,
        "tasks": {o.task.name: cards.task_card(o, judge.name if judge else "") for o in job.tasks},
        "finished": False,
    }
    path, log = job.out / "card.json", job.out / "predictions.jsonl"
    if log.exists() and log.stat().st_size:
        _check_same(job.out, card)
    _write_json(path, card)
    return card


def _check_same(out: Path, card: dict[str, Any]) -> None:
    """Raises RunError unless the answers in ``out`` are of the run that ``card`` tells of."""
    if not (out / "card.json").exists():
        raise RunError(f"'{out}' holds predictions without a card.json: say --out")
    before = read_card(out)
    for key in ("model", "seed", "limit"):
        if before.get(key) != card[key]:
            raise RunError(
                f"'{out}' holds a run of {before['model'].get('name')} with another {key}: say --out"
            )
    for name in set(before["tasks"]) ^ set(card["tasks"]):
        raise RunError(f"'{out}' holds a run of other tasks ({name} is in one only): say --out")
    for name, task in card["tasks"].items():
        keys = ("data", "prompts", "max_new_tokens", *cards.PROTOCOL)
        if odd := cards.differing(task, before["tasks"][name], keys):
            raise RunError(f"'{out}' holds a run of {name} with another {odd[0]}: say --out")


def _shown(job: Job) -> tuple[dict[tuple[str, str], list[Sample]], dict[tuple[str, str], str]]:
    """The items of each task as asked under each control; and why some controls are impossible."""
    shown, impossible = {}, {}
    for opened in job.tasks:
        for control in (AUDIO, *job.controls):
            try:
                shown[opened.task.name, control] = asked(opened.task, opened.samples, control, job.seed)
            except Impossible as error:
                impossible[opened.task.name, control] = str(error)
    return shown, impossible


def _wanted(job: Job, shown: dict[tuple[str, str], list[Sample]]) -> list[Wanted]:
    """Every answer that is needed."""
    tasks = {opened.task.name: opened for opened in job.tasks}
    return [
        Wanted(
            Key(name, control, sample.id),
            item,
            tasks[name].task.decoding,
            "perplexity" in tasks[name].task.metrics,
        )
        for (name, control), items in shown.items()
        for sample, item in zip(tasks[name].samples, items, strict=True)
    ]


def _answers(
    opened: Asked,
    control: str,
    items: Sequence[Sample],
    said: dict[Key, Said],
    judge: Judge | None,
) -> list[Answer]:
    answers = []
    for sample, item in zip(opened.samples, items, strict=True):
        own = said[Key(opened.task.name, control, sample.id)]
        shown = Sample(item.messages, **_known(sample)) if control != "reordered" else item
        if opened.task.reworded and (plain := question_of(sample)):  # what a judge is told was asked
            shown = replace(shown, origin={"question": plain, **shown.origin})
        read = PARSERS[opened.task.parser](shown, own.text)
        answers.append(Answer(shown, without_reasoning(own.text), read, likelihood=own.likelihood))
    if judge is not None and "judge" in opened.task.metrics:
        return judge.judged(opened.task, answers)
    return answers


def _known(sample: Sample) -> dict[str, Any]:
    names = ("id", "task", "references", "choices", "events", "origin")
    return {name: getattr(sample, name) for name in names}


def _finish(
    card: dict[str, Any],
    job: Job,
    scored: dict[tuple[str, str], Scored],
    said: dict[Key, Said],
    impossible: dict[tuple[str, str], str],
    judge: Judge | None,
) -> None:
    """Numbers into the card: every control's, and the run's minus each control's, paired."""
    for name, entry in card["tasks"].items():
        mine = scored[name, AUDIO]
        entry |= numbers(mine)
        own = [s for key, s in said.items() if (key.task, key.control) == (name, AUDIO)]
        entry["seconds_given"] = round(sum(sum(s.given_s) for s in own), 1)
        for key, reason in (("cut_off", "length"), ("repeating", "repetition")):
            if count := sum(s.finish_reason == reason for s in own):
                entry[key] = count
        tally = Tally()
        for account in (account for s in own for account in s.accounts):
            tally.add(account)
        entry["audio"] = tally.to_json()
        heard = [s.heard_s for s in own]
        known = [h for h in heard if h is not None]
        entry["seconds_heard"] = round(sum(map(sum, known)), 1) if len(known) == len(heard) else None
        if judge is not None and "judge" in mine.measured:
            entry["judge_unreadable"] = sum(answer.judged is None for answer in mine.answers)
        entry["controls"] = {}
        for control in job.controls:
            if (name, control) in impossible:
                entry["controls"][control] = {"impossible": impossible[name, control]}
                continue
            other = scored[name, control]
            found = numbers(other)
            minus = {m: plain(gap(mine, other, m)) for m in mine.measured if m in other.measured}
            entry["controls"][control] = {**found, "minus": minus}
        entry["spread"] = _spread(entry)


def _spread(entry: dict[str, Any]) -> dict[str, float]:
    """How far each metric moves when only the options' order or the wording changes: highest minus lowest.
    Empty where neither could be changed."""
    found = [
        entry,
        *(entry["controls"][name] for name in WORDED if "metrics" in entry["controls"].get(name, {})),
    ]
    if len(found) < 2:
        return {}
    shared = [metric for metric in entry["metrics"] if all(metric in own["metrics"] for own in found)]
    means = {metric: [own["metrics"][metric]["mean"] for own in found] for metric in shared}
    return {metric: max(values) - min(values) for metric, values in means.items()}


def _write_rows(
    log: Path,
    scored: dict[tuple[str, str], Scored],
    said: dict[Key, Said],
    shown: dict[tuple[str, str], list[Sample]],
) -> None:
    """predictions.jsonl again, with what was asked, read and right: all that scoring once more needs."""
    lines = []
    for (task, control), own in scored.items():
        for answer, item in zip(own.answers, shown[task, control], strict=True):
            key = Key(task, control, answer.sample.id)
            row: dict[str, Any] = asdict(key) | asdict(said[key])
            row |= {"question": question_of(item), "read": answer.read}
            row |= {"references": answer.sample.references, "choices": answer.sample.choices}
            row |= {"origin": answer.sample.origin, "events": answer.sample.events}
            if row["likelihood"] is None:
                del row["likelihood"]
            if not row["accounts"]:
                del row["accounts"]
            if answer.judged is not None:
                row["judged"] = answer.judged
            if answer.tried is not None:
                row["tried"] = answer.tried
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    draft = log.with_name(log.name + ".partial")
    draft.write_text("".join(lines), encoding="utf-8")
    draft.replace(log)
    for other in log.parent.glob("predictions.*.jsonl"):  # of other processes; their rows are in the log now
        other.unlink()


def read_card(folder: Path) -> dict[str, Any]:
    """A run's card. Raises RunError for a folder that has none."""
    path = folder / "card.json"
    if not path.is_file():
        raise RunError(f"'{folder}' is no folder of `lalm eval`: it has no card.json")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"'{path}' is damaged: {error}") from None
    if not isinstance(card, dict) or not isinstance(card.get("tasks"), dict):
        raise RunError(f"'{path}' is not the card of a run")
    return card


def read_answers(folder: Path) -> dict[str, list[Answer]]:
    """A finished run's answers by task, without its controls, as scoring takes them."""
    found: dict[str, list[Answer]] = {}
    for place, row in rows_of(folder / "predictions.jsonl"):
        if row.get("control") != AUDIO:
            continue
        try:
            sample = Sample(
                ask([], row["question"]).messages,
                id=row["id"],
                references=tuple(row["references"]),
                choices=tuple(row["choices"]),
                events=tuple(row["events"]),
                origin=row["origin"],
            )
            text, judged = without_reasoning(row["text"]), row.get("judged")
            answer = Answer(sample, text, row["read"], judged, likelihood_of(row), row.get("tried"))
        except (KeyError, TypeError):
            raise RunError(f"{place}: not a row of a finished run") from None
        found.setdefault(row["task"], []).append(answer)
    return found


def _write_json(path: Path, value: object) -> None:
    draft = path.with_name(path.name + ".partial")
    draft.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(path)
