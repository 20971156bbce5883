"""``lalm eval``, ``lalm compare``, ``lalm agree`` and ``lalm tasks``."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lalm.cli import ask_vision as seeing
from lalm.cli.ask import silence_transformers
from lalm.cli.weights import fetch_for, fetch_with_bar
from lalm.evaluate.agreement import agreement, read_judgments
from lalm.evaluate.answering import Answerer, Endpoint, Local, Recorded, Seeing, Share
from lalm.evaluate.card import folder_digest
from lalm.evaluate.compare import compare as compared
from lalm.evaluate.controls import CONTROLS
from lalm.evaluate.judge import Judge
from lalm.evaluate.metrics import Resources
from lalm.evaluate.page import shown_number
from lalm.evaluate.run import Job
from lalm.evaluate.run import run as evaluated
from lalm.evaluate.scores import plain
from lalm.evaluate.task import known_tasks, open_task

LIBRARIES = ("jiwer", "sacrebleu", "snowballstemmer", "whisper_normalizer", "py3langid")  # of metrics
RESOURCES = {  # what a folder must hold, in one of these places
    "meteor": ("meteor-1.5.jar",),
    "spice": ("spice-1.0.jar",),
    "sentences": ("config.json", "0_Transformer/config.json"),
    "fluency": ("config.json",),
}


@dataclass(frozen=True)
class Request:
    """What is asked of which model; ``cli_evaluate`` says what each means."""

    model: str | None
    tasks: tuple[str, ...]
    data: Path
    out: Path | None
    controls: bool
    limit: int
    seed: int
    lora_scale: float | None
    url: str | None
    device: str | None
    vision: str | None = None


@dataclass(frozen=True)
class Judging:
    """Who judges, and where judgments are kept."""

    model: str | None
    url: str | None
    cache: Path | None


def run(request: Request, judging: Judging, resources: Sequence[str], *, as_json: bool) -> None:
    """Evaluate and print the numbers."""
    absent = next((name for name in LIBRARIES if find_spec(name) is None), None)
    if absent is not None:
        raise ValueError(f"evaluation needs {absent}, which is not installed: pip install 'lalm[evaluate]'")
    specs = [name.strip() for given in request.tasks for name in given.split(",") if name.strip()]
    if not specs:
        raise ValueError("there is nothing to ask: say --task NAME (`lalm tasks` lists them)")
    if judging.model is None and (judging.url or judging.cache):
        raise ValueError("--judge-url and --judge-cache need --judge, the judge's name")
    folders = _resources(resources)
    opened = [
        asked
        for spec in specs
        for asked in open_task(spec, request.data, limit=request.limit, seed=request.seed)
    ]
    share, device = _share(request.device)
    answerer, folder = _answerer(replace(request, device=device))
    out = request.out or Path("eval") / answerer.name
    judge = _judge(judging, out)
    controls = CONTROLS if request.controls else ()
    job = Job(opened, out, controls, request.limit, request.seed, folder)
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=share.rank > 0) as bar:
        line = bar.add_task("answers", total=None)
        result = evaluated(
            job,
            answerer,
            Resources(folders),
            judge,
            progress=lambda done, total: bar.update(line, completed=done, total=total),
            share=share,
        )
    if result is None:  # the first process says what was found
        return
    if as_json:
        print(json.dumps(result.card, ensure_ascii=False))
        return
    _print(result.card)
    print(f"{out / 'report.html'}, {out / 'card.json'}")


def _share(device: str | None) -> tuple[Share, str | None]:
    """This process' part and device, when `accelerate launch` started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Share(), device
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available())
    return Share(state.process_index, state.num_processes, state.wait_for_everyone), str(state.device)


def _answerer(request: Request) -> tuple[Answerer, Path | None]:
    """Who answers, and a local model's folder."""
    if request.vision is not None:
        if request.url is not None or request.lora_scale is not None:
            raise ValueError("--vision is for a local model, without --url and --lora-scale")
        silence_transformers()
        seer = seeing.opened(request.vision, request.model, request.device)
        return Seeing(seer, (Path(request.vision), Path(str(request.model))), request.seed), None
    if request.url is not None:
        if request.model is None:
            raise ValueError("--url needs the endpoint's model: lalm eval NAME --url URL")
        if request.lora_scale is not None:
            raise ValueError("--lora-scale is for local models; an endpoint has no such setting")
        return Endpoint(_endpoint(request.url, request.model, "--url"), request.seed), None
    if request.model is not None and request.model.startswith(("http://", "https://")):
        raise ValueError("an endpoint is given by --url, beside its model's name: lalm eval NAME --url URL")
    if request.model is not None and request.model.endswith(".jsonl"):
        path = Path(request.model)
        if not path.is_file():
            raise ValueError(f"there is no file of answers '{path}'")
        if request.lora_scale is not None:
            raise ValueError("--lora-scale is for local models, and these answers are given already")
        return Recorded(path), None
    from lalm.inference.engine import SMALL, Engine

    fetch_for(request.model)
    silence_transformers()
    engine = Engine.load(request.model, request.device)
    folder = Path(request.model) if request.model else SMALL
    return Local(engine, request.lora_scale, request.seed), folder


