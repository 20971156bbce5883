"""What a run's card says of every task: numbers, controls, audio reliance, failures, leaderboards, tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lalm.audio.account import Tally
from lalm.evaluate.controls import AUDIO, WORDED
from lalm.evaluate.items import Asked
from lalm.evaluate.judge import Judge
from lalm.evaluate.metrics import METRICS, Resources
from lalm.evaluate.official.standing import standing
from lalm.evaluate.reliance import reliance
from lalm.evaluate.runaway import runaway
from lalm.evaluate.said import UNANSWERED, Key, Said
from lalm.evaluate.scores import MAX_CATEGORIES, Scored, gap, groups, numbers, paper_table, plain, score
from lalm.inference.thinking import unfinished

SHOWN_FAILURES = 5  # whose reasons the card tells
PARTS = ("category", "group", "difficulty", "sub_category", "layer", "length", "task_name")  # of origin


def shared(mine: Scored, other: Scored, resources: Resources, *, judged: bool) -> tuple[Scored, Scored]:
    """Both runs on the items that both have, in the same order."""
    names = [answer.sample.id for answer in mine.answers]
    theirs = {answer.sample.id: answer for answer in other.answers}
    if names == list(theirs):
        return mine, other
    own = [answer for answer in mine.answers if answer.sample.id in theirs]
    again = [theirs[answer.sample.id] for answer in own]
    return (
        score(mine.task, own, resources, judged=judged),
        score(other.task, again, resources, judged=judged),
    )


@dataclass
class Summary:
    """The card of a run that is answered and scored, as far as numbers go."""

    card: dict[str, Any]
    tasks: Sequence[Asked]
    scored: Mapping[tuple[str, str], Scored]
    said: Mapping[Key, Said]
    resources: Resources
    judge: Judge | None
    price: tuple[float, float] | None = None

    def write(self, impossible: Mapping[tuple[str, str], str]) -> None:
        """Every task's entry, and the tokens of the whole run."""
        for opened in self.tasks:
            name = opened.task.name
            entry, own = self.card["tasks"][name], self._by_control(name)
            entry |= numbers(own[AUDIO])
            entry |= self._counts(name, len(opened.samples))
            if table := paper_table(own[AUDIO]):
                entry["table"] = {
                    "metric": own[AUDIO].leading,
                    "times": 10 if opened.task.judge == "chat" else 100,  # a judge's points, else per cent
                    "found": {column: plain(limits) for column, limits in table},
                }
            if found := runaway(own[AUDIO]):
                entry["runaway"] = found
            entry["by"] = parts(own[AUDIO])
            if self.judge is not None and "judge" in own[AUDIO].measured:
                entry["judge_unreadable"] = sum(answer.judged is None for answer in own[AUDIO].answers)
            entry["controls"] = {
                control: {"impossible": why} for (task, control), why in impossible.items() if task == name
            }
            for control, other in own.items():
                if control != AUDIO:
                    entry["controls"][control] = self._control(own[AUDIO], other)
            entry["spread"] = _spread(entry)
            entry["reliance"] = reliance(own, entry["chance"], self._shared)
            judge = self.judge.name if self.judge else ""
            entry["leaderboard"] = standing(opened, entry, self.card["model"]["kind"], judge)
        self._tokens()

    def _by_control(self, name: str) -> dict[str, Scored]:
        return {control: own for (task, control), own in self.scored.items() if task == name}

    def _shared(self, mine: Scored, other: Scored) -> tuple[Scored, Scored]:
        return shared(mine, other, self.resources, judged=self.judge is not None)

    def _control(self, heard: Scored, other: Scored) -> dict[str, Any]:
        found = numbers(other)
        mine, again = self._shared(heard, other)
        both = [metric for metric in mine.measured if metric in again.measured]
        return {**found, "minus": {metric: plain(gap(mine, again, metric)) for metric in both}}

    def _counts(self, name: str, items: int) -> dict[str, Any]:
        """Seconds, how answers ended, and what failed."""
        own = {key.id: s for key, s in self.said.items() if (key.task, key.control) == (name, AUDIO)}
        found: dict[str, Any] = {"seconds_given": round(sum(sum(s.given_s) for s in own.values()), 1)}
        tally = Tally()
        for account in (account for s in own.values() for account in s.accounts):
            tally.add(account)
        found["audio"] = tally.to_json()
        known = [s.heard_s for s in own.values() if s.heard_s is not None]
        whole = sum(not s.failed and s.finish_reason != "too_long" for s in own.values())
        found["seconds_heard"] = round(sum(map(sum, known)), 1) if len(known) >= whole else None
        for key, reason in (("cut_off", "length"), ("repeating", "repetition"), ("too_long", "too_long")):
            if count := sum(s.finish_reason == reason for s in own.values()):
                found[key] = count
        if count := sum(s.thinking_cut for s in own.values()):
            found["thinking_cut"] = count
        if count := sum(s.finish_reason == "length" and unfinished(s.text) for s in own.values()):
            found["cut_off_thinking"] = count
        if unanswered := sum(s.failed == UNANSWERED for s in own.values()):
            found["unanswered"] = unanswered
        failed = {name: s.failed for name, s in own.items() if s.failed and s.failed != UNANSWERED}
        if failed:
            found["failed_items"] = len(failed)
            found["failures"] = dict(list(failed.items())[:SHOWN_FAILURES])
        return found

    def _tokens(self) -> None:
        counted = [said.tokens for said in self.said.values() if said.tokens]
        if not counted:
            return
        prompt, answer = (sum(tokens[k] for tokens in counted) for k in (0, 1))
        self.card["tokens"] = {"prompt": prompt, "answer": answer, "answers": len(counted)}
        if self.price:
            cost = (prompt * self.price[0] + answer * self.price[1]) / 1e6
            self.card["tokens"]["dollars"] = round(cost, 4)


def parts(scored: Scored) -> dict[str, dict[str, Any]]:
    """The leading metric by each part of a benchmark that its items name: category, group, difficulty."""
    found: dict[str, dict[str, Any]] = {}
    for key in PARTS if scored.leading else ():
        names = [answer.sample.origin.get(key, "") for answer in scored.answers]
        if all(names) and 1 < len(set(names)) <= 2 * MAX_CATEGORIES:
            found[key] = {name: plain(own) for name, own in groups(scored, names)}
    return found


def _spread(entry: Mapping[str, Any]) -> dict[str, float]:
    """How far each metric moves when only the options' order or the wording changes: highest minus lowest.
    Empty where neither could be changed."""
    worded = [
        own
        for name, own in entry["controls"].items()
        if name.partition("_")[0] in WORDED and "metrics" in own
    ]
    found = [entry, *worded]
    if len(found) < 2:
        return {}
    names = [metric for metric in entry["metrics"] if all(metric in own["metrics"] for own in found)]
    means = {
        metric: [own["metrics"][metric]["mean"] for own in found] for metric in names if metric in METRICS
    }
    return {metric: max(values) - min(values) for metric, values in means.items()}
