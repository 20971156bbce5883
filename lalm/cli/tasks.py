"""``lalm tasks``: the tasks that ``lalm eval`` knows."""

import json

from lalm.cli.options import Json


def tasks(as_json: Json = False) -> None:
    """List the tasks that `lalm eval` knows, and their data."""
    from lalm.evaluate.task import known_tasks

    known = known_tasks()
    if as_json:
        print(json.dumps([task.model_dump() for task in known.values()]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("task", "about", "metrics", "data", "citation"):
        table.add_column(title)
    table.add_row(
        "manifest", "any manifest whose samples have references", "by its samples", "FILE.jsonl", ""
    )
    for name, task in sorted(known.items()):
        place = task.path or "FILE.jsonl"
        table.add_row(name, task.about, ", ".join(task.metrics), place, task.citation)
    Console(width=None).print(table)
