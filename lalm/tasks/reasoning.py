"""Questions about two recordings written by an LLM, each checked against the events (APT, section 3.4).

The LLM says of every kind of sound in a few words how it sounds. Then it reads what sounds when in each of a
pair, and how, and writes questions, one JSON object a line, saying which kind of comparison each is and what
the answer is. A question is kept only when the events give that very
answer; it is then asked in both orders of the clips, the twin's answer computed from the events again.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from lalm.data.english import stems, words
from lalm.data.sample import Sample
from lalm.synthesis.completions import Chat, Sampling, Writer
from lalm.tasks.comparisons import KINDS, compared, pairs
from lalm.tasks.events import Recorded, Recordings, joined
from lalm.tasks.sources import Source

QUESTIONS = 5  # of each pair, as the paper has it
LEAST_WORDS, MOST_WORDS = 4, 30
MOST_TOKENS = 400  # of a reply: five lines of JSON
ASKED_AT_ONCE = 32  # pairs
MOST_DESCRIBING = 10  # words; the paper asks for fewer than ten
DESCRIBING_TOKENS = 32
MEANINGS = {
    "where": "which recording has the sound (answer: first, second, both or neither)",
    "both": "whether both recordings have the sound (answer: yes or no)",
    "more often": "which recording has the sound more often (answer: first or second)",
    "sooner": "in which recording the sound begins sooner (answer: first or second)",
    "longer": "in which recording the sound lasts longer in all (answer: first or second)",
}
NO_WORDS: Mapping[str, str] = {}
SYSTEM = "You write questions for listeners who hear two recordings and see nothing."


def written(
    recordings: Recordings, source: Source, writer: Writer, temperature: float = 0.7
) -> tuple[list[Sample], Counter[str]]:
    """Checked questions about a pair for every recording, in both orders, and how many were dropped for what.

    Raises SourceError for fewer than two recordings, CompletionError when the LLM cannot be reached.
    """
    rng = np.random.default_rng(source.seed)
    pairs_ = list(pairs(list(recordings(source)), source, rng))
    sampling = Sampling(temperature, 1.0, MOST_TOKENS, source.seed)
    acoustics = sounding({name for pair in pairs_ for one in pair for name in one.names}, writer, source.seed)
    found: list[Sample] = []
    dropped: Counter[str] = Counter()
    for start in range(0, len(pairs_), ASKED_AT_ONCE):
        batch = pairs_[start : start + ASKED_AT_ONCE]
        seeds = [source.seed + start + i for i in range(len(batch))]
        replies = writer.complete([prompt(one, two, acoustics) for one, two in batch], seeds, sampling)
        for number, ((one, two), reply) in enumerate(zip(batch, replies, strict=True), start):
            kept, why = checked(one, two, reply.text, acoustics)
            dropped.update(why)
            for place, (question, kind, sound) in enumerate(kept):
                for first, second, order in ((one, two, "a"), (two, one, "b")):
                    answer = KINDS[kind](first, second, sound)
                    assert answer is not None, "the twin of an answer that the events give has one, too"
                    name = f"{number}-{place}-{order}"
                    found.append(compared(first, second, question, answer, name))
    return found, dropped


def sounding(names: Collection[str], writer: Writer, seed: int = 0) -> dict[str, str]:
    """How each kind of sound sounds, in the LLM's words; none for what it does not say shortly."""
    ordered = sorted(names)
    asked: list[Chat] = [
        [
            {"role": "system", "content": SYSTEM},
            {
                "role": "user",
                "content": f"How does this sound, as heard: {name}? Answer with at most {MOST_DESCRIBING} "
                "words on loudness, pitch, length and rhythm, without naming its source.",
            },
        ]
        for name in ordered
    ]
    sampling = Sampling(0.0, 1.0, DESCRIBING_TOKENS, seed)
    replies = writer.complete(asked, [seed] * len(asked), sampling)
    told = {
        name: " ".join(reply.text.split()).strip(" .\"'")
        for name, reply in zip(ordered, replies, strict=True)
    }
    return {
        name: text
        for name, text in told.items()
        if 2 <= len(words(text)) <= MOST_DESCRIBING and not set(text) & set("{}:;")
    }


