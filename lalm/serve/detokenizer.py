"""Tokens of an answer -> its text as it becomes certain, up to a stop sequence."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a character of several bytes decodes to until all are there


class Words:
    """The text of one answer without white space at its ends; ``stopped`` once a stop sequence was said."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.stop = stop
        self.ids: list[int] = []
        self.stopped = False
        self._context = 0  # ids before it are decoded no more
        self._known = 0  # ids before it are whole characters; from the context to it they give spaces
        self._told = 0  # characters after those that were passed on
        self._held = ""  # text that may turn out to end the answer
        self._started = False

    def add(self, token: int) -> str:
        """The text that is certain with this token."""
        self.ids.append(token)
        fresh = self._decoded()
        whole = not fresh.endswith(BROKEN)
        # At most the last replacement stands for a character whose other bytes are still to come.
        certain = fresh if whole else fresh[:-1]
        new, self._told = certain[self._told :], len(certain)
        if whole:
            self._context, self._known, self._told = self._known, len(self.ids), 0
        return self._said(new)

    def end(self) -> str:
        """What was held back, once there are no more tokens."""
        if self.stopped:
            return ""
        rest = self._said(self._decoded()[self._told :])
        self._context, self._known, self._told = self._known, len(self.ids), 0
        held, self._held = self._held, ""
        return rest if self.stopped else (rest + held).rstrip()

    def _decoded(self) -> str:
        """The text of the ids that are not known to be whole characters."""
        before = self._decode(self._context, self._known)
        return self._decode(self._context, len(self.ids))[len(before) :]

    def _decode(self, first: int, last: int) -> str:
        return str(self.tokenizer.decode(self.ids[first:last], skip_special_tokens=True))

    def _said(self, fresh: str) -> str:
        """``fresh`` after what was held, less what must be held now."""
        text = self._held + fresh
        if not self._started:
            text = text.lstrip()
            self._started = bool(text)
        found = [at for at in (text.find(stop) for stop in self.stop) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)].rstrip()
        keep = min([len(text.rstrip()), *(_beginning(text, stop) for stop in self.stop)])
        keep = len(text[:keep].rstrip())
        self._held = text[keep:]
        return text[:keep]


def _beginning(text: str, stop: str) -> int:
    """Where ``stop`` may have begun at the end of ``text``."""
    for at in range(max(0, len(text) - len(stop) + 1), len(text)):
        if stop.startswith(text[at:]):
            return at
    return len(text)
