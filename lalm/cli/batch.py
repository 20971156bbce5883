"""``lalm batch``: a file of requests to the API becomes a file of its answers."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from lalm.cli.options import Device


def batch(
    requests: Annotated[
        Path, typer.Argument(help="Requests in OpenAI's batch format (JSONL).", show_default=False)
    ],
    out: Annotated[
        Path, typer.Argument(help="File of the answers; goes on where it stopped.", show_default=False)
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Model folder or Hub id (default: the embedded small model).", show_default=False),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Answers written at a time.")] = 16,
    device: Device = None,
) -> None:
    """Answer a file of requests as the server would.

    Exits with 1 if an answer is an error; the errors stand in the file.
    """
    from lalm.cli.serve import check_serving

    check_serving()
    from lalm.cli.weights import fetch_for
    from lalm.inference.engine import Engine
    from lalm.serve.app import create_app
    from lalm.serve.batch_file import answer_file, answered, read_requests
    from lalm.serve.settings import Settings

    if not requests.is_file():
        raise ValueError(f"there is no file '{requests}'")
    rows, done = [*read_requests(requests)], answered(out)
    left = [row for row in rows if row["custom_id"] not in done]
    fetch_for(model)
    settings = Settings(rows=batch_size, waiting=4 * batch_size)
    app = create_app(Engine.load(model, device), settings)
    with out.open("a", encoding="utf-8") as file:
        failed = asyncio.run(answer_file(app, left, file, 2 * batch_size))
    print(
        f"{len(left) - failed} answered, {failed} refused, {len(rows) - len(left)} from before",
        file=sys.stderr,
    )
    if failed:
        raise typer.Exit(1)
