"""The access log: one line for each request, and the id by which client and log speak of it."""

import logging
import re
import time

from starlette.datastructures import Headers
from starlette.types import Scope

from lalm.serve.async_engine import new_id

log = logging.getLogger("lalm.serve.access")
GIVEN = re.compile(r"[\w.:-]{1,128}")  # an id that a client or proxy may give: nothing that breaks a line


def request_id(scope: Scope) -> str:
    """The request's ``X-Request-Id``, or a new one."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if GIVEN.fullmatch(given) else new_id("req_")


class AccessLine:
    """One request's line, ``write``n when it ends; times in seconds, sizes in bytes."""

    def __init__(self, scope: Scope, id: str) -> None:
        self.scope = scope
        self.id = id
        self.received = 0
        self.sent = 0
        self._began = time.perf_counter()

    def write(self, status: int) -> None:
        """Log the line; paths are quoted, so none can write a line of its own."""
        client = (self.scope.get("client") or ("-",))[0]
        log.info(
            "%s %s %s %r status=%d received=%d sent=%d seconds=%.3f",
            self.id,
            client,
            self.scope.get("method", "WS"),
            self.scope["path"],
            status,
            self.received,
            self.sent,
            time.perf_counter() - self._began,
        )


def log_to(place: str) -> None:
    """Write the access log to a file, or to stderr for "-"; with the time in UTC before each line."""
    handler = logging.StreamHandler() if place == "-" else logging.FileHandler(place, encoding="utf-8")
    form = logging.Formatter("%(asctime)s.%(msecs)03dZ %(message)s", "%Y-%m-%dT%H:%M:%S")
    form.converter = time.gmtime
    handler.setFormatter(form)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
