"""Commands about tasks: activation tuning, perplexity."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lalm.cli.options import Device, Seed, Temperature

tasks_app = typer.Typer()


@tasks_app.command()
def activate(
    model: Annotated[Path, typer.Argument(help="Model folder with LoRA.", show_default=False)],
    clips: Annotated[Path, typer.Option(help="Manifest of clips to write about.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the activated model.", show_default=False)],
    lora_scale: Annotated[
        float | None, typer.Option(min=0.0, help="While writing (default: half of the trained one).")
    ] = None,
    way: Annotated[
        Literal["story", "given", "text", "lora"],
        typer.Option(
            help="What is learned: stories, the longest answers given in the clips' manifest, stories with "
            "the caption for the audio (LoRA only), stories by LoRA only."
        ),
    ] = "story",
    measure: Annotated[
        list[Path] | None, typer.Option(help="Manifest to compare before and after; may be repeated.")
    ] = None,
    per_task: Annotated[int, typer.Option(min=1, help="Samples of each task measured.")] = 50,
    steps: Annotated[int, typer.Option(min=1, help="Training steps, one story each.")] = 12,
    learning_rate: Annotated[float, typer.Option(help="Of the steps (the paper does not say).")] = 3e-5,
    temperature: Temperature = 0.7,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Let a model write stories with LoRA turned down and learn them: it follows instructions again."""
    from lalm.cli import activate as command

    measured = tuple(measure or ())
    command.run(
        command.Job(
            *(model, clips, out, lora_scale, way, measured, per_task, steps),
            *(learning_rate, temperature, seed, device),
        )
    )


@tasks_app.command()
def perplexity(
    models: Annotated[list[str], typer.Argument(help="Model folders, in stage order.", show_default=False)],
    data: Annotated[list[Path], typer.Option(help="Manifest with answers; may be repeated.")],
    out: Annotated[Path, typer.Option(help="Folder of perplexity.json and the plot.")] = Path("perplexity"),
    lora_scale: Annotated[
        list[float] | None,
        typer.Option(min=0.0, help="Beside the trained one; 0 removes LoRA; may be repeated."),
    ] = None,
    per_task: Annotated[int, typer.Option(min=1, help="Samples of each task.")] = 50,
    device: Device = None,
) -> None:
    """How likely models find known answers, by task, with LoRA on and off."""
    from lalm.cli import perplexity as command

    scales = [0.0] if lora_scale is None else lora_scale
    command.run(models, data, out, lora_scales=scales, per_task=per_task, device=device)
