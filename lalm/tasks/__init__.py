"""Tasks: instructions to a model, and readers that turn corpora into manifests.

``READERS`` says which layouts of which corpora each task can be read from; a reader yields samples without
instruction, ``build`` gives them one and writes the manifest.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lalm.data.sample import Sample, write_manifest
from lalm.tasks import (
    comparisons,
    episodes,
    events,
    overlap,
    question_sets,
    sound_labels,
    sounds,
    speech,
    speech_tables,
    spoken,
)
from lalm.tasks.annotation import annotation
from lalm.tasks.instructions import instruct
from lalm.tasks.joining import joined
from lalm.tasks.phones import phone_samples
from lalm.tasks.sources import Source, SourceError

__all__ = ["READERS", "Built", "Source", "SourceError", "build"]

Reader = Callable[[Source], Iterator[Sample]]

# task -> layout -> reader; the first layout is the default. Tables 1 and 2 of the paper name the corpora.
READERS: Mapping[str, Mapping[str, Reader]] = {
    "asr": {
        "librispeech": speech.librispeech,
        "manifest": speech.transcripts,
        "common_voice": speech_tables.common_voice,
        "fleurs": speech_tables.fleurs,
        "aishell2": speech_tables.aishell2,
        "gigaspeech": speech_tables.gigaspeech,
        "slurp": speech_tables.slurp,
    },
    "translate_zh": {"covost": speech.covost},
    "translate_de": {"covost": speech.covost},
    "translate_ja": {"covost": speech.covost},
    "caption": {
        "audiocaps": sounds.audiocaps,
        "wavcaps": sounds.wavcaps,
        "clotho": sounds.clotho,
        "macs": sound_labels.macs,
    },
    "tags": {
        "esc50": sound_labels.esc50,
        "vocalsound": sound_labels.vocalsound,
        "audioset": sound_labels.audioset,
        "audioset_strong": sound_labels.audioset_strong,
    },
    "audio_qa": {"clotho_aqa": sound_labels.clotho_aqa, "avqa": question_sets.avqa_answers},
    "phones": {"transcripts": phone_samples},
    "emotion": {"iemocap": speech.iemocap, "meld": speech_tables.meld},
    "music_caption": {
        "musiccaps": sounds.musiccaps,
        "musicnet": sounds.musicnet,
        "millionsong": sounds.millionsong,
    },
    "overlap": {"librimix": overlap.librimix, "mixed": overlap.mixed},
    "speaker": {"voxceleb": speech.voxceleb, "folders": speech.speakers},
    "gender": {"librispeech": speech.librispeech_gender},
    "spoken_question": {"wikiqa": spoken.wikiqa},
    "keywords": {"inspec": spoken.inspec},
    "story": {"audiocaps": sounds.audiocaps_stories, "clotho": sounds.clotho_stories},
    "annotation": {"salmonn": annotation},
    **events.READERS,
    "compare": {
        layout: partial(comparisons.comparisons, recordings)
        for layout, recordings in events.RECORDINGS.items()
    },
    "few_shot": episodes.READERS,
}
WORDED = ("few_shot",)  # their samples hold their instruction already


def _each(sample: Sample) -> Iterator[Sample]:
    """A sample for every different reference of one, which is its target."""
    texts = list(dict.fromkeys(sample.references))
    for number, text in enumerate(texts, 1):
        name = sample.id if len(texts) == 1 else f"{sample.id}-{number}"
        yield replace(sample.with_target(text), id=name, references=(text,))


@dataclass(frozen=True)
class Built:
    """How many samples were written, and how many were not because an audio file is missing."""

    written: int
    missing: int


def build(
    task: str,
    source: Source,
    out: Path,
    *,
    layout: str | None = None,
    seed: int | None = 0,
    splits: Sequence[str] = (),
    join: bool = False,
    every: bool = False,
    wording: str | None = None,
) -> Built:
    """Write the manifest ``out`` of a task from a corpus; ``seed=None`` gives every sample the test prompt.

    With ``splits`` only samples of one of these are kept. ``join`` puts the clips of a sample into one
    recording, as the released SALMONN heard pairs (``lalm.tasks.joining``). ``every`` makes a sample of every
    reference (the five captions of a clip), to learn from; else they stay together, to test with.
    ``wording`` is the paper whose instructions they get ("apt"; ``lalm.tasks.instructions``). Samples
    whose audio file is not there are left out and counted. Raises a ValueError for a corpus that is not laid
    out as told, or when no audio at all is found.
    Example: ``build("asr", Source(Path("LibriSpeech/dev-clean")), Path("asr.jsonl"))``.
    """
    layouts = READERS[task]
    if layout is not None and layout not in layouts:
        raise SourceError(f"task '{task}' has no layout '{layout}'; it has {', '.join(layouts)}")
    reader = layouts[layout or next(iter(layouts))]
    made = replace(source, made=out.with_name(f"{out.name.removesuffix('.jsonl')}_audio"))
    missing: list[Path] = []
    seen: set[str] = set()

    def there() -> Iterator[Sample]:
        for sample in (one for read in reader(made) for one in (_each(read) if every else (read,))):
            if task not in ("annotation", sample.task):
                raise SourceError(f"'{source.path}' is of task '{sample.task}', not '{task}'")
            seen.add(sample.split)
            if splits and sample.split not in splits:
                continue
            absent = [p for part in sample.audios if not (p := Path(str(part["audio"]))).is_file()]
            if absent:
                missing.append(absent[0])
            else:
                yield joined(sample, made.made) if join else sample

    written = write_manifest(out, there() if task in WORDED else instruct(there(), seed=seed, paper=wording))
    if not written:
        out.unlink()
        if splits and not seen & set(splits):
            found = ", ".join(sorted(seen - {""})) or "no splits"
            raise SourceError(f"'{source.path}' has no split '{splits[0]}'; it has {found}")
        example = f": no '{missing[0]}', for one" if missing else ""
        raise SourceError(f"'{source.path}' gives no sample whose audio is there{example}")
    return Built(written, len(missing))
