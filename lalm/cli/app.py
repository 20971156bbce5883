"""The ``lalm`` command: options, help and errors; the work is in ``lalm.cli``, imported when called.

Errors are one sentence on stderr. Exit codes: 0 done, 2 bad input, 1 anything else.
"""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lalm.cli.error_messages import explain, refuse
from lalm.cli.options import (
    WRITER,
    Device,
    Json,
    Llm,
    Longest,
    LoraScale,
    Model,
    Seed,
    Temperature,
    Url,
    Vision,
)
from lalm.cli.options_build import build_app
from lalm.cli.options_data import cache_app, data_app
from lalm.cli.options_evaluate import evaluate_app
from lalm.cli.options_serve import serve_app
from lalm.cli.options_sounds import sounds_app
from lalm.cli.options_tasks import tasks_app

SETTINGS = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    help="Language models that hear: ask them, train them, look inside.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings=SETTINGS,
)
corpus_app = typer.Typer(help="Build captioned corpora of real recordings.", no_args_is_help=True)
recipes_app = typer.Typer(help="Training recipes that come with the package.", no_args_is_help=True)
weights_app = typer.Typer(
    help="Pretrained parts: what there is, fetching, where they lie.", no_args_is_help=True
)
app.add_typer(sounds_app)
app.add_typer(tasks_app)
app.add_typer(build_app, name="build")
app.add_typer(data_app, name="data")
app.add_typer(cache_app, name="cache")
app.add_typer(serve_app)
app.add_typer(corpus_app, name="corpus")
app.add_typer(recipes_app, name="recipes")
app.add_typer(weights_app, name="weights")
app.add_typer(evaluate_app)

ClickException: Any = typer.BadParameter.__mro__[2]  # typer's own click or the package, by version


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Language models that hear: ask them, train them, look inside."""


@app.command()
def ask(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="AUDIO... QUESTION",
            help="Audio files, data: URLs or - (standard input), then the question.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    json: Json = False,
    max_new_tokens: Longest = 128,
    beams: Annotated[int, typer.Option(help="Width of the beam search; 1 is greedy.")] = 1,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    lora_scale: LoraScale = None,
    orders: Annotated[
        int, typer.Option(min=1, help="Ask with the recordings in so many orders; the answers vote.")
    ] = 1,
    vision: Vision = None,
    device: Device = None,
) -> None:
    """Ask a question about one or more recordings; with --vision about images and videos too."""
    from lalm.cli import ask as command

    settings = command.Settings(max_new_tokens, beams, temperature, seed, lora_scale, orders)
    command.run(words or [], model, settings, device=device, as_json=json, vision=vision)


@app.command()
def chat(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[AUDIO... TEXT]",
            help="The first turn; with --voice files to listen to, - for standard input, and text between.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    voice: Annotated[
        bool, typer.Option("--voice", help="Listen: every utterance is a turn (default: the microphone).")
    ] = False,
    pause: Annotated[float, typer.Option(min=0.1, help="Seconds of silence that end an utterance.")] = 0.7,
    system: Annotated[str, typer.Option(help="System text.")] = "",
    max_new_tokens: Longest = 128,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    lora_scale: LoraScale = None,
    device: Device = None,
) -> None:
    """Talk: several turns of recordings, text or both, each line of standard input a turn.

    With --voice, - is 16-bit mono PCM at 16 kHz or a WAV stream.
    """
    from lalm.cli import chat as command
    from lalm.cli.ask import Settings

    settings = Settings(max_new_tokens, 1, temperature, seed, lora_scale)
    command.run(words or [], model, settings, voice=voice, pause_s=pause, system=system, device=device)


@app.command()
def info(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL or SYSTEM]",
            help="A model folder (default: the embedded small model), or a system such as acdc.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Parts, licences, sources, parameter counts and audio tokens per second, without loading weights."""
    from lalm.cli import info as command

    command.run(name, as_json=json)


@app.command()
def doctor(
    model: Annotated[
        str | None, typer.Argument(help="Model folder (default: the embedded small model).")
    ] = None,
    golden: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="AUDIO NPY",
            help="For an EAT encoder: a recording, and the released model's frames of it.",
        ),
    ] = None,
    json: Json = False,
    device: Device = None,
) -> int:
    """Is this model wired right? A line a check, with the fix in words; exit code 1 when one fails."""
    from lalm.cli import doctor as command

    return command.run(model, golden, device=device, as_json=json)


