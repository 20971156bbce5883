"""What an answer says of each option beside naming it: ticks and crosses, "no" behind it, a place in a
ranking, "though it was tempting". Used by ``lalm.inference.choices``."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

NEARBY = 30  # signs before an option within which it is weighed
NEAR = 8  # signs before an option within which a tick is its own
SENTENCE = 400  # signs of a sentence that are looked back over
_TICK = "[\u2705\u2713\u2714\u2611]"
_CROSS = "[\u274c\u2717\u2718\u2716\u2612\u274e]"
_JOIN = r"[\s.)\]:;,*\"'|=\u2013\u2014-]*"  # what stands between an option and its verdict, on one line
_BEFORE = re.compile(rf"(?:(?P<no>{_CROSS})|{_TICK})[^\w\n]*(?:\w[^\w\n]+)?\Z")
_NO_WORD = (
    r"no|false|incorrect|wrong|not [^\n,;.]{1,40}|impossible|excluded|eliminated|no match|ruled out|"
    r"(?:very |highly |quite |most )?(?:unlikely|implausible|improbable)"
)
_YES_WORD = r"yes|true|correct|right|(?:(?:very|most|highly|quite) )?(?:likely|plausible|probable)|best match"
_AFTER = re.compile(
    rf"[^\S\n]*[^\w\n]*(?:(?P<no>{_CROSS})|{_TICK}|\u2190|<-+)|"
    rf"[^\w\n]*(?P<word>(?:{_NO_WORD})|{_YES_WORD})\b(?=\W*(?:[\n;,.(]|\Z))",
    re.I,
)
_YES = re.compile(rf"(?:{_YES_WORD})\Z", re.I)
_ALL_BUT = re.compile(  # "everything except B can be ruled out"
    r"\b(?:all|everything|every(?: \w+)?|each|none|nothing|any)(?: of (?:the|them))?"
    r"(?: (?:\w+ )?(?:options?|choices|others?|answers))? "
    r"(?:but|except(?: for)?|save(?: for)?|other than|apart from|besides) "
    r"(?:(?:the|an?|option|choice|for) )*[\"'(\[]*\Z",
    re.I,
)
_ASKED = re.compile(r"[\s\"')\]*]{0,3}\?")
_MAYBE = re.compile(
    r"\b(?:(?:could|may|might)(?: also| well| just)? be|maybe|perhaps|possibly)"
    r"(?: (?:an?|the|option))?[\s\"'(\[]*\Z",
    re.I,
)
_SAID_OF = re.compile(r"[\s\"')]*(?:is|are|was|fits|seems|sounds|matches|would|makes)\b", re.I)
_OR_ELSE = re.compile(r"[\s,/\"')]*(?:or|and|oder|ou|o)?[\s,/\"'(]*(?:(?:an?|the|option) )?[\"'(]*", re.I)
_OVER = r"(?:\bover\b|\bahead of\b)[\s\"'(\[]*(?:(?:the|an?|option) )?[\"'(\[]*"
_PREFERRED = re.compile(rf"{_JOIN}(?:{_OVER}|[>\u227b][^\n.]{{0,9}})", re.I)
_RANKING = re.compile(
    r"\brank(?:ed|ing|s)?\b|\b(?:in )?order of (?:likelihood|probability|plausibility)\b|"
    r"\b(?:from )?most (?:likely|probable|plausible)? ?to least\b",
    re.I,
)
_CONCEDED = re.compile(
    r"(?<!\w)(?:(?:even |al)?though|even if|despite|in spite of|whereas|unlike|obwohl|bien que|aunque|embora|"
    r"sebbene|\u0445\u043e\u0442\u044f)(?!\w)|\u867d\u7136|\u5c3d\u7ba1",
    re.I,
)
_HEDGED_BEFORE = re.compile(
    r"(?<!\w)(?:possibly|perhaps|maybe|alternatively|(?:second|next) most likely|runner-up|followed by|"
    r"(?:hints?|elements?|traces|touch) of|vielleicht|peut-\u00eatre|quiz\u00e1s?|forse|talvez)(?!\w)"
    r"[^.;!?\n]{0,30}\Z",
    re.I,
)
_HEDGED_AFTER = re.compile(
    r"[^\w\n]*(?:can(?:'t|not| not) be (?:ruled out|excluded)|(?:is|seems|would be|remains) (?:also |still )?"
    r"(?:possible|plausible|conceivable)|(?:influences?|elements?|undertones?|overtones?|touch)\b)",
    re.I,
)
_PERCENT = re.compile(r"[^\w\n%]*(?:at |with )?[^\w\n%]{0,3}(\d{1,3}(?:\.\d+)?)\s*%")
_PERCENT_BEFORE = re.compile(r"(\d{1,3}(?:\.\d+)?)\s*%[^\w\n]*\Z")
_SENTENCE_END = re.compile(r"[.;!?\n\u3002\uff01\uff1f]")
_BETTER = re.compile(
    r"\b(?:better|best|correct|right|answer|fits?|more likely|it is|it's|i (?:would|'d|choose|pick))\b", re.I
)


class Placed(Protocol):
    """Where an option is named, and which."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def index(self) -> int: ...


