"""Lessons about rendered music (``lalm corpus music``): instruments, how many, major or minor, slow or fast.

What one may ask of any recording is asked as ``lesson_questions`` asks it; what is not there is always
another instrument. Yes and no are drawn evenly, and modes, tempi, numbers and the faster of two come equally
often in the clips, so that the question alone tells nothing. Wordings: ``music.yaml``.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lalm.corpus.catalogue import SoundClass
from lalm.corpus.lesson_kinds import NUMBER_WORDS, before, in_sequence, which_instrument
from lalm.corpus.lesson_languages import french, german, spanish
from lalm.corpus.lesson_questions import Heard, Offers, Turn, one_of, pick, wordings
from lalm.corpus.lessons import TURNS, conversation
from lalm.corpus.music_questions import DRUMS
from lalm.corpus.wording import sentence
from lalm.data.readers import open_samples
from lalm.data.sample import AudioPart, Sample, write_manifest

SHARES = {"single": 0.36, "together": 0.34, "sequence": 0.14, "twice": 0.16}  # of the lines
ASKED = {  # of clips of a kind alone
    "single": ("what", "which_instrument", "choice", "one_word", "spanish", "french", "german"),
    "together": ("instruments", "json"),
    "sequence": ("order", "neighbours", "before", "sequence"),
}
NUMBERED = {"single": 0.5, "together": 1.8}  # how often how many is asked, so that one to three come evenly
LAST = ("which_instrument", "instruments", "what", "one_word", "json", "sequence", "beats", "describe")


class Played(Heard):
    """What a clip of rendered music lets one ask. Each method draws a question and its answer."""

    def __init__(self, row: Sample, offers: Offers, rng: np.random.Generator) -> None:
        super().__init__(row, offers, rng)
        self.known = row.origin

    def can(self, kind: str) -> bool:
        """Whether a question of this kind makes sense here."""
        needs = {"tempo": "tempo", "beats": "tempo", "mode": "mode", "second": "second"}
        if kind in needs:
            return needs[kind] in self.known and (kind != "mode" or self.kind != "twice")
        if kind == "number":
            return self.kind in ("single", "together") and DRUMS not in self.names
        return kind in ("describe", "presence", "either", *ASKED.get(self.kind, ()))

    def absent(self, but: Sequence[str] = (), *, alone: bool = False) -> SoundClass:
        """An instrument that does not play; drums as seldom as they play."""
        chosen = [sound for sound in self.others if sound.name not in but]
        odds = np.array([(self.offers.alone if alone else self.offers.heard)[s.label] for s in chosen])
        return chosen[int(self.rng.choice(len(chosen), p=odds / odds.sum()))]

    def describe(self) -> Turn:
        """All of it, in a sentence."""
        return self._worded("describe"), sentence(self.known["caption"])

    def choice(self) -> Turn:
        """One of three to five instruments."""
        question, answer = super().choice()
        _, _, options = question.partition("\n")
        if not options:
            return question, answer
        return f"{self._worded('choice')}\n{options}", answer

    def instruments(self) -> Turn:
        """All instruments."""
        listed = " and ".join([", ".join(self.names[:-1]), self.names[-1]])
        return self._worded("instruments"), pick(self.rng, sentence(listed), f"I hear {listed}.")

    def number(self) -> Turn:
        """How many instruments."""
        number = len(self.names)
        return self._worded("number"), pick(self.rng, NUMBER_WORDS[number].capitalize(), str(number)) + "."

    def mode(self) -> Turn:
        """Major or minor, and whether it is one of them; yes and no equally often."""
        own = self.known["mode"]
        if self.rng.random() < 0.6:
            return self._worded("mode"), pick(self.rng, f"{own.capitalize()}.", f"It is in a {own} key.")
        asked = pick(self.rng, "major", "minor")
        return self._worded("is_mode", asked) + one_of(self.rng, "yes_no"), "Yes." if asked == own else "No."

    def tempo(self) -> Turn:
        """Slow, moderate or fast, and whether it is one of them; yes and no equally often."""
        own = self.known["tempo"]
        if self.rng.random() < 0.6:
            return self._worded("tempo"), pick(self.rng, f"{own.capitalize()}.", f"The tempo is {own}.")
        others = [name for name in ("slow", "moderate", "fast") if name != own]
        true = bool(self.rng.random() < 0.5)
        asked = own if true else pick(self.rng, *others)
        return self._worded("is_tempo", asked) + one_of(self.rng, "yes_no"), "Yes." if true else "No."

    def beats(self) -> Turn:
        """Beats a minute, to ten."""
        return self._worded("beats"), f"About {round(int(self.known['beats_a_minute']), -1)}."

    def second(self) -> Turn:
        """Which of two times is faster; yes and no, first and second equally often."""
        own = self.known["second"]
        asked = pick(self.rng, "faster", "slower")
        form = self.rng.random()
        if form < 0.5:
            answer = "Yes." if asked == own else "No."
            return self._worded("second_is", asked) + one_of(self.rng, "yes_no"), answer
        if form < 0.8:
            return self._worded("which_is", asked), f"The {'second' if asked == own else 'first'}."
        return self._worded("change"), pick(self.rng, f"It becomes {own}.", f"{own.capitalize()}.")

    def _worded(self, kind: str, x: str = "") -> str:
        return str(pick(self.rng, *wordings("music.yaml")[kind])).format(x=x)


MUSIC_KINDS: Mapping[str, tuple[float, Callable[[Played], Turn]]] = {
    "what": (1.5, Played.what),
    "which_instrument": (4.0, which_instrument),
    "choice": (5.0, Played.choice),
    "one_word": (0.7, Played.one_word),
    "instruments": (4.0, Played.instruments),
    "json": (0.5, Played.as_json),
    "presence": (4.0, Played.presence),
    "either": (2.0, Played.either),
    "number": (3.5, Played.number),
    "mode": (4.5, Played.mode),
    "tempo": (5.0, Played.tempo),
    "beats": (1.0, Played.beats),
    "second": (14.0, Played.second),
    "order": (8.0, Played.order),
    "neighbours": (2.0, Played.neighbours),
    "before": (2.0, before),
    "sequence": (1.5, in_sequence),
    "describe": (2.0, Played.describe),
    "spanish": (0.4, spanish),
    "french": (0.4, french),
    "german": (0.4, german),
}


def is_music(manifest: Path) -> bool:
    """Whether a manifest is one of ``lalm corpus music``: its first line says which instruments play."""
    return any("instruments" in sample.origin for sample, _ in zip(open_samples(manifest), "1", strict=False))


def write_music_lessons(manifest: Path, out: Path, count: int, seed: int = 0) -> int:
    """Write ``count`` conversations of one to three questions about rendered music; returns their number.

    Raises ValueError for a manifest without clips of ``lalm corpus music``.
    """
    rows = [sample for sample in open_samples(manifest) if "instruments" in sample.origin]
    kinds = {kind: own for kind in SHARES if (own := [r for r in rows if r.origin["kind"] == kind])}
    if not kinds:
        raise ValueError(
            f"'{manifest}' has no clips whose instruments are known; make it by 'lalm corpus music'"
        )
    rng = np.random.default_rng([seed, 2])
    offers = _offers(kinds)
    return write_manifest(out, (_lesson(n, kinds, offers, rng) for n in range(count)))


def _offers(rows: Mapping[str, Sequence[Sample]]) -> Offers:
    """Odds of each instrument where it does not play: as often as it is named where it does."""
    heard: dict[str, float] = {}
    alone: dict[str, float] = {}
    for kind, own in rows.items():
        for row in own:
            for event in row.events:
                label, share = event["label"], SHARES[kind] / len(own) / len(row.events)
                heard[label] = heard.get(label, 0.0) + share
                alone[label] = alone.get(label, 1e-9) + share * (kind == "single")
    return Offers(heard, alone)


def _lesson(
    number: int, rows: Mapping[str, Sequence[Sample]], offers: Offers, rng: np.random.Generator
) -> Sample:
    shares = np.array([SHARES[kind] for kind in rows])
    kind = str(rng.choice(list(rows), p=shares / shares.sum()))
    row = rows[kind][int(rng.integers(len(rows[kind])))]
    heard = Played(row, offers, rng)
    kinds = [(name, odds) for name, (odds, _) in MUSIC_KINDS.items() if heard.can(name)]
    kinds = [(name, odds * NUMBERED.get(kind, 1.0) if name == "number" else odds) for name, odds in kinds]
    odds = np.array([odds for _, odds in kinds])
    size = min(int(rng.choice(TURNS[0], p=TURNS[1])), len(kinds))
    chosen = [kinds[i][0] for i in rng.choice(len(kinds), size, replace=False, p=odds / odds.sum())]
    chosen.sort(key=lambda name: LAST.index(name) if name in LAST else -1)  # before an answer that would tell
    turns = [MUSIC_KINDS[name][1](heard) for name in chosen]
    part: AudioPart = {"type": "audio", "audio": row.audios[0]["audio"]}
    return conversation(row, number, chosen, turns, part)
