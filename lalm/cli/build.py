"""``lalm build``: corpora become manifests of tasks; see also ``build_questions``, ``build_preferences``."""

from pathlib import Path
from typing import Annotated

import typer

from lalm.cli.build_preferences import preferences
from lalm.cli.build_questions import nlar, qa, sac, said, spoken
from lalm.cli.opening import reading_of
from lalm.cli.options import Columns, NewManifest, PromptSeed

app = typer.Typer(
    help="Turn corpora into manifests of tasks, replies into pairs.",
    no_args_is_help=True,
)

# What lalm.tasks.READERS holds, which is not imported for a line of help.
TASKS = {
    "asr": "speech -> its words",
    "translate_zh": "speech -> its words in Chinese",
    "translate_de": "speech -> its words in German",
    "translate_ja": "speech -> its words in Japanese",
    "caption": "sounds -> a description",
    "tags": "sounds -> their names",
    "audio_qa": "questions about sounds",
    "phones": "speech -> its phones",
    "emotion": "speech -> the emotion",
    "music_caption": "music -> a description",
    "overlap": "two speakers at once -> the words of both",
    "speaker": "two utterances -> whether one speaker says both",
    "gender": "speech -> man or woman",
    "spoken_question": "a spoken question -> its answer",
    "keywords": "speech -> keywords of what is said",
    "story": "sounds -> a story",
    "annotation": "SALMONN's published JSON files",
    "detect": "a sound -> when it is heard",
    "retrieve": "a time -> what is heard then",
    "count": "a sound -> how often it is heard",
    "presence": "a sound -> whether it is heard",
    "compare": "two recordings -> how they differ",
    "few_shot": "labelled clips, then one to label",
}


def corpus_task(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="The corpus: a file or folder.", show_default=False)],
    out: NewManifest,
    layout: Annotated[
        str | None, typer.Option(help="How the corpus is laid out, such as librispeech (docs/salmonn.md).")
    ] = None,
    audio: Annotated[Path | None, typer.Option(help="Folder of the audio, where it is elsewhere.")] = None,
    seed: PromptSeed = 0,
    test: Annotated[bool, typer.Option("--test", help="The task's test prompt for every sample.")] = False,
    split: Annotated[
        list[str] | None,
        typer.Option(help="Only this split, such as session5 or M (docs/salmonn.md); may be repeated."),
    ] = None,
    join: Annotated[
        bool,
        typer.Option("--join", help="Clips of a pair in one recording, as the released model heard them."),
    ] = False,
    every: Annotated[
        bool,
        typer.Option("--every-reference", help="A sample for every caption of a clip, to learn from."),
    ] = False,
    exclude: Annotated[
        Path | None, typer.Option(help="caption: WavCaps' list of clips that are in test sets (JSON).")
    ] = None,
    wording: Annotated[
        str | None,
        typer.Option(help="Whose wording: salmonn or apt (default: SALMONN's where it has the task)."),
    ] = None,
    ways: Annotated[int, typer.Option(min=2, help="few_shot: classes of an episode.")] = 4,
    shots: Annotated[int, typer.Option(min=1, help="few_shot: labelled clips of each class.")] = 1,
    episodes: Annotated[int, typer.Option(min=0, help="few_shot: how many (0: one a clip).")] = 0,
    renamed: Annotated[
        float,
        typer.Option(min=0, max=1, help="few_shot: share of episodes whose classes have others' names."),
    ] = 0.0,
    columns: Columns = None,
) -> None:
    """Turn a public corpus into a manifest of one task."""
    from lalm.tasks import READERS, Source, build

    task = str(context.info_name)
    if task not in READERS:
        raise ValueError(
            f"there is no task '{task}' to build; "
            f"there are corpus, qa, nlar, spoken, said, sac, {', '.join(READERS)}"
        )
    if not source.exists() and not str(source).startswith("hf:"):
        raise ValueError(f"there is no file or folder '{source}'")
    built = build(
        task,
        Source(
            source,
            audio,
            seed,
            ways=ways,
            shots=shots,
            episodes=episodes,
            renamed=renamed,
            exclude=exclude,
            reading=reading_of(columns, audio=audio),
        ),
        out,
        layout=layout,
        seed=None if test else seed,
        splits=tuple(split or ()),
        join=join,
        every=every,
        wording=wording,
    )
    missing = f", {built.missing} left out because their audio is missing" if built.missing else ""
    print(f"{out}: {built.written} samples{missing}")


def corpus(
    source: Annotated[Path, typer.Argument(help="Folder of `lalm corpus build`.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the manifests.", show_default=False)],
    seed: PromptSeed = 0,
    language: Annotated[
        list[str] | None, typer.Option(help="Transcribe this language only; may be repeated.")
    ] = None,
    every_question: Annotated[
        bool, typer.Option("--every-question", help="Counting, order and choices are learned, too.")
    ] = False,
) -> None:
    """A corpus of ours -> a manifest for each task.

    Of a folder that `lalm corpus build` wrote.
    """
    from lalm.tasks import recordings

    counts = recordings.build(source, out, seed=seed, languages=language or [], every_question=every_question)
    for name, count in counts.items():
        print(f"{name:<24} {count:>7}")
    print(f"The manifests are in {out}.")


for _name, _what in TASKS.items():
    app.command(_name, help=f"{_what[0].upper()}{_what[1:]}.")(corpus_task)
for _command in (corpus, qa, nlar, spoken, said, sac, preferences):
    app.command()(_command)
