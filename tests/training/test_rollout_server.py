"""GRPO whose answers a server draws: it has the weights of the step, and what it cannot do is said.

The server here is a stand-in of ours that answers as vLLM 0.32 does (``results/grpo_vllm.json`` is of the
real one, by ``benchmarks/grpo_vllm.py``): same paths, same fields, and it loads the folder it is told to.
"""

import base64
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from tiny_runs import lines, settings, training_world

from lalm.cli.export import complete
from lalm.data.readers import read_manifest
from lalm.data.sample import Sample, write_manifest
from lalm.models.load import load_model
from lalm.training import recipe as recipes
from lalm.training import run as train
from lalm.training.objectives import grpo, rollouts
from lalm.training.objectives.rollout_server import RolloutError
from lalm.training.sections import Grpo, Reward


class StandIn:
    """A model behind vLLM's API. ``loads``: whether it does what /collective_rpc asks; ``faults``: fields
    that its answers have in place of the right ones."""

    def __init__(self, folder: Path) -> None:
        self.model, self.processor = load_model(folder, dtype=torch.float32)
        self.model.eval()
        self.loads, self.loaded, self.mode = True, 0, "processed_logprobs"
        self.stale: set[str] = set()  # caches of older weights, with which vLLM's engine dies
        self.faults: dict[str, Any] = {}
        self.lock = threading.Lock()

    def get(self, path: str) -> dict[str, Any] | None:
        return {
            "/v1/models": {"object": "list", "data": [{"id": "served"}]},
            "/server_info?config_format=json": {
                "vllm_config": {"model_config": {"logprobs_mode": self.mode}}
            },
        }.get(path)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        with self.lock:
            if path == "/collective_rpc":
                assert body["method"] == "reload_weights"
                state = load_file(Path(body["kwargs"]["weights_path"]) / "model.safetensors")
                assert not any("lora" in name for name in state)
                if self.loads:
                    own = self.model.state_dict()
                    assert set(state) <= set(own)
                    self.model.load_state_dict(own | state)
                self.loaded += 1
                self.stale = {f"/reset_{name}_cache" for name in ("prefix", "mm", "encoder")}
                return {"results": [None]}
            if path in self.stale:
                self.stale.remove(path)
                return {"success": self.mode != "busy"}
            return self.answer(body) if path == "/v1/chat/completions" and not self.stale else None

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        sample = Sample(tuple(_heard(message) for message in body["messages"]))
        batch = dict(self.processor.batch([sample]))
        drawing = Grpo(rewards=[Reward(name="vote")], temperature=body["temperature"])
        clips = [len(sample.audios)]
        drawn = rollouts.draw(
            self.model, self.processor, batch, clips, 1, drawing, body["max_tokens"], [body["seed"]]
        )
        values: list[float] = []

        def read(hidden: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            values.extend(grpo.token_log_probs(self.model, hidden, targets, body["temperature"])[0].tolist())
            return hidden.sum()

        with torch.no_grad():
            self.model(**drawn.batch, answer_loss=read)
        labels = drawn.batch["labels"][0]
        choice = {
            "token_ids": labels[labels >= 0].tolist(),
            "logprobs": {"content": [{"logprob": value} for value in values]},
        }
        whole = {"choices": [choice], "prompt_token_ids": batch["input_ids"][0].tolist()}
        choice |= {name: value for name, value in self.faults.items() if name in choice}
        return whole | {name: value for name, value in self.faults.items() if name in whole}


def _heard(message: dict[str, Any]) -> Any:
    """OpenAI's parts as ours."""
    if isinstance(message["content"], str):
        return message
    parts = []
    for part in message["content"]:
        if part["type"] == "input_audio":
            audio, rate = soundfile.read(io.BytesIO(base64.b64decode(part["input_audio"]["data"])))
            part = {"type": "audio", "audio": audio.astype("float32"), "rate": rate}
        parts.append(part)
    return {**message, "content": parts}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve questions, a model of one step, and that model whole."""
    folder = training_world(tmp_path_factory.mktemp("served"), dropout=0.0)
    (folder / "mine.py").write_text("def odd(sample, answer):\n    return sum(map(ord, answer)) % 7 / 7\n")
    one = {"learning_rate": 1e-4, "batch_size": 2, "max_steps": 1}
    start = settings(folder, folder / "start", optim=one, lora=None)
    train.run(start)
    complete(folder / "start", folder / "whole", "float32")
    samples = [replace(s.prompt(), references=("e",)) for s in read_manifest(folder / "train.jsonl")]
    write_manifest(folder / "train.jsonl", samples)
    return folder


@pytest.fixture
def served(world: Path) -> Iterator[tuple[StandIn, str]]:
    """The stand-in and its address."""
    stand_in = StandIn(world / "whole")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(stand_in.get(self.path))

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.reply(stand_in.post(self.path, json.loads(raw or b"{}")))

        def reply(self, found: dict[str, Any] | None) -> None:
            text = json.dumps(found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield stand_in, f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def run(
    world: Path, out: Path, url: str, steps: int = 3, section: dict[str, Any] | None = None, **changes: Any
) -> Path:
    fields: dict[str, Any] = {
        "grpo": {
            "rewards": [{"name": f"{world}/mine.py:odd"}],
            "group": 4,
            "max_new_tokens": 6,
            "rollouts": {"url": url},
            **(section or {}),
        },
        "optim": {"learning_rate": 2e-2, "batch_size": 2, "max_steps": steps, "schedule": "constant"},
        "data": {"valid": []},
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.0},
        "every": {"log": 1, "save": 2, "valid": 0},
    }
    own = settings(world, out, **(fields | changes))
    return train.run(recipes.changed(own, [f"init={{from: {world / 'start'}}}"]))


@pytest.mark.parametrize("section", [{}, {"updates": 2, "temperature": 0.7}], ids=["once", "two updates"])
def test_the_server_answers_with_the_weights_of_the_step(world, served, tmp_path, section):
    """Its log-probabilities are the model's own in every step, connector and LoRA learning fast."""
    stand_in, url = served
    out = run(world, tmp_path / "run", url, 4, section)
    gaps = lines(out, "sampler_gap")
    assert len(gaps) >= 2 and max(gaps.values()) < 2e-3
    assert stand_in.loaded == 4 // section.get("updates", 1)
    assert any(lines(out, "reward").values())
    stand_in.loads = False  # what the gap tells of a server that stays behind
    behind = run(world, tmp_path / "behind", url, 4, section)
    assert max(lines(behind, "sampler_gap").values()) > 0.02


def test_a_run_goes_on_between_two_updates_on_the_same_answers(world, served, tmp_path):
    _, url = served
    section = {"updates": 3}
    for steps in (2, 4):
        out = run(world, tmp_path / "run", url, steps, section)
    assert set(lines(out)) == {1, 2, 3, 4} and set(lines(out, "sampler_gap")) == {1, 4}


def test_without_lora_the_connector_alone_is_sent(world, served, tmp_path):
    _, url = served
    out = run(world, tmp_path / "run", url, 2, lora=None)
    assert max(lines(out, "sampler_gap").values()) < 2e-3
    names = set(load_file(out / "served" / "model.safetensors"))
    assert names and not any("language_model" in name for name in names)


def test_a_token_counts_by_how_much_likelier_it_is_here_than_there():
    section = Grpo(rewards=[Reward(name="vote")], loss="dapo", clip=(0.2, 0.2))
    new = torch.tensor([-1.0, -2.0, -3.0])
    rows, advantage = torch.tensor([0, 0, 1]), torch.tensor([1.0, -1.0])
    plain, _ = grpo.policy_loss(new, new, rows, advantage, section)
    weighed, _ = grpo.policy_loss(new, new, rows, advantage, section, weight=torch.tensor([2.0, 0.5, 1.0]))
    assert float(plain) == pytest.approx((-1 - 1 + 1) / 3)
    assert float(weighed) == pytest.approx((-2 - 0.5 + 1) / 3)


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({"prompt_token_ids": [1, 2, 3]}, r"makes 3 other tokens of the prompt of 'clip\d+', which has"),
        ({"prompt_token_ids": None}, "makes no tokens of the prompt"),
        ({"token_ids": None}, r"gives 0 tokens and \d log-probabilities"),
        ({"logprobs": None}, "and 0 log-probabilities for an answer to"),
    ],
)
def test_a_server_that_answers_otherwise_is_refused(world, served, tmp_path, faults, said):
    stand_in, url = served
    stand_in.faults = faults
    with pytest.raises(RolloutError, match=said):
        run(world, tmp_path / "run", url)


