"""Questions about when and how often sounds occur, from recordings with timed events (APT, section 3.3).

Four tasks from the same events: "detect" (when does X sound?), "retrieve" (what sounds between two times?),
"count" (how often does X sound?) and "presence" (is there X at all?). Sources: any manifest whose samples
have ``events`` (``manifest``), AudioSet's strong labels (``audioset_strong``: segment_id,
start_time_seconds, end_time_seconds, label; one row per event, with mid_to_display_name.tsv beside it), and
tables of DCASE's task 4 (``dcase``: filename, onset, offset, event_label; one row per event).
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from lalm.corpus.catalogue import classes
from lalm.data.labels import join_labels
from lalm.data.mixture import known_seconds
from lalm.data.readers import read_manifest
from lalm.data.sample import Sample, ask
from lalm.tasks.sources import Source, SourceError, lines, table

RESOLUTION_S = 0.1  # of answers, and of AudioSet's strong labels
LEAST_OVERLAP_S = 0.2  # what an event shares with a stretch of time to be heard in it
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")
COLUMNS = ("segment_id", "start_time_seconds", "end_time_seconds", "label")


@dataclass(frozen=True)
class Sounding:
    """One event: what sounds, from when to when (s)."""

    name: str
    onset_s: float
    offset_s: float


@dataclass(frozen=True)
class Recorded:
    """A recording and its events in order of onset."""

    id: str
    audio: Path
    events: tuple[Sounding, ...]

    @property
    def names(self) -> list[str]:
        """What sounds, each once, in order of first onset."""
        return list(dict.fromkeys(event.name for event in self.events))


Recordings = Callable[[Source], Iterator[Recorded]]


def from_manifest(source: Source) -> Iterator[Recorded]:
    """The recordings of a manifest whose samples have one clip, whole, and events."""
    seen: set[str] = set()
    for sample in read_manifest(source.path, source.reading):
        whole = [part for part in sample.audios if "offset_s" not in part and "duration_s" not in part]
        if len(sample.audios) != 1 or not whole or not sample.events:
            continue
        name = sample.origin.get("recording") or sample.id
        if name in seen:
            continue
        seen.add(name)
        events = [Sounding(class_name(e["label"]), e["onset_s"], e["offset_s"]) for e in sample.events]
        yield Recorded(name, Path(str(whole[0]["audio"])), _ordered(events))
    if not seen:
        raise SourceError(f"'{source.path}' has no sample of one clip with events")


def from_audioset_strong(source: Source) -> Iterator[Recorded]:
    """The recordings of one of AudioSet's tables of strong labels."""
    names = dict(_display_names(source.folder / "mid_to_display_name.tsv"))
    events: dict[str, list[Sounding]] = {}
    for place, row in table(source.path, COLUMNS, "\t"):
        if row["label"] not in names:
            raise SourceError(f"{place}: '{row['label']}' has no display name")
        times = row["start_time_seconds"], row["end_time_seconds"]
        event = _timed(place, names[row["label"]].lower(), *times)
        events.setdefault(row["segment_id"], []).append(event)
    for name, found in events.items():
        video = name.rpartition("_")[0]
        yield Recorded(name, source.find(name, f"Y{name}", video, f"Y{video}"), _ordered(found))


def from_dcase(source: Source) -> Iterator[Recorded]:
    """The recordings of a table of DCASE 2018's task 4 (``metadata/eval/eval.csv``, tabs between), whose
    layout DESED and URBAN-SED have too; a recording without events has empty fields."""
    events: dict[str, list[Sounding]] = {}
    for place, row in table(source.path, ("filename", "onset", "offset", "event_label"), "\t"):
        if not row["event_label"].strip():
            continue
        name = row["event_label"].strip().replace("_", " ").lower()
        found = _timed(place, name, row["onset"], row["offset"])
        events.setdefault(row["filename"].strip(), []).append(found)
    for filename, own in events.items():
        audio = source.find(Path(filename).stem)
        yield Recorded(Path(filename).stem, audio, _ordered(own))


def _timed(place: str, name: str, onset: str, offset: str) -> Sounding:
    try:
        onset_s, offset_s = float(onset), float(offset)
    except ValueError:
        raise SourceError(f"{place}: onset and offset must be seconds") from None
    if not 0 <= onset_s <= offset_s:
        raise SourceError(f"{place}: the event ends at {offset_s} s, before its onset at {onset_s} s")
    return Sounding(name, onset_s, offset_s)


def detections(recordings: Recordings, source: Source) -> Iterator[Sample]:
    """A question a recording and sound: when? "0.5s-1.2s; 3.0s-4.1s." """
    for recorded in recordings(source):
        for number, name in enumerate(recorded.names):
            spans = joined([(e.onset_s, e.offset_s) for e in recorded.events if e.name == name])
            yield _asked("detect", recorded, f"-{number}", name, spans_text(spans))


