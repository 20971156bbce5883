"""``lalm compare``: the differences of two recordings, or of two runs of ``lalm eval`` on the same items."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lalm.cli.options import Device, Json, Model, Resource


def compare(
    a: Annotated[
        str, typer.Argument(help="A recording, or the folder of a run of `lalm eval`.", show_default=False)
    ],
    b: Annotated[
        str, typer.Argument(help="The one to compare it with, of the same kind.", show_default=False)
    ],
    resource: Resource = None,
    model: Model = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Compare two recordings, or two runs of `lalm eval`.

    Examples:

    lalm compare before.wav after.wav

    lalm compare eval/small eval/mine

    Of recordings: length, loudness and brightness are measured, what is heard and said stands beside it. Of
    runs: A minus B, item by item, on the items that both have; runs that were not asked or read in the same
    way are refused.
    """
    from lalm.cli.compare_recordings import check, compare_recordings

    if check((a, b)):
        if resource:
            raise ValueError("--resource is for runs of `lalm eval`, not for recordings")
        compare_recordings(a, b, model, device, as_json=as_json)
        return
    from lalm.cli.eval import resource_folders
    from lalm.cli.tables import grouped
    from lalm.evaluate.compare import compare as compare_runs
    from lalm.evaluate.metrics import Resources
    from lalm.evaluate.page import shown_number
    from lalm.evaluate.reliance import shown_p
    from lalm.evaluate.scores import plain

    rows = compare_runs(Path(a), Path(b), Resources(resource_folders(resource or [])))
    if as_json:
        print(json.dumps([{**asdict(r), "difference": plain(r.difference)} for r in rows]))
        return
    groups: dict[str, list[list[str]]] = {}
    for row in rows:
        found = plain(row.difference)
        numbers = [shown_number(v, row.metric) for v in (row.a, row.b, found["mean"])]
        low, high = (shown_number(found[key], row.metric) for key in ("low", "high"))
        limits, p_value = f"{low} to {high}", shown_p(found["p_value"])
        whole = row.shared == row.items_a == row.items_b
        items = str(row.shared) if whole else f"{row.shared} of {row.items_a}, {row.items_b}"
        cells = [row.metric, *numbers, limits, p_value, items]
        groups.setdefault(row.task, []).append(cells)
    print(grouped(["task, metric", "A", "B", "A minus B", "95 % interval", "p", "items"], groups))
