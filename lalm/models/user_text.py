"""Keeps users' text text: what looks like a role marker or an audio slot in it becomes ordinary characters.

A chat template writes role markers, and the tokenizer turns each into one token. The same characters in a
question, a transcript or a tool's output are guarded before the template sees them: a character that occurs
nowhere else stands inside each, so it is no marker, and it is taken out again where the text is encoded.
"""

import itertools
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from lalm.data.messages import Message

# Characters that mean nothing by themselves.
UNUSED = (range(0xFDD0, 0xFDF0), range(0xE000, 0xF900), range(0xF0000, 0xFFFFE))
MARKER = re.compile(r"</?[\w|:. -]+>|\[/?[A-Z_]+\]")  # added tokens of this form speak to the model
LANGUAGE = re.compile(r"<\|[a-z]{2}\|>")  # "<|en|>": Qwen2-Audio's published questions end in one


class MarkerTokens:
    """The tokens of one tokenizer that only a chat template may write.

    ``guard = markers.guard(texts)``, then ``markers.guarded(text, guard)`` for each, the template, and
    ``markers.encode(rendered, guard)``. Without a marker in the texts the guard is empty and nothing changes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer: Any = tokenizer
        self.ids: dict[str, int] = {}
        self.flags: dict[str, AddedToken] = {}
        for id, token in self.tokenizer.added_tokens_decoder.items():
            special = token.special and not LANGUAGE.fullmatch(token.content)
            if special or (not token.special and MARKER.fullmatch(token.content)):
                self.ids[token.content] = id
                self.flags[token.content] = token
        longest_first = sorted(self.ids, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._plain: Tokenizer | None = None

    def guard(self, texts: Iterable[str]) -> str:
        """A character that occurs in none of ``texts``; empty if no marker occurs in them either."""
        listed = list(texts)
        if not any(self.pattern.search(text) or self.pattern.search(self._normal(text)) for text in listed):
            return ""
        taken = set().union(*listed)
        return next(c for c in map(chr, itertools.chain(*UNUSED)) if c not in taken)

    def guarded(self, text: str, guard: str) -> str:
        """``text`` with the guard in each of its markers, which thereby are none."""
        if not guard:
            return text
        return self.pattern.sub(lambda found: found[0][0] + guard + found[0][1:], text)

    def encode(self, rendered: str, guard: str) -> tuple[list[int], list[int]]:
        """Token ids of a rendered chat, and the position in ``rendered`` where each token begins."""
        if not guard:
            whole = self.tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
            return list(whole["input_ids"]), [start for start, _ in whole["offset_mapping"]]
        ids: list[int] = []
        starts: list[int] = []
        for first, last, marker in self._segments(rendered):
            if marker:
                ids.append(self.ids[marker])
                starts.append(first)
                continue
            kept = [at for at in range(first, last) if rendered[at] != guard]
            encoded = self._encode_plain("".join(rendered[at] for at in kept), begins=first == 0)
            ids += [id for id, _ in encoded]
            starts += [kept[min(start, len(kept) - 1)] for _, start in encoded]
        return ids, starts

    def plain_ids(self, text: str) -> list[int]:
        """Token ids of a text that holds no markers, whatever it looks like."""
        guard = self.guard([text])
        return self.encode(self.guarded(text, guard), guard)[0]

    def _segments(self, rendered: str) -> Iterator[tuple[int, int, str]]:
        """First and last position of each stretch of text ("") and of each marker, in order."""
        at = 0
        for found in self.pattern.finditer(rendered):
            marker, first = found[0], found.start()
            if self.flags[marker].lstrip:
                first = at + len(rendered[at:first].rstrip())
            if first > at:
                yield at, first, ""
            yield found.start(), found.end(), marker
            at = found.end()
            if self.flags[marker].rstrip:
                at += len(rendered[at:]) - len(rendered[at:].lstrip())
        if at < len(rendered):
            yield at, len(rendered), ""

    def _encode_plain(self, text: str, *, begins: bool) -> list[tuple[int, int]]:
        """Ids and starts of text without markers. A tokenizer may treat the beginning of a chat differently,
        so a text from its middle is put behind a marker of its own."""
        if not text:
            return []
        if self._plain is None:
            self._plain = _without(self.tokenizer.backend_tokenizer, self.ids)
        before = "" if begins else FENCE
        encoded = self._plain.encode(before + text, add_special_tokens=False)
        pairs = zip(encoded.ids, encoded.offsets, strict=True)
        return [(id, max(0, start - len(before))) for id, (start, _) in pairs][bool(before) :]

    def _normal(self, text: str) -> str:
        """``text`` as the tokenizer normalises it: some markers are looked for there."""
        normalizer = self.tokenizer.backend_tokenizer.normalizer
        return str(normalizer.normalize_str(text)) if normalizer is not None else text


FENCE = f"<|{secrets.token_hex(16)}|>"  # before text from the middle of a chat; never in a model's input


def _without(tokenizer: Tokenizer, markers: Iterable[str]) -> Tokenizer:
    """A copy of ``tokenizer`` that knows none of ``markers``, and one new token, the fence."""
    described = json.loads(tokenizer.to_str())
    gone = set(markers)
    described["added_tokens"] = [t for t in described["added_tokens"] if t["content"] not in gone]
    described["post_processor"] = described["padding"] = described["truncation"] = None
    made = Tokenizer.from_str(json.dumps(described))
    made.add_special_tokens([AddedToken(FENCE, normalized=False)])
    return made


def texts_of(messages: Sequence[Message]) -> list[str]:
    """The text of each message, its text parts joined as closely as a template may join them; transcripts."""
    contents: list[Any] = [message["content"] for message in messages]
    said = [p["transcript"] for c in contents if not isinstance(c, str) for p in c if p.get("transcript")]
    return [
        *said,
        *(
            content
            if isinstance(content, str)
            else "".join(str(part["text"]) for part in content if "text" in part)
            for content in contents
        ),
    ]


def guarded_content(content: Any, markers: MarkerTokens, guard: str) -> str | list[dict[str, Any]]:
    """A message's content, its texts guarded; no marker can arise where two text parts meet."""
    if isinstance(content, str):
        return markers.guarded(content, guard)
    parts: list[dict[str, Any]] = []
    for part in content:
        if "text" in part and guard:
            meets = guard if parts and "text" in parts[-1] else ""
            part = {**part, "text": meets + markers.guarded(part["text"], guard)}
        if part.get("transcript") and guard:
            part = {**part, "transcript": markers.guarded(part["transcript"], guard)}
        parts.append(part)
    return parts


def shifted(position: int, shifts: list[tuple[int, int]]) -> int:
    """A character position of the unexpanded text in the expanded one."""
    return position + next(added for start, added in reversed(shifts) if position >= start)
