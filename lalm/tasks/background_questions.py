"""Spoken questions about the sounds behind them: speech audio co-reasoning (SALMONN, section 4.2 "SAC").

The paper's recordings are not released. These are made of a manifest of captioned sounds: a voice asks while
the sound goes on, and only the sound tells the answer. A question that the sound's name answers has the words
of that name as references; the others have none, and a judge decides from question, caption and answer.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from lalm.audio.load import SAMPLE_RATE
from lalm.corpus.catalogue import classes
from lalm.data.messages import part_recording
from lalm.data.readers import Reading, read_manifest
from lalm.data.sample import Sample, ask, message_text, write_manifest
from lalm.tasks.sources import SourceError
from lalm.tasks.spoken_questions import SPEECH_RMS, check_voices, drawn_voice, speech

BEFORE_S, AFTER_S = 0.5, 1.0  # of sound alone, around the question
PAUSE_S = 0.3  # between the repetitions of a short sound
LOUDER_DB = (5.0, 10.0)  # the voice above the sound, by their root mean squares
LONGEST_S = 20.0  # of sound that is used

# (question, whether the sound's name answers it) by group of sounds; all groups have those of "".
QUESTIONS: Mapping[str, Sequence[tuple[str, bool]]] = {
    "": (
        ("What is making the sound behind me?", True),
        ("What else can you hear while I am talking?", True),
    ),
    "alarm": (("Why should I stop what I am doing?", False),),
    "ambience": (("Where could I be standing?", False),),
    "animal": (("Which animal is near me?", True), ("Am I more likely on a farm or in an office?", False)),
    "door": (("Did somebody just come in or go out?", False),),
    "electric": (("Should I touch what makes this noise?", False),),
    "explosion": (("Should I be worried by that noise?", False),),
    "fire": (("Is something burning near me?", False),),
    "footsteps": (("Am I alone here?", False),),
    "human": (("What is the person behind me doing?", True),),
    "impact": (("What was that noise?", True),),
    "instrument": (("Which instrument is playing?", True),),
    "machine": (("What is running next to me?", True), ("Could I sleep well in this room?", False)),
    "music": (("Could people dance to this?", False),),
    "nature": (("Am I indoors or outdoors?", False),),
    "object": (("What was that noise?", True),),
    "sport": (("What is being played here?", True),),
    "tool": (("What work is being done next to me?", True),),
    "vehicle": (("What is passing by?", True), ("May I step onto the road without looking?", False)),
    "water": (("Could I get wet here?", False),),
    "weapon": (("Should I look for cover?", False),),
    "weather": (("What is the weather like?", True), ("Do I need an umbrella?", False)),
}


@dataclass(frozen=True)
class Background:
    """A sound to be asked about: where it is, what is heard, and what kind of sound it is."""

    sample: Sample
    name: str
    caption: str
    label: str  # of lalm's classes, or ""

    @property
    def group(self) -> str:
        return self.label.partition("/")[0]


def write_background_questions(
    manifest: Path,
    out: Path,
    voices: Sequence[str],
    *,
    items: int = 0,
    seed: int = 0,
    reading: Reading | None = None,
) -> Counter[str]:
    """Write ``out``, at most ``items`` questions (0: one a sound), taking turns between groups of sounds;
    returns how many of each group ("" for sounds of no class of ours).

    ``manifest`` holds captioned sounds of one clip each (such as ``lalm corpus build`` makes); those in which
    somebody speaks are left out. Recordings are written to ``<out>_audio``. Which question is asked, by which
    voice and how much louder is drawn by row and ``seed``. Raises SourceError for a manifest without such
    sounds, or a voice that does not fit.
    """
    check_voices(voices)
    found = _backgrounds(manifest, reading)
    if not found:
        raise SourceError(f"'{manifest}' has no captioned sound of one clip in which nobody speaks")
    chosen = _spread(found, items or len(found), seed)
    folder = out.with_name(f"{out.name.removesuffix('.jsonl')}_audio")
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(out, (_asked(background, folder, voices, seed) for background in chosen))
    return Counter(background.group for background in chosen)


def _backgrounds(manifest: Path, reading: Reading | None) -> list[Background]:
    found: dict[str, Background] = {}
    for number, sample in enumerate(read_manifest(manifest, reading), 1):
        name = sample.origin.get("recording") or sample.id or f"{manifest.stem}-{number}"
        asked = any(message_text(m).strip() for m in sample.messages if m["role"] == "user")
        is_caption = sample.task == "caption" or (not sample.task and not asked)
        captions = (sample.target, *sample.references) if is_caption else ()
        caption = sample.origin.get("caption") or next((text for text in captions if text), "")
        labels = [event["label"] for event in sample.events]
        speaks = any(label.startswith("speech/") for label in labels) or bool(sample.origin.get("transcript"))
        if len(sample.audios) != 1 or not caption or speaks or name in found:
            continue
        known = labels[0] if len({*labels}) == 1 and labels[0] in classes() else ""
        found[name] = Background(sample, name, caption.strip(), known)
    return list(found.values())


def _spread(found: Sequence[Background], items: int, seed: int) -> list[Background]:
    """So many of them, taking turns between the groups, each in a drawn order."""
    order = [found[i] for i in np.random.default_rng(seed).permutation(len(found))]
    groups = [[b for b in order if b.group == group] for group in sorted({b.group for b in found})]
    turns = max(len(group) for group in groups)
    return [group[turn] for turn in range(turns) for group in groups if turn < len(group)][:items]


def _asked(background: Background, folder: Path, voices: Sequence[str], seed: int) -> Sample:
    digest = int(hashlib.sha256(f"{seed} {background.name}".encode()).hexdigest()[:12], 16)
    bank = [*QUESTIONS.get(background.group, ()), *QUESTIONS[""]]
    question, by_name = bank[digest % len(bank)]
    voice, stretch = drawn_voice(voices, digest)
    low, high = LOUDER_DB
    louder_db = round(low + (high - low) * (digest // 977 % 11) / 10, 1)
    sound = part_recording(background.sample.audios[0]).audio[: round(LONGEST_S * SAMPLE_RATE)]
    mixed = mix(sound, speech(voice, stretch, question), louder_db)
    file = (
        folder / f"{hashlib.sha256(f'{background.name} {question} {voice}'.encode()).hexdigest()[:20]}.flac"
    )
    soundfile.write(file, np.clip(mixed, -1.0, 1.0), SAMPLE_RATE)
    names = classes()[background.label].words if by_name and background.label else ()
    return Sample(
        ask([str(file)], "").messages,
        id=f"sac-{background.name}",
        task="sac",
        references=names,
        origin={
            "recording": background.name,
            "caption": background.caption,
            "transcript": question,
            "voice": voice,
            "category": background.group or "other",
            "louder_db": f"{louder_db:g}",
        },
    )


def mix(sound: np.ndarray, voice: np.ndarray, louder_db: float) -> np.ndarray:
    """A voice over a sound, both (N,) float32 16 kHz -> (N,) float32; a short sound is repeated."""
    if not len(sound) or not sound.any():
        raise SourceError("a sound without a sample above zero cannot be heard behind a voice")
    before, after = round(BEFORE_S * SAMPLE_RATE), round(AFTER_S * SAMPLE_RATE)
    needed = before + len(voice) + after
    pause = np.zeros(round(PAUSE_S * SAMPLE_RATE), np.float32)
    times = max(1, math.ceil(needed / (len(sound) + len(pause))))
    behind = np.concatenate([piece for _ in range(times) for piece in (sound, pause)][:-1])
    behind = np.pad(behind, (0, max(0, needed - len(behind))))
    level = SPEECH_RMS / 10 ** (louder_db / 20) / np.sqrt(np.mean(sound.astype(np.float64) ** 2))
    mixed: np.ndarray = (behind * np.float32(level)).astype(np.float32)
    mixed[before : before + len(voice)] += voice
    return mixed
