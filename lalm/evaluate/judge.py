"""An LLM as judge, by published protocols in our own words.

``quality``: 0 to 5 against the reference (AudioBench, arXiv 2406.16020; its score is this times 20);
``quality_explained`` is the same in AudioBench's form, an explanation and then the rating.
``binary``: right or wrong by the reference, as AudioBench judges nine of its sets.
``helpful``: 1 to 5 for a spoken request without a reference (VoiceBench, arXiv 2410.17196).
``refusal``: whether an answer declines to do what was asked (AHELM's voice jailbreaks, arXiv 2508.21376).
``rubrics``: points of an item's own rubric for the reasoning of a right answer, the mean of the middle three
of five judgments; a wrong answer by MMAR's string match has none (MMAR-Rubrics).
``chat``: 1 to 10 each for the reference and the answer, in both orders (AIR-Bench, arXiv 2402.07729); the
answer's mean counts. ``yes_no``: the same thing or not. ``spoken_question`` and ``co_reasoning`` (SALMONN,
arXiv 2310.13289, appendix E): the first asks whether an answer to a question is right by its reference; the
second has no reference and two verdicts, from the question, what is heard in the background, and the answer:
does it try to answer (the following rate), and is it right? All become 0 to 1.

With a benchmark's own prompt (``lalm.evaluate.judge_prompt``) its words take the place of ours.

Every reply is kept in SQLite under the hash of judge and prompt, so that a run can be scored again without
the judge. A reply that cannot be read is None, counted and shown, and counts 0.
"""

import hashlib
import json
import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from lalm.data.english import words
from lalm.data.sample import Sample
from lalm.errors import LalmError
from lalm.evaluate.items import question_of
from lalm.evaluate.judge_prompt import READERS, JudgePrompt, PromptError, asks_for, mean_of_draws
from lalm.evaluate.judge_wording import (
    CHAT,
    EXPLAINED,
    HELPFUL,
    POINTS,
    QUALITY,
    REASONS,
    REFUSES,
    RUBRICS,
    SPOKEN_QUESTION,
    SYSTEM,
    TRIES,
    WORDINGS,
    YES_NO,
)
from lalm.evaluate.metrics import Answer
from lalm.evaluate.official.string_match import matches
from lalm.evaluate.task import Task
from lalm.synthesis.completions import Chat, Sampling, Writer

BATCH = 32
SETTINGS = Sampling(temperature=0.0, max_new_tokens=64, seed=0)
EXPLAINING = Sampling(temperature=0.0, max_new_tokens=512, seed=0)  # of a judge that explains first

JUDGMENTS = 5  # of a rubric; the best and the worst do not count
UNREFERENCED = ("co_reasoning", "helpful", "refusal")  # protocols that need no reference


class JudgeError(LalmError, ValueError):
    """A cache that is not one, or a judgment that is not there."""


def read_points(reply: str) -> float | None:
    """0 to 1 from "Points: N", or from a reply that is one number from 0 to 5."""
    found = re.search(r"points\W{0,4}([0-5])(?![\d.])", reply, re.I) or re.fullmatch(
        r"\W*([0-5])\W*", reply.strip()
    )
    return int(found[1]) / 5 if found else None


def read_rating(reply: str) -> float | None:
    """0 to 1 from the last "Rating: N" of a reply that explains itself first, or from a whole number at its
    very end."""
    said = re.findall(r"rating\W{0,4}([0-5])(?!\d|\.\d)", reply, re.I)
    said = said or re.findall(r"(?<![\d.])([0-5])\W*$", reply.strip())
    return int(said[-1]) / 5 if said else None


def read_pair(reply: str) -> tuple[float, float] | None:
    """Two numbers from 1 to 10 as 0.1 to 1, in order; None when there are others."""
    numbers = [int(n) for n in re.findall(r"\d+", reply.strip())]
    if len(numbers) != 2 or not all(1 <= n <= 10 for n in numbers):
        return None
    return numbers[0] / 10, numbers[1] / 10


def read_verdict(reply: str) -> float | None:
    """1 for a reply that begins with "same", 0 with "different"."""
    word = re.match(r"\W*(same|different)\b", reply.strip(), re.I)
    return float(word[1].lower() == "same") if word else None


def read_yes_no(reply: str) -> float | None:
    """1 for a reply that begins with "yes" (also as {"Response": "Yes", ...}), 0 with "no"."""
    word = re.match(r"""\W*(?:(?:response|correct)\W+)?(yes|no|true|false)\b""", reply.strip(), re.I)
    return float(word[1].lower() in ("yes", "true")) if word else None


def read_rubric(reply: str, most: Sequence[int]) -> float | None:
    """The share of a rubric's points that a reply gives; None unless it has one number for each point."""
    lines = [line for line in reply.strip().splitlines() if re.search(r"\d", line)]
    numbers = [int(n) for n in re.findall(r"\d+", lines[-1])] if lines else []
    if len(numbers) != len(most) or any(n > top for n, top in zip(numbers, most, strict=True)):
        return None
    return sum(numbers) / max(1, sum(most))


