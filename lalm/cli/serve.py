"""``lalm serve``: the port is taken before the model is opened, so that a port in use is refused at once."""

import errno
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from lalm.cli.options import Device, Dtype, Transcript

if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket

    from lalm.inference.engine import Engine
    from lalm.serve.settings import Settings

ONLY_LALM = (
    *("fetch", "max_mb", "queue", "rate", "timeout", "device", "dtype", "allow_host"),
    *("tls_certificate", "tls_key", "access_log", "others", "open_models"),
)  # options that vLLM has nothing for


class Place(NamedTuple):
    """Where the server listens and what it computes on."""

    host: str
    port: int
    device: str | None
    transcript: bool | None = None
    dtype: Any = None


def serve(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            help="Model folder or Hub id (default: the embedded small model).", show_default=False
        ),
    ] = None,
    others: Annotated[
        list[str] | None,
        typer.Option("--model", help="A further model as NAME=FOLDER; may be repeated.", show_default=False),
    ] = None,
    open_models: Annotated[
        int, typer.Option(min=1, help="Models open at a time; others wait for their first request.")
    ] = 2,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    api_key: Annotated[
        str, typer.Option(envvar="LALM_API_KEY", help="Ask every client for this key.", show_default=False)
    ] = "",
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Let pages of this origin ask, such as https://example.org; may be repeated."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name that clients call this server by, such as gpu.example; may be repeated."),
    ] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Let clients name audio by public https addresses.")
    ] = False,
    max_audio: Annotated[float, typer.Option(min=1, help="Seconds of audio in one request.")] = 600.0,
    max_mb: Annotated[float, typer.Option(min=0.1, help="Largest request, in MiB.")] = 25.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Answers written at a time.")] = 16,
    queue: Annotated[int, typer.Option(min=1, help="Answers that may wait; more are told 429.")] = 64,
    rate: Annotated[int, typer.Option(min=0, help="Requests a minute from one address; 0: no limit.")] = 0,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for one answer.")] = 300.0,
    engine: Annotated[
        Literal["lalm", "vllm"], typer.Option(help="Who answers; vllm: vLLM's own server, with our plugin.")
    ] = "lalm",
    tls_certificate: Annotated[
        str, typer.Option(help="Certificate (PEM), to be asked by https.", show_default=False)
    ] = "",
    tls_key: Annotated[str, typer.Option(help="The certificate's key (PEM).", show_default=False)] = "",
    access_log: Annotated[
        str, typer.Option(help="File for one line a request; -: stderr.", show_default=False)
    ] = "",
    transcript: Transcript = None,
    dtype: Dtype = None,
    device: Device = None,
) -> None:
    """Serve a model behind OpenAI's API.

    Examples:

    lalm serve runs/mine --port 9000

    There is a page at the same address. Needs pip install 'lalm[serve]'; more: docs/serve.md.
    """
    if bool(tls_certificate) != bool(tls_key):
        raise ValueError("--tls-certificate and --tls-key go together")
    from lalm.serve.settings import Settings

    settings = Settings(
        api_key=api_key,
        origins=tuple(allow_origin or ()),
        hosts=(host, *(allow_host or ())),
        fetch=fetch,
        audio_s=max_audio,
        body_bytes=int(max_mb * 2**20),
        answer_s=timeout,
        rows=batch_size,
        waiting=queue,
        per_minute=rate,
        models=open_models,
    )
    if engine == "vllm":
        _refuse_what_vllm_lacks(context)
        from lalm.cli.serve_vllm import become_vllm

        become_vllm(model, Place(host, port, None, transcript, dtype), settings)
    else:
        _serve(
            model,
            Place(host, port, device, transcript, dtype),
            settings,
            named(others or []),
            (tls_certificate, tls_key),
            access_log,
        )


def _refuse_what_vllm_lacks(context: typer.Context) -> None:
    for name in ONLY_LALM:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise ValueError(f"--{name.replace('_', '-')} goes with --engine lalm alone")


def named(models: list[str]) -> dict[str, str]:
    """The folders of further models by name. Raises ValueError for what is not NAME=FOLDER."""
    found: dict[str, str] = {}
    for given in models:
        name, _, folder = given.partition("=")
        if not name or not folder:
            raise ValueError(f"--model takes NAME=FOLDER, not '{given}'")
        if name in found:
            raise ValueError(f"--model names '{name}' twice")
        found[name] = folder
    return found


def check_serving() -> None:
    """Raise ValueError in one sentence where a package that serving needs is absent."""
    try:
        import fastapi  # noqa: F401
        import llguidance  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
        import websockets  # noqa: F401
    except ImportError as error:
        raise ValueError(f"serving needs {error.name}: pip install 'lalm[serve]'") from None


def _serve(
    model: str | None,
    place: Place,
    settings: "Settings",
    others: dict[str, str],
    tls_files: tuple[str, str],
    access_log: str,
) -> None:
    """Serve until stopped; requests that run then are finished."""
    check_serving()
    from lalm.serve.access_log import log_to
    from lalm.serve.connections import Tls

    tls = Tls(*tls_files) if all(tls_files) else None
    listening = listen(place)
    with listening:
        if access_log:
            log_to(access_log)
        from lalm.inference.speech.recogniser import shared
        from lalm.serve.app import create_app
        from lalm.serve.connections import config
        from lalm.serve.memory import freeze_loaded_objects
        from lalm.training.malloc import keep_freed_memory

        keep_freed_memory()  # between two steps; what is free goes back every INTERVAL_S
        first, loaders = _models(model, others, place)
        app = create_app(first(), settings, loaders, shared)
        freeze_loaded_objects()
        # The scheduler fails what is not done after 30 s.
        _announcing(config(app, patience_s=35, tls=tls)).run(sockets=[listening])


def _models(
    model: str | None, others: dict[str, str], place: Place
) -> "tuple[Callable[[], Engine], dict[str, Callable[[], Engine]]]":
    """How to open the default model, and how to open each by its name; the folders are looked at now."""
    from lalm.cli.opening import loading, transcript_mode
    from lalm.cli.weights import fetch_for
    from lalm.inference.engine import Engine
    from lalm.models.load import open_processor

    def opener(folder: str | None, name: str | None) -> "Callable[[], Engine]":
        def load() -> Engine:
            fetch_for(folder, place.transcript)
            mode = transcript_mode(place.transcript)
            with loading() as told:
                engine = Engine.load(folder, place.device, place.dtype, mode, told)
            engine.name = name or engine.name
            return engine

        return load

    loaders = {name: opener(folder, name) for name, folder in others.items()}
    for folder in others.values():
        fetch_for(folder, place.transcript)
        open_processor(folder)  # a folder that is none is said at once, and not to the first who asks
    if model is None and others:
        return loaders[next(iter(others))], loaders
    if others:
        own = Path(model or "").resolve().name
        loaders = {own: opener(model, own), **loaders}
    return opener(model, None), loaders


def listen(place: Place) -> "socket":
    """A listening socket. Raises ValueError in one sentence where there can be none."""
    import socket

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
        async def startup(self, sockets: "list[socket] | None" = None) -> None:
            await super().startup(sockets)
            for listening in sockets or []:
                host, port = listening.getsockname()[:2]
                scheme = "https" if config.ssl_certfile else "http"
                shown = f"[{host}]" if ":" in host else host
                print(f"Serving at {scheme}://{shown}:{port} (Ctrl-C stops)", file=sys.stderr, flush=True)

    return Server(config)
