"""Text replies of an LLM to many chats: a local model in large batches, or an OpenAI-compatible endpoint."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import httpx
import torch
from torch import Tensor
from transformers import DynamicCache

from lalm.modeling import load_causal_lm
from lalm.processing import bare_template
from lalm.systems import load_tokenizer

Chat: TypeAlias = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Completion:
    """A reply; ``truncated`` when the token limit cut it off."""

    text: str
    truncated: bool


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn; temperature 0 is greedy. Row seeds make a draw independent of its batch."""

    temperature: float = 0.7
    top_p: float = 1.0
    max_new_tokens: int = 64
    seed: int = 0


class Writer(Protocol):
    """Anything that answers chats."""

    name: str

    def complete(self, chats: Sequence[Chat], seeds: Sequence[int], sampling: Sampling) -> list[Completion]:
        """One reply a chat, in order."""


class CompletionError(ValueError):
    """The LLM could not be reached or refused."""


class LocalWriter:
    """A transformers causal LM with a bare chat template, sampling row by row in one batch."""

    def __init__(self, folder: Path, name: str, dtype: torch.dtype = torch.bfloat16) -> None:
        self.name = name
        self.tokenizer = load_tokenizer(folder)
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.template = bare_template(self.tokenizer)
        self.model = load_causal_lm(str(folder), dtype=dtype).eval()
        ends = self.model.generation_config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [ends]) | {self.tokenizer.eos_token_id}

    def render(self, chat: Chat) -> str:
        """The prompt text of a chat."""
        return str(
            self.tokenizer.apply_chat_template(
                list(chat), chat_template=self.template, tokenize=False, add_generation_prompt=True
            )
        )

    @torch.inference_mode()
    def complete(self, chats: Sequence[Chat], seeds: Sequence[int], sampling: Sampling) -> list[Completion]:
        """One reply a chat, in order."""
        texts = [self.render(chat) for chat in chats]
        batch = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        replies: list[list[int]] = [[] for _ in chats]
        rows = list(range(len(chats)))  # which chat each batch row is
        cache = DynamicCache(config=self.model.config)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        for _ in range(sampling.max_new_tokens):
            hidden = self.model.get_decoder()(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            # A contiguous row per chat: on a CPU in bfloat16 the head is far slower on a slice.
            logits = self.model.get_output_embeddings()(hidden[:, -1].contiguous()).float()  # (B, V)
            tokens = _draw(logits, [draws[row] for row in rows], sampling)
            going = []
            for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
                replies[row].append(token)
                if token not in self.ends:
                    going.append(place)
            if not going:
                break
            if len(going) < 0.8 * len(rows):  # drop the finished rows from the batch
                keep = torch.tensor(going)
                cache.batch_select_indices(keep)
                tokens, mask, positions = tokens[keep], mask[keep], positions[keep]
                rows = [rows[place] for place in going]
            ids = tokens[:, None]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
            positions = positions[:, -1:] + 1
        return [self._completion(reply) for reply in replies]

    def _completion(self, reply: list[int]) -> Completion:
        end = next((i for i, token in enumerate(reply) if token in self.ends), None)
        text = self.tokenizer.decode(reply[:end], skip_special_tokens=True).strip()
        return Completion(text, truncated=end is None)


def _draw(logits: Tensor, draws: Sequence[torch.Generator], sampling: Sampling) -> Tensor:
    """One token a row, (B,) int64, by inverse transform with each row's own generator."""
    if sampling.temperature <= 0:
        return logits.argmax(1)
    probabilities = (logits / sampling.temperature).softmax(1)
    uniform = torch.stack([torch.rand(1, generator=draw) for draw in draws])  # (B, 1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=1, descending=True)
        cumulative = ordered.cumsum(1)
        ordered = ordered.masked_fill(cumulative - ordered > sampling.top_p, 0.0)
        chosen = _inverse(ordered, uniform)
        return order.gather(1, chosen)[:, 0]
    return _inverse(probabilities, uniform)[:, 0]


def _inverse(probabilities: Tensor, uniform: Tensor) -> Tensor:
    cumulative = probabilities.cumsum(1)
    target = uniform * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).clamp(max=probabilities.shape[1] - 1)


@dataclass
class EndpointWriter:
    """An OpenAI-compatible ``/v1/chat/completions``: concurrent, with retries and growing pauses."""

    url: str
    name: str
    api_key: str = ""
    concurrency: int = 8
    tries: int = 6
    pause_s: float = 0.5
    timeout_s: float = 120.0
    _client: httpx.Client = field(init=False, repr=False)

    def __post_init__(self) -> None:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        self._client = httpx.Client(headers=headers, timeout=self.timeout_s)

    def complete(self, chats: Sequence[Chat], seeds: Sequence[int], sampling: Sampling) -> list[Completion]:
        """One reply a chat, in order. Raises CompletionError when the endpoint keeps failing."""
        pairs = zip(chats, seeds, strict=True)
        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(lambda pair: self._one(pair[0], pair[1], sampling), pairs))

    def _one(self, chat: Chat, seed: int, sampling: Sampling) -> Completion:
        body = {
            "model": self.name,
            "messages": list(chat),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "seed": seed,
        }
        reason = ""
        for pause in self._pauses():
            time.sleep(pause)
            try:
                answer = self._client.post(f"{self.url.rstrip('/')}/chat/completions", json=body)
            except httpx.HTTPError as error:
                reason = str(error) or type(error).__name__
                continue
            if answer.status_code == 200:
                try:
                    choice = answer.json()["choices"][0]
                    return Completion(
                        choice["message"]["content"].strip(), choice["finish_reason"] == "length"
                    )
                except (ValueError, KeyError, IndexError, TypeError, AttributeError):
                    reason = "the answer is not a chat completion"
                    continue
            reason = f"HTTP {answer.status_code}: {answer.text[:200]}"
            if answer.status_code not in (408, 409, 429) and answer.status_code < 500:
                break
        raise CompletionError(f"{self.url} does not answer: {reason}")

    def _pauses(self) -> Iterator[float]:
        yield 0.0
        for number in range(self.tries - 1):
            yield self.pause_s * 2**number
