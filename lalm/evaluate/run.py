"""Runs an evaluation: asks tasks of a model, also under controls, scores them and writes a folder.

OUT/predictions.jsonl   every answer with the seconds given and heard, what was read, what was right
OUT/card.json           what the run rests on, and its numbers
OUT/report.html         the same as a page, in one file
OUT/submissions/        what a benchmark's own program scores, where it has one
"""

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from filelock import FileLock, Timeout

from lalm.data.sample import Sample, ask
from lalm.errors import LalmError
from lalm.evaluate import card as cards
from lalm.evaluate.answering import Answerer, Local
from lalm.evaluate.collecting import Share, Wanted, collect
from lalm.evaluate.controls import AUDIO, Impossible, Put, expanded, put_under
from lalm.evaluate.extraction import extracted
from lalm.evaluate.items import Asked, question_of
from lalm.evaluate.judge import Judge
from lalm.evaluate.metrics import METRICS, Answer, Resources
from lalm.evaluate.official.standing import write_hub_results, write_submission
from lalm.evaluate.page import write_page
from lalm.evaluate.parsers import PARSERS
from lalm.evaluate.said import UNANSWERED, Key, Said, likelihood_of, row_of, rows_of
from lalm.evaluate.scores import Scored, score
from lalm.evaluate.summary import Summary
from lalm.inference.final_answer import without_reasoning

# Led by these, a task's answers cannot come from the text that is asked, and its recordings may last hours.
OF_SPEECH = ("wer", "wer_qwen2_audio", "audiobench_wer", "per", "bleu")
Progress = Callable[[int, int], None]
Cell: TypeAlias = tuple[str, str]  # a task and a control


class RunError(LalmError, ValueError):
    """A folder that belongs to another run, or items that cannot be asked."""


@dataclass(frozen=True)
class Job:
    """What is asked, and where the results go. ``folder`` is the local model's, for its hash.

    Controls are asked of at most ``control_items`` items a task, drawn (0: of all), and with ``cheap`` only
    of tasks that compare answers with references without a judge, and are no transcripts or translations.
    ``price``: dollars a million tokens, in and out. ``extract``: the judge reads what rules cannot read."""

    tasks: Sequence[Asked]
    out: Path
    controls: Sequence[str] = ()
    limit: int = 0
    seed: int = 0
    folder: Path | None = None
    control_items: int = 0
    cheap: bool = False
    price: tuple[float, float] | None = None
    extract: bool = False

    def controls_of(self, opened: Asked) -> list[str]:
        """The controls that a task is asked under."""
        leading = METRICS[opened.task.metrics[0]]
        if self.cheap and (not leading.compares or opened.task.metrics[0] in ("judge", *OF_SPEECH)):
            return []
        return expanded(self.controls, opened)


@dataclass(frozen=True)
class Result:
    """A finished run: its card, and every task's scores by (task, control)."""

    card: dict[str, Any]
    scored: dict[Cell, Scored] = field(default_factory=dict)


def run(
    job: Job,
    answerer: Answerer,
    resources: Resources | None = None,
    judge: Judge | None = None,
    progress: Progress | None = None,
    share: Share | None = None,
) -> Result | None:
    """Ask, score and write. The same call again goes on where it stopped, and asks again what failed; another
    one into the same folder is refused. With a ``share``, each process answers its part, and the first
    scores and writes; the others return None. Raises RunError, and whatever the model refuses."""
    resources, share = resources or Resources(), share or Share()
    job.out.mkdir(parents=True, exist_ok=True)
    if share.rank:
        share.wait()  # until the first has begun
        with answerer.sharing() if isinstance(answerer, Local) else nullcontext():
            collect(_wanted(job, _shown(job)[0]), answerer, job.out, None, share)
        return None
    try:
        with FileLock(job.out / ".lock", timeout=0):
            card = _begin(job, answerer, judge)
            share.wait()
            shown, impossible = _shown(job)
            with answerer.sharing() if isinstance(answerer, Local) else nullcontext():
                said = collect(_wanted(job, shown), answerer, job.out, progress, share)
            _without_answers(shown, impossible, said)
            scored, extracts = _scores(job, shown, said, resources, judge)
            for name, found in extracts.items():
                card["tasks"][name]["extracted"] = found
            Summary(card, job.tasks, scored, said, resources, judge, job.price).write(impossible)
            _write_rows(job.out / "predictions.jsonl", scored, said, shown)
            _write_boards(card, job, scored, judge)
            card["finished"] = True
            write_page(job.out / "report.html", card, scored, said, _answered(scored, shown))
            _write_json(job.out / "card.json", card)  # last: a run whose page failed is not finished
    except Timeout:
        raise RunError(
            f"another run is writing '{job.out}': wait until it is done, or name another folder with --out"
        ) from None
    return Result(card, scored)


