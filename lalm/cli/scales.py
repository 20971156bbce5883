"""``lalm scales``: what tasks score as LoRA is turned down (SALMONN's figure 3)."""

from pathlib import Path
from typing import Annotated

import typer

from lalm.cli.options import Device

SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)


def scales(
    model: Annotated[Path, typer.Argument(help="Model folder with LoRA.", show_default=False)],
    measure: Annotated[
        list[Path], typer.Option(help="Manifest to measure on; may be repeated.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder of scales.json and scales.png.")] = Path("scales"),
    scale: Annotated[
        list[float] | None,
        typer.Option(
            min=0.0, help="LoRA scale; may be repeated (default: 0 to 4 by halves).", show_default=False
        ),
    ] = None,
    per_task: Annotated[int, typer.Option(min=1, help="Samples of each task.")] = 50,
    judge: Annotated[str | None, typer.Option(help="LLM that judges, as in lalm eval.")] = None,
    judge_url: Annotated[str | None, typer.Option(help="The judge's endpoint.")] = None,
    device: Device = None,
) -> None:
    """Score a model at several LoRA scales, and draw the curves."""
    from lalm.cli.judging import open_judge
    from lalm.cli.opening import open_engine
    from lalm.inference.engine import Options
    from lalm.systems.salmonn import curves

    if judge is None and judge_url is not None:
        raise ValueError("--judge-url needs --judge, the judge's name")
    wanted = sorted({*(scale or SCALES)})
    for one in wanted:
        Options(lora_scale=one)  # refuses what cannot be
    curves.check_plots()
    samples = curves.of_each_task(measure, per_task)
    file = out / "scales.json"
    measured = curves.about(samples, model=model.resolve(), judge=judge)
    places = {place.name: place for place in curves.read(file, measured)}
    engine = open_engine(str(model), device)
    if not engine.model.config.lora:
        raise ValueError(f"'{model}' has no LoRA, so there is no scale to turn")
    out.mkdir(parents=True, exist_ok=True)
    judging = open_judge(judge, judge_url, out / "judgments.sqlite") if judge else None
    for one in wanted:
        name = f"{one:g}"
        if name not in places:
            found = curves.measure(engine, samples, lora_scale=one, judge=judging)
            places[name] = curves.Place(name, found)
            curves.write([places[key] for key in sorted(places, key=float)], file, measured)
        for row in places[name].measures:
            print(f"LoRA scale {name:<5}{row.task:<16}{row.metric:<18}{row.mean:>10.4g}", flush=True)
    ordered = [places[f"{one:g}"] for one in wanted]
    chosen = curves.drawn_metrics()
    for plot, perplexity in (("scales.png", False), ("scales_perplexity.png", True)):
        if curves.draw(ordered, out / plot, "LoRA scale", perplexity=perplexity, chosen=chosen):
            print(out / plot)
