"""Exceptions -> OpenAI's error answers."""

from collections.abc import Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from lalm.errors import LalmError
from lalm.serve.jobs import Busy, TooSlow

KINDS = {401: "authentication_error", 429: "rate_limit_error"}
RETRY_AFTER_S = 2


class NoSuchModel(LalmError, ValueError):
    """The request names a model that is not served here."""


def status_of(error: Exception) -> int:
    """The HTTP status that tells of ``error``."""
    if isinstance(error, Busy):
        return 429
    if isinstance(error, TooSlow):
        return 504
    if isinstance(error, NoSuchModel):
        return 404
    return 400 if isinstance(error, ValueError) else 500


def body_of(status: int, message: str) -> dict[str, dict[str, str | None]]:
    """The JSON of an error."""
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": " ".join(message.split()), "type": kind, "param": None, "code": None}}


def answer(status: int, message: str, retry_s: int = RETRY_AFTER_S) -> JSONResponse:
    """The answer that tells of an error; with status 429 also when to try again."""
    headers = {"Retry-After": str(retry_s)} if status == 429 else {}
    return JSONResponse(body_of(status, message), status, headers)


def sentence_of(error: Exception) -> str:
    """What the client is told; the details of what is not its fault stay in the log."""
    return (
        str(error) if status_of(error) < 500 or isinstance(error, TooSlow) else "the server failed to answer"
    )


async def value_error(request: Request, error: Exception) -> JSONResponse:
    """For anything a request can do wrong, and for a server that is busy."""
    return answer(status_of(error), sentence_of(error))


async def validation_error(request: Request, error: Exception) -> JSONResponse:
    """The first thing that is wrong with the form of a request."""
    assert isinstance(error, RequestValidationError)
    return answer(400, first_fault(error.errors(), 1))


def first_fault(faults: Sequence[Any], outer: int = 0) -> str:
    """The first of pydantic's errors in a sentence; ``outer`` names before the place are left out."""
    where = ".".join(str(part) for part in faults[0]["loc"][outer:])
    what = str(faults[0]["msg"]).removeprefix("Value error, ")
    return f"{where}: {what}" if where else what


async def http_error(request: Request, error: Exception) -> JSONResponse:
    """Paths and methods that do not exist."""
    assert isinstance(error, HTTPException)
    made = answer(error.status_code, str(error.detail))
    made.headers.update(error.headers or {})
    return made
