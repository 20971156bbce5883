"""Commands of evaluation: eval, compare, agree, tasks."""

from pathlib import Path
from typing import Annotated

import typer

from lalm.cli.options import Device, Json, LoraScale, Url, Vision

evaluate_app = typer.Typer()

Resource = Annotated[
    list[str] | None,
    typer.Option(
        "--resource", metavar="NAME=FOLDER", help="What a metric needs: meteor, spice, sentences, fluency."
    ),
]


@evaluate_app.command("eval")
def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Model folder (default: the embedded small model), with --url an endpoint's model, or a "
            "JSONL file of answers.",
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            metavar="NAME[=PATH],...",
            help="What is asked (`lalm tasks` lists them); PATH is its data. manifest=FILE.jsonl: any "
            "manifest with references. A .yaml file of your own may stand for NAME.",
        ),
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder in which tasks look for their data.")] = Path("data"),
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results (default: eval/MODEL); a killed run goes on.")
    ] = None,
    controls: Annotated[
        bool,
        typer.Option(
            "--controls", help="Ask again without audio, with another's, with its text, other wordings."
        ),
    ] = False,
    samples: Annotated[int, typer.Option(min=0, help="At most so many items a task, drawn; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    lora_scale: LoraScale = None,
    url: Url = None,
    judge: Annotated[
        str | None, typer.Option(help="LLM that judges: pinned name, folder, or with --judge-url a model.")
    ] = None,
    judge_url: Annotated[str | None, typer.Option(help="The judge's endpoint.")] = None,
    judge_cache: Annotated[
        Path | None, typer.Option(help="Judgments made before (default: OUT/judgments.sqlite).")
    ] = None,
    resource: Resource = None,
    vision: Vision = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Score a model on tasks, with an interval on every number, a card and a page.

    An endpoint's key is read from OPENAI_API_KEY.
    """
    from lalm.cli import evaluate as command

    command.run(
        command.Request(
            model, tuple(task or ()), data, out, controls, samples, seed, lora_scale, url, device, vision
        ),
        command.Judging(judge, judge_url, judge_cache),
        resource or [],
        as_json=json,
    )


@evaluate_app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="Folder of a run of `lalm eval`.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="Another one.", show_default=False)],
    resource: Resource = None,
    json: Json = False,
) -> None:
    """A minus B on the same items, paired; refused when they were not asked and read alike."""
    from lalm.cli import evaluate as command

    command.compare(a, b, resource or [], as_json=json)


@evaluate_app.command()
def agree(
    a: Annotated[Path, typer.Argument(help="A judged run's predictions.jsonl.", show_default=False)],
    b: Annotated[
        Path,
        typer.Argument(
            help="Another judge's, or people's labels: JSONL rows with id and judged (0 to 1).",
            show_default=False,
        ),
    ],
    json: Json = False,
) -> None:
    """How well two judges agree: kappa and Spearman's correlation."""
    from lalm.cli import evaluate as command

    command.agree(a, b, as_json=json)


@evaluate_app.command()
def tasks(json: Json = False) -> None:
    """The tasks that `lalm eval` knows, their data and where they come from."""
    from lalm.cli import evaluate as command

    command.list_tasks(as_json=json)
