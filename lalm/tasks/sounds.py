"""Captioned corpora of sounds and music as they are laid out -> captioning samples."""

from collections.abc import Iterator
from pathlib import Path

from lalm.sample import Sample
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
    """WavCaps: ``{"data": [{"id", "caption", "duration", ...}]}``, audio ``ID.flac``; long clips left out."""
    whole = read_json(source.path)
    if not isinstance(whole, dict) or not isinstance(whole.get("data"), list):
        raise SourceError(f"{source.path.name} has no list 'data'")
    for number, row in enumerate(whole["data"]):
        place = f"{source.path.name}:{number}"
        if not isinstance(row, dict) or not isinstance(row.get("caption"), str):
            raise SourceError(f"{place}: the entry has no caption")
        if not isinstance(row.get("id"), str | int) or not isinstance(row.get("duration"), float | int):
            raise SourceError(f"{place}: the entry has no id or no duration")
        if row["duration"] > MAX_WAVCAPS_S:
            continue
        stem = Path(str(row["id"])).name.removesuffix(".wav")
        caption = row["caption"].strip()
        yield heard("caption", stem, [source.find(stem)], caption, caption=caption)


def clotho(source: Source) -> Iterator[Sample]:
    """Clotho: ``clotho_captions_development.csv`` (file_name, caption_1 ... caption_5)."""
    columns = [f"caption_{n}" for n in range(1, 6)]
    for _, row in table(source.path, ["file_name", *columns]):
        stem = Path(row["file_name"]).stem
        texts = [row[name].strip() for name in columns]
        yield heard("caption", stem, [source.find(stem)], texts[0], references=texts, caption=texts[0])


def musiccaps(source: Source) -> Iterator[Sample]:
    """MusicCaps: ``musiccaps-public.csv`` (ytid, start_s, end_s, caption, is_audioset_eval, ...), the ten
    seconds as one file named by the video, with or without the times. ``split`` is AudioSet's."""
    for place, row in table(source.path, ["ytid", "start_s", "end_s", "caption"]):
        video, start, end = row["ytid"], row["start_s"], row["end_s"]
        if not start.isdigit() or not end.isdigit():
            raise SourceError(f"{place}: start_s and end_s must be whole seconds")
        path = source.find(video, f"{video}_{start}", f"[{video}]-[{start}-{end}]", f"{video}-{start}-{end}")
        caption = row["caption"].strip()
        yield heard("music_caption", f"{video}_{start}", [path], caption, caption=caption)