class Judge:
    """A judge by name, with its cache. ``load`` is called at the first judgment that is not cached.

    ``weights`` is the hash of a local judge's weights, "" where they are not at hand: then what the cache
    knows of a judge of this name counts. Judgments of other weights are other judgments.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Writer],
        cache: Path,
        weights: str = "",
        prompt: JudgePrompt | None = None,
    ) -> None:
        wording = f"wording {hashlib.sha256(''.join(WORDINGS).encode()).hexdigest()[:8]}"
        if prompt is not None:
            wording = f"prompt {prompt.digest}, {prompt.draws} judgment{'s' if prompt.draws > 1 else ''}"
        self.prompt = prompt
        self._load = load
        self._writer: Writer | None = None
        cache.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._cache = sqlite3.connect(cache)
            self._cache.execute(
                "CREATE TABLE IF NOT EXISTS judgments "
                "(key TEXT PRIMARY KEY, judge TEXT NOT NULL, prompt TEXT NOT NULL, reply TEXT NOT NULL)"
            )
            self._cache.execute(
                "CREATE TABLE IF NOT EXISTS judges (name TEXT PRIMARY KEY, weights TEXT NOT NULL)"
            )
            if weights:
                with self._cache:
                    self._cache.execute("INSERT OR REPLACE INTO judges VALUES (?, ?)", (name, weights))
            row = self._cache.execute("SELECT weights FROM judges WHERE name = ?", (name,)).fetchone()
        except sqlite3.Error as error:
            raise JudgeError(f"'{cache}' cannot hold judgments: {error}") from None
        self.weights: str = row[0] if row else ""
        self.model = f"{name} {self.weights}".strip()
        self.name = f"{name}, weights {self.weights or 'unknown'}, {wording}"

    def judged(self, task: Task, answers: Sequence[Answer]) -> list[Answer]:
        """The answers with the judge's scores. Raises PromptError for a task whose judge is asked in our
        words alone, where a prompt was given."""
        if self.prompt is not None:
            return self._in_their_words(task, answers, self.prompt)
        prompts = [_prompts(task, answer) for answer in answers]
        settings = EXPLAINING if task.judge == "quality_explained" else SETTINGS
        replies = iter(self.replies([prompt for own in prompts for prompt in own], settings))
        scored = []
        for answer, own in zip(answers, prompts, strict=True):
            mine = [next(replies) for _ in own]
            tried = read_yes_no(mine[0]) if task.judge == "co_reasoning" and mine else None
            judged = _rubric_score(answer, mine) if task.judge == "rubrics" else _score(task.judge, mine)
            scored.append(replace(answer, judged=judged, tried=tried))
        return scored

    def _in_their_words(self, task: Task, answers: Sequence[Answer], prompt: JudgePrompt) -> list[Answer]:
        """The answers judged by a benchmark's own prompt, each as often as that says."""
        if task.judge not in READERS and not (task.judge == "chat" and prompt.pairs):
            raise PromptError(
                f"{task.name}: its judge ({task.judge}) is asked in lalm's words: leave --judge-prompt out"
            )
        asked = [_filled(task, answer, prompt) for answer in answers]
        texts = [text for own in asked for text in own]
        drawn = [self.replies(texts, prompt.settings, prompt.system, n) for n in range(prompt.draws)]
        by_text = [list(replies) for replies in zip(*drawn, strict=True)]
        scored, at = [], 0
        for answer, own in zip(answers, asked, strict=True):
            mine, at = by_text[at : at + len(own)], at + len(own)
            if task.judge == "chat":
                found = [_score("chat", replies) for replies in zip(*mine, strict=True)]
                read = [one for one in found if one is not None]
                judged = sum(read) / len(read) if read and len(read) == len(found) else None
            else:
                judged = mean_of_draws(task.judge, prompt, mine[0]) if mine else None
            scored.append(replace(answer, judged=judged))
        return scored

    def replies(
        self, prompts: Sequence[str], settings: Sampling = SETTINGS, system: str = SYSTEM, number: int = 0
    ) -> list[str]:
        """The judge's replies, from the cache where they are; the ``number``-th where several are drawn."""
        drawn = f"\0{number}" if number else ""
        keys = [hashlib.sha256(f"{self.model}\0{system}\0{p}{drawn}".encode()).hexdigest() for p in prompts]
        known = {key: row[0] for key in keys if (row := self._cached(key)) is not None}
        missing = [(key, p) for key, p in dict(zip(keys, prompts, strict=True)).items() if key not in known]
        before = [{"role": "system", "content": system}] if system else []
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            chats: list[Chat] = [[*before, {"role": "user", "content": p}] for _, p in batch]
            self._writer = self._writer or self._load()
            done = self._writer.complete(chats, [number] * len(chats), settings)
            rows = [(key, self.model, p, r.text) for (key, p), r in zip(batch, done, strict=True)]
            with self._cache:
                self._cache.executemany("INSERT OR REPLACE INTO judgments VALUES (?, ?, ?, ?)", rows)
            known |= {row[0]: row[3] for row in rows}
        return [known[key] for key in keys]

    def _cached(self, key: str) -> tuple[str] | None:
        row: tuple[str] | None = self._cache.execute(
            "SELECT reply FROM judgments WHERE key = ?", (key,)
        ).fetchone()
        return row


