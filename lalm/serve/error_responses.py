"""Exceptions -> HTTP error responses in OpenAI's format."""

from collections.abc import Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from lalm.errors import LalmError
from lalm.models.finite import NonFiniteError
from lalm.serve.jobs import AnswerTimeout, Busy

KINDS = {401: "authentication_error", 429: "rate_limit_error"}
RETRY_AFTER_S = 2


class ModelNotFound(LalmError, ValueError):
    """The request names a model that is not served here."""


def error_status(error: Exception) -> int:
    """The HTTP status for ``error``."""
    if isinstance(error, Busy):
        return 429
    if isinstance(error, AnswerTimeout):
        return 504
    if isinstance(error, ModelNotFound):
        return 404
    return 400 if isinstance(error, ValueError) else 500


def error_body(status: int, message: str) -> dict[str, dict[str, str | None]]:
    """An error as JSON in OpenAI's format."""
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": " ".join(message.split()), "type": kind, "param": None, "code": None}}


def error_response(status: int, message: str, retry_s: int = RETRY_AFTER_S) -> JSONResponse:
    """The HTTP response for an error; status 429 also says when to try again."""
    headers = {"Retry-After": str(retry_s)} if status == 429 else {}
    return JSONResponse(error_body(status, message), status, headers)


def error_message(error: Exception) -> str:
    """The message for the client; details of the server's own failures stay in the log."""
    return (
        str(error)
        if error_status(error) < 500 or isinstance(error, AnswerTimeout | NonFiniteError)
        else "the server failed to answer"
    )


async def value_error(request: Request, error: Exception) -> JSONResponse:
    """Handle ValueErrors: faults of the request, and a busy server."""
    return error_response(error_status(error), error_message(error))


async def validation_error(request: Request, error: Exception) -> JSONResponse:
    """Handle requests that do not match their schema: report the first fault."""
    assert isinstance(error, RequestValidationError)
    return error_response(400, first_error(error.errors(), 1))


def first_error(faults: Sequence[Any], outer: int = 0) -> str:
    """The first of pydantic's errors as a sentence, without the first ``outer`` parts of its location."""
    where = ".".join(str(part) for part in faults[0]["loc"][outer:])
    what = str(faults[0]["msg"]).removeprefix("Value error, ")
    return f"{where}: {what}" if where else what


async def http_error(request: Request, error: Exception) -> JSONResponse:
    """Handle HTTP errors such as unknown paths and methods."""
    assert isinstance(error, HTTPException)
    made = error_response(error.status_code, str(error.detail))
    made.headers.update(error.headers or {})
    return made
