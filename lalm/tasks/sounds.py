"""Reads captioned corpora of sounds and music as captioning samples."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lalm.data.sample import Sample
from lalm.tasks.sources import Source, SourceError, heard, read_json, table

MAX_WAVCAPS_S = 180.0  # section 4.2: "audio clips longer than 180 seconds removed"


def audiocaps(source: Source) -> Iterator[Sample]:
    """AudioCaps: ``train.csv`` (audiocap_id, youtube_id, start_time, caption).

    Audio may be named by the caption's id, or by the video with or without "Y" and the start. The captions
    of one clip (five in the test set) become the references of one sample, the first its target.
    """
    captions: dict[tuple[str, str], list[str]] = {}
    names: dict[tuple[str, str], list[str]] = {}
    for _, row in table(source.path, ["audiocap_id", "youtube_id", "start_time", "caption"]):
        key = row["youtube_id"], row["start_time"]
        captions.setdefault(key, []).append(row["caption"].strip())
        names.setdefault(key, []).append(row["audiocap_id"])
    for (video, start), texts in captions.items():
        seconds = start.removesuffix(".0")
        stems = [f"{video}_{seconds}", f"Y{video}_{seconds}", f"{video}_{seconds}000", f"Y{video}", video]
        path = source.find(*stems, *names[video, start])
        yield heard("caption", f"{video}_{seconds}", [path], texts[0], references=texts, caption=texts[0])


def wavcaps(source: Source) -> Iterator[Sample]:
    """WavCaps: ``{"data": [{"id", "caption", "duration", ...}]}`` as on the Hub, or the list alone as in its
    repository; audio ``ID.flac``; long clips left out.

    ``source.exclude`` is one of the authors' blacklists (``{"AudioSet": [ids], "FreeSound": [ids]}``): what
    is in test sets. Its numbers count for FreeSound's file only (its rows have a ``file_name``, or its name
    has "fsd"), since the BBC's and SoundBible's clips have numbers too.
    """
    whole = read_json(source.path)
    rows = whole.get("data") if isinstance(whole, dict) else whole
    if not isinstance(rows, list):
        raise SourceError(f"{source.path.name} is no list, and has no list 'data'")
    excluded = _excluded(source, [row for row in rows if isinstance(row, dict)])
    for number, row in enumerate(rows):
        place = f"{source.path.name}:{number}"
        if not isinstance(row, dict) or not isinstance(row.get("caption"), str):
            raise SourceError(f"{place}: the entry has no caption")
        if not isinstance(row.get("id"), str | int):
            raise SourceError(f"{place}: the entry has no id")
        stem = _wavcaps_stem(row["id"])
        if stem in excluded or _duration_s(row.get("duration"), place) > MAX_WAVCAPS_S:
            continue
        caption = row["caption"].strip()
        yield heard("caption", stem, [source.find(stem)], caption, caption=caption)


def _wavcaps_stem(name: str | int) -> str:
    return Path(str(name)).name.removesuffix(".wav").removesuffix(".flac")


def _duration_s(value: object, place: str) -> float:
    """Seconds, which some of WavCaps' files give as text."""
    try:
        seconds = float(value) if isinstance(value, str | int | float) else math.nan
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise SourceError(f"{place}: the entry has no duration in seconds")
    return seconds


