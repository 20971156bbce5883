"""An LLM reads the answers that rules cannot read: which option is chosen, yes or no.

It is asked only where asked for (``lalm eval --extract``), after the rules, and its share is in the card: a
number that owes much to it says so.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lalm.evaluate.judge import Judge
from lalm.evaluate.metrics import Answer
from lalm.evaluate.task import Task

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LONGEST = 4000  # characters of an answer's end that are shown
CLOSED = ("choice", "label", "nearest_choice", "first_named", "yes_no")

PROMPT = """A model was asked a question with these options:
{options}

What it answered:
{answer}

Which option does it choose in the end? Reply with the letter alone, or with "None" if it chooses none of
them or several."""


@dataclass(frozen=True)
class Extracted:
    """How many answers the rules could not read, and how many of these the LLM read."""

    unread: int
    read: int


def extracted(task: Task, answers: Sequence[Answer], llm: Judge) -> tuple[list[Answer], Extracted]:
    """The answers, those without a reading read by the LLM where it finds an option in them."""
    options = [_options(task, answer) for answer in answers]
    places = [
        place
        for place, answer in enumerate(answers)
        if answer.read is None and answer.text.strip() and options[place]
    ]
    prompts = [
        PROMPT.format(
            options="\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, options[p], strict=False)),
            answer=answers[p].text[-LONGEST:],
        )
        for p in places
    ]
    found, read = list(answers), 0
    for place, reply in zip(places, llm.replies(prompts), strict=True):
        letter = re.match(r"\W*(?:option\s+)?([A-Z])(?![\w'])", reply.strip(), re.I)
        number = LETTERS.index(letter[1].upper()) if letter else len(options[place])
        if number < len(options[place]):
            found[place] = replace(answers[place], read=options[place][number])
            read += 1
    return found, Extracted(sum(answer.read is None for answer in answers), read)


def _options(task: Task, answer: Answer) -> Sequence[str]:
    """What can be read of an answer; nothing where anything can."""
    if task.parser not in CLOSED:
        return ()
    return ("yes", "no") if task.parser == "yes_no" else answer.sample.choices
