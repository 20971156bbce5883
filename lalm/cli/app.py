"""The ``lalm`` command: its commands, in the sections of its help, and what it says about errors.

Each command is a file of ``lalm.cli``, which imports what is heavy when the command runs: help stays fast.
Errors are one sentence on stderr. Exit codes: 0 done, 2 bad input, 1 anything else.
"""

import functools
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lalm.cli import (
    activate,
    agree,
    ask,
    batch,
    build,
    cache,
    chat,
    classify,
    compare,
    corpus,
    data,
    describe,
    detect,
    doctor,
    eval,
    export,
    import_released,
    info,
    interpolate,
    listen,
    lr_find,
    perplexity,
    push,
    recipes,
    reproduce,
    respond,
    scales,
    serve,
    sweep,
    tasks,
    train,
    transcribe,
    weights,
)
from lalm.cli.error_messages import explain, refuse

SPINS = 10_000  # turns that an OpenMP thread waits for others before it sleeps (docs/log.md)
COMMANDS: dict[str, dict[str, Any]] = {  # in the order of the help: what a newcomer needs comes first
    "Ask a model": {
        "ask": ask.ask,
        "chat": chat.chat,
        "describe": describe.describe,
        "transcribe": transcribe.transcribe,
        "listen": listen.listen,
        "detect": detect.detect,
        "classify": classify.classify,
        "serve": serve.serve,
        "batch": batch.batch,
    },
    "Look at a model": {
        "info": info.info,
        "doctor": doctor.doctor,
        "weights": weights.app,
    },
    "Train": {
        "recipes": recipes.app,
        "train": train.train,
        "interpolate": interpolate.interpolate,
        "sweep": sweep.sweep,
        "lr-find": lr_find.lr_find,
        "push": push.push,
        "activate": activate.activate,
        "cache": cache.app,
    },
    "Prepare data": {
        "data": data.app,
        "corpus": corpus.app,
        "build": build.app,
        "respond": respond.respond,
    },
    "Evaluate": {
        "eval": eval.evaluate,
        "tasks": tasks.tasks,
        "compare": compare.compare,
        "reproduce": reproduce.reproduce,
        "agree": agree.agree,
        "perplexity": perplexity.perplexity,
        "scales": scales.scales,
    },
    "Exchange with other programs": {
        "export": export.export,
        "import": import_released.import_released,
    },
}
ClickException: Any = typer.BadParameter.__mro__[2]  # typer's own click or the package, by version


class Sections(TyperGroup):
    """Lists the commands in the help by section."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All options; flags that are not given are False, since for None typer imports pydantic."""
        options: list[Any] = super().get_params(ctx)
        for option in options:
            if option.default is None and getattr(option, "is_flag", False):
                option.default = False
        return options

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write every section's commands, each with the first line of its help."""
        width = max(len(name) for section in COMMANDS.values() for name in section)
        for title, section in COMMANDS.items():
            found = [(name, self.get_command(ctx, name)) for name in section]
            room = formatter.width - 6 - width
            rows = [(name.ljust(width), one.get_short_help_str(room)) for name, one in found if one]
            with formatter.section(title):
                formatter.write_dl(rows)


app = typer.Typer(
    cls=Sections,
    help="Language models that hear: ask them, train them, look inside.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _section in COMMANDS.values():
    for _name, _command in _section.items():
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, name=_name)
        else:
            app.command(_name)(_command)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"lalm {version('lalm')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    code: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE", help="A Python file of yours (system, connector, encoder, metric); it is run."
        ),
    ] = None,
) -> None:
    """Language models that hear: ask them, train them, look inside."""
    if code:
        from lalm.systems import use_code

        use_code(code)


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
        code = _commands()(words, prog_name="lalm", standalone_mode=False)
    except ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # lalm, or lalm data, alone on the line
            print(error.format_message())
            return 0
        said = str(error.format_message()).replace("Value error, ", "")  # pydantic's, in typer's sentence
        if type(error).__name__ == "MissingParameter":
            said = f"{said.rstrip('.')}{_way_out(error)}"
        return refuse(said, 2) if said else 2
    except typer.Abort:
        return refuse("stopped", 1)
    except BaseException as error:
        if debug:
            traceback.print_exc()
        return explain(error)
    if code == 130:  # typer's own answer to Ctrl-C
        return refuse("stopped", 1)
    return code if isinstance(code, int) else 0


def fault(arguments: Sequence[str]) -> str | None:
    """What is wrong with the words of a command, which is not run; None when they can be read."""
    command, words = _commands(), list(arguments)
    while words and hasattr(command, "commands"):
        name = words.pop(0)
        if name not in command.commands:
            return f"there is no command '{name}'"
        command = command.commands[name]
    try:
        command.make_context(command.name or "", words)
    except ClickException as error:
        return str(error.format_message())
    return None


@functools.cache
def _commands() -> Any:
    """The tree of all commands, which takes a fifth of a second to build."""
    return typer.main.get_command(app)


def _way_out(error: Any) -> str:
    """How the command that lacks an argument is called: the first example in its help, or where that is."""
    if error.ctx is None:
        return ""
    lines = (line.strip() for line in (error.ctx.command.help or "").splitlines())
    shown = next((line for line in lines if line.startswith("lalm ")), "")
    return f", as in: {shown}" if shown else f"; {error.ctx.command_path} --help tells what it takes"


def _quiet(debug: bool) -> None:
    """Keep libraries from talking; what concerns the user is said by us."""
    for name, value in (
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("TQDM_DISABLE", "1"),  # the bar of GGUF files, which no setting of transformers hides
        ("TOKENIZERS_PARALLELISM", "false"),
    ):
        os.environ.setdefault(name, value)
    if "OMP_WAIT_POLICY" not in os.environ:
        # OpenMP's waiting threads give their CPU back soon: torch reads it when it is imported.
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    if not debug:
        warnings.simplefilter("ignore")
        # bitsandbytes, which peft imports wherever it is installed, warns of kernels that it could not fetch,
        # accelerate that DeepSpeed accumulates, which is what the Trainer told it.
        for library in ("accelerate", "bitsandbytes"):
            logging.getLogger(library).setLevel(logging.ERROR)
        # DeepSpeed sets its own level when transformers imports it, and tells standard output of the CPU.
        logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


if __name__ == "__main__":
    main()