def prompt(one: Recorded, two: Recorded, acoustics: Mapping[str, str] = NO_WORDS) -> Chat:
    """What the LLM is asked about a pair; ``acoustics`` is what ``sounding`` gives."""
    kinds = "\n".join(f'- "{kind}": {meaning}' for kind, meaning in MEANINGS.items())
    text = (
        f"First recording:\n{described(one, acoustics)}\n"
        f"Second recording:\n{described(two, acoustics)}\n\n"
        f"Write {QUESTIONS} different questions that only someone who heard both recordings can answer. "
        "A question names its sound as above or says how it sounds, tells no times, and is one of these "
        f"kinds:\n{kinds}\n"
        'Answer with one JSON object a line and nothing else: {"question": "...", "sound": "...", '
        '"kind": "...", "answer": "..."}'
    )
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


def described(recorded: Recorded, acoustics: Mapping[str, str] = NO_WORDS) -> str:
    """The recording's sounds, a line each: when, where in the recording, and how it sounds where that is
    known."""
    end_s = max(event.offset_s for event in recorded.events)
    lines = []
    for name in recorded.names:
        own = [(e.onset_s, e.offset_s) for e in recorded.events if e.name == name]
        times = ", ".join(f"{onset_s:.1f} to {offset_s:.1f} s" for onset_s, offset_s in own)
        how = f"; {acoustics[name]}" if name in acoustics else ""
        lines.append(f"- {name}: {len(own)} x, {times} ({_position(joined(own), end_s)}{how})")
    return "\n".join(lines)


def checked(
    one: Recorded, two: Recorded, reply: str, acoustics: Mapping[str, str] = NO_WORDS
) -> tuple[list[tuple[str, str, str]], list[str]]:
    """(question, kind, sound) of the reply's lines whose answer the events give; why each other line was not
    kept."""
    sounds = {" ".join(words(name)): name for name in [*one.names, *two.names]}
    kept: dict[str, tuple[str, str, str]] = {}
    dropped = []
    for line in reply.splitlines():
        if "{" not in line:
            continue
        try:
            row = json.loads(line[line.index("{") : line.rindex("}") + 1])
            question, sound, kind, answer = (
                " ".join(str(row[key]).split()) for key in ("question", "sound", "kind", "answer")
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            dropped.append("not the JSON asked for")
            continue
        name = sounds.get(" ".join(words(sound)))
        if name is None or kind not in KINDS:
            dropped.append("an unknown sound or kind of question")
        elif wrong := _fault(question, name, [*one.names, *two.names], acoustics):
            dropped.append(wrong)
        elif KINDS[kind](one, two, name) != " ".join(words(answer)):
            dropped.append("the events say otherwise")
        elif " ".join(words(question)) in kept:
            dropped.append("asked twice")
        else:
            kept[" ".join(words(question))] = (question, kind, name)
    return list(kept.values()), dropped


def _fault(question: str, sound: str, names: Sequence[str], acoustics: Mapping[str, str]) -> str:
    """What is wrong with the wording of a question; empty when nothing is.

    It names its sound, or shares two words or more with how that one sounds, and fewer with any other's.
    """

    def shared(name: str) -> int:
        return len(stems(acoustics.get(name, "")) & stems(question))

    told = shared(sound) >= 2 and all(shared(name) < shared(sound) for name in names if name != sound)
    said = words(question)
    if not question.endswith("?") or not LEAST_WORDS <= len(said) <= MOST_WORDS:
        return "not a question of usual length"
    if not told and not stems(sound) & stems(question):
        return "the question does not name its sound"
    if ("first" in said) != ("second" in said) or any(word.isdigit() for word in said):
        return "the question tells a place or a time"
    return ""


def _position(spans: Sequence[tuple[float, float]], end_s: float) -> str:
    """Where in the recording: beginning, middle, end, several of them, or throughout."""
    heard_s = sum(offset_s - onset_s for onset_s, offset_s in spans)
    if heard_s > 0.8 * end_s:
        return "throughout"
    middles = [(onset_s + offset_s) / 2 / max(end_s, 1e-9) for onset_s, offset_s in spans]
    places = [("beginning", "middle", "end")[min(2, int(3 * middle))] for middle in middles]
    return " and ".join(dict.fromkeys(places))
