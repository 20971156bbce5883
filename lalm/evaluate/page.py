"""The report of a run as one HTML file: numbers, controls, bars, confusion, worst examples with audio."""

import base64
import io
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jinja2 import Environment, StrictUndefined

from lalm.audio.account import Tally
from lalm.audio.load import SAMPLE_RATE, AudioError, audio_name
from lalm.data.messages import part_recording
from lalm.data.sample import Sample
from lalm.evaluate.controls import AUDIO
from lalm.evaluate.items import question_of
from lalm.evaluate.metrics import METRICS
from lalm.evaluate.metrics.intervals import Array, Interval, each
from lalm.evaluate.reliance import label_of, lines, sentences, shown_p
from lalm.evaluate.said import Key, Said
from lalm.evaluate.scores import Scored, categories, confusion, groups

TEMPLATE = Path(__file__).parent / "report.html.jinja"
WORST = 10
LONGEST_S = 30.0  # of an example; longer ones are cut, and say so
WINDOW, HOP = 512, 256  # of the spectrogram, in samples
DURATIONS_S = (0.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 300.0, float("inf"))


def write_page(
    path: Path,
    card: Mapping[str, Any],
    scored: Mapping[tuple[str, str], Scored],
    said: Mapping[Key, Said],
    shown: Mapping[tuple[str, str], Sequence[Sample]],
) -> None:
    """Write the page; it needs no other file."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        card=card,
        table=[row for name, entry in card["tasks"].items() for row in _rows(name, entry)],
        tasks=[
            _task(name, entry, scored[name, AUDIO], said, shown[name, AUDIO])
            for name, entry in card["tasks"].items()
        ],
        whole=json.dumps(card, indent=1, ensure_ascii=False),
    )
    draft = path.with_name(path.name + ".partial")
    draft.write_text(page, encoding="utf-8")
    draft.replace(path)


def shown_number(value: float | None, metric: str) -> str:
    """A number as people read it: error rates and accuracies times 100."""
    if value is None:
        return "?"
    return f"{100 * value:.1f}" if METRICS[metric].percent else f"{value:.2f}"


def notes(name: str, entry: Mapping[str, Any]) -> list[str]:
    """What the numbers of a task do not tell, a sentence each."""
    told = [f"{metric} is not there: {why}" for metric, why in entry["skipped"].items()]
    told += [f"{metric} failed: {why}" for metric, why in entry["failed"].items()]
    if entry.get("judge_unreadable"):
        told.append(f"{entry['judge_unreadable']} judgments could not be read and count 0")
    if wild := entry.get("runaway"):
        told.append(_of_runaways(wild))
    if own := entry.get("extracted"):
        told.append(
            f"{own['read']} of {own['unread']} answers that rules could not read were read by {own['by']}"
        )
    if entry.get("cut_off"):
        limit = entry["max_new_tokens"]
        thinking = entry.get("cut_off_thinking", 0)
        said = f"; {thinking} of them still thought aloud (--thinking-tokens)" if thinking else ""
        told.append(f"{entry['cut_off']} answers were cut off at {limit} tokens{said}")
    if entry.get("thinking_cut"):
        told.append(
            f"{entry['thinking_cut']} answers had not done thinking after {entry['thinking_tokens']} tokens"
            " and were made to answer then"
        )
    if entry.get("repeating"):
        told.append(f"{entry['repeating']} answers repeated themselves and were ended there")
    if damaged := Tally(**entry.get("audio", {})).sentence:
        told.append(f"{damaged}; predictions.jsonl holds their accounts")
    if entry.get("too_long"):
        told.append(f"{entry['too_long']} questions are longer than the model takes; they count as wrong")
    if entry.get("failed_items"):
        first, why = next(iter(entry["failures"].items()))
        told.append(f"{entry['failed_items']} items failed and are left out; '{first}', for one: {why}")
    if entry.get("unanswered"):
        told.append(f"{entry['unanswered']} items have no answer in the file and are left out")
    if entry["missing"]:
        told.append(f"{entry['missing']} items left out because a recording is missing")
    if board := entry["leaderboard"]:
        if board["may_stand_beside"]:
            value = shown_number(board["value"], board["metric"])
            told.append(f"{board['metric']} {value} may stand beside {board['board']}")
        else:
            why = "; ".join(board["because"])
            told.append(f"no number here may stand beside {board['board']}: {why}")
    return [f"{name}: {text}" for text in told]


def _of_runaways(found: Mapping[str, Any]) -> str:
    """What no interval of an error rate knows: transcripts with more wrong words than were said."""
    share, metric = found["share"], found["metric"]
    said = f"{found['answers']} of {share['num_items']} answers have more wrong words than were said"
    if share["high"] is not None:
        said += f"; of all such recordings {100 * share['low']:.1f} to {100 * share['high']:.1f} % may be so"
    if others := found.get("others"):
        low, high = shown_number(others["low"], metric), shown_number(others["high"], metric)
        return f"{said}; without them {metric} is {shown_number(others['mean'], metric)} [{low}, {high}]"
    return said if found["answers"] else f"{said}, which the interval of {metric} does not know of"


def _rows(name: str, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    chance, given, heard = entry["chance"], entry["seconds_given"], entry["seconds_heard"]
    return [
        {
            "task": name if i == 0 else "",
            "metric": metric,
            "lower": numbers["lower_is_better"],
            "value": shown_number(numbers["mean"], metric),
            "interval": f"{shown_number(numbers['low'], metric)} to {shown_number(numbers['high'], metric)}",
            "chance": f"{100 * chance:.1f}" if chance is not None and metric == "accuracy" else "",
            "items": numbers["num_items"],
            "unreadable": f"{100 * entry['unreadable']['mean']:.1f}",
            "heard": "unknown" if heard is None else f"{heard:.0f} of {given:.0f} s",
        }
        for i, (metric, numbers) in enumerate(entry["metrics"].items())
    ] + [
        {
            **dict.fromkeys(("task", "chance", "unreadable", "heard"), ""),
            "metric": row["metric"],
            "lower": entry["metrics"][entry["table"]["metric"]]["lower_is_better"],
            "value": row["value"],
            "interval": row["interval"],
            "items": row["items"],
        }
        for row in table_rows(entry)
    ]


def table_rows(entry: Mapping[str, Any]) -> list[dict[str, str]]:
    """The rows of a benchmark's own table: metric and column, value, interval, items; none without one."""
    if "table" not in entry:
        return []
    own = entry["table"]

    def shown(value: float | None) -> str:
        return "?" if value is None else f"{own['times'] * value:.{2 if own['times'] == 10 else 1}f}"

    return [
        {
            "metric": f"{own['metric']}, {name}",
            "value": shown(found["mean"]),
            "interval": f"{shown(found['low'])} to {shown(found['high'])}",
            "items": str(found["num_items"]),
        }
        for name, found in own["found"].items()
    ]