def test_what_a_server_must_offer_is_said(world, served, tmp_path, monkeypatch):
    stand_in, url = served
    stand_in.mode = "raw_logprobs"
    with pytest.raises(
        RolloutError, match=r"of temperature 1, not of 0\.7: start it by: VLLM_SERVER_DEV_MODE=1"
    ):
        run(world, tmp_path / "warm", url, section={"temperature": 0.7})
    monkeypatch.setattr("lalm.training.objectives.rollout_server.FORGETTING_TRIES", 1)
    stand_in.mode = "busy"
    with pytest.raises(RolloutError, match="does not forget prefixes of older weights, because others ask"):
        run(world, tmp_path / "busy", url)
    with pytest.raises(RolloutError, match=r"there is no .*/v2/models: start it by"):
        run(world, tmp_path / "path", url.replace("/v1", "/v2"))
    with pytest.raises(RolloutError, match=r"127\.0\.0\.1:9/v1/models: "):
        run(world, tmp_path / "away", "http://127.0.0.1:9/v1")
    with pytest.raises(ValueError, match="'top_p', 'top_k' and 'min_p' cut off"):
        run(world, tmp_path / "cut", url, section={"top_p": 0.9})
    with pytest.raises(ValueError, match="sends whole weights, not such in nf4"):
        run(
            world,
            tmp_path / "nf4",
            url,
            optim={"learning_rate": 1e-3, "batch_size": 2, "max_steps": 1, "dtype": "nf4"},
        )
