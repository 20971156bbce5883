"""Where an answer ends: its end, a stop text, the limit, or where it repeats itself."""

import pytest

from lalm.inference.answer import Answer, repeats_itself
from lalm.inference.options import Options

END = 9


def said(tokens: list[int], options: Options) -> tuple[int, str | None]:
    """How many of the tokens an answer takes, and why it ends there."""
    answer = Answer(options, {END}, None)
    for token in tokens:
        if answer.reason is None:
            answer.add(token)
    return len(answer.tokens), answer.reason


@pytest.mark.parametrize(
    ("pattern", "least"), [([5], 32), ([5, 6], 32), ([5, 6, 7], 32), ([*range(10, 30)], 80)]
)
def test_one_pattern_over_and_over_ends_an_answer(pattern, least):
    before = [1, 2, 3, 4]
    count, reason = said(before + pattern * 200, Options(1000))
    assert (count, reason) == (len(before) + least, "repetition")
    assert said(before + pattern * 200, Options(200, loop_guard=False)) == (200, "length")
    later, reason = said(before + pattern * 200, Options(1000, min_tokens=150))
    assert (later, reason) == (150, "repetition")


@pytest.mark.parametrize(
    "tokens",
    [
        [5] * 31,  # a long laugh
        [*range(10, 30)] * 3,  # a refrain
        [token for number in range(100) for token in (5, 100 + number)],  # a list that is counted
        [5, 6] * 15 + [7] + [5, 6] * 15,
    ],
)
def test_laughs_refrains_and_lists_are_no_loops(tokens):
    assert not any(repeats_itself(tokens[: end + 1]) for end in range(len(tokens)))


def test_ends_and_limits_say_which_they_are():
    assert said([1, 2, END, 3], Options(10)) == (3, "stop")
    assert said([1, 2, 3, 4], Options(3)) == (3, "length")
    assert said([1, 2, END], Options(3)) == (3, "stop")
    assert said([1, 2], Options(3)) == (2, None)
