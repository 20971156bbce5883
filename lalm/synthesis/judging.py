"""An LLM judges answers about a recording from text that describes the recording.

Used to make preference pairs (``lalm.synthesis.preferences``) and to sort out training samples
(``lalm.synthesis.filters``).
The wording is ours; the judge answers with one number or one word, so that small models can follow.
"""

import re
from collections.abc import Sequence

from lalm.data.english import words
from lalm.data.sample import Sample, message_text
from lalm.synthesis.completions import Chat

SYSTEM = "You check answers of an assistant that listens to recordings. Be strict and brief."
RATE = """{known}

{dialogue}

The assistant's answer: {answer}

How helpful, relevant and correct is the assistant's answer, from 1 (useless or wrong) to 10 (perfect)? \
Reply with the number only."""
CONTRADICT = """{known}

{dialogue}

The assistant's answer: {answer}

Does the assistant's answer say anything that cannot be true of this recording? Reply with yes or no only."""
BEST, WORST = 10, 1


def known(sample: Sample, *, accepted: bool) -> str:
    """What is known of a sample's recording, a line a fact; empty if nothing is.

    ``accepted`` adds the sample's references, or its answer: not where the answer itself is in question.
    """
    origin = sample.origin
    lines = []
    if transcript := origin.get("transcript", ""):
        lines.append(f"Words spoken in the recording: {transcript}")
    sounds = origin.get("caption", "") or "; ".join(event["caption"] for event in sample.events)
    if sounds:
        lines.append(f"Sounds in the recording: {sounds}")
    answers = sample.references or tuple(text for text in [sample.target] if text)
    if accepted and answers:
        lines.append(f"Accepted answers: {'; '.join(answers)}")
    return "\n".join(lines)


def dialogue(sample: Sample) -> str:
    """The turns before the answer, a line each; ``origin.question`` in words where a turn is a recording."""
    lines = []
    for message in sample.prompt().messages:
        text = message_text(message)
        if message["role"] == "user" and not text:
            text = sample.origin.get("question", "") or "(a recording)"
        if message["role"] != "system":
            lines.append(f"{message['role'].title()}: {text}")
    return "\n".join(lines)


def rating_chat(sample: Sample, answer: str) -> Chat:
    """What a judge is shown to rate an answer."""
    return _chat(RATE, known(sample, accepted=True), sample, answer)


def contradiction_chat(sample: Sample) -> Chat:
    """What a judge is shown to say whether a sample's answer contradicts its recording."""
    return _chat(CONTRADICT, known(sample, accepted=False), sample, sample.target)


def read_rating(reply: str) -> float | None:
    """The first number of a reply if it is one from 1 to 10, else None."""
    found = re.search(r"\d+(?:\.\d+)?", reply)
    value = float(found[0]) if found else 0.0
    return value if WORST <= value <= BEST else None


def read_yes_no(reply: str) -> bool | None:
    """Whether a reply begins with yes; None where it begins with neither yes nor no."""
    first: Sequence[str] = words(reply)[:1]
    return {"yes": True, "no": False}.get(first[0]) if first else None


def _chat(prompt: str, facts: str, sample: Sample, answer: str) -> Chat:
    asked = prompt.format(known=facts, dialogue=dialogue(sample), answer=answer)
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": asked}]
