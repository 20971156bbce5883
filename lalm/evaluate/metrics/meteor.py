"""METEOR 1.5 for English (Denkowski and Lavie 2014) in Python, as ``meteor-1.5.jar -l en -norm`` computes it.

    matches of words that are equal, share a stem or a synset, and of paraphrases
      -> the alignment that covers most, in fewest chunks
      -> weighted precision and recall -> their mean, less what the chunks cost

1,496 pairs of captions and longer texts score as the jar scores them, to the last digit that it prints
(tests/evaluate/reference_tools.json has some of them). Stems are those of snowballstemmer 2; version 3 stems
"organisation" and 700 other words otherwise.

Synonyms and paraphrases are data of the reference tool: ``MeteorData.read`` takes the folder of an unpacked
``pycocoevalcap`` wheel (its ``meteor`` part) or None. Without it words match exactly or by stem only, which
is not METEOR 1.5; ``MeteorData.name`` says which one scored.
"""

import gzip
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from lalm.evaluate.metrics.captions import caption_tokens
from lalm.evaluate.metrics.intervals import Array, Measured, additive
from lalm.evaluate.metrics.meteor_tokens import meteor_tokens

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
WEIGHTS = (1.0, 0.6, 0.8, 0.6)  # of exact, stem, synonym and paraphrase matches
EXACT, STEM, SYNONYM, PARAPHRASE = range(4)
BEAM = 40
LONGEST_PHRASE = 10  # words; the table's longest has fewer
ENDINGS = tuple(  # WordNet's, of nouns, verbs and adjectives: what goes, and what comes instead
    pair.split(":")
    for pair in [
        "s:",
        "ses:s",
        "xes:x",
        "zes:z",
        "ches:ch",
        "shes:sh",
        "men:man",
        "ies:y",
        "s:",
        "ies:y",
        "es:e",
        "es:",
        "ed:e",
        "ed:",
        "ing:e",
        "ing:",
        "er:",
        "est:",
        "er:e",
        "est:e",
    ]
)

Phrase: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class MeteorData:
    """What METEOR knows of English. ``paraphrases``: phrase -> phrases that say the same, in the
    table's order; ``abbreviations`` keep their dot wherever they stand."""

    name: str
    abbreviations: frozenset[str] = frozenset()
    function_words: frozenset[str] = frozenset()
    synsets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    bases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    paraphrases: Mapping[Phrase, Sequence[Phrase]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path | None, texts: Iterable[Sequence[str]]) -> "MeteorData":
        """The data in ``folder``, paraphrases of phrases in ``texts``, caption tokens each."""
        if folder is None:
            return cls("exact and stem matches of METEOR only, not METEOR 1.5")
        jar, table = folder / "meteor-1.5.jar", folder / "data" / "paraphrase-en.gz"
        for path in (jar, table):
            if not path.is_file():
                raise ValueError(f"'{folder}' is no METEOR folder: it has no {path.relative_to(folder)}")
        words, synsets, bases, abbreviations = _jar(jar)
        said = set[Phrase]()
        for text in texts:
            tokens = meteor_tokens(text, abbreviations)
            for n in range(1, LONGEST_PHRASE + 1):
                said |= {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}
        return cls("METEOR 1.5", abbreviations, words, synsets, bases, _paraphrases(table, said))


def _jar(
    path: Path,
) -> tuple[frozenset[str], dict[str, frozenset[str]], dict[str, tuple[str, ...]], frozenset[str]]:
    """Function words, synsets of words, base forms of irregular words, abbreviations, from the tool's jar."""
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
        listed = [row.split() for row in lines("nonbreaking/english.prefixes") if not row.startswith("#")]
        abbreviations = frozenset(row[0] for row in listed if len(row) == 1)  # others only before numbers
    return words, synsets, bases, abbreviations


