"""``lalm respond``: a manifest of captions becomes a manifest of the LLM's replies."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lalm.cli.opening import reading_of
from lalm.cli.options import WRITER, AudioFolder, Columns, Llm, Manifest, Url


def respond(
    manifest: Manifest,
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
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    shard: Annotated[str, typer.Option(help="Do only part I of N, as I/N.")] = "1/1",
    system: Annotated[str, typer.Option(help="System text shown to the LLM (the paper has none).")] = "",
    batch_size: Annotated[int, typer.Option(min=1, help="Rows at a time.")] = 64,
    keep_mentioning: Annotated[
        bool, typer.Option("--keep-mentioning", help="Drop replies without any word of the caption.")
    ] = False,
    questions: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A question a line, or 'lessons', forty of ours: each caption is followed by one.",
        ),
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Replies drawn for each that is written.")] = 1,
    choose: Annotated[
        Literal["mentions", "likelihood", "judge"] | None,
        typer.Option(
            help="By what one of --draws is chosen: words of the caption, likelihood, the LLM's rating.",
            show_default="mentions",
        ),
    ] = None,
    rephrase: Annotated[
        bool,
        typer.Option("--rephrase", help="Where the LLM refuses or only reasons: the caption in its words."),
    ] = False,
    columns: Columns = None,
    audio: AudioFolder = None,
) -> None:
    """Turn captions into training targets: the LLM's own replies.

    Examples:

    lalm respond clips.csv train.jsonl

    An endpoint's key is read from OPENAI_API_KEY.
    """
    if choose is not None and draws == 1:
        raise ValueError("--choose chooses one of several replies: give --draws, how many are drawn")
    reading = reading_of(columns, audio=audio)
    from lalm.cli.opening import open_writer, progress_bar
    from lalm.synthesis.completions import Sampling
    from lalm.systems.acdc import continuation
    from lalm.systems.acdc.choosing import Drawing

    writer = None if mode == "caption" else open_writer(llm, url)
    with progress_bar("replies") as progress:
        counts = continuation.respond(
            manifest,
            out,
            writer=writer,
            sampling=Sampling(temperature, top_p, max_new_tokens, seed),
            mode=mode,
            replies=replies,
            shard=shard,
            system=system,
            batch_size=batch_size,
            keep_mentioning=keep_mentioning,
            questions=_lines(questions) if questions else (),
            drawing=Drawing(draws, choose or "mentions", rephrase),
            reading=reading,
            progress=progress,
        )
    print(
        f"{out}: {counts.written} rows written, {counts.existing} were there already, "
        f"{counts.truncated} cut off by the token limit, {counts.dropped} dropped"
    )


def _lines(name: str) -> list[str]:
    from importlib import resources

    file = resources.files("lalm.corpus") / "lesson_instructions.txt" if name == "lessons" else Path(name)
    try:
        lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"'{file}' cannot be read as a text of questions: {error}") from None
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise ValueError(f"'{file}' has no question; write one a line")
    return found
