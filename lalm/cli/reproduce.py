"""``lalm reproduce``: a paper's finding is run here, and gets a verdict."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lalm.reproduce.planning import Plan
    from lalm.reproduce.steps import State

ENOUGH_MINUTES = 15  # of estimates, before what was taken says more of a machine than its processor does


def reproduce(
    paper: Annotated[
        str,
        typer.Argument(
            help="acdc, salmonn, apt, qwen2-audio, learning, small (the packaged model), or a YAML file.",
            show_default=False,
        ),
    ],
    quick: Annotated[
        bool, typer.Option("--quick", help="The shortest run: under 15 minutes on two cores.")
    ] = False,
    full: Annotated[
        bool,
        typer.Option("--full", help="The paper's own set-up; needs --data, its weights and an accelerator."),
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print every step, what it needs and what is missing; run nothing.")
    ] = False,
    data: Annotated[Path | None, typer.Option(help="Folder of the corpora, for --full.")] = None,
    table: Annotated[str | None, typer.Option(help="Only what is asked for this table of the paper.")] = None,
    row: Annotated[list[str] | None, typer.Option(help="Only this row, one cell; may be repeated.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the size; may be repeated."),
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder of runs and data (default: runs/reproduce/PAPER-SIZE).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the page (default: results/PAPER).")] = None,
) -> None:
    """Run a paper's finding and say whether it holds.

    The same command goes on where it stopped. Without --quick or --full: under 3 hours on two cores.
    """
    from lalm.cli.app import fault
    from lalm.reproduce import experiment as experiments
    from lalm.reproduce.planning import plan as planned_run
    from lalm.reproduce.steps import refuse_faults

    if quick and full:
        raise ValueError("--quick and --full are two sizes: say one of them")
    size = "quick" if quick else "full" if full else "small"
    own = experiments.load(paper)
    if odd := next((one for one in changes or () if not one.partition("=")[2]), None):
        raise ValueError(f"--set {odd}: write it as KEY=VALUE")
    if data is not None and not data.is_dir():
        raise ValueError(f"there is no folder '{data}': --data is the folder of the corpora")
    if data is not None and not experiments.reads_corpora(own, size):
        raise ValueError(f"size '{size}' reads no corpora of yours: leave --data out, or say --full")
    if full and data is None and not plan and experiments.reads_corpora(own, size):
        raise ValueError(
            "--full needs --data FOLDER, the folder of the corpora: "
            f"`lalm reproduce {paper} --full --plan` lists them"
        )
    given = dict(one.split("=", 1) for one in changes or ())
    planned = planned_run(own, size, changes=given, data=data, table=table, rows=row or ())
    name = Path(paper).stem
    folder = work or Path("runs/reproduce") / f"{name}-{size}"
    refuse_faults(planned, folder, fault)
    if plan:
        _show(planned, folder)
        return
    whole = planned_run(own, size, changes=given, data=data, every=True)
    _run(planned, whole, folder, out or Path("results") / name)


def _show(planned: "Plan", folder: Path) -> None:
    """The steps, the weights, what is missing and the time that is left."""
    from lalm.reproduce.steps import disk_of, libraries_missing, needed_weights, shown, states

    found = states(planned, folder)
    where = "on an accelerator" if planned.size == "full" else "on two cores"
    print(f"{planned.experiment.title}, size {planned.size}, in {folder}:")
    for number, one in enumerate(found, 1):
        took = (
            f"took {one.seconds / 60:.1f} min" if one.state == "done" else f"about {one.step.minutes:g} min"
        )
        state = "made with other settings" if one.state == "other" else one.state
        print(f"{number:>3} {one.step.name}: {state}, {took}; makes {', '.join(one.step.makes)}")
        print(f"      {shown(one.step)}")
        for need in one.step.needs:
            print(f"      needs {need}")
    for part, state in needed_weights(planned).items():
        print(f"weights {part}: {state}")
    missing = list(dict.fromkeys(path for one in found for path in one.missing))
    for path in missing:
        print(f"missing {path}")
    for name, _, extra in libraries_missing(planned):
        print(f"missing the library {name}: pip install '{extra}'")
    disk = disk_of(planned, folder)
    print(f"disk: writes about {disk.needed_gb:g} GB in all, {disk.free_gb:.0f} GB are free")
    left = sum(one.step.minutes for one in found if one.state != "done")
    time = _duration(left)
    print(f"{len(found)} steps, {len(missing)} files missing, about {time} to go {where} (estimated)")
    if left and planned.size != "full" and (told := _slower(found, left)):
        print(told)


def _duration(minutes: float) -> str:
    return f"{minutes / 60:.1f} h" if minutes > 90 else f"{minutes:.0f} min"


def _slower(found: "list[State]", left: float) -> str:
    """What is known of this machine's speed against the estimates: what the steps that are done took, else
    whether its processor has what they were measured with. Empty where nothing speaks against them."""
    done = [one for one in found if one.state == "done"]
    planned = sum(one.step.minutes for one in done)
    if planned > ENOUGH_MINUTES:
        ratio = sum(one.seconds for one in done) / 60 / planned
        if 0.8 < ratio < 1.25:
            return ""
        rather = _duration(left * ratio)
        return f"the steps that are done took {ratio:.1f} times their estimates: rather {rather}"
    import torch

    from lalm.inference.device import is_slow

    if torch.cuda.is_available() or not is_slow("bfloat16"):
        return ""
    return (
        "the estimates are of processors with AMX; this one has neither it nor AVX512-BF16 and "
        "may take three times as long"
    )


def _run(planned: "Plan", whole: "Plan", folder: Path, out: Path) -> None:
    """Run the steps, then write the page of all that the folder holds by now."""
    import datetime

    from lalm.cli.app import run as command
    from lalm.evaluate.card import versions
    from lalm.reproduce import steps, verdict_page
    from lalm.reproduce.findings import findings

    seconds, cpu = steps.run(planned, folder, command, lambda line: print(line, file=sys.stderr, flush=True))
    if not planned.experiment.contrasts:
        print(f"done: {folder / planned.experiment.result}")
        return
    found = findings(whole, folder)
    about = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": f"lalm {' '.join(sys.argv[1:])}",
        "minutes": round(seconds / 60, 1),
        "cpu_minutes": round(cpu / 60, 1),
        "versions": versions(),
        **verdict_page.place(),
    }
    written = verdict_page.write(whole, found, about, out)
    for line in verdict_page.contrast_rows(found["contrasts"]):
        print(line)
    print(f"{planned.experiment.title}: {found['verdict']}")
    print(written)
