"""Instructions about held-out recordings that a program can check by the answer's form."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lalm.corpus.questions import item, presence
from lalm.corpus.scenes import Recording
from lalm.data.sample import Sample

INSTRUCTIONS = {
    "one_word": "Describe the sound in one word.",
    "ten_words": "Describe the audio in one ten-word sentence.",
    "german": "Describe the audio in one German sentence.",
    "french": "Describe the audio in one French sentence.",
    "spanish": "Describe the audio in one Spanish sentence.",
    "as_json": "Which sounds are in this clip? Reply in JSON.",
}
PER_TASK = 200


def instructions(recordings: Sequence[Recording], rng: np.random.Generator) -> list[Sample]:
    """Every instruction about the same recordings, and presence questions that ask for a bare yes or no."""
    order = [recordings[i] for i in rng.permutation(len(recordings))]
    asked = [recording for recording in order if recording.kind in ("single", "sequence")][:PER_TASK]
    items = [item(r, task, text, []) for task, text in INSTRUCTIONS.items() for r in asked]
    yes_no = presence(order, rng, suffix=" Answer only yes or no.")[:PER_TASK]
    return items + [replace(s, task="yes_no", id=s.id.replace("presence", "yes_no", 1)) for s in yes_no]
