"""A server of a tiny model on a loopback port, with the openai client that asks it."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import openai
import pytest
import torch
import uvicorn
from browser import chromium, page

from lalm.cli.serve import Place, listen
from lalm.inference.engine import Engine
from lalm.serve.app import create_app
from lalm.serve.connections import config
from lalm.serve.settings import Settings

__all__ = ["chromium", "page"]  # fixtures of the tests in a browser


@contextmanager
def running(
    engine: Engine, settings: Settings, others: Mapping[str, Callable[[], Engine]] | None = None
) -> Iterator[str]:
    """Its address while it runs."""
    listening = listen(Place("127.0.0.1", 0, None))
    app = create_app(engine, settings, others)
    server = uvicorn.Server(config(app, patience_s=15))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def engine(tiny) -> Engine:
    torch.manual_seed(0)
    return Engine(*tiny("acdc"), "tiny")


@pytest.fixture
def open_server(engine) -> Callable[[], Any]:
    """A context in which a server runs."""
    return lambda: running(engine, Settings())


@pytest.fixture
def serve(engine) -> Iterator[Callable[..., str]]:
    """``serve(audio_s=5)`` starts a server with these settings, ``others`` beside its model; its address."""
    with ExitStack() as stack:
        yield lambda others=None, **settings: stack.enter_context(
            running(engine, Settings(**settings), others)
        )


@pytest.fixture
def client() -> Callable[..., openai.OpenAI]:
    """``client(address)``: the official client, as it is."""

    def make(address: str, key: str = "none", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, **options)

    return make
