"""More questions about one recording, and how often each kind is drawn (``lalm corpus lessons``)."""

import re
from collections.abc import Callable, Mapping

from lalm.corpus.catalogue import classes
from lalm.corpus.lesson_languages import french, german, spanish
from lalm.corpus.lesson_questions import Heard, Turn, one_of, pick, wordings
from lalm.corpus.questions import close
from lalm.corpus.wording import exactly, in_order, over, repeated, sentence

NUMBER_WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
]
SIZES = range(3, 15)  # words of a description that is asked for in so many words
TEN_SHARE = 0.3  # of them are of ten words, where that can be
ELSE_SHARE = 0.7  # of questions whose answer would be that there is none, something else is asked


def exact(heard: Heard) -> Turn:
    """A sentence of exactly so many words; of sounds with longer names than any such, any description."""
    told = [*heard.front, *heard.events[:1]] if heard.kind == "bed" else heard.front
    names = [classes()[e["label"]].name for e in told]
    captions = [e["caption"] for e in told]
    if heard.kind == "repetition":
        names, captions = names[:1], captions[:1]
        clause = repeated(captions[0], len(told), heard.rng)
    elif heard.kind == "bed":
        clause = in_order(captions[:-1], names[:-1], heard.rng)
        clause = over(captions[-1], names[-1], clause, heard.rng)
    else:
        clause = in_order(captions, names, heard.rng)
    made = exactly(captions, names, clause, SIZES, heard.rng)
    if not made:
        return heard.describe()
    size = 10 if 10 in made and heard.rng.random() < TEN_SHARE else pick(heard.rng, *made)
    number = pick(heard.rng, str(size), NUMBER_WORDS[size], NUMBER_WORDS[size])
    question = one_of(heard.rng, "exact").format(n=number)
    question = re.sub(r"\ba (?=8|11|eight|eleven)", "an ", question)
    return question[0].upper() + question[1:], made[size]


def before(heard: Heard) -> Turn:
    """Whether a sound comes before another; yes and no equally often."""
    at = int(heard.rng.integers(len(heard.front) - 1))
    first, later = (classes()[e["label"]].name for e in heard.front[at : at + 2])
    true = bool(heard.rng.random() < 0.5)
    x, y = (first, later) if true else (later, first)
    if heard.rng.random() < 0.4:
        return one_of(heard.rng, "before_or_after").format(x=x, y=y), "Before." if true else "After."
    question = one_of(heard.rng, "comes_before").format(x=x, y=y) + one_of(heard.rng, "yes_no")
    return question, "Yes." if true else "No."


def in_sequence(heard: Heard) -> Turn:
    """All sounds in their order."""
    names = [classes()[e["label"]].name for e in heard.front]
    text = pick(heard.rng, ", then ".join(names), f"first {', then '.join(names)}", ", ".join(names))
    return one_of(heard.rng, "sequence"), sentence(text)


def longer(heard: Heard) -> Turn:
    """Which of two lasts longer, or less long, where the difference is plain."""
    two = heard.lasting()
    assert two is not None
    x, y = two if heard.rng.random() < 0.5 else two[::-1]
    if heard.rng.random() < 0.7:
        return one_of(heard.rng, "longer").format(x=x, y=y), sentence(two[0])
    return one_of(heard.rng, "shorter").format(x=x, y=y), sentence(two[1])


def different(heard: Heard) -> Turn:
    """How many different sounds there are."""
    number = len(heard.names)
    return one_of(heard.rng, "different"), pick(
        heard.rng, NUMBER_WORDS[number].capitalize(), str(number)
    ) + "."


def group(heard: Heard) -> Turn:
    """Is there an animal, a vehicle, ...? Yes and no equally often, where both can be."""
    called = wordings()["groups"]
    own = {sound.group for sound in heard.sounds}
    there = sorted(own & set(called))
    away = [name for name in called if not any(close(name, other) for other in own)]
    if not there and not away:
        return heard.presence()
    yes = bool(there) and (heard.rng.random() < 0.5 or not away)
    name = called[pick(heard.rng, *(there if yes else away))]
    question = one_of(heard.rng, "group").format(x=name) + one_of(heard.rng, "yes_no")
    return question, "Yes." if yes else "No."


def music(heard: Heard) -> Turn:
    """Is there music?"""
    there = any(sound.group == "music" for sound in heard.sounds)
    if not there and heard.rng.random() < ELSE_SHARE:
        return group(heard)
    return one_of(heard.rng, "music") + one_of(heard.rng, "yes_no"), "Yes." if there else "No."


def which_music(heard: Heard) -> Turn:
    """The kind of music."""
    return one_of(heard.rng, "which_music"), sentence(heard.names[0])


def which_instrument(heard: Heard) -> Turn:
    """The instrument; that there is none, where there is none."""
    if heard.sounds and heard.sounds[0].group == "instrument":
        return one_of(heard.rng, "which_instrument"), sentence(" and ".join(heard.names))
    if heard.rng.random() < ELSE_SHARE:
        return group(heard)
    return one_of(heard.rng, "which_instrument"), one_of(heard.rng, "no_instrument")


# How often each kind is drawn where it can be, and what draws it.
KINDS: Mapping[str, tuple[float, Callable[[Heard], Turn]]] = {
    "what": (9.0, Heard.what),
    "describe": (3.0, Heard.describe),
    "list": (1.0, Heard.listed),
    "json": (0.7, Heard.as_json),
    "one_word": (2.0, Heard.one_word),
    "exact": (1.45, exact),
    "presence": (5.0, Heard.presence),
    "either": (3.0, Heard.either),
    "choice": (6.0, Heard.choice),
    "count": (24.0, Heard.count),  # of repetitions alone, which nothing else asks much about
    "order": (10.0, Heard.order),
    "before": (2.0, before),
    "sequence": (1.5, in_sequence),
    "longer": (1.0, longer),
    "different": (1.0, different),
    "neighbours": (2.5, Heard.neighbours),
    "background": (1.0, Heard.background),
    "speech": (1.5, Heard.speech),
    "language": (1.5, Heard.language),
    "times": (1.5, Heard.times),
    "group": (2.0, group),
    "music": (1.0, music),
    "which_music": (2.0, which_music),
    "which_instrument": (1.5, which_instrument),
    "unknowable": (0.5, Heard.unknowable),
    "said": (1.5, Heard.said),
    "word": (1.4, Heard.word),
    "spanish": (1.0, spanish),
    "french": (1.0, french),
    "german": (1.0, german),
}