def _task(
    name: str,
    entry: Mapping[str, Any],
    scored: Scored,
    said: Mapping[Key, Said],
    shown: Sequence[Sample],
) -> dict[str, Any]:
    if scored.leading is None:
        bars: list[tuple[str, list[dict[str, Any]]]] = []
    else:
        seconds = [sum(said[Key(name, AUDIO, a.sample.id)].given_s) for a in scored.answers]
        bars = [("category", _bars(scored, categories(scored))), ("duration", _bars(scored, _bins(seconds)))]
    labels, table = confusion(scored)
    return {
        "name": name,
        "card": entry,
        "leading": scored.leading or "",
        "controls": _controls(entry),
        "reliance": lines(entry["reliance"], shown_number) if entry["reliance"] else [],
        "told": sentences(entry["reliance"], shown_number) if entry["reliance"] else [],
        "notes": notes(name, entry),
        "spread": [(metric, shown_number(moved, metric)) for metric, moved in entry["spread"].items()],
        "bars": [(title, own) for title, own in bars if own],
        "labels": labels,
        "confusion": list(zip(labels, table, strict=True)),
        "worst": _worst(scored, shown),
    }


def _controls(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for control, found in entry["controls"].items():
        if "impossible" in found:
            rows.append({"control": label_of(control), "impossible": found["impossible"]})
            continue
        for metric, numbers in found["metrics"].items():
            if metric not in found["minus"]:
                continue
            minus = found["minus"][metric]
            low, high = shown_number(minus["low"], metric), shown_number(minus["high"], metric)
            rows.append(
                {
                    "control": label_of(control),
                    "impossible": "",
                    "metric": metric,
                    "value": shown_number(numbers["mean"], metric),
                    "minus": f"{shown_number(minus['mean'], metric)} [{low}, {high}]",
                    "p": shown_p(minus["p_value"]),
                    "unreadable": f"{100 * found['unreadable']['mean']:.1f}",
                }
            )
    return rows


def _bins(seconds: Sequence[float]) -> list[str]:
    """Each item's bin of duration, named so that names sort."""
    edges = DURATIONS_S
    places = np.digitize(seconds, np.asarray(edges)) - 1
    names = [f"{a:>3.0f} to {b:.0f} s" for a, b in pairwise(edges)]
    return [names[place] for place in places] if len(set(places)) > 1 else []


def _bars(scored: Scored, names: Sequence[str]) -> list[dict[str, Any]]:
    if not names:
        return []
    metric = scored.leading or ""
    found = groups(scored, names)
    top = max((i.mean for _, i in found), default=0.0)
    scale = 1.0 if METRICS[metric].percent and top <= 1 else (top or 1.0)
    return [_bar(name, own, metric, scale) for name, own in found]


def _bar(name: str, own: Interval, metric: str, scale: float) -> dict[str, Any]:
    low, high = (float(np.clip(100 * v / scale, 0, 100)) for v in (own.low, own.high))
    return {
        "name": name,
        "width": f"{np.clip(100 * own.mean / scale, 0, 100):.1f}",
        "low": f"{low:.1f}",
        "span": f"{high - low:.1f}",
        "value": shown_number(own.mean, metric),
        "items": own.num_items,
    }


def _worst(scored: Scored, shown: Sequence[Sample]) -> list[dict[str, Any]]:
    if scored.leading is None:
        return []
    scores = each(scored.measured[scored.leading])
    sign = -1 if METRICS[scored.leading].lower_is_better else 1
    found = []
    for i in np.argsort(sign * scores, kind="stable")[:WORST]:
        answer = scored.answers[i]
        found.append(
            {
                "id": answer.sample.id,
                "score": shown_number(float(scores[i]), scored.leading),
                "unreadable": answer.read is None,
                "clips": [_clip(part) for part in shown[i].audios],
                "question": question_of(shown[i]),
                "references": " / ".join(answer.sample.references),
                "text": answer.text,
            }
        )
    return found


def _clip(part: Any) -> dict[str, Any]:
    try:
        audio = part_recording(part).audio
    except AudioError as error:  # of an answer that was made elsewhere
        return {"name": str(error), "picture": ""}
    seconds, kept = len(audio) / SAMPLE_RATE, audio[: int(LONGEST_S * SAMPLE_RATE)]
    file = io.BytesIO()
    soundfile.write(file, np.clip(kept, -1, 1), SAMPLE_RATE, format="MP3")
    return {
        "name": audio_name(part["audio"]),
        "seconds": f"{seconds:.1f}",
        "cut": f", the first {LONGEST_S:.0f} s here" if len(kept) < len(audio) else "",
        "picture": _url("image/png", _png(_spectrogram(kept))),
        "sound": _url("audio/mpeg", file.getvalue()),
    }


def _spectrogram(audio: Array) -> Array:
    """Grey levels (frequencies, frames) uint8, high frequencies on top, 60 dB from white to black."""
    padded = np.pad(audio, (0, max(0, WINDOW - len(audio))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW), axis=1)) ** 2
    level = 10 * np.log10(power + 1e-10)
    grey = np.clip((level.max() - level) / 60, 0, 1) * 255
    picture: Array = grey.astype(np.uint8).T[::-2]
    return picture


def _png(grey: Array) -> bytes:
    """An 8-bit grey PNG of (height, width) uint8."""
    height, width = grey.shape
    rows = b"".join(b"\0" + row.tobytes() for row in grey)

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def _url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
