"""Decoding by lalm's own loop: the ids of transformers' ``generate``, for many families."""

import pytest
import torch
from tiny_llms import ROWS, config_of
from tiny_parts import byte_tokenizer
from transformers import AutoModelForCausalLM, StoppingCriteriaList

from lalm.data.sample import ask
from lalm.inference.engine import Engine
from lalm.inference.generation import Progress, processors_of, settings_of
from lalm.inference.options import Options
from lalm.models import llm_body, modeling, next_position
from lalm.models.alone import TOLERANCE
from lalm.models.assemble import build_model
from lalm.models.decode_loop import generate_because
from lalm.models.int8 import Int8Linear, make_int8
from lalm.models.load import load_model
from lalm.models.lora import add_lora, set_lora_scale
from lalm.models.next_position import NextPosition
from lalm.models.packed_half import PackedLinear, pack_half, packs_half
from lalm.models.save import save_model

OWN = {  # families that the short step reads, and what is special about each
    "llama": {"attention_bias": True, "num_key_value_heads": 4},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "smollm3": {"no_rope_layers": [1, 0]},
}
GENERAL = {"gpt2": {}, "bloom": {}, "gemma": {}, "phi3": {"sliding_window": None}}
OPTIONS = (
    Options(max_new_tokens=20, loop_guard=False),
    Options(max_new_tokens=20, temperature=0.9, top_p=0.9, seed=7, loop_guard=False),
    Options(max_new_tokens=20, repetition_penalty=1.3, no_repeat_ngram_size=3, min_tokens=4),
)


def model_of(kind, fields, folders, tmp_path):
    torch.manual_seed(1)
    tokenizer = byte_tokenizer()
    llm = AutoModelForCausalLM.from_config(config_of(kind, **({"vocab_size": len(tokenizer) - 1} | fields)))
    with torch.no_grad():
        for weight in llm.parameters():
            weight.normal_(float(weight.ndim == 1), 0.2)
    llm.generation_config.eos_token_id = tokenizer.eos_token_id
    llm.save_pretrained(tmp_path / kind)
    tokenizer.save_pretrained(tmp_path / kind)
    return build_model("acdc", encoder=str(folders[0]), llm=str(tmp_path / kind))


def both_ways(engine, rows, options, monkeypatch):
    """The ids of lalm's loop and of transformers' ``generate``."""
    batch = dict(engine.processor.batch(rows))
    lengths = batch["attention_mask"].sum(1).tolist()
    prompts = [ids[-n:] for ids, n in zip(batch["input_ids"], lengths, strict=True)]
    vocabulary, tokenizer = engine.model.config.text_config.vocab_size, engine.processor.tokenizer
    found, looped = [], modeling.decode
    for own in (True, False):
        calls = []
        monkeypatch.setattr(
            modeling, "decode", lambda *a, calls=calls, **k: calls.append(1) or looped(*a, **k)
        )
        with monkeypatch.context() as patch:
            if not own:
                patch.setattr(modeling, "generate_because", lambda body, options: "asked")
            ids = engine.model.generate(
                **batch,
                generation_config=settings_of(options, engine.ends(), tokenizer.pad_token_id),
                logits_processor=processors_of(prompts, vocabulary, engine.ends(), options),
                stopping_criteria=StoppingCriteriaList(
                    [Progress(len(rows), options, engine.ends(), tokenizer)]
                ),
            )
        assert len(calls) == own
        found.append(ids)
    return found


@pytest.mark.parametrize("kind", [*OWN, *GENERAL])
def test_ids_are_those_of_generate(kind, tiny_folders, tmp_path, monkeypatch):
    model, processor = model_of(kind, (OWN | GENERAL)[kind], tiny_folders, tmp_path)
    engine = Engine(model, processor, kind)
    assert bool(NextPosition(model.model.language_model).general) == (kind in GENERAL)
    for options in OPTIONS:
        for rows in (ROWS, ROWS[:1]):
            own, theirs = both_ways(engine, rows, options, monkeypatch)
            assert torch.equal(own, theirs), (options, own, theirs)
            assert own.shape[1] > 3
            assert not options.temperature or len(own.unique()) > 5  # some say the same over and over


