"""``lalm classify``: recordings named after a few labelled ones."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lalm.audio.load import load_audio


@dataclass(frozen=True)
class Settings:
    """How the labelled clips are shown and the answer is read (``lalm.inference.few_shot``)."""

    shots: int
    how: Literal["words", "likelihood"]
    orders: int
    seed: int
    sentences: Path | None


def run(
    clips: Sequence[str],
    support: Path,
    model: str | None,
    settings: Settings,
    *,
    device: str | None,
    as_json: bool,
) -> None:
    """Print each recording's label and how sure it is."""
    if not clips:
        raise ValueError("there is no recording to name: lalm classify --support FOLDER clip.wav")
    if settings.sentences and settings.how != "words":
        raise ValueError("--sentences reads answers in words: say --how words with it")
    for clip in clips:
        if clip == "-":
            raise ValueError(
                "standard input is heard once, and a clip to be named may be asked several times"
            )
        load_audio(clip)
    from lalm.cli.ask import silence_transformers
    from lalm.cli.weights import fetch_for
    from lalm.evaluate.metrics.embeddings import SentenceEncoder
    from lalm.inference import few_shot
    from lalm.inference.engine import Engine

    supports = few_shot.labelled_folder(support, settings.shots, settings.seed)
    encoder = SentenceEncoder(settings.sentences) if settings.sentences else None
    fetch_for(model)
    silence_transformers()
    engine = Engine.load(model, device)
    rows = []
    for clip in clips:
        verdict = few_shot.classify(
            *(engine, supports, clip),
            how=settings.how,
            orders=settings.orders,
            seed=settings.seed,
            encoder=encoder,
        )
        ranked = sorted(verdict.shares.items(), key=lambda item: -item[1])
        rows.append(
            {
                "audio": clip,
                "label": verdict.label,
                "shares": {name: round(share, 4) for name, share in ranked},
                **({"answers": list(verdict.answers)} if verdict.answers else {}),
            }
        )
        if not as_json:
            named = ", ".join(f"{name} {share:.2f}" for name, share in ranked[:5])
            said = f"  (said: {verdict.answers[0]})" if verdict.label is None else ""
            print(f"{clip}: {verdict.label or 'no label'}  [{named}]{said}")
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
