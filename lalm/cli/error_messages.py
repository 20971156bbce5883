"""What the command line says when something is wrong: one sentence on stderr and an exit code."""

import errno
import os
import sys


def explain(error: BaseException) -> int:
    """One sentence for an exception; the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return refuse("stopped", 1)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads: nothing to flush to
        return 1
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return refuse(f"the disk is full{_at(error)}", 1)
    if isinstance(error, FileNotFoundError):
        return refuse(f"there is no file{_at(error)}", 2)
    if isinstance(error, OSError) and error.filename is not None:
        return refuse(f"{error.strerror}{_at(error)}", 2)
    from lalm.errors import LalmError

    own = "" if isinstance(error, LalmError) else _own(error)
    if isinstance(error, ValueError):
        from lalm.weights.pins import FetchError

        return refuse(f"{error}{own}", 1 if isinstance(error, FetchError) else 2)
    if isinstance(error, LalmError):
        return refuse(str(error), 1)
    what = (str(error).strip().splitlines() or ["no message"])[0]
    return refuse(f"unexpected {type(error).__name__}: {what}{own} (--debug shows the traceback)", 1)


def _own(error: BaseException) -> str:
    """The line of the user's own code that an error comes from, in brackets."""
    from lalm.systems import own_place

    place = own_place(error)
    return f" ({place})" if place else ""


def _at(error: OSError) -> str:
    return f" '{os.fsdecode(error.filename)}'" if error.filename else ""


def refuse(sentence: str, code: int) -> int:
    """Say a sentence on standard error; the exit code."""
    print("lalm:", " ".join(sentence.split()), file=sys.stderr)
    return code
