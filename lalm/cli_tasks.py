"""Commands about tasks: manifests of them, activation tuning, perplexity."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lalm.cli_options import WRITER, Device, Llm, Seed, Temperature, Url

tasks_app = typer.Typer()


@tasks_app.command()
def build(
    task: Annotated[
        str,
        typer.Argument(
            help="asr, translate_zh, translate_de, translate_ja, caption, tags, audio_qa, phones, emotion, "
            "music_caption, overlap, speaker, gender, spoken_question, keywords, story, "
            "detect, retrieve, count, compare, few_shot; annotation: "
            "SALMONN's published JSON; corpus: every task of a `lalm corpus build` folder; "
            "qa: questions and answers that an LLM writes about a manifest's transcripts or captions; "
            "nlar: the same about pairs of recordings, checked by their events.",
            show_default=False,
        ),
    ],
    source: Annotated[Path, typer.Argument(help="The corpus: a file or folder.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Manifest to write; for corpus a folder.", show_default=False)],
    layout: Annotated[
        str | None, typer.Option(help="How the corpus is laid out, such as librispeech (docs/salmonn.md).")
    ] = None,
    audio: Annotated[Path | None, typer.Option(help="Folder of the audio, where it is elsewhere.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the prompts, pairs and mixtures drawn.")] = 0,
    test: Annotated[bool, typer.Option("--test", help="The task's test prompt for every sample.")] = False,
    split: Annotated[
        list[str] | None,
        typer.Option(help="Only this split, such as session5 or M (docs/salmonn.md); may be repeated."),
    ] = None,
    join: Annotated[
        bool,
        typer.Option("--join", help="Clips of a pair in one recording, as the released model heard them."),
    ] = False,
    language: Annotated[
        list[str] | None, typer.Option(help="corpus: transcribe this language only; may be repeated.")
    ] = None,
    ways: Annotated[int, typer.Option(min=2, help="few_shot: classes of an episode.")] = 4,
    shots: Annotated[int, typer.Option(min=1, help="few_shot: labelled clips of each class.")] = 1,
    episodes: Annotated[int, typer.Option(min=0, help="few_shot: how many (0: one a clip).")] = 0,
    long: Annotated[bool, typer.Option("--long", help="qa: long answers.")] = False,
    llm: Llm = WRITER,
    url: Url = None,
) -> None:
    """Turn a corpus into a manifest of instructions and answers."""
    from lalm.commands import build as command

    if task == "qa":
        command.questions(source, out, seed=seed, long=long, llm=llm, url=url)
    elif task == "corpus":
        command.corpus(source, out, seed=seed, languages=language or [])
    elif task == "nlar":
        command.reasoning(source, out, layout=layout, audio=audio, seed=seed, llm=llm, url=url)
    else:
        asked = command.Asked(
            *(layout, audio, seed, test, tuple(split or ()), join),
            episode=(ways, shots, episodes),
        )
        command.task(task, source, out, asked)


@tasks_app.command()
def activate(
    model: Annotated[Path, typer.Argument(help="Model folder with LoRA.", show_default=False)],
    clips: Annotated[Path, typer.Option(help="Manifest of clips to write about.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the activated model.", show_default=False)],
    lora_scale: Annotated[
        float | None, typer.Option(min=0.0, help="While writing (default: half of the trained one).")
    ] = None,
    way: Annotated[
        Literal["story", "given", "text", "lora"],
        typer.Option(
            help="What is learned: stories, the longest answers given in the clips' manifest, stories with "
            "the caption for the audio (LoRA only), stories by LoRA only."
        ),
    ] = "story",
    measure: Annotated[
        list[Path] | None, typer.Option(help="Manifest to compare before and after; may be repeated.")
    ] = None,
    per_task: Annotated[int, typer.Option(min=1, help="Samples of each task measured.")] = 50,
    steps: Annotated[int, typer.Option(min=1, help="Training steps, one story each.")] = 12,
    learning_rate: Annotated[float, typer.Option(help="Of the steps (the paper does not say).")] = 3e-5,
    temperature: Temperature = 0.7,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Let a model write stories with LoRA turned down and learn them: it follows instructions again."""
    from lalm.commands import activate as command

    measured = tuple(measure or ())
    command.run(
        command.Job(
            *(model, clips, out, lora_scale, way, measured, per_task, steps),
            *(learning_rate, temperature, seed, device),
        )
    )


@tasks_app.command()
def perplexity(
    models: Annotated[list[str], typer.Argument(help="Model folders, in stage order.", show_default=False)],
    data: Annotated[list[Path], typer.Option(help="Manifest with answers; may be repeated.")],
    out: Annotated[Path, typer.Option(help="Folder of perplexity.json and the plot.")] = Path("perplexity"),
    lora_scale: Annotated[
        list[float] | None,
        typer.Option(min=0.0, help="Beside the trained one; 0 removes LoRA; may be repeated."),
    ] = None,
    per_task: Annotated[int, typer.Option(min=1, help="Samples of each task.")] = 50,
    device: Device = None,
) -> None:
    """How likely models find known answers, by task, with LoRA on and off."""
    from lalm.commands import perplexity as command

    scales = [0.0] if lora_scale is None else lora_scale
    command.run(models, data, out, lora_scales=scales, per_task=per_task, device=device)
