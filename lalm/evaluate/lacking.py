"""The error of a metric that was not given what it needs."""

from lalm.errors import LalmError


class Lacking(LalmError, LookupError):
    """Something that a metric needs was not given; the text says what, and how to give it."""