def _scores(
    job: Job, shown: Mapping[Cell, Put], said: Mapping[Key, Said], resources: Resources, judge: Judge | None
) -> tuple[dict[Cell, Scored], dict[str, Any]]:
    """The scores, and by task what an LLM read of the answers to it."""
    tasks = {opened.task.name: opened for opened in job.tasks}
    scored, extracts = dict[Cell, Scored](), dict[str, Any]()
    for (name, control), put in shown.items():
        answers = _answers(tasks[name], control, put, said, judge)
        if job.extract and judge is not None:
            answers, found = extracted(tasks[name].task, answers, judge)
            if control == AUDIO:
                extracts[name] = {"by": judge.name, **asdict(found)}
        scored[name, control] = score(tasks[name].task, answers, resources, judged=judge is not None)
    return scored, extracts


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
        raise RunError(f"'{out}' holds predictions without a card.json: name another folder with --out")
    before = read_card(out)
    for key in ("model", "seed", "limit"):
        if before.get(key) != card[key]:
            raise RunError(
                f"'{out}' holds a run of {before['model'].get('name')} with another {key}: "
                "name another folder with --out"
            )
    for name in set(before["tasks"]) ^ set(card["tasks"]):
        raise RunError(
            f"'{out}' holds a run of other tasks ({name} is in one only): name another folder with --out"
        )
    for name, task in card["tasks"].items():
        keys = ("data", "prompts", "max_new_tokens", *cards.PROTOCOL)
        if odd := cards.differing(task, before["tasks"][name], keys):
            raise RunError(
                f"'{out}' holds a run of {name} with another {odd[0]}: name another folder with --out"
            )


def _shown(job: Job) -> tuple[dict[Cell, Put], dict[Cell, str]]:
    """The items of each task as asked under each control; and why some controls are impossible."""
    shown, impossible = {}, {}
    for opened in job.tasks:
        drawn = _drawn(opened.samples, job.control_items, job.seed)
        for control in (AUDIO, *job.controls_of(opened)):
            samples = opened.samples if control == AUDIO else drawn
            try:
                shown[opened.task.name, control] = put_under(opened.task, samples, control, job.seed)
            except Impossible as error:
                impossible[opened.task.name, control] = str(error)
    return shown, impossible


def _drawn(samples: tuple[Sample, ...], count: int, seed: int) -> tuple[Sample, ...]:
    if not count or count >= len(samples):
        return samples
    places = np.random.default_rng(seed).permutation(len(samples))[:count]
    return tuple(samples[place] for place in sorted(places))


def _without_answers(shown: dict[Cell, Put], impossible: dict[Cell, str], said: Mapping[Key, Said]) -> None:
    """Controls of which a file of answers has none are taken out; a task of which it has none is refused."""
    for (name, control), put in list(shown.items()):
        ids = [sample.id for sample in put.samples]
        if not all(said[Key(name, control, one)].failed == UNANSWERED for one in ids):
            continue
        if control == AUDIO:
            more = f", nor to {len(ids) - 1} others" if len(ids) > 1 else ""
            raise RunError(f"the predictions hold no answer to '{ids[0]}' of {name}{more}")
        impossible[name, control] = "the file holds no answers under it"
        del shown[name, control]


def _wanted(job: Job, shown: Mapping[Cell, Put]) -> list[Wanted]:
    """Every answer that is needed."""
    tasks = {opened.task.name: opened.task for opened in job.tasks}
    return [
        Wanted(
            Key(name, control, sample.id),
            item,
            tasks[name].decoding,
            "perplexity" in tasks[name].metrics,
            put.prepare,
        )
        for (name, control), put in shown.items()
        for sample, item in zip(put.samples, put.items, strict=True)
    ]


