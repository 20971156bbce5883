"""``lalm detect``: onset and offset of sounds, printed, as JSON, as Audacity labels, as a picture."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lalm.audio.load import load_audio


@dataclass(frozen=True)
class Outputs:
    """What is written beside what is printed."""

    as_json: bool
    labels: Path | None
    picture: Path | None


def run(words: Sequence[str], model: str | None, outputs: Outputs, *, device: str | None) -> None:
    """Print every sound's spans."""
    if len(words) < 2:
        raise ValueError('name a recording and what to look for: lalm detect clip.wav "dog bark"')
    clip, *sounds = words
    for sound in sounds:
        if not sound.strip():
            raise ValueError("the name of a sound is empty")
        if Path(sound).is_file():
            raise ValueError(f"one recording at a time: '{sound}' is a second file, not the name of a sound")
    if clip == "-" and outputs.picture:
        raise ValueError("a picture needs a file, since standard input is heard once")
    for path in (outputs.labels, outputs.picture):
        if path and not path.parent.is_dir():
            raise ValueError(f"there is no folder '{path.parent}' to write '{path.name}' to")
    if outputs.picture and outputs.picture.suffix.lower() != ".png":
        raise ValueError(f"the picture is a PNG: name it .png, not '{outputs.picture.name}'")
    if clip == "-" and len(sounds) > 1:
        raise ValueError("several sounds need a file, since standard input is heard once")
    audio = (
        load_audio(clip) if clip != "-" else None
    )  # what is wrong with it is said before a model is loaded
    from lalm.audio import spectrogram
    from lalm.cli.ask import silence_transformers
    from lalm.cli.weights import fetch_for
    from lalm.inference.detection import audacity, detect
    from lalm.inference.engine import Engine

    fetch_for(model)
    silence_transformers()
    found = detect(Engine.load(model, device), clip, sounds)
    if outputs.labels:
        outputs.labels.write_text(audacity(found), encoding="utf-8")
    if outputs.picture and audio is not None:
        spans = [span for one in found for span in one.spans]
        spectrogram.draw(audio, spans, f"{Path(clip).name}: {', '.join(sounds)}", outputs.picture)
    if outputs.as_json:
        rows = [
            {
                "sound": one.sound,
                "spans": [{"onset_s": round(a, 3), "offset_s": round(b, 3)} for a, b in one.spans],
                "answer": one.answer,
            }
            for one in found
        ]
        print(
            json.dumps({"seconds": round(found[0].seconds, 3), "sounds": rows}, indent=2, ensure_ascii=False)
        )
        return
    for one in found:
        for onset_s, offset_s in one.spans:
            print(f"{onset_s:8.2f} s  {offset_s:8.2f} s  {one.sound}")
        if not one.spans:
            why = "no time" if one.said_none else f"no time within {one.seconds:.1f} s"
            print(f"{one.sound}: the answer names {why}: {one.answer or '(nothing)'}")
