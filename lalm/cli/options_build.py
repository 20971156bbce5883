"""``lalm build``: manifests out of corpora, out of an LLM's questions, out of a model's own replies."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lalm.cli.options import WRITER, Device, Llm, Url

build_app = typer.Typer(
    help="Turn corpora into manifests of instructions and answers, and replies into preferences.",
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
    "speaker": "two utterances -> one speaker or two?",
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

Out = Annotated[Path, typer.Option(help="Manifest to write.", show_default=False)]
Manifest = Annotated[Path, typer.Argument(help="Manifest (JSONL).", show_default=False)]
PromptSeed = Annotated[int, typer.Option(min=0, help="Of the prompts, pairs and mixtures drawn.")]


def corpus_task(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="The corpus: a file or folder.", show_default=False)],
    out: Out,
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
    ways: Annotated[int, typer.Option(min=2, help="few_shot: classes of an episode.")] = 4,
    shots: Annotated[int, typer.Option(min=1, help="few_shot: labelled clips of each class.")] = 1,
    episodes: Annotated[int, typer.Option(min=0, help="few_shot: how many (0: one a clip).")] = 0,
    renamed: Annotated[
        float,
        typer.Option(min=0, max=1, help="few_shot: share of episodes whose classes have others' names."),
    ] = 0.0,
) -> None:
    """Turn a public corpus into a manifest of one task."""
    from lalm.cli import build as command

    asked = command.Asked(
        *(layout, audio, seed, test, tuple(split or ()), join),
        episode=command.Episodes(ways, shots, episodes, renamed),
    )
    command.task(str(context.info_name), source, out, asked)


for _name, _what in TASKS.items():
    build_app.command(_name, help=f"{_what[0].upper()}{_what[1:]}.")(corpus_task)


@build_app.command("corpus")
def corpus(
    source: Annotated[Path, typer.Argument(help="Folder of `lalm corpus build`.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the manifests.", show_default=False)],
    seed: PromptSeed = 0,
    language: Annotated[
        list[str] | None, typer.Option(help="Transcribe this language only; may be repeated.")
    ] = None,
) -> None:
    """Every task of a `lalm corpus build` folder, a manifest each."""
    from lalm.cli import build as command

    command.corpus(source, out, seed=seed, languages=language or [])


@build_app.command("qa")
def qa(
    source: Manifest,
    out: Out,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    long: Annotated[bool, typer.Option("--long", help="Long answers.")] = False,
    llm: Llm = WRITER,
    url: Url = None,
) -> None:
    """Questions with answers that an LLM writes about a manifest's transcripts or captions."""
    from lalm.cli import build as command

    command.questions(source, out, seed=seed, long=long, llm=llm, url=url)


@build_app.command("nlar")
def nlar(
    source: Manifest,
    out: Out,
    layout: Annotated[
        str | None, typer.Option(help="How the corpus is laid out (default: a manifest).")
    ] = None,
    audio: Annotated[Path | None, typer.Option(help="Folder of the audio, where it is elsewhere.")] = None,
    seed: PromptSeed = 0,
    llm: Llm = WRITER,
    url: Url = None,
) -> None:
    """Questions about pairs of recordings that an LLM writes and the recordings' events check."""
    from lalm.cli import build as command

    command.reasoning(source, out, layout=layout, audio=audio, seed=seed, llm=llm, url=url)


@build_app.command("spoken")
def spoken(
    source: Manifest,
    out: Out,
    voice: Annotated[
        list[str],
        typer.Option(help="flite:slt, espeak-ng:en-us and so on; may be repeated.", show_default=False),
    ],
    seed: Annotated[int, typer.Option(min=0, help="Of the voices drawn.")] = 0,
) -> None:
    """Typed questions about one recording each, spoken after it instead (needs flite or espeak-ng)."""
    from lalm.cli import build as command

    command.spoken(source, out, voice, seed=seed)


@build_app.command("preferences")
def preferences(
    source: Manifest,
    out: Out,
    model: Annotated[
        str | None,
        typer.Option(
            help="What replies: a model folder (default: the embedded small model), or the address of an "
            "OpenAI-compatible server that takes audio, such as http://host:8000/v1."
        ),
    ] = None,
    judge: Annotated[
        Literal["llm", "metric"],
        typer.Option(
            help="What is better: an LLM's rating, or the metric that leads the sample's task (asr: word "
            "errors; `lalm tasks`)."
        ),
    ] = "llm",
    llm: Llm = WRITER,
    url: Url = None,
    replies: Annotated[int, typer.Option(min=2, help="Replies drawn per prompt.")] = 4,
    margin: Annotated[
        float, typer.Option(min=0.0, help="Pairs are more than this apart, in the judge's measure.")
    ] = 0.0,
    temperature: Annotated[float, typer.Option(min=0.01, help="Of the replies.")] = 1.0,
    top_p: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Draw from this share of the probability.")
    ] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply, in tokens.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at a time.")] = 16,
    device: Device = None,
) -> None:
    """Pairs of a better and a worse reply to a manifest's prompts, to learn preferences (DPO) from.

    The same command again goes on where it stopped. Keys of servers are read from OPENAI_API_KEY.
    """
    from lalm.cli import preferences as command

    drawing = command.Sampling(temperature, top_p, max_new_tokens, seed)
    command.run(
        command.Job(source, out, replies, margin, seed, batch_size),
        drawing,
        model=model,
        device=device,
        judge=command.Judging(judge, llm, url),
    )
