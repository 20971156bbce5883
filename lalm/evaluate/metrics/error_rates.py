"""Error rates of transcripts by word, character or phone, as sums over items."""

from collections.abc import Callable, Sequence

from lalm.evaluate.metrics.intervals import Measured, rate
from lalm.evaluate.metrics.normalise import normalised


def edits(hypothesis: str, reference: str) -> tuple[int, int]:
    """(word edits, words of the reference) of two texts whose words are separated by spaces."""
    import jiwer

    if not reference.split():
        return len(hypothesis.split()), 0
    counted = jiwer.process_words(reference, hypothesis)
    wrong = counted.substitutions + counted.deletions + counted.insertions
    return wrong, counted.hits + counted.substitutions + counted.deletions


def word_errors(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    languages: Sequence[str],
    normalise: Callable[[str, str], str] = normalised,
) -> Measured:
    """Word error rate over the corpus, character error rate where the language is written without spaces.

    Both sides are normalised: (text, language) -> text. Of several references (either order of two speakers)
    the nearest counts.
    """
    rows = []
    for hypothesis, texts, language in zip(hypotheses, references, languages, strict=True):
        said = normalise(hypothesis, language)
        rows.append(_nearest([edits(said, normalise(text, language)) for text in texts]))
    return rate(rows)


def phone_errors(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Measured:
    """Phone error rate: phones are words here, case and stress digits (AH0) apart."""
    rows = [
        _nearest([edits(phones(hypothesis), phones(text)) for text in texts])
        for hypothesis, texts in zip(hypotheses, references, strict=True)
    ]
    return rate(rows)


def phones(text: str) -> str:
    """Upper-case phone names without stress and punctuation."""
    kept = "".join(c if c.isalpha() or c.isspace() else " " for c in text if not c.isdigit())
    return " ".join(kept.upper().split())


def _nearest(counts: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return min(counts, key=lambda pair: pair[0] / max(pair[1], 1))