def _excluded(source: Source, rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Names of the clips that ``source.exclude`` lists for the archive of this file."""
    if source.exclude is None:
        return set()
    listed = read_json(source.exclude)
    good = isinstance(listed, dict) and all(isinstance(ids, list) for ids in listed.values())
    if not good or not {"AudioSet", "FreeSound"} & set(listed):
        raise SourceError(
            f"{source.exclude.name} is no list of WavCaps' authors: it has no 'AudioSet' or 'FreeSound'"
        )
    place = f"{source.path.parent.name}/{source.path.name}".lower()
    of_freesound = any("file_name" in row for row in rows) or "freesound" in place or "fsd" in place
    listed_here = listed.get("FreeSound" if of_freesound else "AudioSet", ())
    return {_wavcaps_stem(name) for name in listed_here}


def clotho(source: Source) -> Iterator[Sample]:
    """Clotho: ``clotho_captions_development.csv`` (file_name, caption_1 ... caption_5)."""
    columns = [f"caption_{n}" for n in range(1, 6)]
    for _, row in table(source.path, ["file_name", *columns]):
        stem = Path(row["file_name"]).stem
        texts = [row[name].strip() for name in columns]
        yield heard("caption", stem, [source.find(stem)], texts[0], references=texts, caption=texts[0])


def musiccaps(source: Source) -> Iterator[Sample]:
    """MusicCaps: ``musiccaps-public.csv`` (ytid, start_s, end_s, caption, is_audioset_eval, ...), the ten
    seconds as one file named by the video, with or without the times. ``split`` is AudioSet's: "train", or
    "eval" where ``is_audioset_eval`` says so."""
    for place, row in table(source.path, ["ytid", "start_s", "end_s", "caption"]):
        video, start, end = row["ytid"], row["start_s"], row["end_s"]
        if not start.isdigit() or not end.isdigit():
            raise SourceError(f"{place}: start_s and end_s must be whole seconds")
        path = source.find(video, f"{video}_{start}", f"[{video}]-[{start}-{end}]", f"{video}-{start}-{end}")
        caption = row["caption"].strip()
        made = heard("music_caption", f"{video}_{start}", [path], caption, caption=caption)
        evaluated = (row.get("is_audioset_eval") or "").strip().lower() == "true"
        yield replace(made, split="eval" if evaluated else "train")


def musicnet(source: Source) -> Iterator[Sample]:
    """MusicNet: ``musicnet_metadata.csv`` (id, composer, composition, movement, ensemble), audio ``ID.wav``.

    What the table says, as a sentence: it is for questions (``lalm build qa``), not a caption to learn.
    """
    for _, row in table(source.path, ["id", "composer", "composition", "movement", "ensemble"]):
        ensemble, composer = row["ensemble"].strip(), row["composer"].strip()
        piece = f"{row['composition'].strip()}, {row['movement'].strip()}"
        caption = f"Classical music by {composer} for {ensemble.lower()}: {piece}."
        yield heard("music_caption", row["id"], [source.find(row["id"])], caption, caption=caption)


def millionsong(source: Source) -> Iterator[Sample]:
    """The Million Song Dataset with Spotify's and Last.fm's tags: ``Music Info.csv`` (track_id, spotify_id,
    tags, genre, year, tempo), previews named by either id. Songs without tags and genre are left out; as
    MusicNet's, the sentence is for questions."""
    for _, row in table(source.path, ["track_id", "spotify_id", "tags", "genre", "year", "tempo"]):
        tags = [tag.strip().replace("_", " ") for tag in row["tags"].split(",") if tag.strip()]
        kinds = list(
            dict.fromkeys([*([row["genre"].strip().lower()] if row["genre"].strip() else []), *tags])
        )
        if not kinds:
            continue
        known = [f"Music that listeners call {', '.join(kinds)}"]
        known += [f"from the year {row['year']}"] if row["year"].isdigit() and row["year"] != "0" else []
        known += [f"at {float(row['tempo']):.0f} beats a minute"] if _is_number(row["tempo"]) else []
        caption = ", ".join(known) + "."
        shown = f"{row['genre'].strip()}-{row['track_id']}"  # as in Kaggle's folder MP3-Example
        path = source.find(row["track_id"], row["spotify_id"], shown)
        yield heard("music_caption", row["track_id"], [path], caption, caption=caption)


def audiocaps_stories(source: Source) -> Iterator[Sample]:
    """AudioCaps' clips to be told a story about; the first caption is ``origin.caption``."""
    return _stories(audiocaps(source))


def clotho_stories(source: Source) -> Iterator[Sample]:
    """The same with Clotho's clips."""
    return _stories(clotho(source))


def _stories(captions: Iterator[Sample]) -> Iterator[Sample]:
    for sample in captions:
        name = f"story-{sample.id.removeprefix('caption-')}"
        yield replace(sample.prompt(), id=name, task="story", references=())


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", text) is not None
