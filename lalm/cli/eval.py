"""``lalm eval``: a model is scored on tasks; the numbers are printed, a card and a page written."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lalm.cli.eval_answerer import Asked, open_answerer, own_share
from lalm.cli.eval_print import print_card
from lalm.cli.judging import judge_words, open_judge
from lalm.cli.opening import reading_of
from lalm.cli.options import (
    Columns,
    Device,
    Dtype,
    Json,
    LoraScale,
    Prompt,
    PromptDraw,
    Resource,
    Transcript,
    Url,
    Vision,
)
from lalm.cli.protocol import Prompts, ProtocolName, chosen
from lalm.evaluate import LIBRARIES

if TYPE_CHECKING:
    from lalm.evaluate.items import Asked as Opened
    from lalm.inference.protocols import Protocol

CONTROL_ITEMS = 100  # a task, asked under controls unless told otherwise
RESOURCES = {  # what a folder must hold, in one of these places
    "meteor": ("meteor-1.5.jar",),
    "spice": ("spice-1.0.jar",),
    "sentences": ("config.json", "0_Transformer/config.json"),
    "fluency": ("config.json",),
    "aligner": ("config.json",),
    "flores101": ("sacrebleu_tokenizer_spm.model",),
    "open_asr": ("english_abbreviations.py",),
    "voicebench": ("src/evaluator/bbh.py", "bbh.py"),
}


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Model folder or Hub id (default: the embedded small model), with --url an endpoint's "
            "model, or a JSONL or JSON file of answers.",
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            metavar="NAME[=PATH],...",
            help="What is asked (`lalm tasks` lists them); PATH is its data. manifest=SOURCE: any "
            "manifest, table or folder with answers. A .yaml file of your own may stand for NAME.",
        ),
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder in which tasks look for their data.")] = Path("data"),
    audio: Annotated[
        Path | None, typer.Option(help="Folder of the tasks' audio, if not beside their tables.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results (default: eval/MODEL); a killed run goes on.")
    ] = None,
    controls: Annotated[
        bool | None,
        typer.Option(
            "--controls/--no-controls",
            help="Ask again with silence, noise, another's audio, no audio, half of it, its text, the "
            "options in other places: how much of the score is owed to the audio. By default a local model "
            f"is asked so about {CONTROL_ITEMS} items a task; --controls: about all items, in other wordings "
            "too, and endpoints as well.",
        ),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="One control alone, of all items; may be repeated."),
    ] = None,
    samples: Annotated[int, typer.Option(min=0, help="At most so many items a task, drawn; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of what is drawn.")] = 0,
    lora_scale: LoraScale = None,
    protocol: ProtocolName = None,
    prompts: Prompts = None,
    system: Annotated[
        str | None, typer.Option(help="System text, in place of the tasks' ('': none).")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Longest answer, in place of the tasks'.")
    ] = None,
    thinking_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens of thinking aloud (<think>) at most, before and beside those of the answer."
        ),
    ] = None,
    beams: Annotated[int | None, typer.Option(help="Width of the beam search; 1 is greedy.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0: the likeliest answer; above: drawn at random.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the likeliest tokens that have this probability together.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from this many of the likeliest tokens.")] = None,
    min_p: Annotated[
        float | None,
        typer.Option(help="Draw from tokens with at least this share of the likeliest one's probability."),
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1: tokens that were written before become less likely.")
    ] = None,
    no_repeat_ngram_size: Annotated[
        int | None, typer.Option(help="No run of this many tokens comes twice.")
    ] = None,
    dtype: Dtype = None,
    url: Url = None,
    judge: Annotated[
        str | None, typer.Option(help="LLM that judges: pinned name, folder, or with --judge-url a model.")
    ] = None,
    judge_form: Annotated[
        Literal["points", "explained"] | None,
        typer.Option(help="Points alone, or AudioBench's form: an explanation, then the rating."),
    ] = None,
    judge_prompt: Annotated[
        str | None,
        typer.Option(
            metavar="FILE[:NAME]",
            help="The judge's words from a file of yours: a text with {question}, {reference}, {answer}, or "
            "a benchmark's own Python file (nothing of it is run).",
        ),
    ] = None,
    judge_system: Annotated[str, typer.Option(help="System text before --judge-prompt.")] = "",
    judge_draws: Annotated[
        int, typer.Option(min=1, help="Judgments drawn of an answer under --judge-prompt; 1: one, greedy.")
    ] = 1,
    judge_temperature: Annotated[
        float | None,
        typer.Option(min=0, help="Temperature of these judgments (default: 0 for one, 0.5 for several)."),
    ] = None,
    judge_url: Annotated[str | None, typer.Option(help="The judge's endpoint.")] = None,
    judge_cache: Annotated[
        Path | None, typer.Option(help="Judgments made before (default: OUT/judgments.sqlite).")
    ] = None,
    price: Annotated[
        str | None,
        typer.Option(
            metavar="IN,OUT",
            help="An endpoint's price in dollars a million tokens, read and written; the card has the cost.",
        ),
    ] = None,
    extract: Annotated[
        bool,
        typer.Option("--extract", help="The judge reads choices that rules cannot read; its share is shown."),
    ] = False,
    resource: Resource = None,
    transcript: Transcript = None,
    vision: Vision = None,
    columns: Columns = None,
    prompt: Prompt = None,
    prompt_seed: PromptDraw = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Score a model on tasks, with an interval on every number.

    Examples:

    lalm eval runs/mine --task clotho_aqa --data ~/data --controls

    lalm eval runs/mine --task manifest=test.csv

    Predictions, a card (card.json) and a page (report.html) are written to a folder.
    An endpoint's key is read from OPENAI_API_KEY.
    """
    _check_libraries()
    specs = [name.strip() for given in task or () for name in given.split(",") if name.strip()]
    if not specs:
        raise ValueError("there is nothing to ask: say --task NAME (`lalm tasks` lists them)")
    if judge is None and (judge_url or judge_cache or judge_prompt or extract):
        raise ValueError(
            "--judge-url, --judge-cache, --judge-prompt and --extract need --judge, the judge's name"
        )
    words = judge_words(judge_prompt, judge_system, judge_draws, judge_temperature)
    followed = chosen(protocol, prompts)
    decoding = {
        "max_new_tokens": max_new_tokens,
        "thinking_tokens": thinking_tokens,
        "beams": beams,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
    }
    own: dict[str, Any] = {name: value for name, value in decoding.items() if value is not None}
    own |= {} if system is None else {"system": system}
    folders = resource_folders(resource or [])
    from lalm.cli.opening import progress_bar
    from lalm.evaluate.controls import CONTROLS, RECOGNISED, RELIANCE, UNSEEN
    from lalm.evaluate.items import open_task
    from lalm.evaluate.metrics import Resources
    from lalm.evaluate.recorded import Recorded
    from lalm.evaluate.run import Job, run
    from lalm.evaluate.task import AbsentData
    from lalm.models import SMALL

    reading = reading_of(columns, prompt, prompt_seed, audio)
    opened, absent = [], list[AbsentData]()
    for spec in specs:
        try:
            opened += open_task(spec, data, limit=samples, seed=seed, audio=audio, reading=reading)
        except AbsentData as error:
            absent.append(error)
    if not opened:
        raise absent[0]
    for left_out in absent:
        print(f"left out: {left_out}", file=sys.stderr)
    share, own_device = own_share(device)
    is_local = url is None and vision is None and not (model or "").endswith((".jsonl", ".json"))
    opened = _as_asked(
        opened, followed, (model or SMALL) if is_local else None, own, judge_form, tell=share.rank == 0
    )
    kept_to = followed if is_local else None
    asked = Asked(model, url, vision, lora_scale, seed, own_device, kept_to, dtype, transcript)
    answerer, folder = open_answerer(asked)
    out = out or Path("eval") / Path(answerer.name).name  # of a Hub id the last part
    cache = judge_cache or out / "judgments.sqlite"
    judging = None if judge is None else open_judge(judge, judge_url, cache, words)
    job = Job(opened, out, limit=samples, seed=seed, folder=folder, price=prices(price))
    job = replace(job, extract=extract)
    if control:
        known = (*CONTROLS, RECOGNISED, UNSEEN)
        if odd := next((name for name in control if name not in known), None):
            raise ValueError(f"--control: there is no '{odd}', there are {', '.join(known)}")
        job = replace(job, controls=tuple(dict.fromkeys(control)))
    elif controls:
        job = replace(job, controls=(*CONTROLS, RECOGNISED) if _whisper_is_here() else CONTROLS)
    elif controls is None and folder is not None:
        job = replace(job, controls=RELIANCE, control_items=CONTROL_ITEMS, cheap=True)
    with progress_bar("answers", disable=share.rank > 0) as progress:
        result = run(job, answerer, Resources(folders), judging, progress=progress, share=share)
    if result is None:  # the first process prints what was found
        return
    if isinstance(answerer, Recorded) and (others := answerer.unasked()) and not samples:
        told = f"{len(others)} answers belong to no item that was asked, '{others[0]}' for one"
        print(told, file=sys.stderr)
    if as_json:
        print(json.dumps(result.card, ensure_ascii=False))
        return
    print_card(result.card)
    print(f"{out / 'report.html'}, {out / 'card.json'}")


