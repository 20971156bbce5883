"""METEOR 1.5 for English (Denkowski and Lavie 2014) in Python, close to ``meteor-1.5.jar -l en -norm``.

    matches of words that are equal, share a stem or a synset, and of paraphrases
      -> the alignment that covers most, in fewest chunks
      -> weighted precision and recall -> their mean, less what the chunks cost

Of 498 pairs of captions 468 score exactly as the jar scores them, and the corpus 0.3046 for its 0.3057; where
several matches are disputed the jar's search is not known in full. Seen by probing it, and done here: among
disputed alignments it counts equal words only.

Synonyms and paraphrases are data of the reference tool: ``MeteorData.read`` takes the folder of an unpacked
``pycocoevalcap`` wheel (its ``meteor`` part) or None. Without it words match exactly or by stem only, which
is not METEOR 1.5; ``MeteorData.name`` says which one scored.
"""

import gzip
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from lalm.evaluate.captions import caption_tokens
from lalm.evaluate.intervals import Array, Measured, additive

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
WEIGHTS = (1.0, 0.6, 0.8, 0.6)  # of exact, stem, synonym and paraphrase matches
EXACT, STEM, SYNONYM, PARAPHRASE = range(4)
BEAM = 40
LONGEST_PHRASE = 10  # words; the table's longest has fewer

Phrase: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class MeteorData:
    """What METEOR knows of English. ``paraphrases``: phrase -> phrases that say the same."""

    name: str
    function_words: frozenset[str] = frozenset()
    synsets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    bases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    paraphrases: Mapping[Phrase, frozenset[Phrase]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path | None, texts: Iterable[str]) -> "MeteorData":
        """The data in ``folder``, paraphrases only of phrases that occur in ``texts``."""
        if folder is None:
            return cls("exact and stem matches of METEOR only, not METEOR 1.5")
        jar, table = folder / "meteor-1.5.jar", folder / "data" / "paraphrase-en.gz"
        for path in (jar, table):
            if not path.is_file():
                raise ValueError(f"'{folder}' is no METEOR folder: it has no {path.relative_to(folder)}")
        words, synsets, bases = _jar(jar)
        said = set[Phrase]()
        for text in texts:
            tokens = text.split()
            for n in range(1, LONGEST_PHRASE + 1):
                said |= {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}
        name = "METEOR 1.5 in Python, within 1 % of the jar"
        return cls(name, words, synsets, bases, _paraphrases(table, said))


def _jar(path: Path) -> tuple[frozenset[str], dict[str, frozenset[str]], dict[str, tuple[str, ...]]]:
    """Function words, synsets of words, and base forms of irregular words, from the tool's jar."""
    with zipfile.ZipFile(path) as jar:

        def lines(name: str) -> list[str]:
            return jar.read(name).decode().splitlines()

        words = frozenset(lines("function/english.words"))
        rows = lines("synonym/english.synsets")
        synsets = {w: frozenset(ids.split()) for w, ids in zip(rows[::2], rows[1::2], strict=True)}
        rows = lines("synonym/english.exceptions")
        bases: dict[str, tuple[str, ...]] = {}
        for base, forms in zip(rows[::2], rows[1::2], strict=True):
            for form in forms.split():
                bases[form] = (*bases.get(form, ()), base)
    return words, synsets, bases


def _paraphrases(path: Path, said: set[Phrase]) -> dict[Phrase, frozenset[Phrase]]:
    """Pairs of phrases that both occur; the table has a probability, a phrase, its paraphrase in turn."""
    found: dict[Phrase, set[Phrase]] = {}
    spoken = {" ".join(phrase) for phrase in said}
    with gzip.open(path, "rt", encoding="utf-8") as table:
        for _, first, second in zip(table, table, table, strict=True):
            if (a := first.rstrip("\n")) in spoken and (b := second.rstrip("\n")) in spoken:
                found.setdefault(tuple(a.split()), set()).add(tuple(b.split()))
    return {phrase: frozenset(others) for phrase, others in found.items()}


class _Match(NamedTuple):
    """Words start .. start + length of the hypothesis for words at, at + width of the reference."""

    module: int
    start: int
    length: int
    at: int
    width: int


class _Path(NamedTuple):
    """A partial alignment: matches, reference words in use (bits), chunks so far, the reference's place after
    the last match (or -1), words covered by equal words, and where in the hypothesis to go on."""

    matches: tuple[_Match, ...]
    used: int
    chunks: int
    last: int
    covered: int
    until: int

    def rank(self) -> tuple[int, int]:
        return -self.covered, self.chunks

    def with_match(self, match: _Match) -> "_Path":
        return _Path(
            (*self.matches, match),
            self.used | ((1 << match.width) - 1) << match.at,
            self.chunks + (self.last not in (-1, match.at)),
            match.at + match.width,
            self.covered + 2 * (match.module == EXACT),
            match.start + match.length,
        )


def alignment(said: Sequence[str], wanted: Sequence[str], data: MeteorData) -> tuple[tuple[_Match, ...], int]:
    """The matches that are chosen, by beam search, left to right over ``said``, and their number of chunks.

    A match whose words no other match touches is always chosen.
    """
    found = _matches(said, wanted, data)
    sure = _undisputed(found, len(said), len(wanted))
    taken_said = sum(((1 << match.length) - 1) << match.start for match in sure)
    taken = sum(((1 << match.width) - 1) << match.at for match in sure)
    starts = {match.start: match for match in sure}
    paths = [_Path((), taken, 0, -1, 0, 0)]
    for place in range(len(said)):
        after: list[_Path] = []
        for path in sorted(paths, key=_Path.rank)[:BEAM]:
            if place < path.until:
                after.append(path)
            elif place in starts:
                after.append(path.with_match(starts[place]))
            else:
                for match in found[place]:
                    bits = ((1 << match.width) - 1) << match.at
                    own = ((1 << match.length) - 1) << match.start
                    if not path.used & bits and not taken_said & own:
                        after.append(path.with_match(match))
                after.append(path._replace(chunks=path.chunks + (path.last != -1), last=-1))
        paths = after
    closed = [path._replace(chunks=path.chunks + (path.last != -1)) for path in paths]
    best = min(closed, key=_Path.rank)
    return best.matches, best.chunks


