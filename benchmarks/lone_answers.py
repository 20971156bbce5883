"""Is a row's answer the one it gets alone? The real model is asked alone, in batches, and on the server.

    python benchmarks/lone_answers.py --out results/lone_answers.json                        # float32
    python benchmarks/lone_answers.py --dtype bfloat16 --questions 28 --tokens 8 --out ...

Every way is tried twice: as it is, and with near ties left as they fall (the control, ``lalm.models.alone``).
Times are of the process, so that other programs of a shared machine weigh less.
"""

import argparse
import base64
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn

from lalm import Engine, Options, ask
from lalm.cli.serve import Place, listen
from lalm.models import alone
from lalm.serve.app import create_app
from lalm.serve.connections import config
from lalm.serve.settings import Settings

SAMPLES = sorted(path for path in (Path(__file__).parents[1] / "samples").iterdir() if path.suffix != ".md")
QUESTIONS = (
    "What do you hear?",
    "Describe the sound.",
    "Where was this recorded?",
    "Who or what makes this sound?",
    "Is there speech in the recording?",
    "How many sounds are there?",
    "Is it loud or quiet?",
    "What happens first?",
    "Name the source of the sound in one word.",
    "Is this indoors or outdoors?",
    "Which country could this be from?",
    "How does the sound make you feel?",
    "Write a caption for the recording.",
    "Is the sound natural or made by a machine?",
    "What could have happened just before?",
)
CLIENTS = 12


class Count:
    """How often a row was read again by itself, and the processor's seconds it took."""

    def __init__(self) -> None:
        self.times, self.seconds = 0, 0.0
        self._logits = alone.LoneRow.logits

    @contextlib.contextmanager
    def counting(self) -> Iterator["Count"]:
        def counted(row: Any, said: Any) -> Any:
            began = time.thread_time()
            found = self._logits(row, said)
            self.times += 1
            self.seconds += time.thread_time() - began
            return found

        alone.LoneRow.logits = counted  # type: ignore[method-assign]
        try:
            yield self
        finally:
            alone.LoneRow.logits = self._logits  # type: ignore[method-assign]


@contextlib.contextmanager
def served(engine: Engine) -> Iterator[str]:
    """The address of a server of the engine while it runs."""
    listening = listen(Place("127.0.0.1", 0, None))
    app = create_app(engine, Settings(answer_s=3000))
    server = uvicorn.Server(config(app, patience_s=15))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(60)


def by_server(engine: Engine, asked: list[tuple[Path, str]], tokens: int) -> list[str]:
    """The answers of a server that ``CLIENTS`` clients ask at a time."""
    with served(engine) as address, httpx.Client(timeout=3000) as client:

        def answer(one: tuple[Path, str]) -> str:
            data = base64.b64encode(one[0].read_bytes()).decode()
            sound = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
            content = [sound, {"type": "text", "text": one[1]}]
            body = {"messages": [{"role": "user", "content": content}], "max_tokens": tokens}
            got = client.post(f"{address}/v1/chat/completions", json=body)
            return str(got.raise_for_status().json()["choices"][0]["message"]["content"])

        with ThreadPoolExecutor(CLIENTS) as clients:
            return list(clients.map(answer, asked))


def main() -> None:
    """Ask, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--questions", type=int, default=len(SAMPLES) * len(QUESTIONS))
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    engine = Engine.load(device="cpu", dtype=getattr(torch, given.dtype))
    asked = [(sound, question) for question in QUESTIONS for sound in SAMPLES][: given.questions]
    samples = [ask([sound], question) for sound, question in asked]
    options = Options(given.tokens)
    ways = {
        "alone": lambda: [engine.reply([sample], options)[0].text for sample in samples],
        "batches": lambda: [reply.text for reply in engine.reply(samples, options)],
        "server": lambda: by_server(engine, asked, given.tokens),
    }
    result: dict[str, Any] = {"dtype": given.dtype, "questions": len(asked), "tokens": given.tokens}
    result |= {"threads": torch.get_num_threads(), "clients": CLIENTS, "ways": {}}
    kept = dict(alone.TOLERANCE)
    first: dict[bool, list[str]] = {}
    for settled in (True, False):
        alone.TOLERANCE.update(kept if settled else dict.fromkeys(kept, -1.0))
        for way, answers in ways.items():
            began, count = time.process_time(), Count()
            with count.counting():
                said = answers()
            first.setdefault(settled, said)
            differ = [i for i, (a, b) in enumerate(zip(first[settled], said, strict=True)) if a != b]
            result["ways"][f"{way}, near ties {'settled' if settled else 'as they fall'}"] = {
                "differ_from_alone": len(differ),
                "examples": [[asked[i][0].name, asked[i][1], first[settled][i], said[i]] for i in differ[:5]],
                "near_ties": count.times,
                "near_ties_s": round(count.seconds, 2),
                "processor_s": round(time.process_time() - began, 2),
            }
            print(json.dumps([*result["ways"].items()][-1]), flush=True)
            given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
