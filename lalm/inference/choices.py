"""Which of its options an answer chooses, by letter, by text or by number, in many styles and languages.

    final_answer      reasoning taken away, wrapping opened
      -> an option's very words, or a letter alone
      -> echoes of the whole list taken away
      -> mentions: options' words, and letters that cannot be words; denied ones left out
      -> what follows the last "the answer is", precedes the last "is correct", else what is mentioned last
      -> where no option is mentioned: the only one whose words or number it gives (choice_words)

``tests/inference/answer_styles.json`` holds the styles that are known to be read.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeAlias

from lalm.inference.answer_words import alternatives
from lalm.inference.choice_letters import Mention, called_letter, letter_alone, lettered
from lalm.inference.choice_verdicts import conceded, outranked, tentative, verdicts
from lalm.inference.choice_words import bare_number, by_words, folded
from lalm.inference.counting import without_counting_aloud
from lalm.inference.final_answer import final_answer, negated, plain

_STRONG = re.compile(alternatives("says"), re.I)
_WEAK = re.compile(f"{alternatives('says')}|{alternatives('concludes')}", re.I)
_LINK = r"is|are|was|would be|must be|has to be|seems(?: to be)?|looks|fits|matches|ist|est|es|\u00e8|\u00e9"
_DEGREE = "clearly|definitely|likely|probably|therefore|thus|also|most|best|the|die|la|a|my|final|single|only"
_RIGHT = re.compile(  # what follows the option that is chosen
    rf"[\s\"'.)\]:-]*(?:{_LINK})?\s*(?:(?:{_DEGREE}) ){{0,4}}(?:{alternatives('right')})", re.I
)
_WORDS_OR = "or and oder und ou et o y e"
_SIGNS_OR = r",|/|;|\||\u6216|\u3001|\u548c|\u304b|\ub610\ub294|\u0438\u043b\u0438"
_OR = rf"{_SIGNS_OR}|\b(?:{_WORDS_OR.replace(' ', '|')})\b"
_OPENS = r"[\s\"'()\[\]]*"
_JOINER = re.compile(
    rf"{_OPENS}(?:{_OR})+{_OPENS}(?:(?:or|and|either|oder|a|an|the|(?:option|choice) )\s*)?{_OPENS}", re.I
)
_BETWEEN = re.compile(rf"(?:[\s.)(\[\]:\"'-]|{_OR}|\b(?:an?|the)\b|[A-Za-z0-9](?=[).:]))*", re.I)
_IDIOMS = re.compile(
    r"\b(?:no|without (?:a |any )?|beyond (?:a |any )?)\s*(?:doubt|question)(?: about it)?\b|"
    r"\b(?:sans (?:aucun )?doute|sin (?:ninguna |lugar a )?dudas?|senza (?:alcun )?dubbio|sem d\u00favida|"
    r"ohne zweifel|zonder twijfel)\b|\b(?:happy|glad) to \w+",
    re.I,
)
_OFFER = re.compile(  # what an assistant offers at the end
    r"(?:\A|(?<=[.!?\n])\s*)(?:would you like|do you want|shall i|should i|let me know|"
    r"if you (?:need|want|have|would))\b[^\n]*\Z",
    re.I,
)
_OTHERS = re.compile(
    r"\b(?:the )?(?:other|remaining)(?:s| (?:options?|choices?|answers?|ones))\b[^.!?\n]*", re.I
)
_ARTICLE = re.compile(
    r"(?:an?|the|eine?|der|die|das|les?|la|une?|el|los|las|una|il|lo|gli|os?|as|uma?|een|het)\s+", re.I
)
_KEY = re.compile(r"(?:major|minor|maj|min|flat|sharp|dur|moll|\d)", re.I)
_ANY_ONE = re.compile(r"(?:.*\s)?(?:least|no|any|each|every|this|that|which|only) one\b|.*\bone of$", re.I)
Signs: TypeAlias = Mapping[Mention, bool | None]  # what is said of each beside naming it
LONGEST = 20_000  # signs of an answer that are looked at, from its end


def read_choice(answer: str, choices: Sequence[str], *, letters: bool = True) -> str | None:
    """The option that an answer chooses, or None when it chooses none, or several.

    ``letters``: options were shown as "A. ...", so that a letter may stand for one.
    """
    said = _said(answer)
    options = [_spaced(plain(choice)).strip() for choice in choices]
    if not said or not options:
        return None
    if (same := _same(said, options)) is not None:
        return choices[same]
    if letters and (found := letter_alone(said, len(options))) is not None:
        return choices[found]
    if all(map(bare_number, options)):
        said = without_counting_aloud(said)
    mentions = _mentions(said, options, letters)
    mentions = _without_echo(said, mentions, options)
    signs = dict(zip(mentions, verdicts(said, mentions), strict=True))
    standing = _standing(said, mentions, signs)
    chosen = _chosen(said, mentions, standing, signs)
    if chosen is None and not standing:
        chosen = _opposite(mentions, options)
    if chosen is None:
        chosen = by_words(said if standing else _without(said, mentions), options, offered=bool(standing))
    return None if chosen is None else choices[chosen]


def _opposite(mentions: Sequence[Mention], options: Sequence[str]) -> int | None:
    """The option "not angry" where "angry" alone is named, and denied."""
    named = {folded(_bare(options[mention.index])) for mention in mentions}
    if len(named) != 1:
        return None
    (denied,) = named
    others = [at for at, own in enumerate(options) if folded(_bare(own)) in (f"not {denied}", f"no {denied}")]
    return others[0] if len(others) == 1 else None


def _without(said: str, mentions: Sequence[Mention]) -> str:
    """The text with what is mentioned, and denied, blanked."""
    for mention in mentions:
        said = said[: mention.start] + " " * (mention.end - mention.start) + said[mention.end :]
    return said


def read_labels(answer: str, labels: Sequence[str]) -> set[str]:
    """All labels that an answer names and does not deny; of names within one another the longest alone
    ("male speech, man speaking" is not "speech" as well)."""
    said = _said(answer)
    flat = re.sub(r"\s+", " ", said).casefold()
    bare = [_bare(_spaced(plain(label))) for label in labels]
    held = [label for label, own in zip(labels, bare, strict=True) if own in flat]  # few of 527 are
    options = [_spaced(plain(label)).strip() for label in held]
    mentions = _mentions(said, options, letters=False)
    signs = dict(zip(mentions, verdicts(said, mentions), strict=True))
    return {held[mention.index] for mention in _standing(said, mentions, signs)}


def _said(answer: str) -> str:
    """What an answer says in the end, its last signs, in one form of writing."""
    said = _IDIOMS.sub("", plain(final_answer(answer))).strip()[-LONGEST:]
    said = _OFFER.sub("", said) or said
    said = re.sub(r"(?i)\b(least (?:likely|probable|plausible)[^\n:]{0,20}):", r"\1 ", said)
    return _spaced(re.sub(r"\\\\?(?=['\"])", "", said))


def _spaced(text: str) -> str:
    """Names as "dog_barking" in separate words."""
    return re.sub(r"(?<=\w)_+(?=\w)", " ", text)


def _bare(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip(" \t\n.,;:!?\"'()[]{}<>*_\u3002").casefold()


def _same(said: str, options: Sequence[str]) -> int | None:
    """The option whose very words are said, with its letter before them or without; or begun."""
    bare = _bare(said)
    without = _bare(re.sub(r"^\s*[(\[]?[A-Za-z0-9][)\].:]\s+", "", said))
    without = (
        re.sub(r"^(?:the )?(?:final |correct )?(?:answer|choice)(?: is)?\s*:?\s+", "", without) or without
    )
    for index, option in enumerate(options):
        if _bare(option) and _bare(option) in (bare, without):
            return index
    begun = {_bare(o): i for i, o in enumerate(options) if len(bare) > 14 and _bare(o).startswith(bare)}
    return next(iter(begun.values())) if len(begun) == 1 else None


def _mentions(said: str, options: Sequence[str], letters: bool) -> list[Mention]:
    """Every place where an option is named, in order; of overlapping ones the longest."""
    found: list[Mention] = []
    plainly = [folded(_bare(option)) for option in options]
    same = len({_bare(option) for option in options}) == len(set(plainly))
    flat = folded(said) if same else said  # accents are left aside where no options differ by them
    for index, option in enumerate(options):
        if not _bare(option):
            continue
        edge = r"(?<![\w#])", r"(?![\w#])"
        pattern = _pattern(plainly[index] if same else _bare(option), plainly)
        if not re.match(r"[\x00-\u024f\u0370-\u1fff]", _bare(option)):
            edge = "", ""  # written without spaces
        one = len(_bare(option)) == 1
        plural = "" if one or not edge[0] else _ending(_bare(option), plainly)
        for hit in re.finditer(edge[0] + pattern + plural + edge[1], flat, 0 if one else re.I):
            if _ANY_ONE.match(said, max(0, hit.start() - 9), hit.end() + 3) and _bare(option) == "one":
                continue  # "at least one word"
            if not one or not called_letter(said, hit.start()):
                found.append(Mention(*hit.span(), index, False))
        if one and option != _bare(option):
            hits = re.finditer(edge[0] + re.escape(option) + edge[1], said)
            found += [
                Mention(*hit.span(), index, False) for hit in hits if not called_letter(said, hit.start())
            ]
    if letters:
        found += lettered(said, options)
    found.sort(key=lambda m: (m.start, -(m.end - m.start), m.lettered))
    kept: list[Mention] = []
    for mention in found:
        if kept and mention.start < kept[-1].end:
            if mention.end - mention.start > kept[-1].end - kept[-1].start and not kept[-1].lettered:
                kept[-1] = mention
            continue
        kept.append(mention)
    return _with_letters_joined(said, kept)


def _pattern(option: str, all_options: Sequence[str]) -> str:
    """An option's words, its article there or not: "a factory" is also "factory", but "a minor" a key."""
    article = _ARTICLE.match(option)
    rest = option[article.end() :] if article else option
    others = [other for other in all_options if other != option]
    if article and len(rest) > 2 and not _KEY.match(rest) and rest not in others:
        return f"(?:{re.escape(article[0].strip())}\\s+)?{_flexible(rest)}"
    return _flexible(option)


