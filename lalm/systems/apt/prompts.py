"""APT's prompt format: audio and text in the order in which they were given.

The paper puts its instructions without role markers, and the answer goes on where they end: the option
``role_markers: false``, which the recipes have. Else the LLM's own turns stand around them.
"""

from collections.abc import Mapping
from functools import cache
from importlib import resources

QUESTION_PROMPT: Mapping[str, str] = {}

FEW_SHOT = "This is a sound of"  # code


@cache
def prompts() -> Mapping[str, tuple[str, ...]]:
    """Instructions for the tasks of section 3.3 by task, the first one for tests.

    Those of "tags" and "caption" that the paper prints (sections 4.2 and A.2) come first, and what the tests
    ask is the first. All others are ours: the paper's tables have lost them. ``{question}`` is a sound, two
    times, or a question about one clip or two.
    """
    lines = (resources.files("lalm.systems.apt") / "prompts.tsv").read_text("utf-8").splitlines()
    bank: dict[str, tuple[str, ...]] = {}
    for line in lines[1:]:
        task, prompt = line.split("\t")
        bank[task] = (*bank.get(task, ()), prompt)
    return bank
