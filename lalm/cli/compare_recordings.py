"""``lalm compare`` of recordings: what is measured, heard and said in each, and how they differ."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lalm.inference.description import Description
    from lalm.inference.engine import Engine

QUESTION = "What is the difference between the two recordings?"
EVERY_S = 30.0
LEVEL_DB, LENGTH_S, BRIGHTNESS = 1.0, 0.2, 1.25  # differences below are not told


def compare_recordings(a: str, b: str, model: str | None, device: str | None, *, as_json: bool) -> None:
    """Print the comparison of two recordings."""
    from lalm.cli.describe import Hearing, described, in_words
    from lalm.cli.opening import open_engine, open_whisper

    engine, whisper = open_engine(model, device, transcript=False), open_whisper()
    first, second = (described(engine, whisper, name, EVERY_S, Hearing()) for name in (a, b))
    found = differences(first, second)
    answer, note = asked(engine, a, b)
    if as_json:
        told = {"a": first.to_json(a), "b": second.to_json(b), "differences": found, "answer": answer}
        print(json.dumps({**told, "note": note}, indent=2, ensure_ascii=False))
        return
    print(in_words(a, first), in_words(b, second), sep="\n")
    print("B beside A: " + ("; ".join(found) if found else "no difference that was measured"))
    print(f"The model: {answer}" if answer else f"({note})")


def differences(first: "Description", second: "Description") -> list[str]:
    """How the second recording differs from the first, as far as it can be measured."""
    found = []
    longer = second.seconds - first.seconds
    if abs(longer) >= LENGTH_S:
        found.append(f"{abs(longer):.1f} s {'longer' if longer > 0 else 'shorter'}")
    louder = second.rms_db - first.rms_db
    if abs(louder) >= LEVEL_DB:
        found.append(f"{abs(louder):.0f} dB {'louder' if louder > 0 else 'quieter'}")
    low, high = sorted((first.centroid_hz, second.centroid_hz))
    if low and high / low >= BRIGHTNESS:
        brighter = second.centroid_hz > first.centroid_hz
        found.append(f"{'brighter' if brighter else 'darker'} ({second.centroid_hz:.0f} Hz)")
    said = _words(first.transcript.text, second.transcript.text)
    return [*found, said] if said else found


def _words(first: str, second: str) -> str:
    """How what is said differs; empty where nobody speaks in either."""
    if not first and not second:
        return ""
    if not first or not second:
        return "somebody speaks in " + ("B alone" if second else "A alone")
    a, b = (_bare(text) for text in (first, second))
    if a == b:
        return "the same words"
    share = difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()
    return f"{100 * share:.0f} % of the words are the same"


def _bare(text: str) -> list[str]:
    return [word for word in ("".join(c for c in w if c.isalnum()) for w in text.lower().split()) if word]


def asked(engine: "Engine", a: str, b: str) -> tuple[str, str]:
    """The model's own comparison, or why it is not asked and what could be."""
    from lalm.data.sample import ask
    from lalm.inference.engine import Options

    if not engine.model.config.compares:
        return "", (
            f"'{engine.name}' was trained on one recording at a time and is not asked to compare; "
            "a model of the system apt is: lalm train apt/2_multi"
        )
    [reply] = engine.reply([ask([a, b], QUESTION)], Options(128))
    return reply.text, ""


def is_run(path: str) -> bool:
    """Whether an argument of ``lalm compare`` is meant as the folder of a run of ``lalm eval``."""
    from lalm.audio.load import RECORDING_SUFFIXES

    return Path(path).is_dir() or not (
        Path(path).is_file() or Path(path).suffix.lower() in RECORDING_SUFFIXES
    )


def check(given: Sequence[str]) -> bool:
    """True for two recordings, False for two runs. Raises ValueError for one of each."""
    runs = [is_run(one) for one in given]
    if len(set(runs)) > 1:
        raise ValueError(f"'{given[0]}' and '{given[1]}' are a run and a recording: give two of a kind")
    return not runs[0]
