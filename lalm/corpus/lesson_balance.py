"""How often each sound is offered as a wrong answer: no sound is right more often than another."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np

from lalm.corpus.catalogue import SoundClass, classes
from lalm.corpus.questions import close

FUZZY = {"speech", "music", "ambience"}  # groups whose sounds may sound like one another
HARD = 0.4  # odds that what is offered wrongly is of a sound's own group
ROUNDS = 40


@cache
def is_near(a: str, b: str) -> bool:
    """Whether two labels are of one group, and surely not the same to an ear."""
    one, two = classes()[a], classes()[b]
    return one.group == two.group and one.group not in FUZZY and not alike(one, two)


@cache
def is_far(a: str, b: str) -> bool:
    """Whether two labels are of groups that nobody takes for one another."""
    return not close(classes()[a].group, classes()[b].group)


def alike(one: SoundClass, two: SoundClass) -> bool:
    """Whether an answer that names one might name the other as well."""
    return bool(set(one.words) & set(two.words))


def offers(heard: Mapping[str, float]) -> dict[str, float]:
    """Odds of drawing each label as a wrong one, given how often each is a right one.

    Beside a right label a wrong one is drawn by these odds from its near labels (share ``HARD``, where it has
    any), or else from its far ones. The odds are fitted, round by round, until each label is drawn wrongly in
    proportion to how often it is right.
    """
    labels = list(heard)
    right = np.array([heard[label] for label in labels]) / sum(heard.values())
    near, far = (_table(labels, test) for test in (is_near, is_far))
    share = np.where(near.any(1), np.where(far.any(1), HARD, 1.0), 0.0)
    odds = right.copy()
    for _ in range(ROUNDS):
        drawn = np.zeros(len(labels))
        for table, part in ((near, share), (far, 1 - share)):
            drawn += (right * part / np.maximum(table @ odds, 1e-12)) @ table * odds
        odds *= np.clip(right / np.maximum(drawn, 1e-12), 0.5, 2.0)
        odds /= odds.sum()
    return dict(zip(labels, odds.tolist(), strict=True))


def _table(labels: Sequence[str], test: Callable[[str, str], bool]) -> np.ndarray:
    return np.array([[test(a, b) for b in labels] for a in labels], float)
