"""Layouts that evaluation reads: a public corpus as it is laid out, a Hub dataset folder, or a manifest.

Each reader yields samples with references and, where the corpus asks them, questions and choices.
"""

from collections.abc import Callable, Iterator, Mapping

from lalm.sample import Sample, read_manifest
from lalm.tasks import Source, overlap, sounds, speech
from lalm.tasks.annotation import annotation
from lalm.tasks.phones import phone_samples
from lalm.tasks.sources import opened

Reader = Callable[[Source], Iterator[Sample]]


def manifest(source: Source) -> Iterator[Sample]:
    """A manifest of ours, or one of ``lalm.layouts``."""
    return read_manifest(opened(source.path))


LAYOUTS: Mapping[str, Reader] = {
    "manifest": manifest,
    "librispeech": speech.librispeech,
    "librispeech_gender": speech.librispeech_gender,
    "transcripts": speech.transcripts,
    "covost": speech.covost,
    "iemocap": speech.iemocap,
    "voxceleb": speech.voxceleb,
    "audiocaps": sounds.audiocaps,
    "clotho": sounds.clotho,
    "wavcaps": sounds.wavcaps,
    "musiccaps": sounds.musiccaps,
    "librimix": overlap.librimix,
    "phones": phone_samples,
    "annotation": annotation,
}