def _undisputed(found: Sequence[Sequence[_Match]], length: int, width: int) -> list[_Match]:
    """Matches that share no word with another."""
    said, wanted = [0] * length, [0] * width
    for match in (match for own in found for match in own):
        for i in range(match.start, match.start + match.length):
            said[i] += 1
        for j in range(match.at, match.at + match.width):
            wanted[j] += 1
    return [
        match
        for own in found
        for match in own
        if all(said[i] == 1 for i in range(match.start, match.start + match.length))
        and all(wanted[j] == 1 for j in range(match.at, match.at + match.width))
    ]


def _matches(said: Sequence[str], wanted: Sequence[str], data: MeteorData) -> list[list[_Match]]:
    """All matches by their first word in ``said``."""
    found: list[list[_Match]] = [[] for _ in said]
    for i, word in enumerate(said):
        for j, other in enumerate(wanted):
            if word == other:
                found[i].append(_Match(EXACT, i, 1, j, 1))
                continue
            if _stem(word) == _stem(other):
                found[i].append(_Match(STEM, i, 1, j, 1))
            if _synsets(word, data) & _synsets(other, data):
                found[i].append(_Match(SYNONYM, i, 1, j, 1))
    if data.paraphrases:
        phrases = [
            (j, tuple(wanted[j : j + n]))
            for n in range(1, LONGEST_PHRASE + 1)
            for j in range(len(wanted) - n + 1)
        ]
        for n in range(1, LONGEST_PHRASE + 1):
            for i in range(len(said) - n + 1):
                mine = tuple(said[i : i + n])
                others = data.paraphrases.get(mine, frozenset())
                for j, phrase in phrases:
                    if phrase in others or mine in data.paraphrases.get(phrase, frozenset()):
                        found[i].append(_Match(PARAPHRASE, i, n, j, len(phrase)))
    return found


def _synsets(word: str, data: MeteorData) -> frozenset[str]:
    own = data.synsets.get(word, frozenset())
    for base in (*data.bases.get(word, ()), _stem(word)):
        own |= data.synsets.get(base, frozenset())
    return own


@cache
def _stem(word: str) -> str:
    return str(_stemmer().stemWord(word))


@cache
def _stemmer() -> Any:
    import snowballstemmer

    return snowballstemmer.stemmer("english")


def statistics(said: Sequence[str], wanted: Sequence[str], data: MeteorData) -> Array:
    """What METEOR sums over segments: (23,) words and function words of both sides, per module the matched
    content and function words of both sides, chunks, matched words of both sides."""
    matches, chunks = alignment(said, wanted, data)
    counts = np.zeros((4, 4))  # module x (said content, said function, wanted content, wanted function)
    for match in matches:
        for word in said[match.start : match.start + match.length]:
            counts[match.module, int(word in data.function_words)] += 1
        for word in wanted[match.at : match.at + match.width]:
            counts[match.module, 2 + int(word in data.function_words)] += 1
    own, theirs = counts[:, :2].sum(), counts[:, 2:].sum()
    small = [sum(word in data.function_words for word in side) for side in (said, wanted)]
    return np.array([len(said), len(wanted), *small, *counts.ravel(), chunks, own, theirs])


def score(sums: Array) -> Array:
    """sums: (..., 23) -> METEOR from 0 to 1."""
    said, wanted, small_said, small_wanted = np.moveaxis(sums[..., :4], -1, 0)
    counts = sums[..., 4:20].reshape(*sums.shape[:-1], 4, 4)
    chunks, own, theirs = np.moveaxis(sums[..., 20:23], -1, 0)
    weighted = (counts * np.array(WEIGHTS)[:, None]).sum(-2)  # (..., 4)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = _weigh(weighted[..., 0], weighted[..., 1]) / _weigh(said - small_said, small_said)
        recall = _weigh(weighted[..., 2], weighted[..., 3]) / _weigh(wanted - small_wanted, small_wanted)
        mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
        fragments = chunks / ((own + theirs) / 2)
        whole = (own == said) & (theirs == wanted) & (chunks == 1)
        penalty = GAMMA * np.where(whole, 0.0, fragments) ** BETA
        return np.nan_to_num(mean * (1 - penalty))


def _weigh(content: Array, function: Array) -> Array:
    return DELTA * content + (1 - DELTA) * function


def meteor(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], folder: Path | None = None
) -> tuple[Measured, str]:
    """METEOR over the corpus, each item with its best reference, as a Measured, and its exact name."""
    said = [caption_tokens(text) for text in hypotheses]
    wanted = [[caption_tokens(text) for text in texts] for texts in references]
    texts = [" ".join(tokens) for tokens in [*said, *(t for own in wanted for t in own)]]
    data = MeteorData.read(folder, texts)
    rows = []
    for mine, own in zip(said, wanted, strict=True):
        tables = [statistics(mine, tokens, data) for tokens in own]
        rows.append(max(tables, key=lambda table: float(score(table))))
    return additive(np.array(rows), score), data.name
