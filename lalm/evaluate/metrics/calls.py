"""Answers to the chunks of a call, joined to one of the call, which alone has a reference."""

from collections.abc import Sequence
from dataclasses import replace

from lalm.evaluate.metrics.answers import Answer


def joined(answers: Sequence[Answer]) -> list[Answer]:
    """The answers as the Open ASR leaderboard compares them. Those to the chunks of one ``origin.call``,
    in the order of ``origin.chunk``, are one text in the place of the first; the others are left empty.
    Answers to anything else stay as they are."""
    calls: dict[str, list[int]] = {}
    for place, answer in enumerate(answers):
        if call := answer.sample.origin.get("call"):
            calls.setdefault(call, []).append(place)
    found = list(answers)
    for places in calls.values():
        places.sort(key=lambda place: int(answers[place].sample.origin["chunk"]))
        texts = [text for place in places if (text := answers[place].text.strip())]
        for place in places:
            nothing = replace(answers[place].sample, references=("",))
            found[place] = replace(answers[place], text="", sample=nothing)
        first = places[0]
        found[first] = replace(answers[first], text=" ".join(texts))
    return found
