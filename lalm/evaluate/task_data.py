"""Opens the data of evaluation tasks: a public corpus as released, a Hub dataset folder, or a manifest.

Each reader yields samples with references and, where the corpus asks them, questions and choices.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from lalm.data.readers import is_source, read_manifest
from lalm.data.sample import Sample
from lalm.tasks import (
    Source,
    overlap,
    question_sets,
    sound_labels,
    sounds,
    speech,
    speech_tables,
    spoken,
)
from lalm.tasks.annotation import annotation
from lalm.tasks.chunked_calls import chunked_calls
from lalm.tasks.phones import phone_samples
from lalm.tasks.published_tables import columns

Reader = Callable[[Source], Iterator[Sample]]


def manifest(source: Source) -> Iterator[Sample]:
    """Any SOURCE of ``lalm.data.readers``."""
    return read_manifest(source.path, source.reading)


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
    "avqa": question_sets.avqa,
    "avqa_video": question_sets.avqa_video,
    "esc50": sound_labels.esc50,
    "vocalsound": question_sets.vocalsound,
    "audioset": sound_labels.audioset,
    "columns": columns,
    "chunked_calls": chunked_calls,
}

# The folder in a task's path -> what else releases and mirrors call it.
OTHER_NAMES: Mapping[str, Sequence[str]] = {
    "AIR-Bench": ("AIR-Bench-Dataset", "airbench"),
    "AISHELL-DEV-TEST-SET": ("AISHELL2/AISHELL-DEV-TEST-SET", "AISHELL-2/AISHELL-DEV-TEST-SET", "aishell2"),
    "AudioCaps": ("audiocaps", "audiocaps/dataset", "AudioCaps/dataset", "audiocaps-*/dataset"),
    "AudioSet": ("audioset",),
    "AVQA": ("avqa", "AVQA_dataset"),
    "Clotho": ("clotho", "clotho_dataset", "clotho-v2.1"),
    "ClothoAQA": ("Clotho-AQA", "clotho_aqa"),
    "cv-corpus-15.0": ("cv-corpus-15.0-2023-09-08", "cv-corpus-15.0-*", "common_voice_15", "CommonVoice15"),
    "COnversationalREasoningBench_v0.1": ("CoRe-Bench", "CORE-Bench", "COnversationalREasoningBench"),
    "covost2": ("covost", "CoVoST2", "covost_v2"),
    "Earnings22-Cleaned-AA-chunked": ("earnings22-cleaned-aa-chunked",),
    "ESC-50": ("ESC-50-master", "esc50", "esc-50"),
    "fleurs": ("FLEURS", "fleurs/data"),
    "GigaSpeech": ("gigaspeech",),
    "IEMOCAP_full_release": ("IEMOCAP", "iemocap", "IEMOCAP/IEMOCAP_full_release"),
    "Inspec": ("inspec", "Hulth2003"),
    "LibriMix": ("Libri2Mix", "librimix"),
    "LibriSpeech": ("librispeech", "librispeech/LibriSpeech", "LibriSpeech/LibriSpeech"),
    "MELD.Raw": ("MELD/MELD.Raw", "MELD.Raw/MELD.Raw", "MELD", "meld", "meld/MELD.Raw", "MELD.Raw/test", "."),
    "ADQA-Bench": ("adqa-bench", "ADQA_Bench"),
    "big_bench_audio": ("big-bench-audio", "BigBenchAudio"),
    "DCASE2026-Task5-DevSet": ("dcase2026-task5-devset", "ADQA"),
    "MMAU": ("mmau", "MMAU-mini", "MMAU-test-mini", "MMAU-test"),
    "MMAU-Pro": ("mmau-pro", "MMAU_Pro", "MMAUPro"),
    "MMAR": ("mmar",),
    "MMSU": ("mmsu", "MMSU/data"),
    "VoiceBench": ("voicebench",),
    "OpenAudioBench": ("openaudiobench", "openAudioBench"),
    "open-asr": ("esb-datasets-test-only-sorted", "open-asr-leaderboard"),
    "PARADE_audio": ("PARADE", "parade"),
    "SAKURA": ("sakura",),
    "MUGEN": ("mugen", "MUGEN-Benchmark"),
    "MusicCaps": ("musiccaps",),
    "slurp": ("slurp/dataset/slurp", "slurp-master/dataset/slurp", "SLURP"),
    "VocalSound": ("vs_release_16k", "VocalSound/vs_release_16k", "vocalsound_release_16k", "vocalsound"),
    "VoxCeleb1": ("voxceleb1", "VoxCeleb", "vox1"),
    "WikiQA": ("WikiQACorpus", "wikiqa"),
}


def is_manifest(path: Path, layout: str) -> bool:
    """Whether a path is a manifest or a table, which works for every task, and not a corpus as it is."""
    if layout != "columns":
        return is_source(path) and layout not in ("slurp", "aishell2", "chunked_calls")
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    with path.open("rb") as file:
        return b'"messages"' in file.readline(1 << 20)


def found_below(data: Path, path: str) -> Path:
    """A task's corpus below ``data``: at its path, or under another name that its folder may have."""
    folder, _, rest = path.partition("/")
    names = (folder, *OTHER_NAMES.get(folder, ()))
    return next((found for name in names for found in sorted(data.glob(f"{name}/{rest}"))), data / path)
