"""GRPO's answers drawn by a vLLM server that has the weights of the step.

Before answers are drawn the weights are written to a folder (LoRA merged), and the server is told to load
them and to forget what it kept of older ones; so answers are of the model as it is (on-policy). What is left
is that the server computes in its own way: token by token, p the model's own probability and q the server's,

    weight = min(p / q, cap)

stands before the loss (truncated importance sampling; TRL's ``token_truncate``). Prompts that the server
makes otherwise than the processor are refused, token for token.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import torch
from safetensors.torch import save_file
from torch import Tensor

from lalm.data.sample import Sample
from lalm.errors import LalmError
from lalm.models.answer_end import answer_ends
from lalm.models.lora import merged_state
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.processing import AudioLMProcessor
from lalm.training.objectives.rollouts import Rollouts, collected, encoded, repeated
from lalm.training.sections import Grpo, RolloutServer

AT_ONCE = 32  # requests under way
TIMEOUT_S = 600.0
FORGETTING_TRIES, FORGETTING_PAUSE_S = 50, 0.1  # a request that has just ended still holds its prefix
FOLDER, WEIGHTS = "served", "model.safetensors"
START = "start it by: VLLM_SERVER_DEV_MODE=1 vllm serve FOLDER --logprobs-mode processed_logprobs"
DEAF = ("lm_head.", "model.language_model.")  # not ours: what vLLM's own class holds


class RolloutError(LalmError, ValueError):
    """A server that cannot draw the answers of this run; the text says why."""


class Server:
    """A vLLM server. Raises RolloutError where there is none, or one that loads no weights."""

    def __init__(self, settings: RolloutServer, processor: AudioLMProcessor, grpo: Grpo, out: Path) -> None:
        self._settings, self._processor, self._grpo = settings, processor, grpo
        self._api = settings.url.rstrip("/")
        self._root = self._api.removesuffix("/v1")
        self._folder = Path(settings.folder or out / FOLDER).resolve()
        self._client = httpx.Client(timeout=TIMEOUT_S, limits=httpx.Limits(max_connections=AT_ONCE))
        self.name = str(self._asked("GET", f"{self._api}/models").json()["data"][0]["id"])
        told = self._asked("GET", f"{self._root}/server_info?config_format=json").json()
        mode = told["vllm_config"]["model_config"].get("logprobs_mode")
        if grpo.temperature != 1 and mode != "processed_logprobs":
            raise RolloutError(
                f"grpo.rollouts: '{settings.url}' tells log-probabilities of temperature 1, not of "
                f"{grpo.temperature:g}: {START}"
            )

    @torch.no_grad()
    def load(self, model: AudioLMForConditionalGeneration) -> None:
        """Have the server answer with the model's weights as they are now."""
        state = merged_state(model)
        whole = bool(model.config.lora) or any(
            p.requires_grad for p in model.model.language_model.parameters()
        )
        tied = model.config.text_config.tie_word_embeddings
        own = {
            name: tensor.cpu().contiguous().clone()
            for name, tensor in state.items()
            if (whole or not name.startswith(DEAF)) and not (tied and name.startswith("lm_head."))
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        draft = self._folder / f"{WEIGHTS}.part"
        save_file(own, draft, metadata={"format": "pt"})
        draft.chmod(0o644)  # safetensors makes files that only their owner may read
        draft.replace(self._folder / WEIGHTS)
        asked = {"method": "reload_weights", "kwargs": {"weights_path": str(self._folder)}}
        self._asked("POST", f"{self._root}/collective_rpc", asked)
        for kept in ("mm", "encoder"):  # its workers forget clips by themselves, its scheduler does not
            self._asked("POST", f"{self._root}/reset_{kept}_cache")
        for _ in range(FORGETTING_TRIES):
            if self._asked("POST", f"{self._root}/reset_prefix_cache").json().get("success"):
                return
            time.sleep(FORGETTING_PAUSE_S)
        raise RolloutError(
            f"grpo.rollouts: '{self._settings.url}' does not forget prefixes of older weights, because "
            "others ask it, too: give this run a server of its own"
        )

    def draw(
        self,
        model: AudioLMForConditionalGeneration,
        batch: Mapping[str, Tensor],
        samples: Sequence[Sample],
        clips: Sequence[int],
        seeds: Sequence[int],
    ) -> Rollouts:
        """A group of answers to each of P prompts, as ``lalm.training.objectives.rollouts.draw`` gives them,
        with the server's log-probabilities; seeds: one an answer."""
        group = self._grpo.group
        prompts = repeated(encoded(model, batch), clips, group)
        ends = answer_ends(
            self._processor.tokenizer, str(self._processor.chat_template), model.generation_config
        )
        ids = [
            row[mask.bool()].tolist()
            for row, mask in zip(prompts["input_ids"], prompts["attention_mask"], strict=True)
        ]
        chats = [sample.prompt().to_openai() for sample in samples]

        def one(place: int) -> tuple[list[int], list[float]]:
            name = samples[place // group].id or "a sample"
            return self._answer(chats[place // group], seeds[place], sorted(ends), ids[place], name)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(one, range(len(ids))))
        drawn = collected(self._processor, prompts, [answer for answer, _ in found], ends)
        log_probs = torch.tensor([value for _, own in found for value in own])
        return Rollouts(drawn.batch, drawn.texts, drawn.cut, log_probs)

    def _answer(
        self, chat: list[dict[str, Any]], seed: int, ends: Sequence[int], prompt: Sequence[int], name: str
    ) -> tuple[list[int], list[float]]:
        """Token ids of an answer with its end, and their log-probabilities."""
        asked = {
            "model": self.name,
            "messages": chat,
            "temperature": self._grpo.temperature,
            "top_p": 1.0,
            "top_k": 0,
            "max_tokens": self._grpo.max_new_tokens,
            "seed": seed % 2**31,
            "stop_token_ids": list(ends),
            "logprobs": True,
            "return_token_ids": True,
        }
        answer = self._asked("POST", f"{self._api}/chat/completions", asked).json()
        read = answer.get("prompt_token_ids")
        if read != list(prompt):
            count = f"{len(read)} other" if read else "no"
            raise RolloutError(
                f"grpo.rollouts: '{self._settings.url}' makes {count} tokens of the prompt of '{name}', which"
                f" has {len(prompt)} here: serve what `lalm export --to transformers` makes of the run's init"
            )
        (choice,) = answer["choices"]
        tokens = choice.get("token_ids") or []
        values = [float(entry["logprob"]) for entry in (choice.get("logprobs") or {}).get("content") or []]
        if not tokens or len(tokens) != len(values):
            raise RolloutError(
                f"grpo.rollouts: '{self._settings.url}' gives {len(tokens)} tokens and {len(values)} "
                f"log-probabilities for an answer to '{name}': {START}"
            )
        return [int(token) for token in tokens], values

    def _asked(self, method: str, url: str, body: dict[str, Any] | None = None) -> httpx.Response:
        send: Callable[..., httpx.Response] = self._client.request
        try:
            answer = send(method, url, json=body) if body is not None else send(method, url)
        except httpx.HTTPError as error:
            raise RolloutError(f"grpo.rollouts: {url}: {error or type(error).__name__}") from None
        if answer.status_code == 404:
            raise RolloutError(f"grpo.rollouts: there is no {url}: {START}")
        if answer.status_code != 200:
            said = " ".join(answer.text.split())[:300]
            raise RolloutError(f"grpo.rollouts: {url} refuses ({answer.status_code}): {said}")
        return answer
