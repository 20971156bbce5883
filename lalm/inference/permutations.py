"""Permutation self-consistency: asks about several clips in several orders and takes the majority answer.

A model that hears several clips may be biased by their order. So the clips of a message are permuted, words
that refer to their positions ("first", "recording 2") are changed accordingly in the question and back in
the answer, and the majority of the answers wins.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lalm.data.english import words
from lalm.data.sample import Message, Part, Sample

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_PLACES = re.compile(
    rf"\b({'|'.join(ORDINALS)})\b|\b(recording|clip|audio|sound|file)(\s+(?:number\s+)?)(\d+)\b", re.I
)


def permutations(num_clips: int, count: int, seed: int = 0) -> list[tuple[int, ...]]:
    """``count`` different orders of the clips, the given one first; fewer if there are no more."""
    given = tuple(range(num_clips))
    if num_clips <= 7 and math.factorial(num_clips) <= 4 * count:
        others = list(itertools.permutations(given))[1:]
        rng = np.random.default_rng(seed)
        return [given, *(others[i] for i in rng.permutation(len(others)))][:count]
    rng, found = np.random.default_rng(seed), {given: None}
    while len(found) < count:
        found.setdefault(tuple(int(i) for i in rng.permutation(num_clips)))
    return list(found)


def permute_clips(sample: Sample, order: Sequence[int]) -> Sample:
    """The sample with clip ``order[n]`` in the n-th place; positions named in user turns follow.

    Raises ValueError when ``order`` is not a permutation of the sample's clips, or when text stands between
    the clips, which would end up beside another clip.
    """
    clips = sample.audios
    if sorted(order) != list(range(len(clips))):
        raise ValueError(f"{list(order)} is not a permutation of {len(clips)} clips")
    waiting, messages = iter(order), []
    for message in sample.messages:
        content = message["content"]
        if not isinstance(content, str):
            kinds = [part["type"] for part in content]
            places = [i for i, kind in enumerate(kinds) if kind == "audio"]
            if places and (len(places) < len(clips) or places[-1] - places[0] >= len(places)):
                raise ValueError("clips can change places only where no text stands between them")
            content = [
                clips[next(waiting)] if part["type"] == "audio" else _text(part, order) for part in content
            ]
        elif message["role"] == "user":
            content = permute_mentions(content, order)
        changed: Message = {**message, "content": content}
        messages.append(changed)
    return replace(sample, messages=tuple(messages))


def permute_mentions(text: str, order: Sequence[int]) -> str:
    """Change the positions named in a text to those after permuting (clip ``order[n]`` is n-th).

    Example: ``renamed("Is the first louder?", (1, 0))`` is "Is the second louder?".
    """
    place = {clip: number for number, clip in enumerate(order)}

    def new(match: re.Match[str]) -> str:
        if match[1]:
            number = ORDINALS.index(match[1].lower())
            word = ORDINALS[place[number]] if number in place and place[number] < len(ORDINALS) else match[1]
            return word.capitalize() if match[1][0].isupper() else word
        number = int(match[4]) - 1
        return f"{match[2]}{match[3]}{place.get(number, number) + 1}"

    return _PLACES.sub(new, text)


def restore_mentions(text: str, order: Sequence[int]) -> str:
    """Change the positions named in an answer about permuted clips back to the given order."""
    return permute_mentions(text, [list(order).index(i) for i in range(len(order))])


def majority_vote(answers: Sequence[str]) -> tuple[str, float]:
    """The most frequent answer, compared by its words (the earliest on a tie), and its share."""
    said = [" ".join(words(answer)) for answer in answers]
    counts = Counter(said)
    best = max(said, key=lambda text: counts[text])
    return answers[said.index(best)], counts[best] / len(said)


def _text(part: Part, order: Sequence[int]) -> Part:
    return {"type": "text", "text": permute_mentions(part["text"], order)} if part["type"] == "text" else part