def _answers(
    opened: Asked, control: str, put: Put, said: Mapping[Key, Said], judge: Judge | None
) -> list[Answer]:
    """The answers that there are; what failed is left out."""
    answers = []
    for sample, item in zip(put.samples, put.items, strict=True):
        own = said[Key(opened.task.name, control, sample.id)]
        if own.failed:
            continue
        shown = Sample(item.messages, **_known(sample))
        if opened.task.reworded and (plain := question_of(sample)):  # what a judge is told was asked
            shown = replace(shown, origin={"question": plain, **shown.origin})
        read = PARSERS[opened.task.parser](shown, own.text)
        text = without_reasoning(own.text)
        answers.append(Answer(shown, text, read, likelihood=own.likelihood, raw=own.text))
    if judge is not None and "judge" in opened.task.metrics:
        return judge.judged(opened.task, answers)
    return answers


def _known(sample: Sample) -> dict[str, Any]:
    names = ("id", "task", "references", "choices", "events", "origin")
    return {name: getattr(sample, name) for name in names}


def _answered(scored: Mapping[Cell, Scored], shown: Mapping[Cell, Put]) -> dict[Cell, list[Sample]]:
    """The items as asked of which there is an answer, beside the answers."""
    found = {}
    for cell, own in scored.items():
        items = {s.id: item for s, item in zip(shown[cell].samples, shown[cell].items, strict=True)}
        found[cell] = [items[answer.sample.id] for answer in own.answers]
    return found


def _write_boards(card: dict[str, Any], job: Job, scored: Mapping[Cell, Scored], judge: Judge | None) -> None:
    """What may stand beside leaderboards, and the files for benchmarks' own programs and for the Hub."""
    for opened in job.tasks:
        entry = card["tasks"][opened.task.name]
        if entry.get("leaderboard") is None:
            continue
        file = write_submission(job.out, opened.task, scored[opened.task.name, AUDIO].answers)
        if file:
            entry["leaderboard"]["submission"] = file
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    if files := write_hub_results(job.out, card, [opened.task for opened in job.tasks], today):
        card["hub_results"] = files


def _write_rows(
    log: Path, scored: Mapping[Cell, Scored], said: Mapping[Key, Said], shown: Mapping[Cell, Put]
) -> None:
    """predictions.jsonl again, with what was asked, read and right: all that scoring once more needs."""
    lines = []
    for (task, control), put in shown.items():
        answers = {answer.sample.id: answer for answer in scored[task, control].answers}
        for sample, item in zip(put.samples, put.items, strict=True):
            key, answer = Key(task, control, sample.id), answers.get(sample.id)
            row = row_of(key, said[key])
            row |= {"question": question_of(item), "read": answer.read if answer else None}
            row |= {"references": sample.references, "choices": sample.choices}
            row |= {"origin": sample.origin, "events": sample.events}
            if control == AUDIO:
                row["item"] = cards.item_digest(sample)
            if row["likelihood"] is None:
                del row["likelihood"]
            if answer and answer.judged is not None:
                row["judged"] = answer.judged
            if answer and answer.tried is not None:
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
    except (ValueError, RecursionError) as error:
        raise RunError(f"'{path}' is damaged: {error}") from None
    if not isinstance(card, dict) or not isinstance(card.get("tasks"), dict):
        raise RunError(f"'{path}' is not the card of a run")
    return card


@dataclass(frozen=True)
class Kept:
    """A finished run's answer, and what its item is: a hash of item and recording ("" in older runs)."""

    answer: Answer
    item: str


def read_answers(folder: Path, control: str = AUDIO) -> dict[str, list[Kept]]:
    """A finished run's answers by task, under one control, as scoring takes them; failed ones left out."""
    found: dict[str, list[Kept]] = {}
    for place, row in rows_of(folder / "predictions.jsonl"):
        if row.get("control") != control or row.get("failed"):
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
            likelihood, tried = likelihood_of(row), row.get("tried")
            answer = Answer(sample, text, row["read"], judged, likelihood, tried, row["text"])
        except (KeyError, TypeError):
            raise RunError(f"{place}: not a row of a finished run") from None
        found.setdefault(row["task"], []).append(Kept(answer, str(row.get("item", ""))))
    return found


def _write_json(path: Path, value: object) -> None:
    draft = path.with_name(path.name + ".partial")
    draft.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(path)
