"""The page of a finding: SIZE.json, SIZE.md and SIZE.svg in one folder; the README's table of all papers"""

import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lalm.reproduce.estimates import NOT_RUN
from lalm.reproduce.experiment import SIZES, Experiment, load, names
from lalm.reproduce.interval_figure import figure
from lalm.reproduce.planning import Plan

EARLIER = "earlier.json"  # measured before there was this command: what, when, by which commit
RESERVATION = "reservation.md"  # SIZE.reservation.md: what a reader must know of how this run came about
RULE = (
    "**Rule**, in the experiment's file before the run: a contrast is *confirmed* when its 95 % interval "
    "lies above 0, *not confirmed* when it lies below 0 or below what would matter (`worth`), else *cannot "
    "tell*; nor can one seed of two models that were trained apart. The claim is confirmed when all "
    "contrasts that decide are, and not when one of them is not."
)


def write(plan: Plan, found: Mapping[str, Any], about: Mapping[str, Any], folder: Path) -> Path:
    """Write the three files, copy the pictures, and return the page. ``about``: the command, date, versions
    and minutes."""
    folder.mkdir(parents=True, exist_ok=True)
    own = plan.experiment
    found = {**found, "beside": [_with_picture(one, plan.size, folder) for one in found["beside"]]}
    head = {"paper": own.title, "arxiv": own.arxiv, "claim": own.claim, "in_paper": own.in_paper}
    result = {**head, "size": plan.size, "settings": dict(plan.settings), **about, **found}
    numbers = json.dumps(result, indent=1, ensure_ascii=False)
    _put(folder / f"{plan.size}.svg", figure(found["contrasts"], found["cells"]))
    page = folder / f"{plan.size}.md"
    _put(page, markdown(own, result, earlier(folder), reservation(folder, plan.size)))
    _put(folder / f"{plan.size}.json", numbers + "\n")
    return page


def _put(file: Path, text: str) -> None:
    """Write a file whole: a run that is killed here leaves what was there before."""
    draft = file.with_name(f"{file.name}.partial")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(file)
    except OSError as error:  # a full disk, of which the system does not name the file
        draft.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(file)) from None


def _with_picture(one: Mapping[str, Any], size: str, folder: Path) -> dict[str, Any]:
    """What was measured beside the contrasts, its picture copied beside the page."""
    if "picture" not in one:
        return dict(one)
    source = Path(one["picture"])
    name = f"{size}-{one['name'].replace(' ', '_')}{source.suffix}"
    shutil.copyfile(source, folder / name)
    return {**one, "picture": name}


def markdown(
    own: Experiment, result: Mapping[str, Any], before: Sequence[Mapping[str, str]], reserved: str = ""
) -> str:
    """The page in Markdown: verdict, what is ``reserved``, contrasts, cells, tasks, how to repeat it."""
    link = f" ([arXiv {own.arxiv}](https://arxiv.org/abs/{own.arxiv}))" if own.arxiv else ""
    lines = [f"# {own.title}{link}: {result['verdict']}", "", f"**Claim.** {own.claim.strip()}", ""]
    lines += [f"**In the paper.** {own.in_paper.strip()}", ""]
    lines += [f"**With a reservation.** {reserved}", ""] if reserved else []
    lines += [
        f"**Here.** Size `{result['size']}`, {result['date']}, commit {result['commit']}; "
        f"its steps took {result['minutes']:.0f} minutes by the clock{_of_processor(result)} on "
        f"{result['machine']}. "
        f"{own.limits.strip()}",
        "",
        "```",
        str(result["command"]),
        "```",
        "",
        RULE,
        "",
        f"![Intervals]({result['size']}.svg)",
        "",
        *contrast_rows(result["contrasts"]),
        "",
        *_cell_rows(own, result["cells"]),
        "",
        *_task_rows(result["cells"]),
        *_judge_rows(result["judges"]),
        *_beside_rows(result["beside"]),
    ]
    if before:
        lines += ["", "## Measured before this command existed", ""]
        lines += ["| date | commit | what | number | files |", "|---" * 5 + "|"]
        lines += [
            f"| {' | '.join(r[k] for k in ('date', 'commit', 'what', 'number', 'files'))} |" for r in before
        ]
    return "\n".join(lines) + "\n"


def _of_processor(result: Mapping[str, Any]) -> str:
    """On a machine that does other work too, the clock alone says little."""
    return f" and {result['cpu_minutes']:.0f} of the processor" if result.get("cpu_minutes") else ""


