"""Layouts that evaluation reads: a public corpus as it is laid out, a Hub dataset folder, or a manifest.

Each reader yields samples with references and, where the corpus asks them, questions and choices.
"""

from collections.abc import Callable, Iterator, Mapping

from lalm.sample import Sample, read_manifest
from lalm.tasks import Source, hub, overlap, question_sets, sounds, speech, spoken
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
    "gigaspeech": spoken.gigaspeech,
    "common_voice": spoken.common_voice,
    "fleurs": spoken.fleurs,
    "aishell2": spoken.aishell2,
    "meld": spoken.meld,
    "slurp": spoken.slurp,
    "inspec": spoken.inspec,
    "clotho_aqa": question_sets.clotho_aqa,
    "airbench_chat": question_sets.airbench_chat,
    "airbench_foundation": question_sets.airbench_foundation,
    "mmau": question_sets.mmau,
    "avqa": question_sets.avqa,
    "esc50": question_sets.esc50,
    "vocalsound": question_sets.vocalsound,
    "audioset": question_sets.audioset,
    "hub": hub.hub,
}
