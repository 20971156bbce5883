"""Few-shot episodes: N classes of K labelled clips each, then a clip to classify (APT, sections 3.3 and 4.2).

    [clip] This is a sound of dog. [clip] This is a sound of rain. ... [clip] This is a sound of

The paper trains with 4 ways of 1 shot from AudioSet and tests 5 and 12 ways of 5 shots on ESC-50. ESC-50's
published few-shot splits are those of lam4fsl: five draws of 15 novel classes, three of each of its groups;
testing takes the novel classes of each, 5 queries a class.

Renamed episodes are ours, after symbol tuning (Wei et al., arXiv 2305.08298): the classes of an episode take
drawn names of others, so that only the labelled clips tell what a clip is called, not what it is like.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from lalm.audio.load import AUDIO_SUFFIXES
from lalm.data.episode import Labelled, episode
from lalm.data.readers import read_manifest
from lalm.data.sample import Sample
from lalm.systems.apt.prompts import FEW_SHOT
from lalm.tasks.events import class_name
from lalm.tasks.sources import Source, SourceError, table

QUERIES = 5  # of each class in a test episode; lam4fsl
ESC50_EPISODES = 20  # of each split; ours, lam4fsl draws 100 to 3,200
ESC50_NOVEL = (  # numbers of the classes, lam4fsl
    (8, 5, 6, 11, 15, 12, 20, 26, 24, 35, 33, 38, 40, 48, 47),
    (5, 0, 4, 18, 13, 19, 29, 21, 28, 33, 38, 31, 47, 46, 44),
    (0, 9, 7, 18, 13, 17, 27, 24, 25, 38, 31, 35, 42, 47, 46),
    (5, 7, 9, 18, 19, 12, 23, 28, 27, 36, 30, 32, 46, 41, 44),
    (3, 8, 5, 10, 17, 14, 29, 27, 24, 38, 35, 32, 47, 42, 46),
)


def labelled(samples: Sequence[Sample]) -> list[Labelled]:
    """The samples of one clip that have one label: that of their only event, else their target.

    The same clip is taken once. The source is the recording's original file where ``origin`` tells it.
    """
    found: dict[str, Labelled] = {}
    for sample in samples:
        names = {class_name(event["label"]) for event in sample.events}
        label = names.pop() if len(names) == 1 else "" if names else sample.target.strip().rstrip(".")
        if len(sample.audios) == 1 and label:
            part = sample.audios[0]
            name = sample.origin.get("recording") or str(part["audio"])
            file = [sample.origin[key] for key in ("package", "path") if sample.origin.get(key)]
            found.setdefault(name, Labelled(part, label, name, "/".join(file)))
    return list(found.values())


def episodes(
    clips: Sequence[Labelled], *, ways: int, shots: int, queries: int = 1, seed: int = 0, renamed: float = 0.0
) -> Iterator[Sample]:
    """Endless episodes: ``ways`` classes drawn, ``shots`` clips of each, and ``queries`` of each asked about.

    One sample a query; supports and queries of an episode come from different sources, and the supports
    stand in a drawn order. The choices are the classes. In the share ``renamed`` of the episodes the classes
    take names drawn from all. Raises ValueError when there are too few classes or sources.
    """
    by_label: dict[str, dict[str, list[Labelled]]] = {}
    for clip in clips:
        by_label.setdefault(clip.label, {}).setdefault(clip.source or clip.id, []).append(clip)
    usable = sorted(label for label, members in by_label.items() if len(members) >= shots + queries)
    if len(usable) < ways:
        raise ValueError(
            f"{ways} ways of {shots} shots and {queries} queries need as many classes with clips of "
            f"{shots + queries} sources, and there are {len(usable)}"
        )
    rng = np.random.default_rng(seed)
    number = 0
    while True:
        chosen = [usable[i] for i in rng.choice(len(usable), ways, replace=False)]
        names = chosen
        if renamed and rng.random() < renamed:
            names = [usable[i] for i in rng.choice(len(usable), ways, replace=False)]
        supports: list[Labelled] = []
        asked: list[Labelled] = []
        for label, name in zip(chosen, names, strict=True):
            sources = list(by_label[label].values())
            members = [sources[i] for i in rng.choice(len(sources), shots + queries, replace=False)]
            drawn = [own[0] if len(own) == 1 else own[int(rng.integers(len(own)))] for own in members]
            supports += [replace(clip, label=name) for clip in drawn[:shots]]
            asked += [replace(clip, label=name) for clip in drawn[shots:]]
        supports = [supports[i] for i in rng.permutation(len(supports))]
        for query in asked:
            name = f"few_shot-{ways}x{shots}-{seed}-{number}"
            yield episode(supports, query, name, tuple(sorted(names)), prompt=FEW_SHOT)
            number += 1


def of_manifest(source: Source) -> Iterator[Sample]:
    """Episodes of the source's size from a manifest's labelled clips, one query each; as many as clips."""
    clips = labelled(list(read_manifest(source.path, source.reading)))
    yield from _drawn(clips, source, source.episodes or len(clips))


def of_folders(source: Source) -> Iterator[Sample]:
    """The same from a folder of folders, FOLDER/LABEL/clip.wav; underscores of labels are spaces."""
    found = [path for suffix in AUDIO_SUFFIXES for path in source.path.glob(f"*/*{suffix}")]
    clips = [_labelled(path, path.parent.name.replace("_", " ")) for path in sorted(found)]
    yield from _drawn(clips, source, source.episodes or len(clips))


def of_esc50(source: Source) -> Iterator[Sample]:
    """Test episodes of ESC-50's folder (meta/esc50.csv, audio/) on the five published splits in turn."""
    by_class: dict[int, list[Labelled]] = {}
    columns = ("filename", "target", "category")
    for place, row in table(source.path / "meta" / "esc50.csv", columns):
        if not row["target"].isdigit():
            raise SourceError(f"{place}: the target '{row['target']}' is no number of a class")
        clip = _labelled(source.find(Path(row["filename"]).stem), row["category"].replace("_", " "))
        by_class.setdefault(int(row["target"]), []).append(clip)
    for number, novel in enumerate(ESC50_NOVEL):
        if missing := [target for target in novel if target not in by_class]:
            raise SourceError(f"'{source.path}' has no clip of ESC-50's class {missing[0]}")
        clips = [clip for target in novel for clip in by_class[target]]
        of_split = replace(source, seed=source.seed + number)
        count = (source.episodes or ESC50_EPISODES) * source.ways * QUERIES
        for sample in _drawn(clips, of_split, count, QUERIES):
            name = f"split{number}-{sample.id}"
            yield replace(sample, id=name, split=str(number))


def _drawn(clips: Sequence[Labelled], source: Source, count: int, queries: int = 1) -> Iterator[Sample]:
    try:
        drawn = episodes(
            clips,
            ways=source.ways,
            shots=source.shots,
            queries=queries,
            seed=source.seed,
            renamed=source.renamed,
        )
        yield from islice(drawn, count)
    except ValueError as error:
        raise SourceError(f"'{source.path}': {error}") from None


def _labelled(path: Path, label: str) -> Labelled:
    return Labelled({"type": "audio", "audio": str(path)}, label, path.stem)


READERS = {"manifest": of_manifest, "folders": of_folders, "esc50": of_esc50}
