"""The reward of last resort: an LLM reads what is known of the recording and rates answers from 1 to 10.

It costs an LLM's answer for each answer drawn, it errs, and a model learns what its judge likes: where an
answer can be checked, check it. 1 is worth 0, 10 is worth 1; a rating that cannot be read is worth 0.
"""

import os
from collections.abc import Sequence

from lalm.data.sample import Sample
from lalm.synthesis.completions import EndpointWriter, LocalWriter
from lalm.synthesis.judging import BEST, WORST
from lalm.synthesis.preferences import Judge, judge_by_llm
from lalm.training.sections import Reward
from lalm.weights.fetch import resolve


class JudgeReward:
    """Rates the answers of a group together, by an LLM that is opened with the first ones.

    The key of an endpoint is read from OPENAI_API_KEY.
    """

    def __init__(self, settings: Reward) -> None:
        self._settings = settings
        self._judge: Judge | None = None

    def __call__(self, sample: Sample, answers: Sequence[str]) -> list[float]:
        """What each answer is worth, from 0 to 1."""
        if self._judge is None:
            self._judge = judge_by_llm(self._writer())
        rated = self._judge.rate([(sample, answer) for answer in answers])
        return [0.0 if one is None else (one - WORST) / (BEST - WORST) for one in rated]

    def _writer(self) -> EndpointWriter | LocalWriter:
        name = str(self._settings.llm)
        if self._settings.url is not None:
            return EndpointWriter(self._settings.url, name, os.environ.get("OPENAI_API_KEY", ""))
        return LocalWriter(resolve(name), name)