def retrievals(recordings: Recordings, source: Source) -> Iterator[Sample]:
    """A question a recording: what sounds in a stretch of time that holds one of its events?"""
    for recorded in recordings(source):
        rng = _drawing(source.seed, recorded.id)
        event = recorded.events[int(rng.integers(len(recorded.events)))]
        length_s = max(0.5, (event.offset_s - event.onset_s) * rng.uniform(0.5, 1.5))
        middle_s = rng.uniform(event.onset_s, event.offset_s)
        end_s = _down(_clip_s(recorded))
        stop_s = min(round(max(0.0, middle_s - length_s / 2) + length_s, 1), end_s)
        start_s = round(max(0.0, stop_s - length_s), 1)
        if stop_s <= start_s:
            continue
        names = [
            name
            for name in recorded.names
            if any(e.name == name and _overlap(e, start_s, stop_s) for e in recorded.events)
        ]
        if names:
            stretch = f"{start_s:.1f}s and {stop_s:.1f}s"
            yield _asked("retrieve", recorded, "", stretch, f"{join_labels(names)}.", names)


def counts(recordings: Recordings, source: Source) -> Iterator[Sample]:
    """A question a recording and sound: how often?"""
    for recorded in recordings(source):
        for number, name in enumerate(recorded.names):
            times = sum(event.name == name for event in recorded.events)
            yield _asked("count", recorded, f"-{number}", name, number_word(times), [str(times)])


def presences(recordings: Recordings, source: Source) -> Iterator[Sample]:
    """Two questions a recording: is there X? Of one of its sounds, and of one that another recording has.

    Absent sounds are asked about as often as they sound, so that a name alone tells nothing.
    """
    known = list(recordings(source))
    names = [name for recorded in known for name in recorded.names]
    kinds = len({*names})
    if kinds < 2:
        raise SourceError(f"'{source.path}' has one kind of sound; questions about absent ones need two")
    for recorded in known:
        rng = _drawing(source.seed, recorded.id)
        own = recorded.names
        if len(own) == kinds:
            continue
        absent = own[0]
        while absent in own:
            absent = names[int(rng.integers(len(names)))]
        for name, answer in ((own[int(rng.integers(len(own)))], "yes"), (absent, "no")):
            made = _asked("presence", recorded, f"-{answer}", name, f"{answer.capitalize()}.")
            yield replace(made, references=(answer,))


RECORDINGS: Mapping[str, Recordings] = {
    "manifest": from_manifest,
    "audioset_strong": from_audioset_strong,
    "dcase": from_dcase,
}
READERS = {
    task: {layout: partial(make, recordings) for layout, recordings in RECORDINGS.items()}
    for task, make in (
        *(("detect", detections), ("retrieve", retrievals), ("count", counts)),
        ("presence", presences),
    )
}


def class_name(label: str) -> str:
    """What a label of our corpora is called ("animal/dog": "dog"); any other label is its own name."""
    return classes()[label].name if label in classes() else label


def joined(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans in time order, those that touch at the answers' resolution as one."""
    found: list[tuple[float, float]] = []
    for onset_s, offset_s in sorted(spans):
        if found and onset_s <= found[-1][1] + RESOLUTION_S / 2:
            found[-1] = (found[-1][0], max(found[-1][1], offset_s))
        else:
            found.append((onset_s, offset_s))
    return found


def spans_text(spans: Sequence[tuple[float, float]]) -> str:
    """ "0.5s-1.2s; 3.0s-4.1s." An event shorter than a tenth of a second lasts one, so that it is there."""
    shown = []
    for onset_s, offset_s in spans:
        if f"{onset_s:.1f}" == f"{offset_s:.1f}":
            onset_s, offset_s = _down(onset_s), _down(onset_s) + RESOLUTION_S
        shown.append(f"{onset_s:.1f}s-{offset_s:.1f}s")
    return "; ".join(shown) + "."


def _down(seconds: float) -> float:
    """The tenth of a second at or before a time."""
    return math.floor(seconds * 10 + 1e-6) / 10


def _clip_s(recorded: Recorded) -> float:
    """How long a recording is, in seconds; of one that is not there the end of its last event."""
    try:
        return known_seconds({"type": "audio", "audio": str(recorded.audio)})
    except ValueError:
        return max(event.offset_s for event in recorded.events)


def number_word(number: int) -> str:
    """ "three" for 3; digits from twelve up."""
    return NUMBERS[number] if number < len(NUMBERS) else str(number)


def _asked(
    task: str, recorded: Recorded, suffix: str, question: str, target: str, references: Sequence[str] = ()
) -> Sample:
    asked = ask([recorded.audio], question).with_target(target)
    return Sample(
        asked.messages,
        id=f"{task}-{recorded.id}{suffix}",
        task=task,
        references=(target, *references),
        events=tuple(
            {"label": e.name, "caption": e.name, "onset_s": e.onset_s, "offset_s": e.offset_s}
            for e in recorded.events
        ),
        origin={"recording": recorded.id, "asked": question},
    )


def _ordered(events: Sequence[Sounding]) -> tuple[Sounding, ...]:
    return tuple(sorted(events, key=lambda event: (event.onset_s, event.offset_s, event.name)))


def _overlap(event: Sounding, start_s: float, stop_s: float) -> bool:
    shared_s = min(event.offset_s, stop_s) - max(event.onset_s, start_s)
    return shared_s >= min(LEAST_OVERLAP_S, event.offset_s - event.onset_s)


def _display_names(path: Path) -> Iterator[tuple[str, str]]:
    for place, line in lines(path):
        mid, tab, name = line.partition("\t")
        if not tab:
            raise SourceError(f"{place}: a row is an id, a tab and a name")
        yield mid, name


def _drawing(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, *hashlib.sha256(name.encode()).digest()[:8]])
