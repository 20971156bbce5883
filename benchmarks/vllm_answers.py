"""Are vLLM's answers ours? A folder served by vLLM with our plugin, and the same folder in lalm's engine.

vLLM and lalm live in an environment of their own, whose Python is named; the server is started here::

    python benchmarks/vllm_answers.py runs/mine --vllm-python ~/vllm/bin/python --out vllm_answers.json

The folder is completed once, in float32. Every clip of ``samples/`` is sent through /v1/chat/completions as
``input_audio``, greedily, and its text and its prompt's token ids are compared with the engine's. With two
clips in a request, and with the same clip and another question, what vLLM keeps of clips is tried as well.
"""

import argparse
import base64
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import torch

from lalm import ask
from lalm.cli.export import complete
from lalm.inference.engine import Engine, Options
from lalm.models.load import load_model, read_config

START_S = 3600.0
NEW_TOKENS = 32


def questions() -> list[tuple[list[Path], str]]:
    """Each sample alone, then the first two in both orders, then the first again with another question."""
    clips = sorted(path for path in Path("samples").iterdir() if path.suffix in (".ogg", ".flac"))
    alone = [([clip], "What do you hear?") for clip in clips]
    two = [(pair, "What differs?") for pair in (clips[:2], clips[1::-1])]
    return [*alone, *two, ([clips[0]] * 2, "Is it one sound?"), ([clips[0]], "Is someone speaking?")]


def ours(folder: Path) -> tuple[list[str], list[list[int]]]:
    """The engine's answers, one question at a time, and the token ids of the prompts."""
    model, processor = load_model(folder, dtype=torch.float32)
    engine = Engine(model, processor, folder.name)
    samples = [ask(clips, text) for clips, text in questions()]
    answers = [engine.reply([sample], Options(max_new_tokens=NEW_TOKENS))[0].text for sample in samples]
    return answers, [processor.batch([sample])["input_ids"][0].tolist() for sample in samples]


def theirs(url: str) -> tuple[list[str], list[list[int]]]:
    """vLLM's answers to the same, through its API."""
    answers, prompts = [], []
    with httpx.Client(base_url=url, timeout=900) as client:
        name = client.get("/models").json()["data"][0]["id"]
        for clips, text in questions():
            parts: list[dict[str, object]] = [
                {
                    "type": "input_audio",
                    "input_audio": {
                        "data": base64.b64encode(clip.read_bytes()).decode(),
                        "format": clip.suffix[1:],
                    },
                }
                for clip in clips
            ]
            content = [*parts, {"type": "text", "text": text}]
            body = {"model": name, "messages": [{"role": "user", "content": content}], "temperature": 0}
            body |= {"max_tokens": NEW_TOKENS, "return_token_ids": True}
            answer = client.post("/chat/completions", json=body)
            answer.raise_for_status()
            found = answer.json()
            answers.append(found["choices"][0]["message"]["content"].strip())
            prompts.append(found["prompt_token_ids"])
    return answers, prompts


@contextmanager
def serving(python: str, folder: Path, log: Path, more: Sequence[str] = ()) -> Iterator[str]:
    """The address of a server of ``folder``, which ends with the block; ``more``: of its options."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--enforce-eager"]
    argv += ["--port", str(port), "--dtype", "float32", "--max-model-len", "2048", "--max-num-seqs", "4"]
    argv += more
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", **os.environ}
    environment["VLLM_SERVER_DEV_MODE"] = "1"  # /collective_rpc and /server_info, for grpo_vllm.py
    with log.open("wb") as file:
        server = subprocess.Popen(argv, stdout=file, stderr=file, env=environment, start_new_session=True)
    url, began = f"http://127.0.0.1:{port}/v1", time.monotonic()
    try:
        while not answers_at(url):
            if server.poll() is not None or time.monotonic() - began > START_S:
                raise SystemExit(f"the server did not start: see {log}")
            time.sleep(1)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers_at(url: str) -> bool:
    """Does a server answer there?"""
    try:
        return httpx.get(f"{url}/models", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def main() -> None:
    """Compare, print, and note the numbers under the folder's name in ``--out``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vllm-python", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the server ends with this process

    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / args.folder.resolve().name
        complete(args.folder, whole, "float32")
        with serving(args.vllm_python, whole, Path(name) / "server.log") as url:
            answers, prompts = theirs(url)
    expected, ids = ours(args.folder)
    rows = [
        {
            "clips": [clip.name for clip in clips],
            "question": text,
            "ours": mine,
            "vllm": other,
            "same_prompt": a == b,
        }
        for (clips, text), mine, other, a, b in zip(questions(), expected, answers, ids, prompts, strict=True)
    ]
    found = {
        "system": read_config(args.folder)[0],
        "questions": len(rows),
        "equal_answers": sum(row["ours"] == row["vllm"] for row in rows),
        "equal_prompts": sum(bool(row["same_prompt"]) for row in rows),
        "rows": rows,
    }
    kept = json.loads(args.out.read_text()) if args.out.is_file() else {}
    args.out.write_text(json.dumps({**kept, args.folder.resolve().name: found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
