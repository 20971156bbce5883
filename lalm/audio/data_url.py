"""Base64 and data: URLs as clients write them: either alphabet, with or without padding and line breaks."""

import base64
from urllib.parse import unquote

OTHER_ALPHABET = str.maketrans("-_", "+/")


def decode_base64(text: str) -> bytes:
    """The bytes that ``text`` stands for. Raises ValueError for anything but base64."""
    bare = "".join(text.split()).rstrip("=").translate(OTHER_ALPHABET)
    return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)


def decode_data_url(url: str) -> bytes:
    """The bytes of a ``data:`` URL in base64, percent-encoded or not. Raises ValueError for any other."""
    head, comma, text = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ValueError("a data: URL without base64")
    return decode_base64(unquote(text) if "%" in text else text)
