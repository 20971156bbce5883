"""Middleware for every request: authentication, origin, rate and size limits, timeouts, counters.

The whole body is read here, so that handlers never wait for a body that is incomplete or endless.
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
from lalm.serve.access_log import AccessLine, request_id
from lalm.serve.host_names import HostNames
from lalm.serve.prometheus import Metrics
from lalm.serve.rate_limit import RateLimiter
from lalm.serve.settings import Settings

PROTECTED_PATHS = ("/v1", "/metrics", "/tokenize", "/detokenize")
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-site",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Content-Security-Policy": (  # the page loads nothing from other hosts and has no inline script or style
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
}


log = logging.getLogger("lalm.serve")


class AccessMiddleware:
    """ASGI middleware around the whole application: refuses what is not permitted, counts all requests."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app = app
        self.settings = settings
        self.metrics = metrics
        self.rate_limiter = RateLimiter(settings.per_minute)
        self.host_names = HostNames(settings.hosts)
        self.buffered_bytes = 0  # of the request bodies in memory now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or WebSocket."""
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        scope["state"] = {**scope.get("state", {}), "line": (line := AccessLine(scope, request_id(scope)))}

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            line.sent += len(message.get("body", b""))
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                headers["X-Request-Id"] = line.id
            await send(message)

        try:
            await self._http(scope, receive, send_with_headers)
        except Exception as error:
            if status:  # the response has begun, so the connection is closed
                raise
            log.exception("request %s failed", line.id)
            await errors.error_response(errors.error_status(error), errors.error_message(error))(
                scope, receive, send_with_headers
            )
        finally:
            line.write(status or 499)
            self.metrics.count_request(scope, status or 499, time.perf_counter() - began)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        line = AccessLine(scope, request_id(scope))
        refusal, status = self._refusal(scope), 101
        if refusal is not None:
            status = refusal.status_code
        try:
            await (refusal or self.app)(scope, receive, send)
        finally:
            line.write(status)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (refusal := self._refusal(scope)) is not None:
            await refusal(scope, receive, send)
            return
        body, received = bytearray(), 0
        try:
            async with asyncio.timeout(self.settings.body_s):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    part = message.get("body", b"")
                    received, self.buffered_bytes = received + len(part), self.buffered_bytes + len(part)
                    scope["state"]["line"].received = received
                    if (refusal := self._too_large(scope, received)) is not None:
                        await refusal(scope, receive, send)
                        return
                    body += part
                    more = message.get("more_body", False)
            await self.app(scope, _replay(bytes(body), receive), send)
        except TimeoutError:
            slow = f"the request was not sent within {self.settings.body_s:.0f} s"
            await errors.error_response(408, slow)(scope, receive, send)
        finally:
            self.buffered_bytes -= received

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if (name := self.host_names.refused(scope)) is not None:
            return errors.error_response(
                403, f"this server is not called '{name[:80]}': allow the name with --allow-host"
            )
        if not self._same_origin(scope["type"], scope.get("method", ""), headers):
            return errors.error_response(
                403, "pages of other origins may not use this server; allow them with --allow-origin"
            )
        if scope.get("method") == "OPTIONS" or not scope["path"].startswith(PROTECTED_PATHS):
            return None
        address = (scope["client"] or ("",))[0]
        if scope.get("method") != "GET" and (wait_s := self.rate_limiter.wait_s(address)):
            limit = self.settings.per_minute
            return errors.error_response(
                429, f"{limit} requests a minute are the limit: try again later", wait_s
            )
        wanted = self.settings.api_key
        scheme, _, key = headers.get("authorization", "").strip().partition(" ")
        given = key.strip() if scheme.lower() == "bearer" else ""
        if scope["type"] == "websocket" and not given:
            # browsers send the key as a subprotocol
            offered = headers.get("sec-websocket-protocol", "").split(",")
            keys = [name.strip() for name in offered if name.strip().startswith("openai-insecure-api-key.")]
            given = keys[0].removeprefix("openai-insecure-api-key.") if keys else ""
        if wanted and not secrets.compare_digest(given.encode(), wanted.encode()):
            return errors.error_response(
                401, "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'"
            )
        return None

    def _same_origin(self, kind: str, method: str, headers: Headers) -> bool:
        """Whether a browser's request comes from this server's page or from an allowed origin."""
        origin = headers.get("origin")
        if origin is None or (kind == "http" and method in ("GET", "HEAD", "OPTIONS")):
            return True
        allowed = self.settings.origins
        return origin in allowed or "*" in allowed or urlsplit(origin).netloc == headers.get("host")

    def _too_large(self, scope: Scope, received: int) -> Response | None:
        limit = self.settings.body_bytes
        if received > limit or _content_length(scope) > limit:
            return errors.error_response(413, f"the request is larger than {limit / 2**20:g} MiB")
        if self.buffered_bytes > self.settings.bodies_bytes:
            return errors.error_response(429, "too many large requests at a time: try again later")
        return None


def _content_length(scope: Scope) -> int:
    stated = Headers(scope=scope).get("content-length", "")
    return int(stated) if stated.isdecimal() and len(stated) < 20 else 0


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that first gives the body that was already read."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
