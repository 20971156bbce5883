"""How connections are taken: their number, sizes, and how long a client may take to say what it wants."""

import asyncio
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 20.0  # for the first line and the headers of a request
UNTAKEN = 3  # times HEAD_S in which a client takes nothing, or never all, of what it is sent
MESSAGE_BYTES = 1 << 20  # of a WebSocket


class Connection(H11Protocol):
    """uvicorn's, which waits for ever for headers, and for clients to read, with an end to both."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is here; it is looked after from now on."""
        super().connection_made(transport)
        self.loop.call_later(HEAD_S, self._look, None, 0)

    def _look(self, seen: Any, untaken: int) -> None:
        """Close where no request has begun since the last look and none is being answered; cut off who does
        not read. The second also where the connection has become a WebSocket."""
        waits = self.transport.get_write_buffer_size() > 0
        if self.transport.is_closing() and not waits:
            return  # gone
        untaken = untaken + 1 if waits else 0
        if untaken == UNTAKEN:
            self.transport.abort()
        elif self.transport.get_protocol() is self and self.cycle is seen and self._is_idle():
            self.transport.close()
        self.loop.call_later(HEAD_S, self._look, self.cycle, untaken)

    def _is_idle(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)


def config(app: ASGIApp, patience_s: int) -> uvicorn.Config:
    """What uvicorn is to know; running answers have ``patience_s`` seconds when the server is stopped."""
    return uvicorn.Config(
        app,
        http=Connection,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=patience_s,
        limit_concurrency=512,
        ws_max_size=MESSAGE_BYTES,
    )
