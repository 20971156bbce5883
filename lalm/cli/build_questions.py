"""``lalm build qa``, ``nlar``, ``spoken``, ``said``, ``sac``: an LLM writes, or a voice speaks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from lalm.cli.opening import reading_of
from lalm.cli.options import (
    WRITER,
    AudioFolder,
    Columns,
    Llm,
    Manifest,
    NewManifest,
    PromptSeed,
    Url,
)

QA_TOKENS, LONG_QA_TOKENS = 128, 320  # of a reply with a question and its answer


def qa(
    source: Manifest,
    out: NewManifest,
    form: Annotated[
        Literal["short", "detailed", "choice"],
        typer.Option(help="Short answers, answers that explain, or four options; the last two are checked."),
    ] = "short",
    each: Annotated[int, typer.Option(min=1, help="detailed, choice: questions a text.")] = 1,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="detailed, choice: the LLM answers what it wrote.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    long: Annotated[bool, typer.Option("--long", help="short: long answers.")] = False,
    llm: Llm = WRITER,
    url: Url = None,
    columns: Columns = None,
    audio: AudioFolder = None,
) -> None:
    """Captions or transcripts -> questions, by an LLM.

    Each has its answer. What is checked: docs/questions.md.
    """
    from lalm.cli.opening import open_writer, progress_bar
    from lalm.synthesis.completions import Sampling
    from lalm.tasks.checked_questions import write_checked_questions
    from lalm.tasks.question_answers import write_questions

    if form == "short" and (each > 1 or not verify):
        raise ValueError("--each and --no-verify are for --form detailed and --form choice")
    if form != "short" and long:
        raise ValueError(f"--long is for --form short: answers of --form {form} are as long as they are")
    reading = reading_of(columns, audio=audio)
    tokens = QA_TOKENS if form == "short" and not long else LONG_QA_TOKENS
    sampling = Sampling(max_new_tokens=tokens, seed=seed)
    writer = open_writer(llm, url)
    faults: Mapping[str, int] = {}
    with progress_bar("questions") as progress:
        if form == "short":
            counts = write_questions(
                source, out, writer, sampling=sampling, long=long, reading=reading, progress=progress
            )
        else:
            counts, faults = write_checked_questions(
                source,
                out,
                writer,
                form,
                sampling=sampling,
                each=each,
                verify=verify,
                reading=reading,
                progress=progress,
            )
    what = "replies with a fault" if form != "short" else "malformed replies"
    print(
        f"{out}: {counts.written} questions written, {counts.existing} were there already, "
        f"{counts.retried} {what} asked for again, {counts.dropped} rows dropped"
    )
    for fault, count in sorted(faults.items(), key=lambda row: -row[1]):
        print(f"  {count:>6} replies: {fault}")


def nlar(
    source: Manifest,
    out: NewManifest,
    layout: Annotated[
        str | None, typer.Option(help="How the corpus is laid out (default: a manifest).")
    ] = None,
    audio: Annotated[Path | None, typer.Option(help="Folder of the audio, where it is elsewhere.")] = None,
    seed: PromptSeed = 0,
    llm: Llm = WRITER,
    url: Url = None,
    columns: Columns = None,
) -> None:
    """Two recordings -> questions, by an LLM.

    A question stays if the recordings' events bear its answer out (APT's NLAR).
    """
    from lalm.cli.opening import open_writer
    from lalm.data.sample import write_manifest
    from lalm.tasks import Source
    from lalm.tasks.events import RECORDINGS
    from lalm.tasks.instructions import instruct
    from lalm.tasks.reasoning import written

    if layout not in (None, *RECORDINGS):
        raise ValueError(f"task 'nlar' has no layout '{layout}'; it has {', '.join(RECORDINGS)}")
    recordings_of, corpus = (
        RECORDINGS[layout or "manifest"],
        Source(source, audio, seed, reading=reading_of(columns, audio=audio)),
    )
    samples, dropped = written(recordings_of, corpus, open_writer(llm, url))
    for why, count in dropped.most_common():
        print(f"{count} questions dropped: {why}")
    if not samples:
        raise ValueError(
            f"'{llm}' wrote no question about '{source}' that the events bear out: take a larger one"
            " with --llm or --url"
        )
    count = write_manifest(out, instruct(samples, seed=seed))
    print(f"{out}: {count} samples, each question in both orders")


Voices = Annotated[
    list[str],
    typer.Option(
        "--voice", help="flite:slt, espeak-ng:en-us and so on; may be repeated.", show_default=False
    ),
]


def spoken(
    source: Manifest,
    out: NewManifest,
    voice: Voices,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the voices drawn.")] = 0,
    columns: Columns = None,
    audio: AudioFolder = None,
) -> None:
    """Typed questions -> the same, spoken.

    Of typed questions about one recording each: the voice follows the recording. Needs flite or espeak-ng.
    """
    from lalm.tasks.spoken_questions import write_spoken

    reading = reading_of(columns, audio=audio)
    print(f"{out}: {write_spoken(source, out, voice, seed=seed, reading=reading)} spoken questions")


def said(
    out: NewManifest,
    voice: Voices,
    count: Annotated[int, typer.Option(min=1, help="Sentences to speak.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sentences, questions and voices drawn.")] = 0,
) -> None:
    """Spoken sentences and questions about them.

    Needs flite or espeak-ng.
    """
    from lalm.tasks.said_sentences import write_said

    print(f"{out}: {write_said(out, voice, count, seed=seed)} spoken sentences")


def sac(
    source: Manifest,
    out: NewManifest,
    voice: Voices,
    items: Annotated[
        int, typer.Option(min=0, help="At most so many, of all kinds of sounds; 0: one a sound.")
    ] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sounds, questions and voices drawn.")] = 0,
    columns: Columns = None,
    audio: AudioFolder = None,
) -> None:
    """Captioned sounds -> questions spoken over them.

    What is asked is about the sound behind the voice (SALMONN's SAC). Needs flite or espeak-ng.
    """
    from lalm.tasks.background_questions import write_background_questions

    counts = write_background_questions(
        source, out, voice, items=items, seed=seed, reading=reading_of(columns, audio=audio)
    )
    kinds = ", ".join(f"{group or 'other'} {count}" for group, count in counts.most_common())
    print(f"{out}: {counts.total()} spoken questions over sounds ({kinds})")