@app.command()
def respond(
    manifest: Annotated[Path, typer.Argument(help="Caption manifest (JSONL).", show_default=False)],
    out: Annotated[
        Path, typer.Argument(help="Manifest to write; goes on where it stopped.", show_default=False)
    ],
    llm: Llm = WRITER,
    url: Url = None,
    mode: Annotated[
        Literal["response", "caption", "pool", "continuation"],
        typer.Option(
            help="What the target is: the LLM's reply, the caption itself, an answer, a continuation."
        ),
    ] = "response",
    replies: Annotated[int, typer.Option(min=1, help="Replies per caption.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: the likeliest reply.")] = 0.7,
    top_p: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Draw from this share of the probability.")
    ] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply, in tokens.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    shard: Annotated[str, typer.Option(help="Do only part I of N, as I/N.")] = "1/1",
    system: Annotated[str, typer.Option(help="System text shown to the LLM (the paper has none).")] = "",
    batch_size: Annotated[int, typer.Option(min=1, help="Rows at a time.")] = 64,
    keep_mentioning: Annotated[
        bool, typer.Option("--keep-mentioning", help="Drop replies without any word of the caption.")
    ] = False,
) -> None:
    """Turn a caption manifest into one whose targets are the LLM's own replies.

    An endpoint's key is read from OPENAI_API_KEY.
    """
    from lalm.cli import respond as command

    drawing = command.Sampling(temperature, top_p, max_new_tokens, seed)
    command.run(
        command.Job(manifest, out, mode, replies, shard, system, batch_size, keep_mentioning),
        drawing,
        llm,
        url,
    )


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(help="Recipe file, trained folder or shipped name.", show_default=False)
    ],
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key; may be repeated.")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on from the newest checkpoint in the recipe's out.")
    ] = True,
) -> None:
    """Train as a recipe says; the same command again goes on where it stopped."""
    from lalm.cli import weights
    from lalm.training import recipe as recipes

    read = recipes.load(recipe, changes or [])
    filters = read.data.filters
    judge = filters.contradictions if filters is not None and filters.url is None else None
    parts = (read.init.encoder, read.init.encoder_2, read.init.aligner, read.init.llm, judge)
    weights.fetch_with_bar([name for name in parts if name])
    from lalm.training import run as training

    training.run(read, resume=resume)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Model folder.", show_default=False)],
    to: Annotated[
        Literal["qwen2-audio", "salmonn", "transformers"],
        typer.Option(help="Whose released layout; transformers: lalm's own, complete.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.", show_default=False)],
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], typer.Option()] = "bfloat16",
) -> None:
    """Write a model as a released one is, for transformers, vLLM, SGLang and others to open."""
    from lalm.cli import export as command

    if to == "salmonn":
        command.to_salmonn(model, out)
    elif to == "transformers":
        command.to_transformers(model, out, dtype)
    else:
        command.run(model, out, dtype)


@app.command("import")
def import_released(
    system: Annotated[Literal["salmonn"], typer.Argument(help="Whose released file.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="Such as salmonn_v1.pth.", show_default=False)],
    llm: Annotated[str, typer.Option(help="Its LLM: folder or Hub id.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The model folder to write.", show_default=False)],
    whisper: Annotated[str, typer.Option(help="Its speech encoder.")] = "openai/whisper-large-v2",
    beats: Annotated[
        str, typer.Option(help="Its other encoder; a BEATs .pt file will do.")
    ] = "WeiChihChen/BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2",
) -> None:
    """Turn a released checkpoint into a model folder: salmonn_v1.pth needs Vicuna-13B v1.1."""
    from lalm.cli import import_released as command

    command.salmonn(file, command.Parts(llm, whisper, beats), out)


@corpus_app.command("build")
def corpus_build(
    tier: Annotated[str, typer.Argument(help="small, medium or large.")] = "small",
    out: Annotated[Path | None, typer.Option(help="Folder of the corpus (default: corpus/TIER).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the composed scenes.")] = 0,
    scenes: Annotated[int, typer.Option(min=0, help="Composed training scenes.")] = 5000,
    packages: Annotated[
        Path | None, typer.Option(help="Folder of .deb files to use; the others are fetched into the cache.")
    ] = None,
) -> None:
    """Fetch, unpack, split and compose a corpus; what is done already is not done again."""
    from lalm.cli import corpus as command

    command.build(tier, out or Path("corpus") / tier, seed=seed, scenes=scenes, packages=packages)


@recipes_app.command("list")
def recipes_list() -> None:
    """The recipes that come with the package."""
    from lalm.cli import recipes as command

    command.list_all()


@recipes_app.command("show")
def recipes_show(
    name: Annotated[str, typer.Argument(help="Such as acdc/small.", show_default=False)],
) -> None:
    """Print a recipe with its comments."""
    from lalm.cli import recipes as command

    command.show(name)


@recipes_app.command("copy")
def recipes_copy(
    name: Annotated[str, typer.Argument(help="Such as acdc/small.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="The file to write.", show_default=False)],
) -> None:
    """Copy a recipe to a file of your own; an existing file is kept."""
    from lalm.cli import recipes as command

    command.copy(name, file)


@weights_app.command("list")
def weights_list(json: Json = False) -> None:
    """The pinned pretrained parts, their licences, and which are here."""
    from lalm.cli import weights as command

    command.list_all(as_json=json)


@weights_app.command("fetch")
def weights_fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Pinned names (default: the embedded model's).", show_default=False),
    ] = None,
) -> None:
    """Fetch pretrained parts now, so that nothing later needs a network."""
    from lalm.cli import weights as command

    command.fetch(names or [])


@weights_app.command("where")
def weights_where(name: Annotated[str, typer.Argument(help="A pinned name.", show_default=False)]) -> None:
    """The folder of a fetched part."""
    from lalm.cli import weights as command

    command.where(name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command line; the exit code."""
    words = list(arguments)
    given = words[: words.index("--")] if "--" in words else words
    debug = "--debug" in given
    words = [word for word in given if word != "--debug"] + words[len(given) :]
    _quiet(debug)
    try:
        code = app(words, prog_name="lalm", standalone_mode=False)
    except ClickException as error:
        return refuse(error.format_message(), 2) if str(error.format_message()) else 2
    except typer.Abort:
        return refuse("stopped", 1)
    except BaseException as error:
        if debug:
            traceback.print_exc()
        return explain(error)
    if code == 130:  # typer's own answer to Ctrl-C
        return refuse("stopped", 1)
    return code if isinstance(code, int) else 0


def _quiet(debug: bool) -> None:
    """Keep libraries from talking; what concerns the user is said by us."""
    for name, value in (
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
    ):
        os.environ.setdefault(name, value)
    if not debug:
        warnings.simplefilter("ignore")
        # bitsandbytes, which peft imports wherever it is installed, warns of kernels that it could not fetch,
        # accelerate that DeepSpeed accumulates, which is what the Trainer told it.
        for library in ("accelerate", "bitsandbytes"):
            logging.getLogger(library).setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
