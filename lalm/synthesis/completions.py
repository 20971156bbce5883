"""LLM completions of many chats: by a local model in large batches, or an OpenAI-compatible endpoint."""

import hashlib
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import httpx
import torch
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lalm.errors import LalmError
from lalm.models.answer_end import answer_ends
from lalm.models.chat_template import bare_template
from lalm.models.llm_body import RowMemory, Tail, body_of, new_memory, read
from lalm.models.sampling import draw
from lalm.models.user_text import MarkerTokens
from lalm.weights.llm import load_causal_lm, load_tokenizer

Chat: TypeAlias = Sequence[dict[str, Any]]

BARE_TOKENS = 20  # more than any template's markers around one letter; a system text takes more
LONGEST_PAUSE_S = 60.0
TOLD_S = 8.0  # a pause so long is told
NOBODY_TRIES = 4  # some 4 s; a server that starts is waited for by whoever starts it
_AGAIN = (408, 409, 425, 429)  # refusals that may pass; so may every 5xx
_OF_ONE = (400, 413, 415, 422)  # refusals of one request, which say nothing of the others
_MARKUP = re.compile(r"<[^<>\s]*>|\[/?[A-Z_]+\]")  # role markers that some tokenizers keep as plain text
_ROLES = {"system", "user", "assistant", "model", "human"}

log = logging.getLogger("lalm.endpoint")


