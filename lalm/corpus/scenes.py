"""Chooses the sounds of each scene and writes the scenes to files."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lalm.audio.load import SAMPLE_RATE
from lalm.corpus.clips import Clip, Progress, read_flac, write_flac
from lalm.corpus.compose import Scene, Sound, bounded, crop, over_bed, sequence, vary, with_noise
from lalm.corpus.wording import in_order, over, repeated
from lalm.data.sample import Event

BED_GROUPS = ("ambience", "weather", "water", "fire", "machine", "music", "nature")
MIN_BED_S = 2.5
MAX_COUNTED_S = 1.5
SPEECH_SHARE = 0.15  # of sequences and beds hold speech besides what chance puts there
MAX_SINGLE = 10 * SAMPLE_RATE
Rng = np.random.Generator


@dataclass(frozen=True)
class Recording:
    """A line of a manifest: a clip, a varied take of one, or a scene."""

    id: str
    path: str  # relative to the corpus folder
    caption: str
    kind: str  # "single", "take", "sequence", "repetition" or "bed"
    clips: tuple[Clip, ...]  # in order of onset
    events: tuple[Event, ...]

    @property
    def labels(self) -> set[str]:
        return {clip.sound.label for clip in self.clips}


def singles(clips: Sequence[Clip]) -> list[Recording]:
    """The clips as they are."""
    return [
        Recording(c.id, c.path, c.row.caption, "single", (c,), (_whole(c, c.num_samples),)) for c in clips
    ]


def takes(
    clips: Sequence[Clip], out: Path, copies: int, seed: int, progress: Progress
) -> Iterator[Recording]:
    """``copies`` varied takes of each clip: speed, gain, noise."""
    for done, clip in enumerate(clips):
        progress("varied takes", done, len(clips))
        for number in range(1, copies + 1):
            name = f"{clip.id}-take{number}"
            rng = _generator(seed, name)
            audio = crop(vary(read_flac(out / clip.path), rng), MAX_SINGLE, rng)
            scene = Scene(bounded(with_noise(audio, rng)), (_whole(clip, len(audio)),))
            path = _written(scene, out, clip.split, name)
            yield Recording(name, path, clip.row.caption, "take", (clip,), scene.events)


def scenes(
    clips: Sequence[Clip], out: Path, split: str, counts: dict[str, int], seed: int, progress: Progress
) -> Iterator[Recording]:
    """Composed scenes, ``counts`` of each kind. Rare classes are drawn more often than their share."""
    if not clips:
        raise ValueError(f"the split '{split}' has no recordings: the packages hold none of the catalogue's")
    draw = Draw(clips)
    plan = [kind for kind in sorted(counts) for _ in range(counts[kind])]
    for done, kind in enumerate(plan):
        progress(f"scenes of {split}", done, len(plan))
        name = f"{split}-{kind}-{done:05d}"
        rng = _generator(seed, name)
        chosen = draw.scene(kind, done, rng)
        caption = _caption(kind, chosen, rng)
        sounds = [Sound(read_flac(out / c.path), c.row.label, c.row.caption) for c in chosen]
        if kind == "bed":
            scene = over_bed(sounds[0], sounds[1:], rng)
        else:
            scene = sequence(sounds, rng, same_take=kind == "repetition")
        path = _written(scene, out, split, name)
        yield Recording(name, path, caption, kind, tuple(chosen), scene.events)


class Draw:
    """Draws the clips of scenes from one split."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self.clips = clips
        frequency = Counter(clip.sound.name for clip in clips)
        self.odds = np.array([frequency[clip.sound.name] ** -0.6 for clip in clips])
        self.beds = self._mask(lambda c: c.sound.group in BED_GROUPS and c.seconds >= MIN_BED_S)
        self.single = self._mask(lambda c: c.bursts == 1 and c.seconds <= MAX_COUNTED_S)
        self.single &= self._mask(lambda c: c.sound.group not in ("speech", "music", "ambience"))
        self.speech = self._mask(lambda c: c.sound.group == "speech")
        self.front = self._mask(lambda c: c.sound.group != "ambience")
        self.num_names = len({c.sound.name for c in clips if c.sound.group != "ambience"})
        for mask, use in (
            (self.beds, "as a bed"),
            (self.single, "to be counted"),
            (self.front, "over a bed"),
        ):
            if not mask.any():
                raise ValueError(f"no clip of the split '{clips[0].split}' can be used {use}")

    def scene(self, kind: str, number: int, rng: Rng) -> list[Clip]:
        """Clips of one scene: for a bed the bed first, for a repetition the same clip 1 to 4 times."""
        if kind == "repetition":
            return [self._one(self.single, [], rng)] * (1 + number % 4)
        chosen = [self._one(self.beds, [], rng)] if kind == "bed" else []
        if rng.random() < SPEECH_SHARE and self.speech.any():
            chosen.append(self._one(self.speech, [], rng))
        size = min(int(rng.choice([2, 3, 4], p=[0.6, 0.3, 0.1])), self.num_names)
        while len(chosen) < size:
            chosen.append(self._one(self.front, chosen, rng))
        if kind == "sequence":
            rng.shuffle(chosen)
        return chosen

    def _one(self, mask: np.ndarray, others: Sequence[Clip], rng: Rng) -> Clip:
        """A clip under the mask, of no class that the others have, by name; such a one must exist."""
        names = {clip.sound.name for clip in others}
        odds = self.odds * mask
        while True:
            clip = self.clips[int(rng.choice(len(odds), p=odds / odds.sum()))]
            if clip.sound.name not in names:
                return clip

    def _mask(self, test: Callable[[Clip], bool]) -> np.ndarray:
        return np.array([test(clip) for clip in self.clips], bool)


def _caption(kind: str, clips: Sequence[Clip], rng: Rng) -> str:
    captions, names = [c.row.caption for c in clips], [c.sound.name for c in clips]
    if kind == "repetition":
        return repeated(captions[0], len(clips), rng)
    if kind == "sequence":
        return in_order(captions, names, rng)
    return over(captions[0], names[0], in_order(captions[1:], names[1:], rng), rng)


def _written(scene: Scene, out: Path, split: str, name: str) -> str:
    """Write the scene unless it lies there; returns its path inside ``out``, which tells its content."""
    digest = hashlib.sha256(scene.audio.tobytes()).hexdigest()[:8]
    path = f"scenes/{split}/{name}-{digest}.flac"
    if not (out / path).exists():
        write_flac(out / path, scene.audio)
    return path


def _whole(clip: Clip, num_samples: int) -> Event:
    seconds = round(num_samples / SAMPLE_RATE, 6)
    return {"label": clip.row.label, "caption": clip.row.caption, "onset_s": 0.0, "offset_s": seconds}


def _generator(seed: int, name: str) -> Rng:
    """A generator of its own for every scene: what one draws does not move the others."""
    return np.random.default_rng([seed, *name.encode()])