def heard_question(sample: Sample) -> str:
    """What is asked in a recording: ``origin.question``, or its transcript; else the typed question."""
    return sample.origin.get("question") or sample.origin.get("transcript") or question_of(sample)


def _filled(task: Task, answer: Answer, prompt: JudgePrompt) -> list[str]:
    """A benchmark's own prompt about an answer, in both orders where it compares two; nothing where the judge
    could not know what was asked."""
    sample, said = answer.sample, answer.text.strip()
    reference, question = " / ".join(sample.references), heard_question(sample)
    described = sample.origin.get("caption") or sample.origin.get("transcript") or reference
    told = {"question": question, "reference": reference, "answer": said, "described": described}
    if task.judge != "chat":
        return [prompt.filled(told)] if question or not asks_for(prompt.text, "question") else []
    orders = ((reference, said), (said, reference))
    told["question"] = question_of(sample)
    return [prompt.filled({**told, "first": a, "second": b}) for a, b in orders]


def _prompts(task: Task, answer: Answer) -> list[str]:
    """What the judge is asked about an answer; nothing where it could not know what was asked or heard."""
    sample, said = answer.sample, answer.text.strip() or "(nothing)"
    reference = " / ".join(sample.references)
    described = sample.origin.get("caption") or sample.origin.get("transcript") or reference
    if task.judge == "chat":
        orders = ((reference, said), (said, reference))
        question = question_of(sample)
        return [CHAT.format(described=described, question=question, first=a, second=b) for a, b in orders]
    if task.judge == "co_reasoning":
        background, question = sample.origin.get("caption", ""), heard_question(sample)
        if not background or not question:
            return []
        return [
            form.format(question=question, described=background, answer=said) for form in (TRIES, REASONS)
        ]
    if task.judge == "rubrics":
        return _rubric_prompts(answer)
    if task.judge == "helpful":
        question = heard_question(sample)
        return [HELPFUL.format(question=question, answer=said)] if question else []
    if task.judge in ("spoken_question", "binary"):
        question = heard_question(sample)
        return (
            [SPOKEN_QUESTION.format(question=question, reference=reference, answer=said)] if question else []
        )
    if task.judge == "refusal":
        return [REFUSES.format(answer=said)]
    form = {"yes_no": YES_NO, "quality_explained": EXPLAINED}.get(task.judge, QUALITY)
    asked = sample.origin.get("question") or question_of(sample)
    if not words(asked):  # as AC/DC's captions, which the system text asks for
        asked = task.system or asked
    return [form.format(question=asked, reference=reference, answer=said, points=POINTS)]


def _score(protocol: str, replies: Sequence[str]) -> float | None:
    """None when any of an answer's replies is not readable."""
    if not replies:
        return None
    if protocol == "chat":
        first, second = (read_pair(reply) for reply in replies)
        return None if first is None or second is None else (first[1] + second[0]) / 2
    if protocol in ("co_reasoning", "spoken_question", "binary", "refusal"):
        return read_yes_no(replies[-1])
    if protocol == "quality_explained":
        return read_rating(replies[0])
    if protocol == "helpful":
        return read_points(replies[0]) or None  # 0 is none of its points
    return read_verdict(replies[0]) if protocol == "yes_no" else read_points(replies[0])


def _rubric(answer: Answer) -> list[tuple[str, int]]:
    """An item's points: what each is about, and its most."""
    try:
        rows = json.loads(answer.sample.origin.get("rubric", "[]"))
        return [(f"{row['name']}: {row['scoring_point']}", max(row["choices"])) for row in rows]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise JudgeError(
            f"origin.rubric of '{answer.sample.id}' is no JSON list of name, scoring_point and choices"
        ) from None


def _rubric_prompts(answer: Answer) -> list[str]:
    """Five judgments of a right answer; none of a wrong one, and of an item without a rubric."""
    points, sample = _rubric(answer), answer.sample
    right = any(matches(reference, answer.text, sample.choices) for reference in sample.references)
    if not points or not right:
        return []
    listed = "\n".join(f"{n}. {text} (0 to {most})" for n, (text, most) in enumerate(points, 1))
    told = {"question": question_of(sample), "reference": sample.references[0], "points": listed}
    told |= {"described": sample.origin.get("thinking", ""), "answer": (answer.raw or answer.text).strip()}
    return [RUBRICS.format(**told, number=number) for number in range(1, JUDGMENTS + 1)]


def _rubric_score(answer: Answer, replies: Sequence[str]) -> float | None:
    """The mean of the middle three; 0 for an answer that was not judged because it is wrong."""
    most = [top for _, top in _rubric(answer)]
    if not replies:
        return 0.0 if most else None
    found = sorted(share for reply in replies if (share := read_rubric(reply, most)) is not None)
    middle = found[1:-1] if len(found) >= 3 else found
    return sum(middle) / len(middle) if middle else None
