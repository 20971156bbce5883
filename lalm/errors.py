"""The error that all errors of this package are: ``except lalm.LalmError`` catches whatever lalm refuses."""

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager


class LalmError(Exception):
    """Something lalm cannot use or do; the text is one sentence that names the thing and the place.

    Example::

        try:
            audio = lalm.load_audio("missing.wav")
        except lalm.LalmError as error:
            print(error)
    """


class UnsafePickle(LalmError, ValueError):
    """A file of weights that asks for more than tensors, and so might run code."""


@contextmanager
def refuse_pickled_code(what: str, error: type[ValueError] = UnsafePickle) -> Iterator[None]:
    """Turn a safe loader's refusal of a pickle into one sentence about ``what``, raised as ``error``."""
    try:
        yield
    except pickle.UnpicklingError as problem:
        asked = re.search(r"(?:GLOBAL|Unsupported (?:class|global|operand)\S*) ([\w.]+)", str(problem))
        why = f"it asks for '{asked[1]}'" if asked else "it is not a plain file of tensors"
        raise error(f"{what} is not opened, because {why}, which may run code") from None
