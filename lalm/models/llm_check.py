"""Whether an LLM can be taken apart as ours are: its embeddings, body and head give what it gives whole."""

from typing import Any

import torch

from lalm.models.llm_body import UnfitLLMError, body_of, new_memory, read, takes

NUM_TOKENS = 6
DEVIATION = 0.02  # of the largest logit: what bfloat16 may round
LONGEST_REASON = 160  # characters of another program's error


def text_config_of(llm: Any) -> Any:
    """The config of a causal LM's text part, which says whether its head is its table of embeddings."""
    config = body_of(llm).config
    head, table = llm.get_output_embeddings(), llm.get_input_embeddings()
    config.tie_word_embeddings = head is not None and head.weight is table.weight
    return config


@torch.no_grad()
def check_same_logits(model: Any, llm: Any, name: str) -> None:
    """Raise UnfitLLMError unless ``model``, assembled with ``llm`` (called ``name``), gives its logits.

    Both read a handful of tokens, and the body reads fewer of them once more, which must change nothing. It
    also reads embeddings that are no token's, as sounds are. What a multimodal model's class leaves out of
    its text part's, a scale of the logits (Granite Speech, Aya Vision), is no difference.
    """
    body = model.model.language_model.eval()
    kind = body.config.model_type
    if model._tail is not None and model._tail.is_more_than(model.lm_head):
        raise UnfitLLMError(
            f"the LLM '{name}' ({kind}) has more than one linear layer between its body and its logits, and "
            "only a linear head can be taken: take another LLM"
        )
    if "inputs_embeds" not in takes(body):
        raise UnfitLLMError(f"the LLM '{name}' ({kind}) takes tokens alone, and sounds are none")
    device = model.lm_head.weight.device
    ids = (torch.arange(1, NUM_TOKENS + 1, device=device) * 7 % model.config.text_config.vocab_size)[None]
    embeds = model.get_input_embeddings()(ids)
    try:
        ours = model.logits(read(body, inputs_embeds=embeds, use_cache=False).last_hidden_state)
        whole = llm.eval()(input_ids=ids, use_cache=False).logits.float()
        fewer = read(body, inputs_embeds=embeds[:, :-2], past_key_values=new_memory(body), use_cache=True)
        read(body, inputs_embeds=(embeds + embeds.roll(1, 1)) / 2, use_cache=False)
    except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError, LookupError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0][:LONGEST_REASON]
        raise UnfitLLMError(
            f"the LLM '{name}' ({kind}) does not read embeddings by themselves: {why}"
        ) from None
    if type(llm.config) is not type(body.config):
        factor = (ours * whole).sum() / (whole * whole).sum()
        whole = whole * factor if factor > 0 else whole
    largest = whole.abs().max()
    if (ours - whole).abs().max() > DEVIATION * largest:
        raise UnfitLLMError(
            f"the LLM '{name}' ({kind}) gives other logits from its embeddings than from its tokens: it "
            "reads something of the tokens beside their embeddings, which sounds do not have"
        )
    if (model.logits(fewer.last_hidden_state) - ours[:, :-2]).abs().max() > DEVIATION * largest:
        raise UnfitLLMError(
            f"the LLM '{name}' ({kind}) sees tokens that come later, so it cannot go on with a text: take a "
            "decoder-only LLM"
        )
