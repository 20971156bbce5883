"""One answer as its tokens come: its text, and why it ended. The engine and the server both go by it."""

from collections.abc import Collection, Sequence

from transformers import PreTrainedTokenizerBase

from lalm.inference.detokenizer import Detokenizer
from lalm.inference.options import FinishReason, Options
from lalm.inference.thinking import Thinking

# An answer repeats itself when its last tokens are one pattern over and over: at least so many times, and so
# many tokens in all. People laugh, count and sing with fewer ("ha" sixteen times is no loop).
LOOP_TIMES = 4
LOOP_TOKENS = 32
LONGEST_PATTERN = 64


class Answer:
    """The tokens of one answer, ``fresh`` text that the last of them made certain, and the ``reason`` of its
    end (None: it goes on). Without a tokenizer nothing is ``fresh``, and no stop text is found."""

    def __init__(
        self, options: Options, ends: Collection[int], tokenizer: PreTrainedTokenizerBase | None
    ) -> None:
        """``ends``: tokens that end an answer."""
        self.tokens: list[int] = []
        self.fresh = ""
        self._said = ""
        self.reason: FinishReason | None = None
        self.thinking: Thinking | None = None  # where thinking has a budget of its own
        self._options, self._ends = options, ends
        self._detokenizer = Detokenizer(tokenizer) if tokenizer is not None else None

    @property
    def thinking_cut(self) -> bool:
        """Whether the budget for its thinking was spent."""
        return self.thinking is not None and self.thinking.cut

    @property
    def ended_by_token(self) -> bool:
        """Whether its last token is an end, which is no part of the text."""
        return bool(self.tokens) and self.tokens[-1] in self._ends

    def add(self, token: int) -> None:
        """The next token; must not be called once there is a ``reason``."""
        self.tokens.append(token)
        if self.thinking is not None:
            self.thinking.add(token)
        long_enough = len(self.tokens) >= self._options.min_tokens
        if token in self._ends:
            self.reason = "stop"
        elif self._options.loop_guard and long_enough and repeats_itself(self.tokens):
            self.reason = "repetition"
        elif len(self.tokens) >= self._options.most_tokens or self._said_all():
            self.reason = "length"
        if self._detokenizer is not None:
            self.fresh = self._certain(self._detokenizer, token)
            self._said += self.fresh

    def _said_all(self) -> bool:
        """Whether the answer, its thinking aside where that has a budget, is as long as it may be."""
        thinking = self.thinking
        if thinking is not None and (thinking.on or thinking.forced is not None):
            return False
        spent = thinking.spent if thinking is not None else 0
        return len(self.tokens) - spent >= self._options.max_new_tokens

    def text(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """All that was said, without white space at its ends."""
        if self._detokenizer is not None:
            return self._said
        said = self.tokens[:-1] if self.ended_by_token else self.tokens
        return str(tokenizer.decode(said, skip_special_tokens=True)).strip()

    def _certain(self, detokenizer: Detokenizer, token: int) -> str:
        """What is certain now; the rest too once the answer has ended. Stop texts end it."""
        if len(self.tokens) > self._options.min_tokens:
            detokenizer.stop = self._options.stop
        text = "" if token in self._ends else detokenizer.add(token)
        if self.reason is not None or detokenizer.stopped:
            text += detokenizer.flush()
        if detokenizer.stopped:
            self.reason = "stop"
        return text


def repeats_itself(tokens: Sequence[int]) -> bool:
    """Whether the last tokens are one pattern over and over."""
    for length in range(1, min(LONGEST_PATTERN, len(tokens) // LOOP_TIMES) + 1):
        if tokens[-1] != tokens[-1 - length]:
            continue
        span = max(LOOP_TIMES * length, LOOP_TOKENS)
        if len(tokens) >= span and tokens[-span:-length] == tokens[len(tokens) - span + length :]:
            return True
    return False
