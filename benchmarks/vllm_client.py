"""``lalm respond`` against a real vLLM server that is killed and started again, and against the local LLM.

vLLM lives in an environment of its own, whose Python is named; the server is started here, on loopback::

    python benchmarks/vllm_client.py --vllm-python ~/vllm/bin/python --rows 64 --out results/vllm_client.json

Same captions, same greedy limits. First the local LLM alone, then the server alone, each timed over all rows
but not over its start. Then the run that counts: the server is killed with SIGKILL once a third of the rows
are written, ``respond`` waits and asks again, and a second server answers the rest. Every row must be there
once, with the reply of the run that nothing happened to.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import httpx
import torch
from respond import captions

from lalm.data.readers import read_manifest
from lalm.data.sample import Sample, ask, write_manifest
from lalm.models.chat_template import bare_template
from lalm.synthesis.completions import EndpointWriter, LocalWriter, Sampling, Writer
from lalm.systems.acdc.continuation import respond
from lalm.weights import fetch as weights
from lalm.weights.llm import load_tokenizer

START_S = 3600.0  # a loaded machine imports vLLM for many minutes


class Server:
    """A vLLM server of ``folder`` in a process of its own, on a port that stays the same."""

    def __init__(self, python: str, folder: Path, template: Path, dtype: str, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{self.port}/v1", log
        self.argv = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
        self.argv += ["--served-model-name", "llm", "--port", str(self.port), "--dtype", dtype]
        self.argv += ["--chat-template", str(template), "--generation-config", "vllm", "--enforce-eager"]
        self.argv += ["--max-model-len", "1024", "--max-num-seqs", "32"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Seconds until it answers."""
        environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", **os.environ}
        began = time.perf_counter()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        while time.perf_counter() - began < START_S:
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended by itself: see {self.log}")
            try:
                if httpx.get(f"{self.url}/models", timeout=5).status_code == 200:
                    return time.perf_counter() - began
            except httpx.HTTPError:
                time.sleep(1)
        raise SystemExit(f"the server did not start within {START_S:.0f} s: see {self.log}")

    def kill(self) -> None:
        """End it and its workers at once, as a machine that fails would."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def rows(path: Path) -> dict[str, str]:
    """Replies by row id; an id that comes twice ends the benchmark."""
    found: dict[str, str] = {}
    for sample in read_manifest(path):
        assert sample.id is not None and sample.id not in found, f"{sample.id} was written twice"
        found[sample.id] = sample.target
    return found


def timed(manifest: Path, out: Path, writer: Writer, sampling: Sampling, batch_size: int) -> float:
    """Seconds of one run of ``respond``."""
    began = time.perf_counter()
    respond(manifest, out, writer, sampling=sampling, batch_size=batch_size)
    return time.perf_counter() - began


def killed_in_the_middle(server: Server, out: Path, after_rows: int, found: dict[str, object]) -> None:
    """Watch ``out``; kill the server once it holds ``after_rows`` lines, and start another."""
    while not out.exists() or out.read_bytes().count(b"\n") < after_rows:
        time.sleep(0.02)
    server.kill()
    found["rows_when_killed"] = out.read_bytes().count(b"\n")
    found["restart_s"] = round(server.start(), 1)


def main() -> None:
    """Run all three, print and write the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vllm-python", required=True)
    parser.add_argument("--llm", default="smollm2-135m-instruct")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the server ends with this process

    sampling = Sampling(temperature=0.0, max_new_tokens=args.max_new_tokens)
    found: dict[str, object] = {
        **{"llm": args.llm, "dtype": args.dtype, "rows": args.rows, "batch_size": args.batch_size},
        **{"max_new_tokens": args.max_new_tokens, "threads": torch.get_num_threads()},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = folder / "captions.jsonl"
        asked: list[Sample] = [
            ask([folder / f"{i}.wav"], "").with_target(text) for i, text in enumerate(captions(args.rows, 0))
        ]
        write_manifest(manifest, asked)
        llm = weights.resolve(args.llm)
        local = LocalWriter(llm, args.llm, getattr(torch, args.dtype))
        found["local_s"] = timed(manifest, folder / "local.jsonl", local, sampling, args.batch_size)
        local.model.save_pretrained(folder / "llm")  # vLLM reads no quantised originals
        local.tokenizer.save_pretrained(folder / "llm")
        template = folder / "bare.jinja"
        template.write_text(bare_template(load_tokenizer(llm)))
        del local

        server = Server(args.vllm_python, folder / "llm", template, args.dtype, folder / "server.log")
        try:
            found["start_s"] = round(server.start(), 1)
            endpoint = EndpointWriter(server.url, "llm", concurrency=args.batch_size, tries=30)
            found["vllm_s"] = timed(manifest, folder / "whole.jsonl", endpoint, sampling, args.batch_size)
            out = folder / "killed.jsonl"
            watcher = threading.Thread(
                target=killed_in_the_middle, args=(server, out, args.rows // 3, found), daemon=True
            )
            watcher.start()
            found["killed_s"] = timed(manifest, out, endpoint, sampling, args.batch_size)
            watcher.join()
        finally:
            server.kill()
        local_rows, whole, killed = (rows(folder / f"{n}.jsonl") for n in ("local", "whole", "killed"))
    found["lost"] = len(whole.keys() - killed.keys()) + args.rows - len(whole)
    found["other_replies_after_the_kill"] = sum(killed.get(key) != reply for key, reply in whole.items())
    found["other_replies_than_local"] = sum(local_rows[key] != reply for key, reply in whole.items())
    for who in ("local", "vllm"):
        found[f"{who}_rows_per_s"] = args.rows / float(str(found[f"{who}_s"]))
    found["ratio"] = float(str(found["vllm_rows_per_s"])) / float(str(found["local_rows_per_s"]))
    args.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
