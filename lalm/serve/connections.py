"""How connections are taken: their number, sizes, and how long a client may take to say what it wants."""

import asyncio
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 20.0  # for the first line and the headers of a request
MESSAGE_BYTES = 1 << 20  # of a WebSocket


class Connection(H11Protocol):
    """uvicorn's, which waits for the headers of a request for ever, with an end to that."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is here; it is looked after from now on."""
        super().connection_made(transport)
        self.loop.call_later(HEAD_S, self._look, None)

    def _look(self, seen: Any) -> None:
        """Close where no request has begun since the last look and none is being answered."""
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return  # gone, or a WebSocket
        if self.cycle is seen and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()
        else:
            self.loop.call_later(HEAD_S, self._look, self.cycle)


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
