"""Few-shot classification of clips without training, as in APT's section 4.2.

    [clip] This is a sound of dog. [clip] This is a sound of rain. ... [clip] This is a sound of

The answer becomes one of the labels either by what it says ("words"), or by which label is the likeliest to
be said ("likelihood"), which always gives one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lalm.audio.load import AUDIO_SUFFIXES, AudioSource, read_recording
from lalm.data.episode import Labelled, episode
from lalm.data.sample import Sample
from lalm.inference.engine import Engine, Options
from lalm.inference.likelihood import log_likelihoods
from lalm.inference.reading import read_class
from lalm.systems.apt.prompts import FEW_SHOT

How = Literal["words", "likelihood"]
ANSWER_TOKENS = 24  # of a label and its full stop


@dataclass(frozen=True)
class Verdict:
    """What a clip was called: None when no answer could be read as a label.

    ``shares`` sum to 1 over the labels: of the probability, or of the votes that could be read. ``answers``
    are the model's own words, one an order of the labelled clips ("words" only).
    """

    label: str | None
    shares: dict[str, float]
    answers: tuple[str, ...] = ()


def labelled_folder(folder: Path, shots: int, seed: int = 0) -> list[Labelled]:
    """At most ``shots`` clips of each label from a folder of folders: FOLDER/LABEL/clip.wav.

    Underscores of folder names are spaces. Raises ValueError for one that is not laid out so, or has
    fewer than two labels.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder '{folder}' with labelled clips")
    rng = np.random.default_rng(seed)
    found: list[Labelled] = []
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        clips = sorted(path for path in place.iterdir() if path.suffix.lower() in AUDIO_SUFFIXES)
        label = " ".join(place.name.replace("_", " ").split())
        for i in sorted(rng.permutation(len(clips))[:shots]):
            found.append(Labelled({"type": "audio", "audio": str(clips[i])}, label, str(clips[i])))
    labels = {clip.label for clip in found}
    if len(labels) < 2:
        what = f"clips of '{labels.pop()}' only" if labels else "no labelled clips"
        raise ValueError(
            f"'{folder}' holds {what}: it needs a folder of clips for each of at least two labels, such as "
            f"'{folder.name}/dog/1.wav' and '{folder.name}/rain/1.wav'"
        )
    return found


def classify(
    engine: Engine,
    supports: Sequence[Labelled],
    clip: AudioSource,
    *,
    how: How = "likelihood",
    orders: int = 1,
    seed: int = 0,
    encoder: Any = None,
) -> Verdict:
    """Name one clip. With several ``orders`` the labelled clips are drawn in as many, which then vote.

    ``encoder`` (texts -> unit vectors, such as
    ``lalm.evaluate.metrics.embeddings.SentenceEncoder``) reads answers that name no label by the
    nearest label.
    """
    recording = read_recording(clip, max_s=3600.0)
    labels = tuple(dict.fromkeys(support.label for support in supports))
    query = Labelled({"type": "audio", "audio": recording}, labels[0], recording.account.name)
    rng = np.random.default_rng(seed)
    asked: list[Sample] = []
    for number in range(orders):
        drawn = [supports[i] for i in rng.permutation(len(supports))]
        sample = episode(drawn, query, f"classify-{number}", labels, prompt=FEW_SHOT)
        asked.append(sample.prompt())
    if how == "likelihood":
        totals = np.array(
            [log_likelihoods(engine, sample, [f"{label}." for label in labels]) for sample in asked]
        )
        weights = np.exp(totals - totals.max(1, keepdims=True))
        shares = (weights / weights.sum(1, keepdims=True)).mean(0)
        return Verdict(labels[int(shares.argmax())], dict(zip(labels, map(float, shares), strict=True)))
    replies = [reply.text for reply in engine.reply(asked, Options(max_new_tokens=ANSWER_TOKENS))]
    votes = [read_class(text, labels, encoder) for text in replies]
    read = [vote for vote in votes if vote is not None]
    counts = {label: read.count(label) / max(1, len(read)) for label in labels}
    best = max(read, key=lambda label: counts[label]) if read else None
    return Verdict(best, counts, tuple(replies))
