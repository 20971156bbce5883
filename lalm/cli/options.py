"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

WRITER = "qwen2.5-coder-0.5b-instruct"  # what writes replies and questions unless told

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[
    str | None, typer.Option(help="Model folder or Hub id (default: the embedded small model).")
]
Longest = Annotated[int, typer.Option(help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option(help="0: the likeliest answer; above: drawn at random.")]
TopP = Annotated[
    float, typer.Option(help="Draw from the likeliest tokens that have this probability together.")
]
TopK = Annotated[int, typer.Option(help="Draw from this many of the likeliest tokens; 0: from all.")]
MinP = Annotated[
    float, typer.Option(help="Draw from tokens with at least this share of the likeliest one's probability.")
]
RepetitionPenalty = Annotated[
    float, typer.Option(help="Above 1: tokens that were written before become less likely.")
]
NoRepeatNgram = Annotated[
    int, typer.Option("--no-repeat-ngram-size", help="No run of this many tokens comes twice; 0: it may.")
]
Stop = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="End before this text; may be repeated.", show_default=False),
]
MinTokens = Annotated[int, typer.Option(help="Do not end before so many tokens.")]
LoopGuard = Annotated[
    bool, typer.Option("--loop-guard/--no-loop-guard", help="End an answer that repeats itself.")
]
Seed = Annotated[int, typer.Option(help="Seed of what is drawn at random.")]
LoraScale = Annotated[
    float | None,
    typer.Option(help="How strongly LoRA acts; 0: the LLM alone (default: as trained, SALMONN 4.0)."),
]
Llm = Annotated[
    str, typer.Option(help="The LLM: a pinned name, folder or Hub id; with --url the endpoint's model.")
]
Url = Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint, such as http://host:8000/v1.")]
Channel = Annotated[
    int | None,
    typer.Option(min=0, help="Hear this channel alone, from 0 (default: the mix)."),
]
Track = Annotated[
    int | None,
    typer.Option(min=0, help="Hear this audio track of a video, from 0 (default: the default track)."),
]
Lenient = Annotated[
    bool,
    typer.Option("--lenient", help="Hear what can be heard of damaged recordings instead of refusing them."),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Write a table (.csv or .jsonl) with a row for each recording."),
]
Transcript = Annotated[
    bool | None,
    typer.Option(
        "--transcript/--no-transcript",
        help="Give the model Whisper's transcript beside the audio, or the audio alone (default: as its "
        "config says).",
        show_default=False,
    ),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16", "int8", "int4"] | None,
    typer.Option(
        help="Number format of the weights (default: auto, the fastest here); int8: the LLM's in 8 bits, on "
        "a CPU; int4: some of them in 4 bits while it answers.",
        show_default=False,
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 (default: a GPU if there is one).")]
Manifest = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE", help="Manifest, table or folder of data (docs/data.md).", show_default=False
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        metavar="ROLE=COLUMN,...",
        help="Which column of a table holds what: audio=path,answer=caption,question=... (docs/data.md).",
        show_default=False,
    ),
]
Prompt = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt",
        metavar="TEXT",
        help="Ask this about recordings that come without a question; of several, one is drawn for each.",
        show_default=False,
    ),
]
PromptDraw = Annotated[int, typer.Option("--prompt-seed", min=0, help="Seed of the prompts drawn.")]
AudioFolder = Annotated[
    Path | None, typer.Option("--audio", help="Folder that relative audio paths start from.")
]
NewManifest = Annotated[Path, typer.Option(help="Manifest to write.", show_default=False)]
PromptSeed = Annotated[int, typer.Option(min=0, help="Seed of the prompts, pairs and mixtures drawn.")]
Resource = Annotated[
    list[str] | None,
    typer.Option(
        "--resource",
        metavar="NAME=FOLDER",
        help="Folder of what a metric needs: meteor, spice, sentences, fluency, aligner.",
    ),
]
Vision = Annotated[
    str | None,
    typer.Option(
        help="Folder of a BLIP-2 or InstructBLIP, which sees: files may be images and videos; the connector "
        "of --model, a trained APT, hears for it."
    ),
]


def heard_choice(channel: int | None, track: int | None, lenient: bool) -> dict[str, Any]:
    """What of a recording is heard, as keys of an audio part; what is not chosen is left out."""
    told = {"channel": channel, "track": track, "lenient": lenient or None}
    return {name: value for name, value in told.items() if value is not None}
