"""What every request passes before it is answered: key, origin, size and patience; and what is counted.

The body is read here, whole, so that no handler meets a half-sent or endless one.
"""

import asyncio
import logging
import secrets
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lalm.serve import error_responses as errors
from lalm.serve.prometheus import Metrics
from lalm.serve.rate_limit import Rates
from lalm.serve.settings import Settings

GUARDED = ("/v1", "/metrics")
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-site",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Content-Security-Policy": (  # the page loads nothing from elsewhere, and no script or style within it
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
}


log = logging.getLogger("lalm.serve")


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app = app
        self.settings = settings
        self.metrics = metrics
        self.rates = Rates(settings.per_minute)
        self.held = 0  # bytes of bodies that are here now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or WebSocket."""
        if scope["type"] == "websocket":
            if (refusal := self._refusal(scope)) is not None:
                await refusal(scope, receive, send)
                return
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SAFE.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._http(scope, receive, watched)
        except Exception as error:
            if status:  # too late to say anything: the connection is closed
                raise
            log.exception("a request failed")
            await errors.answer(errors.status_of(error), errors.sentence_of(error))(scope, receive, watched)
        finally:
            self.metrics.answered(scope, status or 499, time.perf_counter() - began)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (refusal := self._refusal(scope)) is not None:
            await refusal(scope, receive, send)
            return
        body, taken = bytearray(), 0
        try:
            async with asyncio.timeout(self.settings.body_s):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    part = message.get("body", b"")
                    taken, self.held = taken + len(part), self.held + len(part)
                    if (refusal := self._too_much(scope, taken)) is not None:
                        await refusal(scope, receive, send)
                        return
                    body += part
                    more = message.get("more_body", False)
            await self.app(scope, _replayed(bytes(body), receive), send)
        except TimeoutError:
            slow = f"the request was not sent within {self.settings.body_s:.0f} s"
            await errors.answer(408, slow)(scope, receive, send)
        finally:
            self.held -= taken

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if not self._same_origin(scope["type"], scope.get("method", ""), headers):
            return errors.answer(
                403, "pages of other origins may not ask this server (--allow-origin lets them)"
            )
        if scope.get("method") == "OPTIONS" or not scope["path"].startswith(GUARDED):
            return None
        if scope.get("method") != "GET" and (wait_s := self.rates.wait_s((scope["client"] or ("",))[0])):
            limit = self.settings.per_minute
            return errors.answer(429, f"{limit} requests a minute are the limit: try again later", wait_s)
        wanted = self.settings.api_key
        given = headers.get("authorization", "").removeprefix("Bearer ").strip()
        if scope["type"] == "websocket" and not given:
            offered = headers.get("sec-websocket-protocol", "").split(",")  # how browsers send OpenAI's key
            keys = [name.strip() for name in offered if name.strip().startswith("openai-insecure-api-key.")]
            given = keys[0].removeprefix("openai-insecure-api-key.") if keys else ""
        if wanted and not secrets.compare_digest(given.encode(), wanted.encode()):
            return errors.answer(
                401, "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'"
            )
        return None

    def _same_origin(self, kind: str, method: str, headers: Headers) -> bool:
        """Whether a browser's request comes from this server's own page or one that is allowed."""
        origin = headers.get("origin")
        if origin is None or (kind == "http" and method in ("GET", "HEAD", "OPTIONS")):
            return True
        allowed = self.settings.origins
        return origin in allowed or "*" in allowed or urlsplit(origin).netloc == headers.get("host")

    def _too_much(self, scope: Scope, taken: int) -> Response | None:
        limit = self.settings.body_bytes
        if taken > limit or _stated(scope) > limit:
            return errors.answer(413, f"the request is larger than {limit / 2**20:g} MiB")
        if self.held > self.settings.bodies_bytes:
            return errors.answer(429, "too many large requests at a time: try again later")
        return None


def _stated(scope: Scope) -> int:
    stated = Headers(scope=scope).get("content-length", "")
    return int(stated) if stated.isdecimal() and len(stated) < 20 else 0


def _replayed(body: bytes, receive: Receive) -> Receive:
    """``receive`` as it was before the body was read."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
