"""What a command finds out for certain and the embedded model guesses: told behind its answer."""

import re
import shlex
import sys
from collections.abc import Sequence

_MEASURED = re.compile(
    r"\b(?:decibels?|dB(?:FS)?|how (?:loud|long is (?:the|this|it))|duration|how many (?:seconds|minutes)"
    r"|in (?:seconds|minutes))\b",
    re.I,
)
_COMPARED = re.compile(r"\b(?:louder|quieter|longer|shorter|brighter|darker)\b", re.I)
_WRITTEN = re.compile(r"\b(?:transcri(?:be|pt|ption)|verbatim|word[ -](?:for|by)[ -]word|subtitles?)\b", re.I)
_TIMES = re.compile(r"^\W*when\b|\bat (?:what|which) (?:time|second|minute)\b|\btime ?stamps?\b", re.I)
_MUSIC = re.compile(
    r"\b(?:bpm|tempo|beats per minute|(?:what|which) key|key of the|major or minor|time signature)\b", re.I
)

LONG_S = 300.0  # the embedded model learned from clips of up to 30 s


def piece_by_piece(seconds: float) -> str:
    """What goes through a recording that is long for one answer; empty where it is not."""
    if seconds <= LONG_S:
        return ""
    return (
        f"lasts {seconds / 60:.0f} minutes, and one answer about all of it takes long and is often wrong: "
        "lalm describe, detect and transcribe go through it piece by piece"
    )


def better_means(question: str, recordings: Sequence[str]) -> str:
    """A sentence that names the command that tells what is asked; empty where the model is as good as any.

    ``question`` is read as English. That none can tell is said, too.
    """
    files = " ".join(shlex.quote(one) for one in recordings)
    first = shlex.quote(recordings[0]) if recordings else "FILE"
    if _WRITTEN.search(question):
        return f"every word that is said, with times: lalm transcribe {files or first}"
    if len(recordings) == 2 and _COMPARED.search(question):
        return f"level, length and brightness of both are measured by lalm compare {files}"
    if _TIMES.search(question):
        return f'a sound is looked for in windows of 4 s by lalm detect {first} "the sound"'
    if _MUSIC.search(question):
        return "this model guesses keys, tempos and metres, and no command of lalm measures them"
    if _MEASURED.search(question):
        return f"length and level are measured by lalm describe {files or first}"
    return ""


def note_means(question: str, recordings: Sequence[str]) -> None:
    """Name the command on standard error, if there is one; recordings without a name (-, data:) have none."""
    named = [one for one in recordings if not one.startswith(("-", "data:"))]
    if told := better_means(question, named):
        print("lalm:", told, file=sys.stderr)