def contrast_rows(contrasts: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of the contrasts; also what the command prints."""
    rows = ["| contrast | plus - minus | ours | worth | the paper's | verdict |", "|---" * 6 + "|"]
    for one in contrasts:
        about = one["about"] if one["decides"] else f"{one['about']} (decides nothing)"
        cells = [about, f"{one['plus']} - {one['minus']}", spread(one, sign=True), f"{one['worth']:g}"]
        rows.append(f"| {' | '.join([*cells, one['paper'] or '-', one['verdict']])} |")
    return rows


def _cell_rows(own: Experiment, cells: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = ["| row | what it is | set | control | ours | the paper's |", "|---" * 6 + "|"]
    for one in cells:
        about, asked = own.cells[one["cell"]].about, own.sets[one["set"]]
        paper = "-" if one["paper"] is None else f"{one['paper']:g} {asked.unit}".strip()
        row = [one["cell"], about, one["set"], one["control"], spread(one), paper]
        rows.append(f"| {' | '.join(row)} |")
    return rows


def _task_rows(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = ["| row | set | task | ours |", "|---" * 4 + "|"]
    for one in cells:
        for task, found in one.get("tasks", {}).items():
            rows.append(f"| {one['cell']} | {one['set']} | {task} | {spread(found)} |")
    return rows


def _judge_rows(judges: Sequence[Mapping[str, Any]]) -> list[str]:
    if not judges:
        return []
    rows = ["", "## The judge's agreement with the exact metric", ""]
    rows += ["| set | judge | metric | same verdict | kappa | answers |", "|---" * 6 + "|"]
    for one in judges:
        kappa = "undefined: one of the two says always the same"
        if one["kappa"] is not None:
            kappa = "{:.2f} [{:.2f}, {:.2f}]".format(*one["kappa"])
        cells = [one["set"], one["judge"], one["exact"], f"{one['same']:.2f}", kappa, str(one["num_answers"])]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _beside_rows(beside: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = list[str]()
    for one in beside:
        about = f"{one['about'].strip()} (table {one['table']})".replace("table figure", "figure")
        rows += ["", f"## {one['name'].capitalize()}", "", about]
        if one.get("paper"):
            rows += ["", f"**In the paper.** {one['paper'].strip()}"]
        if "picture" in one:
            rows += ["", f"![{one['name']}]({one['picture']})"]
        if table := one.get("rows"):
            rows += ["", f"| {' | '.join(table[0])} |", "|---" * len(table[0]) + "|"]
            rows += [f"| {' | '.join(_short(value) for value in row.values())} |" for row in table]
    return rows


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def spread(found: Mapping[str, Any], *, sign: bool = False) -> str:
    """An estimate in words: mean, interval, items and seeds."""
    seeds = len(found["seeds"])
    if not seeds:
        return NOT_RUN
    form = "+.3f" if sign else ".3f"
    mean, low, high = ("?" if found[k] is None else format(found[k], form) for k in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}], n={found['num_items']}, {seeds} seed{'s' * (seeds != 1)}"


def place() -> dict[str, str]:
    """Where a run was made: the machine, and the commit of the code if it is in a clone."""
    import torch

    machine = f"{os.cpu_count()} CPU cores"
    if torch.cuda.is_available():
        machine = torch.cuda.get_device_name()
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {"machine": machine, "commit": commit}


def earlier(folder: Path) -> list[dict[str, str]]:
    """What was measured before this command existed, from the folder's ``earlier.json``."""
    path = folder / EARLIER
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def reservation(folder: Path, size: str) -> str:
    """What must be known of how a size's run came about, from the folder's ``SIZE.reservation.md``; or ""."""
    path = folder / f"{size}.{RESERVATION}"
    return " ".join(path.read_text(encoding="utf-8").split()) if path.is_file() else ""


def newest(folder: Path) -> dict[str, Any] | None:
    """The result of the largest size that has a verdict; else of the largest of which anything was run."""
    found = list[dict[str, Any]]()
    for size in reversed(SIZES):
        if (folder / f"{size}.json").is_file():
            found.append(json.loads((folder / f"{size}.json").read_text(encoding="utf-8")))
    return next((one for one in found if one["verdict"] != NOT_RUN), found[0] if found else None)


def _sides(one: Mapping[str, Any]) -> str:
    return f"{one['set']}, {one['plus']} - {one['minus']}"


def papers_table(results: Path) -> str:
    """The README's table: paper, claim, verdict, the deciding contrasts with the paper's numbers, command; of
    ``results/PAPER``."""
    rows = ["| paper | claim | verdict | ours, 95 % interval | the paper's | command |", "|---" * 6 + "|"]
    for name in names():
        own, folder = load(name), results / name
        if not own.arxiv:
            continue
        found, before = newest(folder), earlier(folder)
        papers = [one.paper for one in own.contrasts if one.decides and "small" in one.sizes]
        ours, verdict, command = list[str](), NOT_RUN, f"lalm reproduce {name}"
        if found is not None:
            decided = [one for one in found["contrasts"] if one["decides"]]
            ours = [f"{_sides(one)}: {spread(one, sign=True)}" for one in decided]
            papers = [one["paper"] for one in decided]
            counts = Counter(one["verdict"] for one in decided)
            why = ", ".join(f"{count} {told}" for told, count in counts.items())
            size = found["size"]
            verdict = f"**[{found['verdict']}]({results.name}/{name}/{size}.md)** at size {size}: {why}"
            verdict += "; with a reservation, on that page" if reservation(folder, size) else ""
            command += "" if size == "small" else f" --{size}"
        if before:
            told = before[0]
            ours.append(f"earlier: {told['number']} ({told['date']}, one seed, before this command)")
        paper = "<br>".join(one or "-" for one in papers)
        link = f"**{own.title}** ([{own.arxiv}](https://arxiv.org/abs/{own.arxiv}))"
        row = [link, " ".join(own.claim.split()), verdict, "<br>".join(ours) or "-", paper, f"`{command}`"]
        rows.append(f"| {' | '.join(row)} |")
    return "\n".join(rows) + "\n"
