"""Instruction prompts by task, in our own words (``prompts.tsv``; the paper prints only a few examples).

The first prompt of a task is the one for tests; in training each sample draws one of all of them, as the
authors' code does. ``{question}`` stands for what the sample itself asks. The untrained tasks of levels 2
and 3 (section 4.3) have prompts as well.
"""

from collections.abc import Mapping
from functools import cache
from importlib import resources

QUESTION = "{question}"

# Appendix D; the audio tokens stand between two words of plain text.
QUESTION_PROMPT = {"user": "<Speech>{audio}</Speech> {question}"}


@cache
def prompts() -> Mapping[str, tuple[str, ...]]:
    """Every task's prompts, in the order of the file."""
    lines = (resources.files("lalm.systems.salmonn") / "prompts.tsv").read_text("utf-8").splitlines()
    bank: dict[str, tuple[str, ...]] = {}
    for line in lines[1:]:
        task, prompt = line.split("\t")
        bank[task] = (*bank.get(task, ()), prompt)
    return bank
