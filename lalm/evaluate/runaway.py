"""Transcripts that ran away: with more wrong words than were said, as hallucinating recognisers write them.

No interval of an error rate can know of what is not in the sample: where one recording in fifty runs away,
four of five samples of ten recordings have none, and their error rate lies far below the truth. Taken apart,
the share of such recordings and the error rate of all others both have intervals that hold
(docs/evaluate.md).
"""

from typing import Any

import numpy as np

from lalm.evaluate.metrics.intervals import interval, proportion
from lalm.evaluate.scores import Scored, part_of, plain

ERROR_RATES = ("wer", "wer_qwen2_audio", "audiobench_wer", "open_asr_wer")


def runaway(scored: Scored) -> dict[str, Any] | None:
    """How many answers ran away, their share of all with its limits, and the error rate of the others; None
    for a task that does not lead with an error rate, and for calls in chunks, which are too few and long."""
    metric = scored.leading
    if metric not in ERROR_RATES or (shares := scored.measured[metric].shares) is None:
        return None
    if any(answer.sample.origin.get("call") for answer in scored.answers):
        return None
    wild = shares[:, 0] > shares[:, 1]
    names = scored.recordings
    found: dict[str, Any] = {"metric": metric, "answers": int(wild.sum())}
    found["share"] = plain(interval(proportion(wild.astype(float)), names))
    if wild.any() and not wild.all():
        calm = np.flatnonzero(~wild)
        others = part_of(scored.measured[metric], calm.tolist())
        found["others"] = plain(interval(others, [names[place] for place in calm]))
    return found
