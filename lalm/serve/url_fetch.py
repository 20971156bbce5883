"""Fetches audio from public https addresses only.

Every host name is resolved here, and the address that was checked is the one connected to, for the first
request and for each redirect.
"""

import asyncio
import base64
import ipaddress
import socket
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from lalm.errors import LalmError

REDIRECTS = 3
TIMEOUT_S = 20.0
# IPv4 addresses written as IPv6 (compatible, translated, NAT64): where they lead is up to the network.
EMBEDDED = tuple(map(ipaddress.ip_network, ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")))


class FetchRefused(LalmError, ValueError):
    """An address that may not be fetched or does not answer; the message says why."""


async def fetch_audio_urls(
    messages: list[dict[str, Any]], limit: int, client: httpx.AsyncClient
) -> list[Any]:
    """The messages with each https ``audio_url`` fetched into ``input_audio``; ``limit`` bytes in all."""
    left = limit
    changed: list[Any] = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            parts = []
            for part in content:
                url = _address(part)
                if url is not None:
                    data = await fetch(url, left, client)
                    left -= len(data)
                    others = {name: part["audio_url"][name] for name in part["audio_url"] if name != "url"}
                    audio = {"data": base64.b64encode(data).decode(), **others}
                    part = {"type": "input_audio", "input_audio": audio}
                parts.append(part)
            message = {**message, "content": parts}
        changed.append(message)
    return changed


def _address(part: object) -> str | None:
    if not isinstance(part, dict) or part.get("type") != "audio_url":
        return None
    told = part.get("audio_url")
    url = told.get("url") if isinstance(told, dict) else told
    return url if isinstance(url, str) and url[:5].lower() != "data:" else None


async def fetch(url: str, limit: int, client: httpx.AsyncClient) -> bytes:
    """The bytes at a public https address. Raises FetchRefused."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            for _ in range(REDIRECTS + 1):
                answer = await _get(url, limit, client)
                if isinstance(answer, bytes):
                    return answer
                url = urljoin(url, answer)
    except TimeoutError:
        raise FetchRefused(f"the audio address does not answer within {TIMEOUT_S:.0f} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise FetchRefused(f"the audio address does not answer: {type(error).__name__}") from None
    raise FetchRefused(f"the audio address redirects more than {REDIRECTS} times")


async def _get(url: str, limit: int, client: httpx.AsyncClient) -> bytes | str:
    """The bytes, or the address that a redirect leads to."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 443
    except ValueError:
        raise FetchRefused("the audio address is not a URL") from None
    if parts.scheme != "https" or not host or parts.username is not None:
        raise FetchRefused("an audio address must be a data: or an https: URL without a password")
    place = await public_address(host, port)
    literal = f"[{place}]" if ":" in place else place
    pinned = parts._replace(netloc=f"{literal}:{port}", fragment="").geturl()
    headers = {"Host": host if port == 443 else f"{host}:{port}", "Accept-Encoding": "identity"}
    request = client.build_request("GET", pinned, headers=headers, extensions={"sni_hostname": host})
    answer = await client.send(request, stream=True)
    try:
        if answer.is_redirect:
            return answer.headers.get("location", "")
        if answer.status_code != 200:
            raise FetchRefused(f"the audio address answers with HTTP {answer.status_code}")
        data = bytearray()
        async for block in answer.aiter_raw():
            data += block
            if len(data) > limit:
                raise FetchRefused(f"the audio at the address is larger than {limit / 2**20:.3g} MiB")
        return bytes(data)
    finally:
        await answer.aclose()


async def public_address(host: str, port: int) -> str:
    """An IP address of ``host``. Raises FetchRefused if any of its addresses is not public."""
    try:  # in a thread: the loop's own resolver differs between asyncio and uvloop
        found = await asyncio.to_thread(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise FetchRefused("the name of the audio address cannot be resolved") from None
    addresses = [str(place[0]) for *_, place in found]
    if not addresses or not all(is_public(address) for address in addresses):
        raise FetchRefused("the audio address is not public, and only public addresses are fetched")
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet, also for IPv4 addresses embedded in IPv6."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if any(ip in network for network in EMBEDDED):
            return False
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast


def public_client() -> httpx.AsyncClient:
    """A client that ignores redirects and proxy settings, so that only checked addresses are contacted."""
    return httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=TIMEOUT_S)
