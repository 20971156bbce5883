"""Audio reliance: how much of a score is owed to the recordings, to the text, and to where options stand."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lalm.evaluate.controls import AUDIO, DEAF, RECOGNISED, REORDERED, UNSEEN
from lalm.evaluate.metrics import METRICS
from lalm.evaluate.metrics.intervals import each, interval, proportion
from lalm.evaluate.scores import Scored, gap, plain

LABELS = {
    AUDIO: "heard",
    "silent": "silent",
    "noise": "noise of the same level",
    "shuffled": "another recording",
    "text_only": "no slot at all (text only)",
    "first_half": "first half",
    "second_half": "second half",
    "cascade": "transcript or caption as text",
    RECOGNISED: "Whisper's transcript as text",
    REORDERED: "options moved on by 1",
    UNSEEN: "no picture",
    "paraphrased": "another wording",
}
FEWEST = 2  # items, below which there is no table

Pairing = Callable[[Scored, Scored], tuple[Scored, Scored]]


def label_of(control: str) -> str:
    """What people read for a control."""
    return LABELS.get(control) or f"options moved on by {control.rpartition('_')[2]}"


def reliance(scored: Mapping[str, Scored], chance: float | None, paired: Pairing) -> dict[str, Any] | None:
    """The table of a task from its scores by control; None where no control could be asked, or nothing was
    measured. ``paired`` gives two runs on the items that both have."""
    heard = scored[AUDIO]
    metric = heard.leading
    others = {name: own for name, own in scored.items() if name != AUDIO and metric in own.measured}
    if metric is None or not others or len(heard.answers) < FEWEST:
        return None
    rows = [_row(AUDIO, heard, metric)]
    for control, other in others.items():
        mine, other = paired(heard, other)
        if metric in mine.measured and metric in other.measured:
            heard_there = mine.measured[metric].value
            minus = plain(gap(mine, other, metric))
            rows.append({**_row(control, other, metric), "heard": heard_there, "minus": minus})
    found: dict[str, Any] = {"metric": metric, "chance": chance, "rows": rows}
    if heard.measured[metric].proportion:
        found |= _only_when_heard(scored, metric) | _positions(scored, metric)
    return found | _most_chosen(scored)


def _row(control: str, own: Scored, metric: str) -> dict[str, Any]:
    limits = plain(interval(own.measured[metric], own.recordings))
    return {"condition": control, **limits}


def _right(own: Scored, metric: str) -> dict[str, bool]:
    scores = each(own.measured[metric])
    high = METRICS[metric].lower_is_better
    return {a.sample.id: bool(s > 0.5) != high for a, s in zip(own.answers, scores, strict=True)}


def _only_when_heard(scored: Mapping[str, Scored], metric: str) -> dict[str, Any]:
    """The items that are right when heard and wrong under every condition without the recording, and how
    the model does, heard, on all items that it cannot answer without it."""
    deaf = [_right(scored[name], metric) for name in DEAF if metric in _measured(scored, name)]
    if not deaf:
        return {}
    heard = _right(scored[AUDIO], metric)
    names = [name for name in heard if all(name in own for own in deaf)]
    recordings = _recordings(scored[AUDIO])
    needing = [name for name in names if not any(own[name] for own in deaf)]
    found: dict[str, Any] = {}
    if names:
        only = proportion([float(heard[n] and n in set(needing)) for n in names])
        found["right_only_when_heard"] = plain(interval(only, [recordings[n] for n in names]))
    if needing:
        right = proportion([float(heard[name]) for name in needing])
        found["items_that_need_the_audio"] = plain(interval(right, [recordings[n] for n in needing]))
    return found


def _positions(scored: Mapping[str, Scored], metric: str) -> dict[str, Any]:
    """Over all places that the options were moved to: the mean, and the share that is right in each."""
    moved = [name for name in scored if name.partition("_")[0] == REORDERED]
    runs = [_right(scored[n], metric) for n in (AUDIO, *moved) if metric in _measured(scored, n)]
    if len(runs) < 2:
        return {}
    names = [name for name in runs[0] if all(name in own for own in runs)]
    if not names:
        return {}
    recordings = [_recordings(scored[AUDIO])[name] for name in names]
    always = proportion([float(all(own[name] for own in runs)) for name in names])
    mean = float(np.mean([[own[name] for own in runs] for name in names]))
    return {
        "positions": {"orders": len(runs), "mean": mean, "always_right": plain(interval(always, recordings))}
    }


def _measured(scored: Mapping[str, Scored], name: str) -> Mapping[str, Any]:
    return scored[name].measured if name in scored else {}


def _recordings(own: Scored) -> dict[str, str]:
    return {answer.sample.id: answer.recording for answer in own.answers}


def _most_chosen(scored: Mapping[str, Scored]) -> dict[str, Any]:
    """The place that is chosen most, over all orders that were asked, and the option that is read most, each
    with its share of the answers that could be read."""
    orders = [own for name, own in scored.items() if name == AUDIO or name.partition("_")[0] == REORDERED]
    places = Counter(
        answer.sample.choices.index(answer.read)
        for own in orders
        for answer in own.answers
        if answer.read in answer.sample.choices and len(answer.sample.choices) > 1
    )
    found: dict[str, Any] = {}
    if places:
        place, count = places.most_common(1)[0]
        found["most_chosen_place"] = {
            "place": chr(ord("A") + place),
            "share": count / places.total(),
            "answers": places.total(),
            "orders": len(orders),
        }
    heard = scored[AUDIO]
    texts = Counter(answer.read for answer in heard.answers if answer.read)
    closed = heard.task.parser not in ("text", "ranges", "number")
    if closed and texts and len(texts) <= max(20, len(heard.answers) // 4):
        text, count = texts.most_common(1)[0]
        right = sum(text in answer.sample.references for answer in heard.answers) / len(heard.answers)
        found["most_chosen_option"] = {"option": text, "share": count / texts.total(), "right": right}
    return found


def shown_p(value: float | None) -> str:
    """A p-value as people read it, never as 0; "-" where there are too few recordings for one."""
    return "-" if value is None else "<.001" if value < 0.0005 else f"{value:.3f}"


def lines(found: Mapping[str, Any], shown: Callable[[float | None, str], str]) -> Sequence[tuple[str, ...]]:
    """The table's rows as people read them: condition, value, interval, heard minus it, interval, p."""
    metric, rows = found["metric"], []
    for row in found["rows"]:
        value, low, high = (shown(row[key], metric) for key in ("mean", "low", "high"))
        told = [label_of(row["condition"]), value, f"{low} to {high}", str(row["num_items"])]
        minus = row.get("minus")
        if minus is None:
            rows.append((*told, "", ""))
            continue
        mean, down, up = (shown(minus[key], metric) for key in ("mean", "low", "high"))
        rows.append((*told, f"{mean} [{down}, {up}]", shown_p(minus["p_value"])))
    return rows