def _ending(option: str, all_options: Sequence[str]) -> str:
    """What an option's words may end with beside themselves: "dogs", and of one word "sadness", "sadly"."""
    if re.fullmatch(r"[a-z]{3,}", option) and sum(own.startswith(option) for own in all_options) == 1:
        return r"(?:e?s|ness|ful|ly|ed)?"
    return "(?:e?s)?"


def _flexible(text: str) -> str:
    return re.sub(r"(?:\\ |\s)+", r"\\s+", re.escape(text))


def _with_letters_joined(said: str, mentions: Sequence[Mention]) -> list[Mention]:
    """ "B. rain" and "rain (B)" are one mention; where letter and words disagree, the words count."""
    joined: list[Mention] = []
    for mention in mentions:
        before = joined[-1] if joined else None
        short = before is not None and min(before.end - before.start, mention.end - mention.start) == 1
        if before is not None and (
            before.lettered != mention.lettered or (short and before.end < mention.start)
        ):
            between = said[before.end : mention.start]
            letter, text = (before, mention) if before.end - before.start == 1 else (mention, before)
            named = ord(said[letter.start].upper()) - ord("A")
            beside = re.fullmatch(r"[\s)\].:\"'(\[-]{0,4}(?:is )?[\"'(\[]?", between)
            if (
                beside
                and not text.lettered
                and letter.end - letter.start == 1
                and (letter is before or named == text.index)
            ):
                joined[-1] = Mention(before.start, mention.end, text.index, False)
                continue
        joined.append(mention)
    return joined


