"""Opens the data of evaluation tasks: a public corpus as released, a Hub dataset folder, or a manifest.

Each reader yields samples with references and, where the corpus asks them, questions and choices.
"""

from collections.abc import Callable, Iterator, Mapping

from lalm.data.sample import Sample, read_manifest
from lalm.tasks import (
    Source,
    hub,
    overlap,
    question_sets,
    sound_labels,
    sounds,
    speech,
    speech_tables,
    spoken,
)
from lalm.tasks.annotation import annotation
from lalm.tasks.phones import phone_samples
from lalm.tasks.sources import opened

Reader = Callable[[Source], Iterator[Sample]]


def manifest(source: Source) -> Iterator[Sample]:
    """A manifest of ours, or one of ``lalm.data.formats``."""
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
    "gigaspeech": speech_tables.gigaspeech,
    "common_voice": speech_tables.common_voice,
    "fleurs": speech_tables.fleurs,
    "aishell2": speech_tables.aishell2,
    "meld": speech_tables.meld,
    "slurp": spoken.slurp,
    "inspec": spoken.inspec,
    "wikiqa": spoken.wikiqa,
    "clotho_aqa": sound_labels.clotho_aqa,
    "airbench_chat": question_sets.airbench_chat,
    "airbench_foundation": question_sets.airbench_foundation,
    "mmau": question_sets.mmau,
    "avqa": question_sets.avqa,
    "avqa_video": question_sets.avqa_video,
    "esc50": sound_labels.esc50,
    "vocalsound": question_sets.vocalsound,
    "audioset": sound_labels.audioset,
    "hub": hub.hub,
}
