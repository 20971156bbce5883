"""Answers a file of requests: OpenAI's batch format in, OpenAI's batch format out, through the server itself.

Each line is ``{"custom_id": ..., "method": "POST", "url": "/v1/chat/completions", "body": {...}}``. The
requests go to the application in this process, so limits, checks and scheduling are the server's.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import httpx
from fastapi import FastAPI

from lalm.errors import LalmError
from lalm.serve.async_engine import new_id

URLS = ("/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings")
TRIES_S = 600.0  # how long a request is put again to a queue that is full


class BatchError(LalmError, ValueError):
    """A file of requests that cannot be used; the text names the line."""


def read_requests(path: Path) -> Iterator[dict[str, Any]]:
    """The requests of a file. Raises BatchError naming the line."""
    seen: set[str] = set()
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise BatchError(f"{where}: this line is not JSON") from None
            name = row.get("custom_id") if isinstance(row, dict) else None
            if not isinstance(name, str) or not isinstance(row.get("body"), dict):
                raise BatchError(f"{where}: a request needs a custom_id and a body")
            if name in seen:
                raise BatchError(f"{where}: the custom_id '{name[:64]}' is there twice")
            if row.get("method", "POST") != "POST" or row.get("url") not in URLS:
                raise BatchError(f"{where}: url must be one of {', '.join(URLS)}, and method POST")
            if row["body"].get("stream"):
                raise BatchError(f"{where}: an answer in a file is no stream: leave stream away")
            seen.add(name)
            yield row


def answered(path: Path) -> set[str]:
    """The requests that an earlier run answered; a last line that was cut off is removed."""
    if not path.is_file():
        return set()
    done: set[str] = set()
    whole = 0
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            done.add(str(json.loads(line)["custom_id"]))
            whole += len(line)
    with path.open("rb+") as lines:
        lines.truncate(whole)
    return done


async def answer_file(app: FastAPI, requests: list[dict[str, Any]], out: TextIO, at_once: int) -> int:
    """Answer ``requests``, ``at_once`` at a time, each written as soon as it is there; how many failed."""
    waiting = iter(requests)
    failed = 0
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None) as client:

        async def work() -> None:
            nonlocal failed
            for row in waiting:
                answer = await _put(client, row)
                failed += answer.status_code != 200
                out.write(json.dumps(_row(row["custom_id"], answer), ensure_ascii=False) + "\n")
                out.flush()

        async with app.router.lifespan_context(app):
            await asyncio.gather(*[work() for _ in range(at_once)])
    return failed


async def _put(client: httpx.AsyncClient, row: dict[str, Any]) -> httpx.Response:
    deadline = asyncio.get_running_loop().time() + TRIES_S
    while True:
        answer = await client.post(row["url"], json=row["body"])
        if answer.status_code != 429 or asyncio.get_running_loop().time() > deadline:
            return answer
        await asyncio.sleep(0.5)


def _row(name: str, answer: httpx.Response) -> dict[str, Any]:
    """One line of the result, as OpenAI writes it."""
    response = {
        "status_code": answer.status_code,
        "request_id": answer.headers["X-Request-Id"],
        "body": answer.json(),
    }
    return {"id": new_id("batch_req_"), "custom_id": name, "response": response, "error": None}
