"""Limits of shares of items and of their paired differences, which hold where resampling knows too little:
few recordings, shares near 0 and 1, runs that rarely differ."""

import math
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]

TAIL = 0.025
UNTRUSTED = 4.0  # recordings unlike most: with so many, half of what their spread says is believed


def share_limits(table: Array) -> tuple[float, float]:
    """Jeffreys' limits of a share, on as many items as the recordings are worth; exact ones of 0 and 1.

    table: (recordings, 2) right and all. Items of one recording tell less than as many of different ones; how
    much less, their variance between recordings says (Korn and Graubard 1998). Where few recordings are
    unlike the others that is hardly known, and a recording counts as little more than one item.
    """
    from scipy.stats import beta, t

    groups, (right, items) = len(table), table.sum(0)
    share = right / items
    pull = table[:, 0] - share * table[:, 1]
    variance = groups / (groups - 1) * (pull**2).sum() / items**2
    worth = share * (1 - share) / variance if variance > 0 else float(groups)
    if items > groups:
        worth *= (t.ppf(1 - TAIL, items - 1) / t.ppf(1 - TAIL, groups - 1)) ** 2
    unlike = min((table[:, 0] < table[:, 1]).sum(), (table[:, 0] > 0).sum())
    trusted = unlike / (unlike + UNTRUSTED)
    worth = trusted * min(worth, items) + (1 - trusted) * min(worth, groups)
    worth = max(1.0, float(worth))
    if right in (0, items):  # Clopper and Pearson's
        end = 1 - TAIL ** (1 / worth)
        return (1 - end, 1.0) if right else (0.0, end)
    low, high = beta.ppf([TAIL, 1 - TAIL], share * worth + 0.5, (1 - share) * worth + 0.5)
    return float(min(low, share)), float(max(high, share))


def paired_limits(mine: Array, other: Array) -> tuple[float, float, float]:
    """Limits of a paired difference of shares and its p-value; (recordings, 2) right and all, twice.

    Where all recordings differ alike: exact limits, of the share of recordings unlike them, and a sign test.
    Else Student's, with one recording more that speaks for each side (Bonett and Price 2012), so that runs
    that rarely differ are not taken to be equal.
    """
    from scipy.stats import t

    gaps, items = mine[:, 0] - other[:, 0], mine[:, 1]
    groups, size = len(gaps), float(items.mean())
    value = float(gaps.sum() / items.sum())
    if np.ptp(gaps / items) < 1e-12:
        unlike = 1 - TAIL ** (1 / groups)
        low, high = value * (1 - unlike) - unlike, value * (1 - unlike) + unlike
        return max(-1.0, low), min(1.0, high), min(1.0, 2 * 0.5**groups) if value else 1.0
    mean = float(gaps.sum()) / (groups + 2)
    error = math.sqrt((float((gaps**2).sum() + 2 * size) / (groups + 2) - mean**2) / (groups + 2))
    reach = float(t.ppf(1 - TAIL, groups - 1)) * error
    low, high = (mean - reach) / size, (mean + reach) / size
    return max(-1.0, low), min(1.0, high), 2 * float(t.sf(abs(mean) / error, groups - 1))