def _endpoint(url: str, model: str, option: str) -> Any:
    from lalm.synthesis.completions import EndpointWriter

    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{option} must begin with http:// or https://, not '{url}'")
    return EndpointWriter(url, model, os.environ.get("OPENAI_API_KEY", ""), tries=5, bare=False)


def _judge(judging: Judging, out: Path) -> Judge | None:
    model, url = judging.model, judging.url
    if model is None:
        return None

    def load() -> Any:
        if url is not None:
            return _endpoint(url, model, "--judge-url")
        import torch

        from lalm.inference.engine import pick_dtype
        from lalm.synthesis.completions import LocalWriter
        from lalm.weights import fetch as weights

        fetch_with_bar([model])
        return LocalWriter(weights.resolve(model), model, pick_dtype(torch.device("cpu")))

    return Judge(model, load, judging.cache or out / "judgments.sqlite", _judge_weights(model, url))


def _judge_weights(model: str, url: str | None) -> str:
    """The hash of a local judge's weights; empty for an endpoint's and for one that is not here."""
    from lalm.weights import fetch as weights

    if url is not None:
        return ""
    place = weights.where(model) if model in weights.PARTS else Path(model)
    return folder_digest(place) if place and place.is_dir() else ""


def _resources(given: Sequence[str]) -> dict[str, Path]:
    folders = {}
    for pair in given:
        name, _, place = pair.partition("=")
        if name not in RESOURCES or not place:
            raise ValueError(f"--resource takes NAME=FOLDER with {', '.join(RESOURCES)}, not '{pair}'")
        if not Path(place).is_dir():
            raise ValueError(f"--resource {name}: there is no folder '{place}'")
        if not any((Path(place) / file).is_file() for file in RESOURCES[name]):
            raise ValueError(f"--resource {name}: '{place}' has no {RESOURCES[name][0]}")
        folders[name] = Path(place)
    return folders


def _print(card: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("task", "metric"):
        table.add_column(title)
    for title in ("value", "95 % interval", "items", "unreadable"):
        table.add_column(title, justify="right")
    notes = []
    for name, entry in card["tasks"].items():
        for metric, found in entry["metrics"].items():
            low, high = shown_number(found["low"], metric), shown_number(found["high"], metric)
            share = f"{100 * entry['unreadable']['mean']:.1f} %"
            value = shown_number(found["mean"], metric)
            table.add_row(name, metric, value, f"{low} to {high}", str(found["num_items"]), share)
        notes += [f"{name}: {metric} is not there: {why}" for metric, why in entry["skipped"].items()]
        if entry.get("judge_unreadable"):
            notes.append(f"{name}: {entry['judge_unreadable']} judgments could not be read and count 0")
        if entry["missing"]:
            notes.append(f"{name}: {entry['missing']} items left out because their audio is missing")
    Console().print(table)
    for note in notes:
        print(note)


def compare(a: Path, b: Path, resources: Sequence[str], *, as_json: bool) -> None:
    """Print the differences of two runs."""
    rows = compared(a, b, Resources(_resources(resources)))
    if as_json:
        print(json.dumps([{**asdict(r), "difference": plain(r.difference)} for r in rows]))
        return
    table = Table(box=None, pad_edge=False)
    for title in ("task", "metric"):
        table.add_column(title)
    for title in ("A", "B", "A minus B", "95 % interval", "p"):
        table.add_column(title, justify="right")
    for row in rows:
        found = plain(row.difference)
        numbers = [shown_number(v, row.metric) for v in (row.a, row.b, found["mean"])]
        low, high = (shown_number(found[key], row.metric) for key in ("low", "high"))
        table.add_row(row.task, row.metric, *numbers, f"{low} to {high}", f"{found['p_value']:.3f}")
    Console().print(table)


def agree(a: Path, b: Path, *, as_json: bool) -> None:
    """Print how well two judges agree."""
    found = agreement(read_judgments(a), read_judgments(b))
    if as_json:
        names = ("kappa", "weighted_kappa", "spearman")
        print(json.dumps({n: plain(getattr(found, n)) for n in names} | {"only_one": found.only_one}))
        return
    print(f"kappa                    {found.kappa}")
    print(f"kappa, squared distances {found.weighted_kappa}")
    print(f"Spearman's correlation   {found.spearman}")
    print(f"{found.only_one} answers judged by one of the two only")


def list_tasks(*, as_json: bool) -> None:
    """Print the tasks by name."""
    tasks = known_tasks()
    if as_json:
        print(json.dumps([task.model_dump() for task in tasks.values()]))
        return
    table = Table(box=None, pad_edge=False)
    for title in ("task", "about", "metrics", "data", "citation"):
        table.add_column(title)
    table.add_row(
        "manifest", "any manifest whose samples have references", "by its samples", "FILE.jsonl", ""
    )
    for name, task in sorted(tasks.items()):
        place = task.path or "FILE.jsonl"
        table.add_row(name, task.about, ", ".join(task.metrics), place, task.citation)
    Console(width=None).print(table)
