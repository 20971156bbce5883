"""Options as transformers' ``generate`` takes them: settings, what is done to logits, and when rows end."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedTokenizerBase, StoppingCriteria

from lalm.inference.answer import Answer, repeats_itself
from lalm.inference.options import Options
from lalm.inference.thinking import TAIL, Thinking, ThinkingBudget
from lalm.models.sampling import RowDraws, RowRules, TokenRules, rules_anything


def settings_of(options: Options, ends: Collection[int], pad_token_id: int | None) -> GenerationConfig:
    """Everything that shapes an answer, so that nothing of the LLM's own defaults does."""
    sampled = options.temperature > 0 and options.beams > 1  # single answers: see ``processors_of``
    return GenerationConfig(
        max_new_tokens=options.most_tokens,
        num_beams=options.beams,
        do_sample=sampled,
        temperature=options.temperature if sampled else 1.0,
        top_p=options.top_p if sampled else 1.0,
        top_k=max(options.top_k, 0) if sampled else 50,  # transformers' own default, unused without sampling
        min_p=options.min_p if sampled else None,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=sorted(ends),
        pad_token_id=pad_token_id,
    )


def processors_of(
    prompts: Sequence[Tensor],
    vocabulary: int,
    ends: Collection[int],
    options: Options,
    progress: "Progress | None" = None,
) -> LogitsProcessorList:
    """What is done to the logits of a batch; ``prompts`` are the rows' ids (L,), without padding.
    ``progress`` follows the rows, and knows when the budget for their thinking is spent."""
    found = LogitsProcessorList()
    if rules_anything(options):
        found.append(RowRules([TokenRules(ids, vocabulary, ends, options) for ids in prompts]))
    if options.temperature > 0 and options.beams == 1:
        found.append(RowDraws(len(prompts), options.seed, options))
    if progress is not None and options.thinking_tokens:  # last: what must be said is said
        found.append(ThinkingBudget(progress.thinking_of(prompts)))
    return found


class Progress(StoppingCriteria):
    """Follows the answers of a batch token by token and ends each where it ends.

    ``hear`` gets the text of a single answer as it comes. Beams change places, so there only loops end them;
    ``answers`` are then those of the best beams, read at the end.
    """

    def __init__(
        self,
        num_rows: int,
        options: Options,
        ends: Collection[int],
        tokenizer: PreTrainedTokenizerBase,
        hear: Callable[[str], None] | None = None,
    ) -> None:
        text = tokenizer if options.stop or hear is not None else None  # decoding each token takes its time
        self.answers = [Answer(options, ends, text) for _ in range(num_rows)]
        self._options, self._hear = options, hear
        self._tokenizer = tokenizer

    def thinking_of(self, prompts: Sequence[Tensor]) -> list[Thinking]:
        """From now on the answers to these prompts, (L,) each, have a budget for their thinking."""
        budget = self._options.thinking_tokens
        found = [Thinking(self._tokenizer, budget, prompt[-TAIL:].tolist()) for prompt in prompts]
        for answer, own in zip(self.answers, found, strict=True):
            answer.thinking = own
        return found

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """input_ids: the new ids so far, (B * beams, new) -> which rows have ended, (B * beams,) bool."""
        if self._options.beams > 1:
            over = [self._loops(row) for row in input_ids.tolist()] if self._options.loop_guard else None
            return torch.tensor(over or [False] * len(input_ids), device=input_ids.device)
        for answer, token in zip(self.answers, input_ids[:, -1].tolist(), strict=True):
            if answer.reason is None:
                answer.add(token)
                if self._hear is not None and answer.fresh:
                    self._hear(answer.fresh)
        return torch.tensor([answer.reason is not None for answer in self.answers], device=input_ids.device)

    def _loops(self, tokens: list[int]) -> bool:
        return len(tokens) >= self._options.min_tokens and repeats_itself(tokens)

    def read(self, ids: Tensor) -> list[Answer]:
        """The answers; ids: (B, new) as ``generate`` returned them, the best beams if there were several."""
        if self._options.beams > 1:
            for answer, row in zip(self.answers, ids.tolist(), strict=True):
                for token in row:
                    if answer.reason is None:
                        answer.add(token)
        return self.answers