def _without_echo(said: str, mentions: list[Mention], options: Sequence[str]) -> list[Mention]:
    """The mentions without those of lists that repeat all options in a row."""
    different = len({_bare(option) for option in options})
    kept, at = list[Mention](), 0
    while at < len(mentions):
        end = at + 1
        while end < len(mentions) and _list_gap(said[mentions[end - 1].end : mentions[end].start]):
            end += 1
        row = mentions[at:end]
        named = [_bare(options[m.index]) for m in row]
        if different < 2 or list(dict.fromkeys(named)) != list(dict.fromkeys(map(_bare, options))):
            kept += row
        else:  # what follows the list in the same breath is not of it
            whole = next(n for n in range(1, len(row) + 1) if len(set(named[:n])) == different)
            while whole < len(row) and row[whole].index not in {m.index for m in row[:whole]}:
                whole += 1
            kept += (
                row[whole:]
                if len(row) > whole and "\n" in said[row[whole - 1].end : row[whole].start]
                else []
            )
        at = end
    return kept


def _list_gap(text: str) -> bool:
    """Whether only what separates the entries of a list stands there."""
    return len(text) < 30 and _BETWEEN.fullmatch(text) is not None


def _standing(said: str, mentions: Sequence[Mention], signs: Signs) -> list[Mention]:
    """The mentions that are not denied; "not A, B or D" denies all three."""
    denied = [negated(said, mention.start, mention.end) for mention in mentions]
    denied = _others_denied(said, mentions, denied)
    gaps = [said[one.end : other.start] for one, other in pairwise(mentions)]
    for chain in _chains(gaps):
        affirmed = _RIGHT.match(said, mentions[chain[-1]].end)
        closed = any(
            re.search(r"\b(?:or|and|nor|oder|und|ou|et|o|y|e)\b", gaps[at], re.I) for at in chain[:-1]
        )
        if (
            closed
            and not affirmed
            and (denied[chain[0]] or (denied[chain[-1]] and not any(denied[i] for i in chain[:-1])))
        ):
            for at in chain:
                denied[at] = True
    told = [signs[mention] for mention in mentions]
    denied = [no if sign is None else not sign for no, sign in zip(denied, told, strict=True)]
    kept = [mention for mention, no in zip(mentions, denied, strict=True) if not no]
    behind = outranked(said, kept) | conceded(said, kept)
    behind |= {at for at in tentative(said, kept) if not signs[kept[at]]}
    return [mention for at, mention in enumerate(kept) if at not in behind]