def _as_asked(
    tasks: "Sequence[Opened]",
    protocol: "Protocol | None",
    model: str | Path | None,
    own: dict[str, Any],
    judge_form: str | None,
    *,
    tell: bool,
) -> "list[Opened]":
    """The tasks under the protocol, then with the command line's own settings."""
    from lalm.cli.protocol import generation, say, warn_of_folder_settings
    from lalm.evaluate.items import under, with_settings

    settings = dict(own)
    found = list(tasks)
    if protocol is None:
        if tell:
            warn_of_folder_settings(model)
    else:
        found = [under(one, protocol) for one in found]
        settings = {**generation(protocol, model), **own}
        odd = [one.task.name for one in found if one.task.protocol == protocol.name]
        if odd and protocol.kinds and tell:
            say(protocol.name, f"it does not say how {', '.join(odd)} are asked: in the tasks' own words")
        unworded = any(wording.named and not wording.prompts for wording in protocol.kinds.values())
        if unworded and not any(wording.prompts for wording in protocol.kinds.values()) and tell:
            say(protocol.name, "the authors' wording is in a file of theirs (--prompts); these are our words")
    return [with_settings(one, settings, judge_form) for one in found]


def _whisper_is_here() -> bool:
    """Whether Whisper's weights are there, for the text cascade; if not, it is told."""
    from lalm.inference.speech.recogniser import PART
    from lalm.weights import fetch as weights

    here = weights.where(PART) is not None
    if not here:
        print(
            f"the control with Whisper's transcripts is left out: lalm weights fetch {PART} brings it",
            file=sys.stderr,
        )
    return here


def _check_libraries() -> None:
    absent = next((name for name in LIBRARIES if find_spec(name) is None), None)
    if absent is not None:
        raise ValueError(f"evaluation needs {absent}, which is not installed: pip install 'lalm[evaluate]'")


def resource_folders(given: Sequence[str]) -> dict[str, Path]:
    """The folders of ``--resource NAME=FOLDER``, by name. Raises ValueError for one that cannot be used."""
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


def prices(text: str | None) -> tuple[float, float] | None:
    """The two numbers of ``--price IN,OUT``. Raises ValueError for anything else."""
    if text is None:
        return None
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--price takes two numbers, such as 0.15,0.60, not '{text}'") from None
    return first, second
