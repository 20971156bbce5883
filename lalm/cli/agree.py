"""``lalm agree``: how well two judges of the same answers agree."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lalm.cli.options import Json

UNDEFINED = "undefined: a judge gives all answers the same score"


def agree(
    a: Annotated[Path, typer.Argument(help="A judged run's predictions.jsonl.", show_default=False)],
    b: Annotated[
        Path,
        typer.Argument(
            help="Another judge's, or people's labels: JSONL rows with id and judged (0 to 1).",
            show_default=False,
        ),
    ],
    as_json: Json = False,
) -> None:
    """How well two judges agree: kappa and Spearman's correlation."""
    from lalm.evaluate.agreement import agreement, read_judgments
    from lalm.evaluate.scores import plain

    found = agreement(read_judgments(a), read_judgments(b))
    if as_json:
        names = ("kappa", "weighted_kappa", "spearman")
        rows = {n: own and plain(own) for n in names for own in [getattr(found, n)]}
        print(json.dumps(rows | {"only_one": found.only_one}))
        return
    print(f"kappa                    {found.kappa or UNDEFINED}")
    print(f"kappa, squared distances {found.weighted_kappa or UNDEFINED}")
    print(f"Spearman's correlation   {found.spearman or UNDEFINED}")
    print(f"{found.only_one} answers judged by one of the two only")
