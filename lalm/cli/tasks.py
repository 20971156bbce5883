"""``lalm tasks``: the tasks that ``lalm eval`` knows."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from lalm.cli.options import Json

if TYPE_CHECKING:
    from lalm.evaluate.task import Task


def tasks(
    name: Annotated[str | None, typer.Argument(help="All about this task.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """List the tasks that `lalm eval` knows.

    With a name, how that one asks and scores, and its data."""
    from lalm.cli.tables import listed
    from lalm.evaluate.task import TaskError, known_tasks

    known = known_tasks()
    if name is not None and name not in known:
        raise TaskError(f"there is no task '{name}'; `lalm tasks` lists those there are")
    shown = known if name is None else {name: known[name]}
    if as_json:
        print(json.dumps([task.model_dump() for task in shown.values()]))
    elif name is not None:
        print(listed(("task", name), _details(known[name])))
    else:
        rows = [(own, task.about) for own, task in sorted(known.items())]
        print(listed(("task", "about"), [("manifest", "any manifest with references"), *rows]))
        print("\nlalm tasks NAME: its data, prompts, metrics and source")


def _details(task: "Task") -> list[tuple[str, str]]:
    """What a task is, a row a thing."""
    rows = [
        ("about", task.about),
        ("source", task.citation),
        ("data", f"{task.path or 'FILE.jsonl'}, layout {task.layout}"),
        ("system", task.system),
        *(("prompt", prompt.replace("\n", " / ")) for prompt in task.prompts),
        ("read as", task.parser),
        ("metrics", ", ".join(task.metrics)),
        ("judge", task.judge),
        *((key.replace("_", " "), str(value)) for key, value in task.decoding.unusual().items()),
        ("longest", f"{task.max_new_tokens} tokens"),
        *((f"column {name}", " + ".join(map(", ".join, parts))) for name, parts in task.table.items()),
    ]
    return [(what, text) for what, text in rows if text]
