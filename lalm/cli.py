"""The ``lalm`` command: options and errors; the work is done elsewhere and imported when it is asked for.

Exit codes: 0 done, 2 bad input, 1 anything else. Errors are one sentence on stderr.
"""

import errno
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup


class Commands(TyperGroup):
    """Runs a command and turns what goes wrong into one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """The command's result; with ``lalm --debug`` errors keep their traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _fail("stopped", 1)
        except (ValueError, OSError, RuntimeError, ImportError, MemoryError, LookupError, TypeError) as error:
            if ctx.params.get("debug"):
                raise
            _fail(*explain(error))
        except (AssertionError, ArithmeticError, AttributeError) as error:
            if ctx.params.get("debug"):
                raise
            _fail(*explain(error))


def explain(error: Exception) -> tuple[str, int]:
    """One sentence for an error, and the exit code."""
    match error:
        case ValueError():
            return str(error), 2
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            where = f" of {error.filename}" if error.filename else ""
            return f"the disk{where} is full", 1
        case FileNotFoundError(filename=str() | Path()):
            return f"there is no file or folder {error.filename}", 2
        case OSError(filename=str() | Path()) if error.strerror:
            return f"{error.filename}: {error.strerror}", 2
        case MemoryError():
            return "there is not enough memory", 1
        case _:
            return f"{type(error).__name__}: {error} (`lalm --debug ...` shows where)", 1


def _fail(sentence: str, code: int) -> NoReturn:
    print("lalm:", " ".join(sentence.split()), file=sys.stderr)
    raise typer.Exit(code)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Language models that hear: ask, train, and what they need.",
)
corpus = typer.Typer(no_args_is_help=True, help="Build a captioned corpus of real recordings.")
recipes = typer.Typer(no_args_is_help=True, help="The training recipes that come with the package.")
weights = typer.Typer(no_args_is_help=True, help="The pretrained parts that lalm knows by name.")
app.add_typer(corpus, name="corpus")
app.add_typer(recipes, name="recipes")
app.add_typer(weights, name="weights")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print("lalm", version("lalm"))
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not debug:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("PYTHONWARNINGS", "ignore")


@app.command()
def ask(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="AUDIO... QUESTION", help="Audio files, data URLs or -, then the question."),
    ],
    model: Annotated[str | None, typer.Option(help="Model folder.", show_default="the one inside")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer, seconds heard and times as JSON.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 128,
    beams: Annotated[int, typer.Option(help="Beams of the search.")] = 1,
    temperature: Annotated[float, typer.Option(help="0: the likeliest answer; above: drawn.")] = 0.0,
    seed: Annotated[int, typer.Option(help="For drawn answers.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...", show_default="a GPU if any")] = None,
) -> None:
    """Ask a question about one or more recordings.

    lalm ask samples/horse.ogg "What do you hear?"
    """
    from lalm.commands import ask as command

    audios, question = command.split(inputs)
    drawing = {"max_new_tokens": max_new_tokens, "beams": beams, "temperature": temperature, "seed": seed}
    command.run(audios, question, model=model, device=device, as_json=as_json, drawing=drawing)


@app.command()
def info(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL or SYSTEM]", help="A model folder, or a system's name.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
) -> None:
    """Parts, licences, parameters and audio tokens per second of a model.

    A system's name (acdc) means the shapes of its paper, counted without allocating them.
    """
    from lalm.commands import info as command

    facts = command.describe(model)
    print(json.dumps(facts, indent=2) if as_json else command.table(facts))


