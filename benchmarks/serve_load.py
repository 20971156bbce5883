"""`lalm serve` under load: many clients at once against one at a time, memory over time, first tokens.

    python benchmarks/serve_load.py --minutes 10 --out results/serve_load.json    # and results/serve_load.svg

Clients ask about clips of 1 to 30 s, each its own piece of the recordings in samples/, so that no encoder
output is found again. One client asks before and after the many, so that a machine that is busy with other
things weighs on both sides alike. First tokens and tokens a second: the same questions to the server and to
the library, in turns. Processor seconds are told beside those on the wall: what other programs take on a
shared machine is not in them.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import soundfile

from lalm import Engine, Options, ask, load_audio

QUESTION = "What do you hear?"
SAMPLES = Path(__file__).parents[1] / "samples"


class Clips:
    """Pieces of the recordings in samples/, 1 to 30 s, no two alike."""

    def __init__(self) -> None:
        sounds = [load_audio(path) for path in sorted(SAMPLES.glob("*.*")) if path.suffix != ".md"]
        self.sound = np.concatenate(sounds)
        self.draw = np.random.default_rng(0)

    def clip(self, seconds: float | None = None) -> np.ndarray:
        """(N,) float32 at 16 kHz."""
        length = int(16_000 * (seconds or self.draw.uniform(1, 30)))
        piece = np.resize(np.roll(self.sound, -int(self.draw.integers(len(self.sound)))), length)
        return (piece * self.draw.uniform(0.3, 1)).astype(np.float32)


def body(clip: np.ndarray, tokens: int) -> dict[str, Any]:
    """A request that is answered as a stream."""
    file = io.BytesIO()
    soundfile.write(file, clip, 16_000, format="WAV", subtype="PCM_16")
    audio = {"data": base64.b64encode(file.getvalue()).decode(), "format": "wav"}
    parts = [{"type": "input_audio", "input_audio": audio}, {"type": "text", "text": QUESTION}]
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": tokens, **usage}


@dataclass
class Answer:
    """One answer: when it was asked for, and seconds until its first text and its end; tokens written."""

    at_s: float
    clip_s: float
    first_s: float = 0.0
    total_s: float = 0.0
    tokens: int = 0
    error: str = ""


async def asked(client: httpx.AsyncClient, clip: np.ndarray, tokens: int, began: float) -> Answer:
    """Ask, and read the stream."""
    answer = Answer(time.perf_counter() - began, len(clip) / 16_000)
    wish = body(clip, tokens)
    start = time.perf_counter()
    try:
        async with client.stream("POST", "/v1/chat/completions", json=wish) as coming:
            if coming.status_code != 200:
                answer.error = f"HTTP {coming.status_code}"
            async for line in coming.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                answer.error = answer.error or ("in the stream" if "error" in event else "")
                if any(choice["delta"].get("content") for choice in event.get("choices", [])):
                    answer.first_s = answer.first_s or time.perf_counter() - start
                answer.tokens = (event.get("usage") or {}).get("completion_tokens", answer.tokens)
    except httpx.HTTPError as error:
        answer.error = type(error).__name__
    answer.total_s = time.perf_counter() - start
    return answer


@dataclass
class Load:
    """What so many clients got in a time."""

    clients: int
    seconds: float = 0.0
    cpu_s: float = 0.0  # of the server
    answers: list[Answer] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """In numbers."""
        good = [answer for answer in self.answers if not answer.error]
        waits = sorted(answer.total_s for answer in good)
        firsts = sorted(answer.first_s for answer in good)
        return {
            "clients": self.clients,
            "seconds": round(self.seconds, 1),
            "answers": len(good),
            "errors": len(self.answers) - len(good),
            "error_kinds": sorted({answer.error for answer in self.answers if answer.error}),
            "answers_per_s": round(len(good) / self.seconds, 3),
            "audio_s_per_s": round(sum(answer.clip_s for answer in good) / self.seconds, 2),
            "tokens_per_s": round(sum(answer.tokens for answer in good) / self.seconds, 2),
            "server_cpu_s": round(self.cpu_s, 1),
            "answers_per_cpu_s": round(len(good) / self.cpu_s, 3),
            "p50_s": round(waits[len(waits) // 2], 2),
            "p95_s": round(waits[int(len(waits) * 0.95)], 2),
            "first_text_p50_s": round(firsts[len(firsts) // 2], 2),
            "first_text_p95_s": round(firsts[int(len(firsts) * 0.95)], 2),
        }


@dataclass
class Server:
    """A server in a process of its own."""

    url: str
    process: psutil.Process

    def cpu_s(self) -> float:
        """Processor seconds it took so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


async def load(server: Server, clients: int, seconds: float, clips: Clips, tokens: int, began: float) -> Load:
    """Clients that ask one question after the other until the time is up; the last are waited for."""
    made = Load(clients)
    start, before = time.perf_counter(), server.cpu_s()

    async def one(client: httpx.AsyncClient) -> None:
        while time.perf_counter() - start < seconds:
            made.answers.append(await asked(client, clips.clip(), tokens, began))

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=limits) as client:
        await asyncio.gather(*[one(client) for _ in range(clients)])
    made.seconds, made.cpu_s = time.perf_counter() - start, server.cpu_s() - before
    return made


