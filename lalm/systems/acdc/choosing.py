"""Several replies to a caption: drawn, those that say nothing asked for again, and the best one chosen.

A reply may be chosen by how much of the caption it takes up ("mentions"), by the mean log-probability of
its tokens ("likelihood"), or by the LLM's rating from 1 to 10 ("judge", ``lalm.synthesis.judging``). The
first of equals is taken, and a reply that the token limit cut off only where all are.
LLMs that reason write their thinking first, and some refuse to speak of a sound they cannot hear: thinking is
taken away, and with ``rephrase`` a refusal, or a reply of thinking alone, is asked for again in another form,
the caption in the LLM's own words, so that the style of the targets stays its own.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lalm.data.english import stems
from lalm.data.sample import Sample
from lalm.inference.final_answer import without_reasoning
from lalm.synthesis.completions import Chat, Completion, Sampling, Writer
from lalm.synthesis.preferences import judge_by_llm

Choice = Literal["mentions", "likelihood", "judge"]

REPHRASE = (
    "You hear the sound that is described here. Say in one or two sentences of your own what you hear, and "
    "answer what is asked of it, if anything is, without a preamble.\n{told}"
)
_BEGINS = re.compile(
    r"\W*(i['\u2019]m sorry|i am sorry|sorry\b|i apologi[sz]e|unfortunately,? i|"
    r"i (can ?not|can['\u2019]t|am unable|am not able|don['\u2019]t have the)|i['\u2019]m (unable|not able))",
    re.I,
)
_DENIES = re.compile(
    r"\bas an? (text|language|ai)\b|(can ?not|can['\u2019]t|unable to) (hear|listen|process|play|access)\b",
    re.I,
)
# Words that captions join events with; a reply with one of them has not taken up anything.
JOINING = stems("then first next after before while followed by that it there here can be heard")
REFUSED_WITHIN = 80  # characters: a refusal begins with it


@dataclass(frozen=True)
class Drawing:
    """``draws`` replies to a caption, of which one is chosen by ``by``; ``rephrase``: see above."""

    draws: int = 1
    by: Choice = "mentions"
    rephrase: bool = False


def refuses(reply: str) -> bool:
    """Whether a reply begins by saying that the LLM cannot hear, or will not answer."""
    return bool(_BEGINS.match(reply) or _DENIES.search(reply[:REFUSED_WITHIN]))


def taken_up(reply: str, caption: str) -> float:
    """The share of the caption's content words that the reply names, by their stems."""
    wanted = stems(caption) - JOINING
    return len(stems(reply) & wanted) / len(wanted) if wanted else 0.0


def drawn(
    writer: Writer,
    chats: Sequence[Chat],
    captions: Sequence[str],
    samples: Sequence[Sample],
    seeds: Sequence[int],
    sampling: Sampling,
    settings: Drawing,
) -> list[Completion]:
    """One reply to each chat, chosen of those drawn; empty where nothing was said."""
    count = settings.draws
    if settings.by == "likelihood" and count > 1:
        sampling = replace(sampling, log_probs=True)
    many = [chat for chat in chats for _ in range(count)]
    own = [seed + take for seed in seeds for take in range(count)]
    replies = [_spoken(reply) for reply in writer.complete(many, own, sampling)]
    if settings.rephrase:
        again = [i for i, reply in enumerate(replies) if not reply.text or refuses(reply.text)]
        asked: list[Chat] = [
            [*many[i][:-1], {"role": "user", "content": REPHRASE.format(told=many[i][-1]["content"])}]
            for i in again
        ]
        told = writer.complete(asked, [own[i] for i in again], sampling) if again else []
        for i, reply in zip(again, map(_spoken, told), strict=True):
            replies[i] = replace(reply, text="" if refuses(reply.text) else reply.text)
    if count == 1:
        return replies
    worth = _worth(writer, settings.by, captions, samples, count)(replies)

    def order(i: int) -> tuple[bool, bool, float, int]:
        return bool(replies[i].text), not replies[i].truncated, worth[i], -i

    return [replies[max(range(at, at + count), key=order)] for at in range(0, len(replies), count)]


def _worth(
    writer: Writer, by: Choice, captions: Sequence[str], samples: Sequence[Sample], count: int
) -> Callable[[Sequence[Completion]], list[float]]:
    """What each of the replies is worth; more is better."""

    def worth(replies: Sequence[Completion]) -> list[float]:
        if by == "likelihood":
            return [-float("inf") if one.log_prob is None else one.log_prob for one in replies]
        if by == "mentions":
            return [taken_up(one.text, captions[i // count]) for i, one in enumerate(replies)]
        known = [replace(s, references=(c,)) for s, c in zip(samples, captions, strict=True)]
        rated = judge_by_llm(writer).rate([(known[i // count], one.text) for i, one in enumerate(replies)])
        return [0.0 if rating is None else rating for rating in rated]

    return worth


def _spoken(reply: Completion) -> Completion:
    """A reply without its thinking."""
    return replace(reply, text=without_reasoning(reply.text))
