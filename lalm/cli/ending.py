"""The note on standard error about an answer that did not end by itself."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lalm.inference.options import FinishReason, Options


def note_ending(reason: "FinishReason | None", options: "Options") -> None:
    """Say so where the token limit cut an answer off, or where it was ended because it repeated itself."""
    if reason == "length":
        text = f"the answer was cut off at {options.max_new_tokens} tokens (--max-new-tokens)"
    elif reason == "repetition":
        text = "the answer repeated itself and was ended there (--repetition-penalty 1.2 may help)"
    else:
        return
    print("lalm:", text, file=sys.stderr)