def _paraphrases(path: Path, said: set[Phrase]) -> dict[Phrase, list[Phrase]]:
    """Pairs of phrases that both occur, in the table's order; it has a probability, a phrase, its paraphrase
    in turn."""
    found: dict[Phrase, list[Phrase]] = {}
    spoken = {" ".join(phrase) for phrase in said}
    with gzip.open(path, "rt", encoding="utf-8") as table:
        for _, first, second in zip(table, table, table, strict=True):
            if (a := first.rstrip("\n")) in spoken and (b := second.rstrip("\n")) in spoken:
                found.setdefault(tuple(a.split()), []).append(tuple(b.split()))
    return found


class _Match(NamedTuple):
    """Words start .. start + length of the hypothesis for words at .. at + width of the reference."""

    module: int
    start: int
    length: int
    at: int
    width: int


class _Path(NamedTuple):
    """A partial alignment: matches, words in use of hypothesis and reference (bits), what its matches weigh,
    chunks so far, the hypothesis' place after the last match (or -1), how far matches lie apart, and where in
    the reference to go on."""

    matches: tuple[_Match, ...]
    used: int
    taken: int
    weight: int = 0
    chunks: int = 0
    last: int = -1
    distance: int = 0
    until: int = 0

    def rank(self) -> tuple[int, int, int]:
        return -self.weight, self.chunks, self.distance

    def free(self, match: _Match) -> bool:
        return not (self.used & _bits(match.start, match.length) or self.taken & _bits(match.at, match.width))

    def plus(self, match: _Match) -> "_Path":
        """With the match. The search knows whole weights only: all but equal words weigh half, rounded down
        on either side."""
        whole = match.module == EXACT
        return _Path(
            (*self.matches, match),
            self.used | _bits(match.start, match.length),
            self.taken | _bits(match.at, match.width),
            self.weight + (2 if whole else match.length // 2 + match.width // 2),
            self.chunks + (self.last not in (-1, match.start)),
            match.start + match.length,
            self.distance,
            match.at + match.width,
        )

    def closed(self) -> "_Path":
        """With the chunk that was open counted."""
        return self._replace(chunks=self.chunks + (self.last != -1), last=-1)


def _bits(start: int, length: int) -> int:
    return ((1 << length) - 1) << start


def alignment(said: Sequence[str], wanted: Sequence[str], data: MeteorData) -> tuple[tuple[_Match, ...], int]:
    """The matches that are chosen, by beam search from left to right over ``wanted``, and their chunks.

    A match whose words no other match touches is always chosen. Among paths the heavier wins, then fewer
    chunks, then the shorter distance, then the older path; a match that is tried adds its distance to the
    paths that go on without it, not to its own.
    """
    found = _matches(said, wanted, data)
    sure = {match.at: match for match in _undisputed(found, len(said), len(wanted))}
    used = sum(_bits(match.start, match.length) for match in sure.values())
    taken = sum(_bits(match.at, match.width) for match in sure.values())
    paths = [_Path((), used, taken)]
    for place in range(len(wanted)):
        after: list[_Path] = []
        for path in sorted(paths, key=_Path.rank)[:BEAM]:
            if place < path.until:
                after.append(path)
                continue
            if place in sure:
                match = sure[place]
                after.append(path.plus(match)._replace(distance=path.distance + abs(match.at - match.start)))
                continue
            for match in found[place]:
                if path.free(match):
                    after.append(path.plus(match))
                    path = path._replace(distance=path.distance + abs(match.at - match.start))
            after.append(path.closed())
        paths = after
    best = min((path.closed() for path in sorted(paths, key=_Path.rank)[:BEAM]), key=_Path.rank)
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
    """All matches by their first word in ``wanted``, in the tool's order: by module, then by word of
    ``said``. Equal sentences have equal words only; a pair of phrases that is listed twice matches twice."""
    found: list[list[_Match]] = [[] for _ in wanted]
    pairs = [(j, i) for j in range(len(wanted)) for i in range(len(said))]
    for j, i in pairs:
        if said[i] == wanted[j]:
            found[j].append(_Match(EXACT, i, 1, j, 1))
    if list(said) == list(wanted):
        return found
    for j, i in pairs:
        if said[i] != wanted[j] and _stem(said[i]) == _stem(wanted[j]):
            found[j].append(_Match(STEM, i, 1, j, 1))
    mine, theirs = ([_synsets(word, data) for word in side] for side in (said, wanted))
    for j, i in pairs:
        if said[i] != wanted[j] and mine[i] & theirs[j]:
            found[j].append(_Match(SYNONYM, i, 1, j, 1))
    for j, width, i, length in _phrase_pairs(wanted, said, data):
        found[j].append(_Match(PARAPHRASE, i, length, j, width))
    for i, length, j, width in _phrase_pairs(said, wanted, data):
        found[j].append(_Match(PARAPHRASE, i, length, j, width))
    return found


def _phrase_pairs(
    one: Sequence[str], other: Sequence[str], data: MeteorData
) -> Iterator[tuple[int, int, int, int]]:
    """(start, length) of a phrase of ``one`` and of a paraphrase of it in ``other``."""
    if not data.paraphrases:
        return
    for start in range(len(one)):
        for length in range(1, min(LONGEST_PHRASE, len(one) - start) + 1):
            for phrase in data.paraphrases.get(tuple(one[start : start + length]), ()):
                for at in range(len(other) - len(phrase) + 1):
                    if tuple(other[at : at + len(phrase)]) == phrase:
                        yield start, length, at, len(phrase)


def _synsets(word: str, data: MeteorData) -> frozenset[str]:
    """Of the word, and of its base: the listed one of an irregular form, else what WordNet's endings give."""
    bases = data.bases.get(word) or (_base(word, data),)
    return frozenset().union(*(data.synsets.get(form, frozenset()) for form in (word, *bases)))


def _base(word: str, data: MeteorData) -> str:
    if word.endswith("ss") or len(word) <= 2:
        return word
    for ending, instead in ENDINGS:
        if word.endswith(ending) and (form := word.removesuffix(ending) + instead) in data.synsets:
            return form
    return ""


@cache
def _stem(word: str) -> str:
    return str(_stemmer().stemWord(word))


@cache
def _stemmer() -> Any:
    import snowballstemmer

    return snowballstemmer.stemmer("english")


def statistics(said: Sequence[str], wanted: Sequence[str], data: MeteorData) -> Array:
    """What METEOR sums over segments: (23,) words and function words of both sides, per module the matched
    content and function words of both sides, chunks, matched words of both sides. A pair that matches whole
    in one chunk has none to be counted."""
    matches, chunks = alignment(said, wanted, data)
    counts = np.zeros((4, 4))  # module x (said content, said function, wanted content, wanted function)
    for match in matches:
        for word in said[match.start : match.start + match.length]:
            counts[match.module, int(word in data.function_words)] += 1
        for word in wanted[match.at : match.at + match.width]:
            counts[match.module, 2 + int(word in data.function_words)] += 1
    own, theirs = counts[:, :2].sum(), counts[:, 2:].sum()
    if chunks == 1 and own == len(said) and theirs == len(wanted):
        chunks = 0
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
        return np.nan_to_num(mean * (1 - GAMMA * fragments**BETA))


def _weigh(content: Array, function: Array) -> Array:
    return DELTA * content + (1 - DELTA) * function


def meteor(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], folder: Path | None = None
) -> tuple[Measured, str]:
    """METEOR over the corpus, each item with its best reference, as a Measured, and its exact name."""
    said = [caption_tokens(text) for text in hypotheses]
    wanted = [[caption_tokens(text) for text in texts] for texts in references]
    data = MeteorData.read(folder, [*said, *(tokens for own in wanted for tokens in own)])
    rows = []
    for mine, own in zip(said, wanted, strict=True):
        words = meteor_tokens(mine, data.abbreviations)
        tables = [statistics(words, meteor_tokens(tokens, data.abbreviations), data) for tokens in own]
        rows.append(max(tables, key=lambda table: float(score(table))))
    return additive(np.array(rows), score), data.name
