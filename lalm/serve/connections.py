"""uvicorn's settings and connection timeouts: slow headers, clients that do not read, message sizes."""

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_HEAD_S = 20.0  # for the first line and the headers of a request
MAX_UNREAD = 3  # checks in a row, REQUEST_HEAD_S apart, at which the client has not read everything
MESSAGE_BYTES = 1 << 20  # of a WebSocket


@dataclass(frozen=True)
class Tls:
    """Files in PEM: the server's certificate with what vouches for it, and its key. Raises ValueError."""

    certificate: str
    key: str

    def __post_init__(self) -> None:
        for what, path in (("certificate", self.certificate), ("key", self.key)):
            if not Path(path).is_file():
                raise ValueError(f"there is no file '{path}' with the TLS {what}")
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                self.certificate, self.key, password=""
            )
        except (ssl.SSLError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"'{self.certificate}' and '{self.key}' are no certificate with its key: {reason}"
            ) from None


class Connection(H11Protocol):
    """uvicorn's HTTP connection with time limits for headers and for clients that do not read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the periodic check of this connection."""
        super().connection_made(transport)
        self.loop.call_later(REQUEST_HEAD_S, self._check, None, 0)

    def _check(self, seen: Any, unread: int) -> None:
        """Close a connection without a request since the last check and without a running answer; abort one
        whose client does not read, also when it has become a WebSocket."""
        waits = self.transport.get_write_buffer_size() > 0
        if self.transport.is_closing() and not waits:
            return  # gone
        unread = unread + 1 if waits else 0
        if unread == MAX_UNREAD:
            self.transport.abort()
        elif self.transport.get_protocol() is self and self.cycle is seen and self._is_idle():
            self.transport.close()
        self.loop.call_later(REQUEST_HEAD_S, self._check, self.cycle, unread)

    def _is_idle(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)


def config(app: ASGIApp, patience_s: int, tls: Tls | None = None) -> uvicorn.Config:
    """uvicorn's configuration; running answers have ``patience_s`` seconds when the server is stopped."""
    return uvicorn.Config(
        app,
        http=Connection,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=patience_s,
        limit_concurrency=512,
        ssl_certfile=tls.certificate if tls is not None else None,
        ssl_keyfile=tls.key if tls is not None else None,
        ws_max_size=MESSAGE_BYTES,
    )