async def watched(process: psutil.Process, began: float, memory: list[tuple[float, float]]) -> None:
    """The server's resident memory, in MiB, every second."""
    while True:
        memory.append((time.perf_counter() - began, process.memory_info().rss / 2**20))
        await asyncio.sleep(1)


async def beside(server: Server, engine: Engine, clips: Clips, rounds: int, tokens: int) -> dict[str, Any]:
    """First text and tokens a second of single answers, as streams of the server and of the library."""
    first: list[float] = []
    rate: list[float] = []
    work: list[float] = []
    async with httpx.AsyncClient(base_url=server.url, timeout=600) as client:
        for number in range(rounds + 1):
            clip, before = clips.clip(5.0), server.cpu_s()
            served = await asked(client, clip, tokens, 0.0)
            server_s = server.cpu_s() - before
            before, start = time.process_time(), time.perf_counter()
            times = [
                time.perf_counter() - start for _ in engine.stream(ask([clip], QUESTION), Options(tokens))
            ]
            if number and times and not served.error:  # the first round warms both up
                first.append(served.first_s / times[0])
                rate.append(times[-1] / served.total_s)  # the same answer, so the same tokens
                work.append(server_s / (time.process_time() - before))
    found = {"first_text_s": first, "tokens_per_s": rate, "cpu_s": work}
    return {
        "rounds": len(first),
        "server_over_library_median": {name: round(statistics.median(v), 3) for name, v in found.items()},
        "range": {name: [round(min(v), 3), round(max(v), 3)] for name, v in found.items()},
    }


def plot(path: Path, many: Load, memory: list[tuple[float, float]]) -> None:
    """Memory and waiting times over the run."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, sharex=True, figsize=(8, 5))
    above.plot([at for at, _ in memory], [size for _, size in memory])
    above.set_ylabel("server memory, MiB")
    above.set_ylim(bottom=0)
    shown = [answer for answer in many.answers if not answer.error]
    places = [answer.at_s for answer in shown], [answer.total_s for answer in shown]
    points = below.scatter(*places, c=[answer.clip_s for answer in shown], s=8)
    figure.colorbar(points, ax=[above, below], label="clip, s")
    below.set_ylabel(f"whole answer, s ({many.clients} clients)")
    below.set_xlabel("s")
    figure.savefig(path)


def served(model: str | None, clients: int) -> tuple[subprocess.Popen[str], str]:
    """A server in a process of its own, and its address."""
    words = ["serve", *([model] if model else []), "--port", "0", "--batch-size", str(clients)]
    code = "import sys; from lalm.cli.app import run; sys.exit(run(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words, "--timeout", "600"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Serving at "):
            return process, line.split()[2]
    raise SystemExit("the server did not start")


async def measure(options: argparse.Namespace, server: Server) -> tuple[dict[str, Any], Load, Any]:
    """All of it."""
    clips, began = Clips(), time.perf_counter()
    memory: list[tuple[float, float]] = []
    watching = asyncio.create_task(watched(server.process, began, memory))
    seconds = options.minutes * 60
    await load(server, 2, min(10.0, seconds / 10), clips, options.tokens, began)  # warms up
    one = await load(server, 1, seconds / 8, clips, options.tokens, began)
    many_from = time.perf_counter() - began
    many = await load(server, options.clients, seconds, clips, options.tokens, began)
    many_to = time.perf_counter() - began
    again = await load(server, 1, seconds / 8, clips, options.tokens, began)
    watching.cancel()
    both = one.answers + again.answers
    alone = Load(1, one.seconds + again.seconds, one.cpu_s + again.cpu_s, both)
    during = [size for at, size in memory if many_from <= at <= many_to]
    third = max(1, len(during) // 3)
    result = {
        "alone": alone.summary(),
        "together": many.summary(),
        "throughput_ratio": {
            name: round(many.summary()[name] / alone.summary()[name], 2)
            for name in ("answers_per_s", "audio_s_per_s", "tokens_per_s", "answers_per_cpu_s")
        },
        "memory_mb": {
            "start": round(during[0]),
            "thirds_of_the_load_mean": [
                round(statistics.mean(during[i * third : (i + 1) * third])) for i in range(3)
            ],
            "most": round(max(during)),
            "end": round(during[-1]),
        },
    }
    return result, many, memory


def main() -> None:
    """Start a server, load it, write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="model folder (default: the embedded one)")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--tokens", type=int, default=32, help="longest answer")
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison with the library; 0: none")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    parser.add_argument("--out", type=Path, default=Path("results/serve_load.json"))
    options = parser.parse_args()
    process, url = served(options.model, options.clients)
    before = os.getloadavg()[0]
    try:
        server = Server(url, psutil.Process(process.pid))
        found, many, memory = asyncio.run(measure(options, server))
        if options.rounds:
            engine = Engine.load(options.model)
            found["beside_the_library"] = asyncio.run(
                beside(server, engine, Clips(), options.rounds, options.tokens)
            )
    finally:
        process.terminate()
        process.wait(60)
    found["conditions"] = {
        "model": options.model or "small",
        "minutes": options.minutes,
        "max_tokens": options.tokens,
        "cores": os.cpu_count(),
        "load_average_before_and_after": [round(before, 1), round(os.getloadavg()[0], 1)],
        "note": options.note,
    }
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    plot(options.out.with_suffix(".svg"), many, memory)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