def verdicts(said: str, mentions: Sequence[Placed]) -> list[bool | None]:
    """For each mention whether a sign beside it says that it is right; None where there is none. The words
    "yes" and "no" are such signs where at least two options have one."""
    found: list[bool | None] = []
    words: list[bool | None] = []
    ends = [*(mention.start for mention in mentions), len(said)][1:]
    for number, (mention, end) in enumerate(zip(mentions, ends, strict=True)):
        start = mentions[number - 1].end if number else 0
        line = said.rfind("\n", start, mention.start) + 1
        before = _BEFORE.search(said, max(start, line, mention.start - NEAR), mention.start)
        after = _AFTER.match(said, mention.end, end)
        word = after["word"] if after else None
        if _ALL_BUT.search(said, max(0, mention.start - 60), mention.start):
            found.append(True)
            words.append(None)
            continue
        signed = before if before and not after else after if after and not word else None
        found.append(None if signed is None else not signed["no"])
        words.append(None if word is None else _YES.match(word) is not None)
    told = {m.index for m, word in zip(mentions, words, strict=True) if word is not None}
    if len(told) > 1:
        found = [word if sign is None else sign for sign, word in zip(found, words, strict=True)]
    return found


def outranked(said: str, mentions: Sequence[Placed]) -> set[int]:
    """The numbers of the mentions that another is preferred to: "B over C", "B > C", "ranked: B, C, A"."""
    found: set[int] = set()
    for at, (one, other) in enumerate(pairwise(mentions)):
        if _PREFERRED.fullmatch(said, one.end, other.start):
            found.add(at + 1)
    shares = [_share(said, mention) for mention in mentions]
    told = {m.index: share for m, share in zip(mentions, shares, strict=True) if share is not None}
    if len(told) > 1:
        most = [index for index, share in told.items() if share == max(told.values())]
        kept = most if len(most) == 1 else []
        found |= {at for at, mention in enumerate(mentions) if mention.index not in kept}
    for cue in _RANKING.finditer(said):
        after = [at for at, mention in enumerate(mentions) if mention.start >= cue.end()]
        if after and len({mentions[at].index for at in after}) > 1:
            found |= {at for at in after if mentions[at].index != mentions[after[0]].index}
    return found


def tentative(said: str, mentions: Sequence[Placed]) -> set[int]:
    """The numbers of the mentions that are only asked or weighed, "B?", "it could be B", where another one is
    stated; of all where several are weighed and none is stated."""
    weighed = set[int]()
    for at, mention in enumerate(mentions):
        asked = _ASKED.match(said, mention.end)
        maybe = _MAYBE.search(said, max(0, mention.start - NEARBY), mention.start)
        if not maybe and at - 1 in weighed and not _SAID_OF.match(said, mention.end):
            maybe = _OR_ELSE.fullmatch(said, mentions[at - 1].end, mention.start)
        if asked or maybe:
            weighed.add(at)
    stated = {mention.index for at, mention in enumerate(mentions) if at not in weighed}
    several = len({mentions[at].index for at in weighed}) > 1
    return weighed if stated or several else set()


def _share(said: str, mention: Placed) -> float | None:
    """The percentage beside an option: "rain: 92 %", "92 % rain"."""
    found = _PERCENT.match(said, mention.end) or _PERCENT_BEFORE.search(
        said, max(0, mention.start - 12), mention.start
    )
    return float(found[1]) if found else None


def conceded(said: str, mentions: Sequence[Placed]) -> set[int]:
    """The numbers of the mentions that are only granted behind another one: "B, though C was tempting"."""
    found: set[int] = set()
    for cue in _CONCEDED.finditer(said):
        ending = _SENTENCE_END.search(said, cue.end())
        until = ending.start() if ending else len(said)
        far = max(0, cue.start() - SENTENCE)
        begun = max((hit.end() for hit in _SENTENCE_END.finditer(said, far, cue.start())), default=far)
        inside = [at for at, mention in enumerate(mentions) if cue.end() <= mention.start < until]
        named = {m.index for m in mentions if begun <= m.start < cue.start()}
        if inside and named and not _BETTER.search(said, cue.end(), until):
            found |= {at for at in inside if mentions[at].index not in named}
    for at, mention in enumerate(mentions):
        before = said[max(0, mention.start - SENTENCE) : mention.start]
        sentence = before[max((hit.end() for hit in _SENTENCE_END.finditer(before)), default=0) :]
        far = mention.start - len(sentence)
        if any(m.start >= far and m.index != mention.index for m in mentions[:at]) and (
            _HEDGED_BEFORE.search(sentence) or _HEDGED_AFTER.match(said, mention.end)
        ):
            found.add(at)
    return found