def test_rows_that_have_ended_are_no_longer_read(tiny_folders, tmp_path, monkeypatch):
    model, processor = model_of("qwen2", {}, tiny_folders, tmp_path)
    engine, read, sizes = Engine(model, processor, "tiny"), NextPosition.__call__, []
    rows = [ask([], "?" * (1 + 9 * i)) for i in range(6)]
    draws = Options(max_new_tokens=40, temperature=1.5, seed=1, loop_guard=False, stop=("a", "e", "q", "7"))
    monkeypatch.setattr(
        NextPosition, "__call__", lambda self, embeds, *a: sizes.append(len(embeds)) or read(self, embeds, *a)
    )
    own, theirs = both_ways(engine, rows, draws, monkeypatch)
    assert torch.equal(own, theirs)
    assert sizes[0] == 6 and sizes[-1] <= 3 and sizes == sorted(sizes, reverse=True)


def test_lora_and_int8_layers_are_read_as_they_are(tiny_folders, tmp_path, monkeypatch):
    model, processor = model_of("qwen2", {}, tiny_folders, tmp_path)
    plain, _ = both_ways(Engine(model, processor, "plain"), ROWS, OPTIONS[0], monkeypatch)
    add_lora(model, {"rank": 2, "alpha": 4, "targets": ["q_proj", "down_proj"]})
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    engine = Engine(model, processor, "LoRA")
    own, theirs = both_ways(engine, ROWS, OPTIONS[0], monkeypatch)
    assert torch.equal(own, theirs) and not torch.equal(own, plain)
    make_int8(model)
    gate = model.model.language_model.layers[0].mlp.gate_proj
    assert isinstance(gate, Int8Linear) and gate.product.sharing == 2
    for rows in (ROWS, ROWS[:1]):
        own, theirs = both_ways(engine, rows, OPTIONS[0], monkeypatch)
        assert torch.equal(own, theirs)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_lora_scale_is_read_as_it_is_now(kind, tiny_folders, tmp_path, monkeypatch):
    model, processor = model_of(kind, OWN[kind], tiny_folders, tmp_path)
    engine = Engine(model, processor, kind)
    plain, _ = both_ways(engine, ROWS[:1], OPTIONS[0], monkeypatch)
    add_lora(model, {"rank": 2, "alpha": 4, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]})
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    said = []
    for scale in (None, 0.0, 6.0):
        set_lora_scale(model, scale)
        own, theirs = both_ways(engine, ROWS[:1], OPTIONS[0], monkeypatch)
        assert torch.equal(own, theirs)
        said.append(own)
    assert torch.equal(said[1], plain)
    assert not torch.equal(said[0], plain) and not torch.equal(said[2], said[0])


