"""Which names a request may call this server by.

A page of another origin can point a name of its own at 127.0.0.1 (DNS rebinding), and its requests then look
like those of the server's own page: all but the Host header, which still has that name.
"""

import ipaddress
import socket
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import Scope


class HostNames:
    """The names that are answered: loopback, addresses, names of this network, and ``allowed``.

    An address cannot be rebound, and a name without a dot is one of this network, never of the internet's
    DNS. "*" in ``allowed`` answers to every name.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        own = socket.gethostname().lower()
        self.allowed = {own, f"{own}.local", *(name.lower() for name in allowed)}

    def refused(self, scope: Scope) -> str | None:
        """The name in the request's Host header, if it is not one of ours."""
        name = host_of(Headers(scope=scope).get("host", ""))
        own = (scope.get("server") or ("",))[0]  # what the connection was made to
        known = "." not in name or name in self.allowed or name == own or "*" in self.allowed
        return None if known or name.endswith(".localhost") or is_address(name) else name


def host_of(header: str) -> str:
    """The name in a Host header, in lower case, without its port and final dot."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].rstrip(".")


def is_address(name: str) -> bool:
    """Whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
