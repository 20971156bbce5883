"""The command that serves a model over HTTP."""

from typing import Annotated, Literal

import typer

serve_app = typer.Typer()

ONLY_LALM = ("fetch", "max_mb", "queue", "rate", "timeout", "device")  # options that vLLM has nothing for


@serve_app.command()
def serve(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(help="Model folder (default: the embedded small model).", show_default=False),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    api_key: Annotated[
        str, typer.Option(envvar="LALM_API_KEY", help="Ask every client for this key.", show_default=False)
    ] = "",
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Let pages of this origin ask, such as https://example.org; may be repeated."),
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
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 (default: a GPU if there is one).")
    ] = None,
) -> None:
    """Serve a model behind OpenAI's API."""
    from lalm.cli.serve import Place

    asked = {
        "api_key": api_key,
        "origins": tuple(allow_origin or ()),
        "audio_s": max_audio,
        "rows": batch_size,
    }
    if engine == "vllm":
        for name in ONLY_LALM:
            source = context.get_parameter_source(name)
            if source is not None and source.name != "DEFAULT":
                raise ValueError(f"--{name.replace('_', '-')} goes with --engine lalm alone")
        from lalm.cli import serve_vllm

        serve_vllm.run(model, Place(host, port, None), **asked)
        return
    from lalm.cli import serve as command

    command.run(
        model,
        Place(host, port, device),
        **asked,
        fetch=fetch,
        body_bytes=int(max_mb * 2**20),
        waiting=queue,
        per_minute=rate,
        answer_s=timeout,
    )