@app.command()
def respond(
    captions: Annotated[Path, typer.Argument(help="Manifest of captions (JSONL).")],
    out: Annotated[Path, typer.Argument(help="Manifest to write; rows already in it are kept.")],
    llm: Annotated[
        str, typer.Option(help="Pinned name, folder or Hub id; with --endpoint the name it knows.")
    ] = "qwen2.5-coder-0.5b-instruct",
    endpoint: Annotated[
        str | None, typer.Option(help="OpenAI-compatible URL ending in /v1; key from $OPENAI_API_KEY.")
    ] = None,
    mode: Annotated[str, typer.Option(help="response, caption, pool or continuation.")] = "response",
    replies: Annotated[int, typer.Option(min=1, help="Replies per caption.")] = 1,
    temperature: Annotated[float, typer.Option(min=0)] = 0.7,
    top_p: Annotated[float, typer.Option(min=0, max=1)] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 64,
    seed: Annotated[int, typer.Option()] = 0,
    shard: Annotated[str, typer.Option(help="2/8: the second of eight parts.")] = "1/1",
    system: Annotated[str, typer.Option(help="System text that only the LLM sees.")] = "",
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    keep_mentioning: Annotated[
        bool, typer.Option("--keep-mentioning", help="Drop replies that share no word with the caption.")
    ] = False,
) -> None:
    """Replace each caption by the LLM's own reply to it: targets by dialogue continuation."""
    from lalm.commands import respond as command

    drawing = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens, "seed": seed}
    command.run(
        captions,
        out,
        command.writer(mode, llm, endpoint),
        mode=mode,
        drawing=drawing,
        replies=replies,
        shard=shard,
        system=system,
        batch_size=batch_size,
        keep_mentioning=keep_mentioning,
    )


@corpus.command("build")
def build_corpus(
    tier: Annotated[str, typer.Argument(help="small (0.7 GB fetched) or medium (3.5 GB).")],
    out: Annotated[Path | None, typer.Option(help="Folder.", show_default="corpus/TIER")] = None,
    scenes: Annotated[int, typer.Option(min=0, help="Composed training scenes.")] = 5000,
    copies: Annotated[int, typer.Option(min=0, help="Varied takes of every training clip.")] = 2,
    packages: Annotated[
        Path | None, typer.Option(help="Where .deb files are kept.", show_default="OUT/packages")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Fetch, unpack, split and caption; started again, it goes on where it stopped."""
    from lalm import corpus as work
    from lalm.commands.terminal import progress_bar

    folder = out or Path("corpus") / tier
    with progress_bar() as tell:
        counts = work.build(
            tier, folder, seed=seed, num_scenes=scenes, copies=copies, packages=packages, progress=tell
        )
    for name, count in counts.items():
        print(f"{folder / name}.jsonl\t{count}")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, a shipped recipe's name or a run's folder.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value; repeatable.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the newest good checkpoint.")] = True,
) -> None:
    """Train as a recipe says; the same command again resumes."""
    from lalm import recipe as recipe_file
    from lalm.commands.terminal import fetch_parts, quiet

    asked = recipe_file.load(recipe, set_ or [])
    quiet()
    fetch_parts([name for name in (asked.init.encoder, asked.init.llm) if name])
    from lalm import train as work

    work.run(asked, resume=resume)


@recipes.command("list")
def list_recipes() -> None:
    """Name and first line of every recipe."""
    from lalm import recipe as work

    for name, path in work.shipped().items():
        print(f"{name}\t{path.read_text().splitlines()[0].lstrip('# ')}")


@recipes.command("show")
def show_recipe(name: Annotated[str, typer.Argument(help="A name that `lalm recipes list` prints.")]) -> None:
    """Print a recipe with its comments."""
    from lalm.commands import recipes as command

    print(command.text(name), end="")


@recipes.command("copy")
def copy_recipe(
    name: Annotated[str, typer.Argument(help="A name that `lalm recipes list` prints.")],
    file: Annotated[Path, typer.Argument(help="The new file.")],
) -> None:
    """Start a recipe of your own from a shipped one."""
    from lalm.commands import recipes as command

    command.copy(name, file)
    print(file)


@weights.command("list")
def list_weights() -> None:
    """Name, kind, licence, parameters and whether it is fetched."""
    from lalm import weights as work

    for part in work.PARTS.values():
        state = "fetched" if work.where(part.name) else "not fetched"
        print(f"{part.name}\t{part.kind}\t{part.licence}\t{part.parameters:,}\t{state}")


@weights.command("fetch")
def fetch_weights(names: Annotated[list[str], typer.Argument(help="Pinned names.")]) -> None:
    """Fetch, verify and convert parts once, and print their folders."""
    from lalm import weights as work
    from lalm.commands.terminal import progress_bar

    for name in names:
        with progress_bar() as tell:
            folder = work.fetch(name, tell)
        print(folder)


@weights.command("where")
def where_weights(name: Annotated[str, typer.Argument(help="A pinned name.")]) -> None:
    """Print the folder of a fetched part."""
    from lalm import weights as work

    folder = work.where(name)
    if folder is None:
        raise ValueError(f"'{name}' is not fetched: run `lalm weights fetch {name}`")
    print(folder)


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="lalm")