def _others_denied(said: str, mentions: Sequence[Mention], denied: Sequence[bool]) -> list[bool]:
    """Denied too: what follows "the other options are" in its sentence, where something else is named."""
    found = list(denied)
    for hit in _OTHERS.finditer(said):
        inside = [at for at, one in enumerate(mentions) if hit.start() <= one.start < hit.end()]
        named = {mentions[at].index for at in inside}
        if any(one.index not in named for one, no in zip(mentions, denied, strict=True) if not no):
            for at in inside:
                found[at] = True
    return found


def _chains(gaps: Sequence[str]) -> list[list[int]]:
    """Runs of mentions that commas, "or" and "and" join, by number; ``gaps`` stand between the mentions."""
    chains: list[list[int]] = []
    for at, gap in enumerate(gaps):
        if ";" in gap or not _JOINER.fullmatch(gap):
            continue
        if chains and chains[-1][-1] == at:
            chains[-1].append(at + 1)
        else:
            chains.append([at, at + 1])
    return chains


def _chosen(said: str, mentions: Sequence[Mention], standing: Sequence[Mention], signs: Signs) -> int | None:
    """The option that is stated last."""
    if not standing:
        return None
    if stated := _stated(said, standing, _STRONG, signs):
        return _single(said, standing, stated[-1])
    head = re.match(r"[^\n.]*[\n.]\s", said)  # "B. Because ...": said at once, then explained
    first = standing[0]
    at_once = first == mentions[0] and not said[: first.start].strip(" \"'([")
    if head and at_once and first.end >= head.end() - 3:
        return first.index
    if stated := _stated(said, standing, _WEAK, {}):
        return _single(said, standing, stated[-1])
    return _single(said, standing, standing[-1])


def _stated(said: str, standing: Sequence[Mention], cue: re.Pattern[str], signs: Signs) -> list[Mention]:
    """Mentions that follow a "the answer is" or precede an "is correct", in order."""
    found = [m for m in standing if signs.get(m) or _RIGHT.match(said, m.end)]
    for hit in cue.finditer(said):
        after = [m for m in standing if m.start >= hit.end() - 2 and m.start - hit.end() < 160]
        if after and not re.search(r"\n\s*\n|[.!?]\s+[A-Z].*[.!?]\s", said[hit.end() : after[0].start]):
            found.append(after[0])
    return sorted(found, key=lambda m: m.start)


def _single(said: str, standing: Sequence[Mention], stated: Mention) -> int | None:
    """The stated mention's option, unless another one is offered beside it: "A or B"."""
    if _RIGHT.match(said, stated.end):
        return stated.index
    place = list(standing).index(stated)
    for one, other in ((place - 1, place), (place, place + 1)):
        if one < 0 or other >= len(standing) or standing[one].index == standing[other].index:
            continue
        if _JOINER.fullmatch(said[standing[one].end : standing[other].start]):
            return None
    return stated.index
