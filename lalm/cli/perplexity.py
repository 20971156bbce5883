"""``lalm perplexity``: how likely models find the known answers of manifests, with LoRA on and off."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lalm.cli.opening import reading_of
from lalm.cli.options import AudioFolder, Columns, Device, Prompt, PromptDraw

if TYPE_CHECKING:
    from lalm.data.readers import Reading
    from lalm.data.sample import Sample
    from lalm.evaluate.perplexity import Perplexity


def perplexity(
    models: Annotated[list[str], typer.Argument(help="Model folders, in stage order.", show_default=False)],
    data: Annotated[list[Path], typer.Option(help="Manifest with answers; may be repeated.")],
    out: Annotated[Path, typer.Option(help="Folder of perplexity.json and the plot.")] = Path("perplexity"),
    lora_scale: Annotated[
        list[float] | None,
        typer.Option(min=0.0, help="Beside the trained one; 0 removes LoRA; may be repeated."),
    ] = None,
    per_task: Annotated[int, typer.Option(min=1, help="Samples of each task.")] = 50,
    columns: Columns = None,
    prompt: Prompt = None,
    prompt_seed: PromptDraw = 0,
    audio: AudioFolder = None,
    device: Device = None,
) -> None:
    """How likely models find known answers, with LoRA on and off."""
    from lalm.cli.opening import open_engine
    from lalm.evaluate.perplexity import perplexities, plot
    from lalm.inference.engine import Options

    lora_scales = [0.0] if lora_scale is None else lora_scale
    for asked in lora_scales:
        Options(lora_scale=asked)  # refuses what cannot be
    samples = answered(data, per_task, reading_of(columns, prompt, prompt_seed, audio))
    found: list[Perplexity] = []
    print(f"{'model':<24}{'task':<16}{'LoRA':>8}{'mean':>12}{'std':>12}{'pooled':>12}{'n':>6}")
    for model in models:
        engine = open_engine(model, device)
        scales = [None, *lora_scales] if engine.model.config.lora else [None]
        for scale in scales:
            for row in perplexities(engine, samples, scale):
                found.append(row)
                name = "trained" if scale is None else f"{scale:g}"
                numbers = f"{row.mean:>12.4g}{row.std:>12.3g}{row.pooled:>12.4g}{row.num_answers:>6}"
                print(f"{row.model:<24}{row.task:<16}{name:>8}{numbers}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "perplexity.json").write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n")
    plot(found, out / "perplexity.png")
    print(f"The numbers and the plot are in {out}.")


def answered(manifests: Sequence[Path], per_task: int, reading: "Reading | None" = None) -> "list[Sample]":
    """Samples of the manifests that have a target, ``per_task`` of each task spread evenly."""
    from lalm.data.mixture import open_manifest, subset

    by_task: dict[str, list[Sample]] = {}
    for path in manifests:
        for sample in open_manifest(path, reading):
            if sample.target:
                by_task.setdefault(sample.task, []).append(sample)
    if not by_task:
        raise ValueError(f"no sample of {', '.join(str(path) for path in manifests)} has an answer")
    return [sample for task in sorted(by_task) for sample in subset(by_task[task], per_task)]
