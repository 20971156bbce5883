"""How an answer ends: read off the chat template, for everything that learns, makes or writes answers.

A chat template puts a token after an answer ("<|im_end|>", "</s>"). It is the last thing the LLM learns of
an answer, so generation must stop there too, whatever the LLM itself stopped at before: a base LLM knows
only its own end of text and would never stop. ``settle_ends`` writes both into the model's generation
config, which is what the engine, the server, validation and every export go by.
"""

from typing import Any

import numpy as np
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lalm.audio.load import SAMPLE_RATE
from lalm.data.sample import ask
from lalm.errors import LalmError
from lalm.models.modeling import IGNORE_INDEX, AudioLMForConditionalGeneration
from lalm.models.processing import AudioLMProcessor

QUESTION = "What do you hear?"
ANSWER = "Someone knocks twice."


class AnswerEndError(LalmError, ValueError):
    """A chat template that ends no answer; the text says what it writes."""


def written_end(tokenizer: PreTrainedTokenizerBase, template: str) -> int:
    """The token that ``template`` puts after an answer. Raises AnswerEndError when there is none."""
    said: Any = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    try:
        text = str(tokenizer.apply_chat_template(said, chat_template=template, tokenize=False))
    except TemplateError as error:
        raise AnswerEndError(f"the chat template refuses a question and its answer: {error}") from None
    _, answer, rest = text.rpartition(ANSWER)
    if not answer:
        raise AnswerEndError(f"the chat template leaves out the answer: it writes '{text[-60:]}'")
    single = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for token in tokenizer(rest, add_special_tokens=False)["input_ids"]:
        if token in single:
            return int(token)
        if str(tokenizer.decode([token])).strip():
            break
    shown = rest.strip() or "nothing"
    raise AnswerEndError(
        f"the chat template writes {shown} after an answer, which is no single token of the tokenizer: "
        "answers that are learned so never stop. Use a template that ends them with a special token"
    )


def llm_ends(tokenizer: PreTrainedTokenizerBase, generation_config: Any) -> set[int]:
    """The tokens at which the LLM stops by itself."""
    listed = generation_config.eos_token_id
    ends = listed if isinstance(listed, list) else [listed]
    return {int(token) for token in (*ends, tokenizer.eos_token_id) if token is not None}


def answer_ends(tokenizer: PreTrainedTokenizerBase, template: str, generation_config: Any) -> set[int]:
    """Every token that ends an answer: the template's and the LLM's own.

    A template without an end leaves the LLM's; training and ``lalm doctor`` say what is wrong with it.
    """
    ends = llm_ends(tokenizer, generation_config)
    try:
        return ends | {written_end(tokenizer, template)}
    except AnswerEndError:
        return ends


def settle_ends(model: AudioLMForConditionalGeneration, processor: AudioLMProcessor) -> None:
    """Note the ends of answers in the model's generation config, for whoever generates with it."""
    ends = answer_ends(processor.tokenizer, str(processor.chat_template), model.generation_config)
    model.generation_config.eos_token_id = sorted(ends)
    try:
        model.generation_config.validate(strict=True)
    except ValueError:  # as Vicuna's, a temperature without sampling: transformers would refuse to save it
        model.generation_config.do_sample = True
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = processor.tokenizer.pad_token_id


def check_learned(processor: AudioLMProcessor) -> int:
    """Put a question about a second of silence as it is asked and as it is learned; the learned tokens.

    Raises AnswerEndError unless the prompt begins the training text, and what is learned is the answer and
    an end of it.
    """
    asked = ask([np.zeros(SAMPLE_RATE, np.float32)], QUESTION)
    prompt = processor.batch([asked])["input_ids"][0].tolist()
    learned = processor.batch([asked.with_target(ANSWER)], labels=True)
    whole, labels = learned["input_ids"][0].tolist(), learned["labels"][0]
    if whole[: len(prompt)] != prompt:
        raise AnswerEndError("a prompt is not how the same training example begins")
    targets = labels[labels != IGNORE_INDEX].tolist()
    said = processor.tokenizer.decode(targets, skip_special_tokens=True).strip()
    if said != ANSWER:
        raise AnswerEndError(f"the labels of '{ANSWER}' read '{said}'")
    if written_end(processor.tokenizer, str(processor.chat_template)) not in targets:
        raise AnswerEndError("training teaches no end of the answer: its token is none of the labels")
    return len(targets)