@dataclass(frozen=True)
class Completion:
    """A reply; ``truncated`` when the token limit cut it off. ``tokens``: of the prompt and of the reply, as
    an endpoint counts them, where it does. ``log_prob``: mean of its tokens', where asked for."""

    text: str
    truncated: bool
    tokens: tuple[int, int] | None = None
    log_prob: float | None = None


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn; temperature 0 is greedy. Row seeds make a draw independent of its batch.

    ``log_probs``: tell the mean log-probability of each reply's tokens, at temperature 1.
    """

    temperature: float = 0.7
    top_p: float = 1.0
    max_new_tokens: int = 64
    seed: int = 0
    top_k: int = 0
    min_p: float = 0.0
    log_probs: bool = False


class Writer(Protocol):
    """Anything that answers chats; ``template`` says which chat template stood around them."""

    name: str
    template: str

    def complete(self, chats: Sequence[Chat], seeds: Sequence[int], sampling: Sampling) -> list[Completion]:
        """One reply a chat, in order."""


class CompletionError(LalmError, ValueError):
    """The LLM could not be reached or refused, or its chat template adds text of its own."""


class RefusedError(CompletionError):
    """One request that an endpoint refuses (too large, not understood) which has taken others."""


class LocalWriter:
    """A transformers causal LM with a bare chat template, sampling row by row in one batch.

    ``device`` is by default the first GPU, else the CPU. Uniform numbers are drawn on the CPU, from one
    generator a row, so a reply depends on its own seed; what the batch can still change is rounding.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | None = None,
    ) -> None:
        self.name = name
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = load_tokenizer(folder)
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.markers = MarkerTokens(self.tokenizer)
        self._jinja = bare_template(self.tokenizer)
        self.template = hashlib.sha256(self._jinja.encode()).hexdigest()[:16]
        self.model: Any = load_causal_lm(str(folder), dtype=dtype).eval().to(self.device)
        self._body, self._tail = body_of(self.model), Tail(self.model)
        self.ends = answer_ends(self.tokenizer, self._jinja, self.model.generation_config)

    def render(self, chat: Chat) -> str:
        """The prompt text of a chat. Raises CompletionError if it holds more than the chat and markers."""
        try:
            text = self.tokenizer.apply_chat_template(
                list(chat), chat_template=self._jinja, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise CompletionError(f"the chat template of '{self.name}' refuses the chat: {error}") from None
        if added := text_beside(str(text), chat, self.tokenizer):
            raise CompletionError(
                f"the chat template of '{self.name}' adds the text '{added[:60]}': give a system text "
                "of your own with --system, or a bare chat template"
            )
        return str(text)

    def prompt_ids(self, chat: Chat) -> list[int]:
        """The prompt's token ids; a role marker in a caption is text."""
        guard = self.markers.guard(turn["content"] for turn in chat)
        guarded = [{**turn, "content": self.markers.guarded(turn["content"], guard)} for turn in chat]
        return self.markers.encode(self.render(guarded), guard)[0]

    @torch.inference_mode()
    def complete(self, chats: Sequence[Chat], seeds: Sequence[int], sampling: Sampling) -> list[Completion]:
        """One reply a chat, in order."""
        prompts = [{"input_ids": self.prompt_ids(chat)} for chat in chats]
        batch = self.tokenizer.pad(prompts, return_tensors="pt")
        ids, mask = batch["input_ids"].to(self.device), batch["attention_mask"].to(self.device)  # (B, L)
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        replies: list[list[int]] = [[] for _ in chats]
        sums = [0.0] * len(chats)
        rows = list(range(len(chats)))  # which chat each batch row is
        cache = new_memory(self._body, len(chats))
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        for _ in range(sampling.max_new_tokens):
            embedded = self._body.get_input_embeddings()(ids) if isinstance(cache, RowMemory) else None
            hidden = read(
                self._body,
                inputs_embeds=embedded,
                input_ids=ids if embedded is None else None,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            # A contiguous row per chat: on a CPU in bfloat16 the head is far slower on a slice.
            logits = self._tail.logits(
                hidden[:, -1].contiguous(), self.model.get_output_embeddings()
            )  # (B, V)
            tokens = draw(logits, [draws[row] for row in rows], sampling)
            if sampling.log_probs:
                chances = logits.float().log_softmax(1).gather(1, tokens[:, None].to(logits.device))
                for row, chance in zip(rows, chances[:, 0].tolist(), strict=True):
                    sums[row] += chance
            going = []
            for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
                replies[row].append(token)
                if token not in self.ends:
                    going.append(place)
            if not going:
                break
            if len(going) < 0.9 * len(rows):  # drop the finished rows from the batch
                keep = torch.tensor(going, device=self.device)
                cache.batch_select_indices(keep)
                tokens, mask, positions = tokens[keep], mask[keep], positions[keep]
                rows = [rows[place] for place in going]
            ids = tokens[:, None]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
            positions = positions[:, -1:] + 1
        return [
            self._completion(reply, total / len(reply) if sampling.log_probs else None)
            for reply, total in zip(replies, sums, strict=True)
        ]

    def _completion(self, reply: list[int], log_prob: float | None) -> Completion:
        end = next((i for i, token in enumerate(reply) if token in self.ends), None)
        text = self.tokenizer.decode(reply[:end], skip_special_tokens=True).strip()
        return Completion(text, truncated=end is None, log_prob=log_prob)


def text_beside(rendered: str, chat: Chat, tokenizer: PreTrainedTokenizerBase) -> str:
    """What a rendered chat holds besides its turns, special tokens and role names; empty when bare."""
    for turn in chat:
        content = turn["content"].strip()
        if content not in rendered:
            return f"(not the {turn['role']} turn)"
        rendered = rendered.replace(content, " ", 1)
    for token in sorted({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}, key=len, reverse=True):
        rendered = rendered.replace(token, " ")
    left = _MARKUP.sub(" ", rendered).split()
    return " ".join(left) if any(word.strip(":#").lower() not in {*_ROLES, ""} for word in left) else ""


@dataclass
class EndpointWriter:
    """An OpenAI-compatible ``/v1/chat/completions``: concurrent, with retries and growing pauses.

    The endpoint applies its own chat template. Before the first chat without a system turn, one letter is
    sent; if the prompt counted in the reply is longer than markers can make it, the template adds a system
    text and the run is refused, unless ``bare`` is False. ``requests_per_s`` limits how quickly requests
    start (None: no limit). A request is tried ``tries`` times; once the endpoint has answered at all,
    ``patient_tries`` times if that is more, since its address is then known to be right. Where nothing
    ever answered and nobody listens, ``NOBODY_TRIES`` are enough.
    """

    url: str
    name: str
    api_key: str = field(default="", repr=False)
    concurrency: int = 32
    tries: int = 8
    patient_tries: int = 0
    pause_s: float = 0.5
    timeout_s: float = 120.0
    requests_per_s: float | None = None
    bare: bool = True
    template: str = "the endpoint's"

    def __post_init__(self) -> None:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        limits = httpx.Limits(max_connections=self.concurrency)
        self._client = httpx.Client(headers=headers, timeout=self.timeout_s, limits=limits)
        self._lock = threading.Lock()
        self._next_start = 0.0  # time.monotonic() before which no request starts
        self._told_until = 0.0  # time.monotonic() until which it is known that it does not answer
        self._probed = self._answered = False

    def complete(
        self,
        chats: Sequence[Chat],
        seeds: Sequence[int],
        sampling: Sampling,
        arrived: Callable[[int, Completion], None] | None = None,
        refused: Callable[[int, CompletionError], None] | None = None,
    ) -> list[Completion]:
        """One reply a chat, in order. Raises CompletionError when the endpoint keeps failing.

        ``arrived`` gets each chat's number and reply as soon as it is there, one at a time; also those that
        arrive after another request has failed. With ``refused``, which gets their numbers and errors, single
        requests that an endpoint refuses after it has taken others end nothing, and have no reply.
        """
        if self.bare and not self._probed and chats and chats[0][0]["role"] != "system":
            self._probe()
            self._probed = True
        stopped = threading.Event()  # after a failure the waiting ones would fail alike, slowly
        replies: dict[int, Completion] = {}
        failed: CompletionError | None = None

        def one(number: int) -> Completion | None:
            return None if stopped.is_set() else self._one(chats[number], seeds[number], sampling)

        with ThreadPoolExecutor(self.concurrency) as pool:
            jobs = {pool.submit(one, number): number for number in range(len(chats))}
            try:
                for job in as_completed(jobs):
                    try:
                        reply = job.result()
                    except CompletionError as error:
                        if refused and isinstance(error, RefusedError):
                            refused(jobs[job], error)
                            continue
                        failed = failed or error
                        stopped.set()
                        continue
                    if reply is not None:
                        replies[jobs[job]] = reply
                        if arrived:
                            arrived(jobs[job], reply)
            except BaseException:
                stopped.set()
                raise
        if failed:
            raise failed
        return [replies[number] for number in range(len(chats)) if number in replies]

    def _probe(self) -> None:
        answer = self._ask([{"role": "user", "content": "a"}], 0, Sampling(max_new_tokens=1))
        usage = answer.get("usage")
        tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        if isinstance(tokens, int) and tokens > BARE_TOKENS:
            raise CompletionError(
                f"{self.url} makes {tokens} tokens of a prompt of one letter, so its chat template adds "
                "text: serve it with a bare chat template, or give a system text of your own with --system"
            )

    def _one(self, chat: Chat, seed: int, sampling: Sampling) -> Completion:
        answer = self._ask(chat, seed, sampling)
        choice, usage = answer["choices"][0], answer.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        counts = [usage.get(f"{kind}_tokens") for kind in ("prompt", "completion")]
        known = [count for count in counts if isinstance(count, int)]
        tokens = (known[0], known[1]) if len(known) == 2 else None
        text = (choice["message"]["content"] or "").strip()
        log_prob = _mean_log_prob(choice) if sampling.log_probs else None
        return Completion(text, choice["finish_reason"] == "length", tokens, log_prob)

    def _ask(self, chat: Chat, seed: int, sampling: Sampling) -> dict[str, Any]:
        """The endpoint's answer: an object with at least one choice that has a message."""
        body = {
            "model": self.name,
            "messages": list(chat),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "seed": seed % 2**31,  # what every server accepts
            **({"logprobs": True} if sampling.log_probs else {}),
        }
        reason, pause_s, number = "", 0.0, 0
        while number < max(self.tries, self.patient_tries if self._answered else 0):
            self._tell(pause_s, reason)
            self._wait(pause_s)
            pause_s = min(self.pause_s * 2**number, LONGEST_PAUSE_S)
            number += 1
            try:
                answer = self._client.post(f"{self.url.rstrip('/')}/chat/completions", json=body)
            except httpx.HTTPError as error:
                reason = str(error) or type(error).__name__
                if isinstance(error, httpx.ConnectError) and not self._answered and number >= NOBODY_TRIES:
                    break
                continue
            if answer.status_code == 200:
                if (found := _checked(answer)) is not None:
                    self._answered = True
                    return found
                reason = "the answer is not a chat completion"
                continue
            reason = f"HTTP {answer.status_code}: {' '.join(answer.text[:200].split())}"
            if answer.status_code in _OF_ONE and self._answered:
                raise RefusedError(f"{self.url} refuses the request: {reason}")
            if answer.status_code not in _AGAIN and answer.status_code < 500:
                break
            asked = answer.headers.get("Retry-After", "")
            if asked.isdigit():  # it may also be a date, which the growing pause serves as well
                pause_s = min(max(pause_s, float(asked)), LONGEST_PAUSE_S)
        hint = f"{number} tries" if self._answered else "is the address right?"
        raise CompletionError(f"{self.url} does not answer: {reason} ({hint})")

    def _tell(self, pause_s: float, reason: str) -> None:
        """Say of a long pause, once for all requests that wait, that and why it is waited."""
        with self._lock:
            known = time.monotonic() < self._told_until
            if pause_s < TOLD_S or known:
                return
            self._told_until = time.monotonic() + pause_s
        log.warning("%s does not answer (%s): it is asked again in %.0f s", self.url, reason, pause_s)

    def _wait(self, pause_s: float) -> None:
        """Sleep ``pause_s``, then until it is this request's turn under the rate limit."""
        time.sleep(pause_s)
        if self.requests_per_s is None:
            return
        with self._lock:
            start = max(time.monotonic(), self._next_start)
            self._next_start = start + 1 / self.requests_per_s
        time.sleep(max(0.0, start - time.monotonic()))


def _mean_log_prob(choice: dict[str, Any]) -> float:
    """Of the tokens of a choice. Raises CompletionError where the endpoint told none."""
    try:
        found = [float(token["logprob"]) for token in choice["logprobs"]["content"]]
        return sum(found) / len(found)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise CompletionError(
            "the endpoint tells no log-probabilities: choose by 'mentions' or 'judge'"
        ) from None


def _checked(answer: httpx.Response) -> dict[str, Any] | None:
    """The JSON of a chat completion, or None if it is anything else."""
    try:
        found = answer.json()
        choice = found["choices"][0]
        shaped = isinstance(choice["message"]["content"], str | None) and "finish_reason" in choice
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    return found if shaped else None