def sentences(found: Mapping[str, Any], shown: Callable[[float | None, str], str]) -> list[str]:
    """What else the table tells, a sentence each."""
    metric = found["metric"]

    def limited(key: str, own: Mapping[str, Any]) -> str:
        return f"{shown(own['mean'], key)} [{shown(own['low'], key)}, {shown(own['high'], key)}]"

    told = []
    if found.get("chance") is not None:
        told.append(f"guessing scores {shown(found['chance'], metric)}")
    if only := found.get("right_only_when_heard"):
        told.append(f"right only when heard: {limited(metric, only)} % of {only['num_items']} items")
    if need := found.get("items_that_need_the_audio"):
        told.append(
            f"{need['num_items']} items that it gets wrong without the recording; heard, it gets "
            f"{limited(metric, need)} % of these right"
        )
    if place := found.get("most_chosen_place"):
        told.append(
            f"place {place['place']} is chosen most: {100 * place['share']:.0f} % of {place['answers']}"
            f" answers in {place['orders']} order{'s' if place['orders'] > 1 else ''} of the options"
        )
    if option := found.get("most_chosen_option"):
        told.append(
            f"'{option['option']}' is said most: {100 * option['share']:.0f} %, and right in "
            f"{100 * option['right']:.0f} %"
        )
    if positions := found.get("positions"):
        told.append(
            f"over {positions['orders']} orders of the options {shown(positions['mean'], metric)}; right in"
            f" all of them {limited(metric, positions['always_right'])} %"
        )
    return told
