"""Quality filters of training samples, by their names in a recipe's ``data.filters``.

In the order in which they are cheap: duplicates, lengths, language, and answers that contradict what is known
of their recording, by an LLM that has not heard it. Its verdicts are kept in a file, so that a resumed run
asks nothing twice.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from lalm.data.english import words
from lalm.data.mixture import known_seconds
from lalm.data.sample import AudioPart, Sample
from lalm.synthesis.completions import EndpointWriter, LocalWriter, Sampling, Writer
from lalm.synthesis.judging import contradiction_chat, known, read_yes_no
from lalm.synthesis.resumable_rows import append, whole_lines
from lalm.weights.fetch import resolve

FEWEST_WORDS = 4  # of an answer whose language is looked at: shorter ones are guesses
CLEARLY = 3.0  # times as likely as any of the recipe's languages must another one be
BATCH_SIZE = 64  # samples that are judged at a time
VERDICT = Sampling(temperature=0.0, max_new_tokens=4)


class Filtering:
    """The filters of one run; call it with the samples of each source in turn.

    ``duplicates``: the same turns again; ``words``: answers outside [fewest, most]; ``duration_s``: samples
    with a recording outside [shortest, longest] seconds; ``languages``: answers in
    other ones (ISO codes); ``contradictions``: the LLM (a name, or with ``url`` an endpoint's) that finds
    answers which what is known of the recording contradicts; ``folder`` holds its verdicts.
    ``dropped`` counts what each filter took away, ``unjudged`` the samples of which nothing is known that an
    answer could contradict, or about which the judge said neither yes nor no (they stay).
    """

    def __init__(
        self,
        folder: Path,
        progress: Callable[[int, int], None] | None = None,
        *,
        duplicates: bool = False,
        words: tuple[int, int] | None = None,
        duration_s: tuple[float, float] | None = None,
        languages: Sequence[str] = (),
        contradictions: str | None = None,
        url: str | None = None,
    ) -> None:
        self.duplicates, self.words, self.languages = duplicates, words, languages
        self.duration_s = duration_s
        self.contradictions, self.url = contradictions, url
        self.dropped: Counter[str] = Counter()
        self.unjudged = 0
        self._seen: set[str] = set()
        self._verdicts = folder / "verdicts.jsonl"
        self._progress = progress

    def __call__(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples that stay, in order."""
        kept = []
        for sample in samples:
            if reason := self._plain(sample):
                self.dropped[reason] += 1
            else:
                kept.append(sample)
        if self.contradictions is None:
            return kept
        verdicts = self._judged(kept)
        found = [verdicts.get(question(sample)) for sample in kept]
        self.unjudged += found.count(None)
        stay = [sample for sample, contradicts in zip(kept, found, strict=True) if not contradicts]
        self.dropped["contradictions"] += len(kept) - len(stay)
        return stay

    def summary(self) -> str:
        """What was taken away, in one line."""
        parts = [f"{count} by {name}" for name, count in self.dropped.items()] or ["no sample"]
        unjudged = f"; {self.unjudged} could not be judged and stay" if self.unjudged else ""
        return f"Filters took away {', '.join(parts)}{unjudged}."

    def _plain(self, sample: Sample) -> str:
        """The filter that takes a sample away by its text and lengths alone; empty if none does."""
        if self.duplicates:
            key = digest(sample)
            if key in self._seen:
                return "duplicates"
            self._seen.add(key)
        answer = sample.target or sample.chosen
        if self.words is not None:
            fewest, most = self.words
            if not fewest <= len(answer.split()) <= most:
                return "words"
        if self.duration_s is not None and not all(map(self._lasts, sample.audios)):
            return "duration_s"
        if self.languages and is_foreign(answer, self.languages):
            return "languages"
        return ""

    def _lasts(self, part: AudioPart) -> bool:
        """Is a recording within the bounds? One that cannot be read stays, for training to name it."""
        assert self.duration_s is not None
        try:
            return self.duration_s[0] <= known_seconds(part) <= self.duration_s[1]
        except ValueError:
            return True

    def _judged(self, samples: Sequence[Sample]) -> dict[str, bool | None]:
        """Question -> does the answer contradict its recording? None where the judge did not say."""
        self._verdicts.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._verdicts}.lock"):  # of several processes one asks, the others read
            verdicts = _read(self._verdicts, str(self.contradictions))
            asked = [s for s in samples if known(s, accepted=False) and question(s) not in verdicts]
            if not asked:
                return verdicts
            judge = self._judge()
            for at in range(0, len(asked), BATCH_SIZE):
                batch = asked[at : at + BATCH_SIZE]
                replies = judge.complete([contradiction_chat(s) for s in batch], [0] * len(batch), VERDICT)
                found = {question(s): read_yes_no(r.text) for s, r in zip(batch, replies, strict=True)}
                verdicts |= found
                judge_name = self.contradictions
                rows = [{"judge": judge_name, "asked": k, "contradicts": v} for k, v in found.items()]
                append(self._verdicts, [json.dumps(row) for row in rows])
                if self._progress:
                    self._progress(at + len(batch), len(asked))
        return verdicts

    def _judge(self) -> Writer:
        name = str(self.contradictions)
        if self.url is not None:
            return EndpointWriter(self.url, name, os.environ.get("OPENAI_API_KEY", ""))
        return LocalWriter(resolve(name), name)


def digest(sample: Sample) -> str:
    """What makes a sample the same as another: its turns and clips, and its preferred answer."""
    fields = {k: v for k, v in sample.to_json().items() if k in ("messages", "chosen", "rejected")}
    return _digest(json.dumps(fields, sort_keys=True))[:32]


def question(sample: Sample) -> str:
    """What the judge is asked about a sample, as a digest; empty where nothing is known to ask with."""
    if not known(sample, accepted=False):
        return ""
    return _digest(json.dumps(contradiction_chat(sample)))[:32]


def is_foreign(text: str, languages: Sequence[str]) -> bool:
    """Is a text clearly in another language than these (ISO codes)? Never, if it is too short to tell."""
    if len(words(text)) < FEWEST_WORDS:
        return False
    shares = dict(_identifier().rank(text))
    own = max((float(shares.get(code, 0.0)) for code in languages), default=0.0)
    return max(shares.values()) > CLEARLY * own


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read(file: Path, judge: str) -> dict[str, bool | None]:
    """The verdicts of a judge; a line cut short by a kill is taken away."""
    rows = [json.loads(line) for line in whole_lines(file).splitlines()]
    return {row["asked"]: row["contradicts"] for row in rows if row["judge"] == judge}
