"""Incremental detokenizer: tokens of an answer -> text that later tokens cannot change, up to a stop."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

BROKEN = "\N{REPLACEMENT CHARACTER}"  # what an incomplete multi-byte character decodes to


class Detokenizer:
    """The text of one answer, stripped; ``stopped`` is set once a stop sequence was generated."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.stop = stop
        self.ids: list[int] = []
        self.stopped = False
        self._prefix_start = 0  # ids before it are not decoded again
        self._prefix_end = 0  # ids before it are whole characters; those from the start decide spaces
        self._emitted = 0  # characters of the undecided text that were returned already
        self._held_back = ""  # text that may be the beginning of a stop sequence or trailing space
        self._started = False

    def add(self, token: int) -> str:
        """Add a token; the text that is certain now."""
        self.ids.append(token)
        fresh = self._undecided_text()
        whole = not fresh.endswith(BROKEN)
        # Only the last replacement character can stand for bytes that are still to come.
        certain = fresh if whole else fresh[:-1]
        new, self._emitted = certain[self._emitted :], len(certain)
        if whole:
            self._prefix_start, self._prefix_end, self._emitted = self._prefix_end, len(self.ids), 0
        return self._release(new)

    def flush(self) -> str:
        """The text held back so far, once there are no more tokens."""
        if self.stopped:
            return ""
        rest = self._release(self._undecided_text()[self._emitted :])
        self._prefix_start, self._prefix_end, self._emitted = self._prefix_end, len(self.ids), 0
        held, self._held_back = self._held_back, ""
        return rest if self.stopped else (rest + held).rstrip()

    def _undecided_text(self) -> str:
        """The text of the ids whose characters may still be incomplete."""
        before = self._decode(self._prefix_start, self._prefix_end)
        return self._decode(self._prefix_start, len(self.ids))[len(before) :]

    def _decode(self, first: int, last: int) -> str:
        return str(self.tokenizer.decode(self.ids[first:last], skip_special_tokens=True))

    def _release(self, fresh: str) -> str:
        """The held text and ``fresh``, less what must be held back now."""
        text = self._held_back + fresh
        if not self._started:
            text = text.lstrip()
            self._started = bool(text)
        found = [at for at in (text.find(stop) for stop in self.stop) if at >= 0]
        if found:
            self.stopped, self._held_back = True, ""
            return text[: min(found)].rstrip()
        keep = min([len(text.rstrip()), *(_possible_stop(text, stop) for stop in self.stop)])
        keep = len(text[:keep].rstrip())
        self._held_back = text[keep:]
        return text[:keep]


def _possible_stop(text: str, stop: str) -> int:
    """Where ``stop`` may begin at the end of ``text``; the length of ``text`` if nowhere."""
    for at in range(max(0, len(text) - len(stop) + 1), len(text)):
        if stop.startswith(text[at:]):
            return at
    return len(text)
