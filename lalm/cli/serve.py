"""``lalm serve``: the port is taken before the model is opened, so that what is wrong is said at once."""

import errno
import socket
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Place:
    """Where the server listens and what it computes on."""

    host: str
    port: int
    device: str | None


def run(model: str | None, place: Place, **settings: Any) -> None:
    """Serve until stopped; requests that run then are finished. ``settings`` are ``lalm.serve.settings``'."""
    try:
        import fastapi  # noqa: F401
        import llguidance  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
        import websockets  # noqa: F401
    except ImportError as error:
        raise ValueError(f"serving needs {error.name}: pip install 'lalm[serve]'") from None
    listening = listen(place)
    with listening:
        from lalm.cli.weights import fetch_for

        fetch_for(model)
        from lalm.inference.engine import Engine
        from lalm.serve.app import create_app
        from lalm.serve.connections import config
        from lalm.serve.memory import keep_what_is_loaded
        from lalm.serve.settings import Settings

        app = create_app(Engine.load(model, place.device), Settings(**settings))
        keep_what_is_loaded()
        # The scheduler fails what is not done after 30 s.
        _announcing(config(app, patience_s=35)).run(sockets=[listening])


def listen(place: Place) -> socket.socket:
    """A listening socket. Raises ValueError in one sentence where there can be none."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise ValueError(f"there is no address '{place.host}' to listen at") from None
    made = socket.socket(family, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
        made.listen(512)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {place.port} is in use: choose another with --port") from None
        raise ValueError(f"{place.host}:{place.port} cannot be listened at: {error.strerror}") from None
    return made


def _announcing(config: Any) -> Any:
    """uvicorn's server, which also says when it is ready."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            for listening in sockets or []:
                host, port = listening.getsockname()[:2]
                shown = f"[{host}]" if ":" in host else host
                print(f"Serving at http://{shown}:{port} (Ctrl-C stops)", file=sys.stderr, flush=True)

    return Server(config)
