"""HELM's matches of short answers, by which AHELM scores CoRe-Bench (arXiv 2508.21376)."""

import re
import string

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def plain(text: str) -> str:
    """A text as HELM compares it: small letters, without ASCII punctuation and articles."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", bare).split())


def begins_with(said: str, reference: str) -> bool:
    """HELM's quasi-prefix exact match: an answer that begins with the reference is right, an empty one never
    is."""
    return bool(said) and plain(said).startswith(plain(reference))
