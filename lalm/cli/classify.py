"""``lalm classify``: recordings named after a few labelled ones."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lalm.cli.ask import read
from lalm.cli.options import Device, Json, Model, Seed

if TYPE_CHECKING:
    from lalm.audio.load import Recording
    from lalm.inference.few_shot import Verdict


def classify(
    clips: Annotated[
        list[str] | None,
        typer.Argument(metavar="AUDIO...", help="The recordings to name.", show_default=False),
    ] = None,
    *,
    support: Annotated[
        Path, typer.Option(help="Labelled recordings: SUPPORT/LABEL/clip.wav.", show_default=False)
    ],
    shots: Annotated[int, typer.Option(min=1, help="Labelled recordings of each label, at most.")] = 5,
    how: Annotated[
        Literal["likelihood", "words"],
        typer.Option(help="The label that is the likeliest answer, or the one that the answer names."),
    ] = "likelihood",
    orders: Annotated[
        int, typer.Option(min=1, help="Drawn orders of the labelled recordings, which then vote.")
    ] = 1,
    sentences: Annotated[
        Path | None, typer.Option(help="words: a sentence-transformers folder for answers without a label.")
    ] = None,
    model: Model = None,
    as_json: Json = False,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Name recordings after a few labelled ones, without training."""
    recordings = _read(clips or [])
    if sentences and how != "words":
        raise ValueError("--sentences reads answers in words: say --how words with it")
    from lalm.cli.opening import open_engine
    from lalm.evaluate.metrics.embeddings import SentenceEncoder
    from lalm.inference import few_shot

    supports = few_shot.labelled_folder(support, shots, seed)
    encoder = SentenceEncoder(sentences) if sentences else None
    engine = open_engine(model, device)
    rows = []
    for clip, recording in zip(clips or [], recordings, strict=True):
        verdict = few_shot.classify(
            engine, supports, recording, how=how, orders=orders, seed=seed, encoder=encoder
        )
        rows.append(_row(clip, verdict))
        if not as_json:
            print(_line(rows[-1]))
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))


def _read(clips: Sequence[str]) -> "list[Recording]":
    """Decode the recordings: one that cannot be used is refused before a model is loaded."""
    if not clips:
        raise ValueError("there is no recording to name: lalm classify --support FOLDER clip.wav")
    return [read(clip) for clip in clips]


def _row(clip: str, verdict: "Verdict") -> dict[str, Any]:
    """What ``--json`` prints about a recording; the likeliest label comes first."""
    ranked = sorted(verdict.shares.items(), key=lambda item: -item[1])
    return {
        "audio": clip,
        "label": verdict.label,
        "shares": {name: round(share, 4) for name, share in ranked},
        **({"answers": list(verdict.answers)} if verdict.answers else {}),
    }


def _line(row: dict[str, Any]) -> str:
    named = ", ".join(f"{name} {share:.2f}" for name, share in list(row["shares"].items())[:5])
    said = f"  (said: {row['answers'][0]})" if row["label"] is None else ""
    return f"{row['audio']}: {row['label'] or 'no label'}  [{named}]{said}"