def test_who_goes_through_generate_is_said(tiny_folders, tmp_path):
    model, processor = model_of("mistral", {"sliding_window": 16}, tiny_folders, tmp_path)
    body = model.model.language_model
    told = {"logits_processor": None, "stopping_criteria": None}
    one = told | {"generation_config": settings_of(OPTIONS[0], {1}, 0)}
    assert generate_because(body, one) == "the LLM does not keep every position's keys and values"
    assert (
        generate_because(body, one | {"generation_config": settings_of(Options(beams=4), {1}, 0)}) == "beams"
    )
    assert generate_because(body, {"max_new_tokens": 3}) == "options of transformers' own"
    replies = Engine(model, processor, "windows").reply(ROWS, OPTIONS[0])
    assert all(reply.num_tokens > 3 for reply in replies)


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize(("dtype", "packed"), [(torch.bfloat16, 0), (torch.bfloat16, 1), (torch.float16, 0)])
def test_in_half_precision_a_row_has_the_same_bits_beside_others(
    kind, dtype, packed, tiny_folders, tmp_path, monkeypatch
):
    model, processor = model_of(kind, OWN[kind], tiny_folders, tmp_path)
    model.model.language_model.to(dtype)
    model.lm_head.to(dtype)
    add_lora(model, {"rank": 2, "alpha": 4, "targets": ["q_proj", "down_proj"]})
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    if packed:
        plain = model.lm_head
        pack_half(model)
        if packs_half(plain.weight):
            hidden = torch.randn(8, 32).to(dtype)
            torch.testing.assert_close(model.lm_head(hidden), plain(hidden))
            assert isinstance(model.lm_head, PackedLinear)
    engine, seen, logits = Engine(model, processor, kind), [], model.logits
    rounding = [0.0]  # of a processor whose products round by the number of rows, as not every one's do
    steps = Options(max_new_tokens=8, min_tokens=8, loop_guard=False)

    def observed(hidden):
        seen.append(logits(hidden) * (1 + rounding[0] * len(hidden)))
        return seen[-1]

    monkeypatch.setattr(model, "logits", observed)

    def read(rows):
        """The logits of each step, (B, V)."""
        seen.clear()
        engine.reply(rows, steps)
        each = len(seen) // steps.max_new_tokens
        return [torch.cat(seen[i : i + each])[: len(rows)] for i in range(0, len(seen), each)]

    def alike(rows):
        together = read(rows)
        assert len(together) == steps.max_new_tokens
        return [
            torch.equal(beside[number], own[0])
            for number, row in enumerate(rows)
            for beside, own in zip(together, read([row]), strict=True)
        ]

    many = [ask([], "?" * (90 - 8 * i)) for i in range(11)]  # longest first, as the engine sorts them
    assert all(alike(many))
    rounding[0] = 0.02
    assert all(alike(many))
    monkeypatch.setattr(next_position, "_is_half_on_cpu", lambda weight: False)  # products of other shapes
    monkeypatch.setitem(TOLERANCE, dtype, 0.0)
    assert not all(alike(many))


def test_a_long_prompt_is_read_in_pieces(tiny_folders, tmp_path, monkeypatch):
    model, processor = model_of("qwen2", {}, tiny_folders, tmp_path)
    engine, body = Engine(model, processor, "tiny"), model.model.language_model
    whole = [reply.text for reply in engine.reply(ROWS, OPTIONS[0])]
    sizes, forward = [], body.forward
    monkeypatch.setattr(
        body, "forward", lambda *a, **k: sizes.append(k["inputs_embeds"].shape[1]) or forward(*a, **k)
    )
    monkeypatch.setattr(llm_body, "AT_ONCE", 7)
    assert [reply.text for reply in engine.reply(ROWS, OPTIONS[0])] == whole
    assert max(sizes) == 7 and len(set(whole)) > 1
    embeds, mask = torch.randn(2, 30, 32), torch.ones(2, 30, dtype=torch.long)
    mask[0, :16] = 0  # two pieces of nothing but padding
    given = {"inputs_embeds": embeds, "attention_mask": mask, "use_cache": True}
    with torch.no_grad():
        pieces = llm_body.read(body, **given)
        monkeypatch.setattr(llm_body, "AT_ONCE", 100)
        once = llm_body.read(body, **given)
    for row, first in ((0, 16), (1, 0)):
        torch.testing.assert_close(pieces.last_hidden_state[row, first:], once.last_hidden_state[row, first:])
    assert pieces.past_key_values.get_seq_length() == 30


def test_an_opened_model_is_packed_before_its_first_answer(tiny_folders, tmp_path):
    save_model(*model_of("qwen2", {}, tiny_folders, tmp_path), tmp_path / "saved", slim=True)
    model, processor = load_model(tmp_path / "saved", dtype=torch.bfloat16)
    packs = packs_half(model.lm_head.weight)
    given = Engine(model, processor, "given")
    opened = Engine.load(str(tmp_path / "saved"), "cpu", torch.bfloat16)
    assert not isinstance(opened.model.lm_head, PackedLinear)
    for engine in (given, opened):
        assert all(reply.num_tokens > 3 for reply in engine.reply(ROWS, OPTIONS[0]))
    assert isinstance(opened.model.lm_head, PackedLinear) == packs
    assert not isinstance(given.model.lm_head, PackedLinear)
