"""How answers are generated: the options, named and meant as vLLM's, and why an answer ended."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

CLOSING = 24  # tokens that a tag which ends thinking takes at most, where it is spelled out
FinishReason: TypeAlias = Literal["stop", "length", "repetition"]


@dataclass(frozen=True)
class Options:
    """How to answer. Temperature 0 takes the likeliest token; above 0 answers are drawn, from ``seed``.

    Each answer has a generator of its own with that seed, so it is the same alone and in any batch.

    - ``max_new_tokens``: the longest answer, in tokens. ``beams``: width of the beam search; 1 is none.
    - ``top_k``, ``top_p``, ``min_p``: which tokens are drawn from: so many of the likeliest (0 or -1: all),
      those that make up so much of the probability, those at least ``min_p`` times as likely as the first.
    - ``repetition_penalty`` above 1 makes tokens that stand in prompt or answer less likely;
      ``no_repeat_ngram_size``: no so many tokens in a row come twice in the answer (0: they may).
    - ``stop``: texts that end an answer, and are not part of it.
    - ``min_tokens``: an answer does not end before it has so many.
    - ``thinking_tokens``: above 0, a model that thinks aloud (``<think>``) does so for so many tokens at most
      and then answers, with ``max_new_tokens`` for the answer alone (``lalm.inference.thinking``).
    - ``loop_guard`` ends an answer that says the same over and over (``lalm.inference.answer``).
    - ``lora_scale`` (None: as trained) turns LoRA up or down, see ``lalm.models.lora.set_lora_scale``.

    Raises ValueError that names the option and its bounds.
    """

    max_new_tokens: int = 128
    beams: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    lora_scale: float | None = None
    top_k: int = 0
    repetition_penalty: float = 1.0
    min_p: float = 0.0
    no_repeat_ngram_size: int = 0
    stop: tuple[str, ...] = ()
    min_tokens: int = 0
    loop_guard: bool = True
    thinking_tokens: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if self.beams < 1:
            raise ValueError(f"beams must be at least 1, not {self.beams}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or more, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.top_k < -1:
            raise ValueError(f"top_k must be 0 or -1 (all tokens), or more, not {self.top_k}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be from 0 to 1, not {self.min_p}")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(f"repetition_penalty must be above 0, not {self.repetition_penalty}")
        if self.no_repeat_ngram_size < 0:
            raise ValueError(f"no_repeat_ngram_size must be 0 (off) or more, not {self.no_repeat_ngram_size}")
        if not 0 <= self.min_tokens <= self.max_new_tokens:
            raise ValueError(
                f"min_tokens must be from 0 to max_new_tokens ({self.max_new_tokens}), not {self.min_tokens}"
            )
        if self.thinking_tokens < 0:
            raise ValueError(f"thinking_tokens must be 0 (no budget) or more, not {self.thinking_tokens}")
        if self.thinking_tokens and self.beams > 1:
            raise ValueError("thinking_tokens, a budget for thinking, goes with one beam")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be 0 or more and below 2^63, not {self.seed}")
        if self.lora_scale is not None and not 0 <= self.lora_scale < float("inf"):
            raise ValueError(f"lora_scale must be 0 or more, not {self.lora_scale}")
        object.__setattr__(self, "stop", stop_texts(self.stop))

    @property
    def most_tokens(self) -> int:
        """Tokens of thinking, of the tag that ends it, and of the answer."""
        return self.max_new_tokens + (self.thinking_tokens + CLOSING if self.thinking_tokens else 0)


def stop_texts(stop: str | Iterable[str]) -> tuple[str, ...]:
    """One text or several as a tuple. Raises ValueError for an empty one, which would end every answer."""
    texts = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(texts):
        raise ValueError("a stop text must not be empty")
    return texts
