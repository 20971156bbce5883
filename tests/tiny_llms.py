"""Random LLMs of many families, a few ten thousand weights each, and what is tried with every one of them."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_parts import byte_tokenizer
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText

from lalm.cli.export import complete
from lalm.data.sample import Sample
from lalm.inference.engine import Engine
from lalm.inference.options import Options
from lalm.models.assemble import build_model
from lalm.models.load import load_model
from lalm.models.lora import add_lora, merge_lora
from lalm.models.save import save_model

SIZES = {  # what configs call them, of those that they have
    **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "head_dim": 8, "d_model": 32, "n_embd": 32, "n_layer": 2, "n_head": 4},
    **{"n_layers": 2, "n_heads": 4, "ffn_dim": 64, "num_layers": 2, "word_embed_proj_dim": 32},
    **{"max_position_embeddings": 512, "n_positions": 512, "max_seq_len": 512, "rotary_dim": 8},
    **{"attention_hidden_size": 32, "ffn_hidden_size": 64, "n_inner": 64, "dff": 64},
    **{"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    **{"shared_expert_intermediate_size": 32, "n_routed_experts": 4, "n_shared_experts": 1},
    **{"state_size": 8, "time_step_rank": 4, "conv_kernel": 4},
}
MLA = {  # DeepSeek's attention
    **{"q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
    **{"num_key_value_heads": 4, "head_dim": 8, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
}
LINEAR = {  # Qwen3-Next's and Qwen3.5's
    **{"layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4},
    **{"linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
}
TEXT_PART = {"vocab_size": 290, "pad_token_id": 257, "eos_token_id": 256}


@dataclass(frozen=True)
class Family:
    """One family: what is special about it, and what its config needs beside ``SIZES``."""

    note: str
    fields: dict[str, Any] = field(default_factory=dict)
    text: str = ""  # of a multimodal model: the family of its text part
    vision: dict[str, Any] = field(default_factory=dict)


VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
LLMS = {
    "apertus": Family("xIELU activation"),
    "arcee": Family("ReLU squared"),
    "aya_vision": Family(
        "text part of a multimodal model that leaves out its scale of the logits",
        {"logit_scale": 0.25, "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]},
        text="cohere2",
        vision=VISION,
    ),
    "bamba": Family(
        "Mamba-2 and attention",
        {
            "attn_layer_indices": [1],
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
        },
    ),
    "biogpt": Family("learned positions, head of another name"),
    "bloom": Family("ALiBi, tied head"),
    "codegen": Family("head with a bias"),
    "cohere": Family("logits scaled, parallel layers", {"logit_scale": 0.25}),
    "cohere2": Family(
        "sliding windows, logits scaled",
        {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "ctrl": Family("sinusoidal positions, head with a bias"),
    "deepseek_v3": Family("latent attention, experts", MLA),
    "ernie4_5": Family("tied head"),
    "exaone4": Family("post-norm"),
    "falcon": Family("one key for all heads", {"alibi": False}),
    "falcon_h1": Family(
        "attention and Mamba-2 side by side",
        {
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
            "lm_head_multiplier": 0.5,
        },
    ),
    "falcon_mamba": Family("no keys and values"),
    "gemma": Family("embeddings scaled"),
    "gemma2": Family("logits capped", {"sliding_window": 64}),
    "gemma3": Family(
        "text part of a multimodal model",
        text="gemma3_text",
        vision=VISION,
    ),
    "gemma3_text": Family("sliding windows", {"sliding_window": 64}),
    "glm4": Family("sandwich norms"),
    "gpt2": Family("learned positions, transposed layers"),
    "gpt_bigcode": Family("learned positions, one key for all heads"),
    "gpt_neo": Family(
        "learned positions, local attention",
        {"attention_types": [[["global", "local"], 1]], "window_size": 64},
    ),
    "gpt_neox": Family("parallel layers"),
    "gpt_oss": Family("attention sinks, experts"),
    "gptj": Family("head with a bias"),
    "granite": Family("logits scaled", {"logits_scaling": 4.0, "embedding_multiplier": 2.0}),
    "helium": Family(""),
    "jamba": Family(
        "Mamba, attention, experts",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
    ),
    "lfm2": Family("convolutions and attention", {"layer_types": ["conv", "full_attention"]}),
    "llama": Family("untied head"),
    "llama4_text": Family("experts, layers without positions"),
    "mamba": Family("no keys and values"),
    "mamba2": Family("no keys and values", {"num_heads": 8, "head_dim": 8, "n_groups": 1}),
    "minicpm3": Family("latent attention, hidden states scaled", MLA),
    "minimax": Family(
        "lightning attention, a cache of its own", {"layer_types": ["linear_attention", "full_attention"]}
    ),
    "mistral": Family("sliding windows", {"sliding_window": 64}),
    "mixtral": Family("experts"),
    "mpt": Family("ALiBi"),
    "nemotron": Family("layer norm with 1 added"),
    "olmo2": Family("post-norm"),
    "openai-gpt": Family("keeps nothing of a prompt"),
    "opt": Family("learned positions, embeddings narrower than layers", {"word_embed_proj_dim": 16}),
    "persimmon": Family("ReLU squared, norm of queries"),
    "phi": Family("head with a bias"),
    "phi3": Family("queries, keys and values in one layer"),
    "qwen2": Family("padded vocabulary", {"vocab_size": 320}),
    "qwen3": Family("tied head", {"tie_word_embeddings": True}),
    "qwen3_moe": Family("experts"),
    "qwen3_next": Family("linear and full attention", LINEAR),
    "qwen3_vl": Family(
        "text part of a multimodal model",
        text="qwen3_vl_text",
        vision={
            "hidden_size": 16,
            "intermediate_size": 16,
            "depth": 1,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 14,
            "deepstack_visual_indexes": [0],
            "num_position_embeddings": 16,
        },
    ),
    "recurrent_gemma": Family(
        "recurrent blocks, logits capped",
        {"block_types": ["recurrent", "attention"], "lru_width": 32, "attention_window_size": 64},
    ),
    "rwkv": Family("no keys and values, no mask"),
    "smollm3": Family("layers without positions"),
    "stablelm": Family("partial rotary positions"),
    "starcoder2": Family("biases everywhere"),
    "xglm": Family("sinusoidal positions"),
    "xlstm": Family(
        "no keys and values, no mask",
        {"num_heads": 2, "embedding_dim": 128, "hidden_size": 128, "num_blocks": 2},
    ),
    "zamba2": Family(
        "Mamba-2 and a shared attention",
        {
            "layers_block_type": ["mamba", "hybrid"],
            "n_mamba_heads": 8,
            "mamba_headdim": 8,
            "mamba_d_state": 8,
            "mamba_ngroups": 1,
            "num_key_value_heads": 4,
            "head_dim": 16,
            "attention_hidden_size": 64,
        },
    ),
}
STEPS = ("assembled", "trained", "reopened", "whole", "batch = single", "LoRA", "answers")


def config_of(kind: str, **changes: Any) -> Any:
    """A tiny config of that family."""
    cls = CONFIG_MAPPING[kind]
    known, other_name = set(cls().to_dict()), getattr(cls, "attribute_map", {})
    sizes = {
        k: v for k, v in SIZES.items() if k in known | set(other_name) and other_name.get(k) not in SIZES
    }
    ends = {"vocab_size": 258, "pad_token_id": 257, "eos_token_id": 256, "bos_token_id": None}
    ends = {k: v for k, v in ends.items() if k in known or k == "vocab_size"}
    return cls(**{**sizes, **ends, **changes})


def llm_folder(kind: str, folder: Path) -> Path:
    """A tiny random LLM of that family with the byte tokenizer, in the Hub's layout."""
    family, tokenizer = LLMS[kind], byte_tokenizer()
    torch.manual_seed(0)
    if family.text:
        text = config_of(family.text, **(TEXT_PART | family.fields)).to_dict()
        config = CONFIG_MAPPING[kind](text_config=text, vision_config=dict(family.vision))
        model: Any = AutoModelForImageTextToText.from_config(config)
    else:
        fields = {"vocab_size": len(tokenizer) - 1} | family.fields
        model = AutoModelForCausalLM.from_config(config_of(kind, **fields))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.15)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def heard(num_samples: int, text: str) -> Sample:
    """A question about a tone."""
    sound = (0.3 * np.sin(np.arange(num_samples) * (0.02 + 1e-6 * num_samples))).astype(np.float32)
    content = [{"type": "audio", "audio": sound, "rate": 16_000}, {"type": "text", "text": text}]
    return Sample(messages=({"role": "user", "content": content},))


ROWS = [heard(9_000, "What?"), heard(30_000, "Is it loud or is it quiet?"), heard(16_000, "Why?")]


def two_steps(model: Any, processor: Any, patterns: list[str]) -> tuple[float, float]:
    """The loss on a batch before and after two steps on it."""
    model.set_trainable(patterns)
    batch = processor.batch([row.with_target("a bell") for row in ROWS[:2]], labels=True)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-3)
    before = model.eval()(**batch).loss.item()
    model.train()
    for _ in range(2):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return before, model.eval()(**batch).loss.item()


@torch.no_grad()
def logits(model: Any, processor: Any) -> torch.Tensor:
    """What a model expects after the first question, (V,)."""
    return model(**processor.batch(ROWS[:1])).logits[0, -1]


def try_llm(folder: Path, encoder: Path, work: Path) -> dict[str, str]:
    """What holds of an LLM beside a tiny Whisper: a step of ``STEPS`` -> "yes" or why not.

    Each comparison is to the last bits of float32. What fails ends the row.
    """
    told = dict.fromkeys(STEPS, "")
    step = "assembled"
    options = {"group_size": 5, "connector_width": 16, "remainder": "pad"}

    def close(a: Any, b: Any) -> None:
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, processor = build_model("acdc", encoder=str(encoder), llm=str(folder), options=options)
            told[step] = "yes"
            step = "trained"
            before, after = two_steps(model, processor, ["connector"])
            assert after < before, f"the loss went from {before:.4f} to {after:.4f}"
            told[step] = "yes"
            step = "reopened"
            save_model(model, processor, work / "slim", slim=True)
            close(logits(*load_model(work / "slim")), logits(model, processor))
            told[step] = "yes"
            step = "whole"
            complete(work / "slim", work / "whole", "float32")
            close(logits(*load_model(work / "whole")), logits(model, processor))
            told[step] = "yes"
            step = "batch = single"
            limits = {"max_new_tokens": 6, "do_sample": False}
            together = model.generate(**processor.batch(ROWS), **limits)
            for row, said in zip(ROWS, together, strict=True):
                (alone,) = model.generate(**processor.batch([row]), **limits)
                assert said.tolist()[: len(alone)] == alone.tolist(), f"{said.tolist()} and {alone.tolist()}"
            told[step] = "yes"
            step = "LoRA"
            add_lora(model, {"rank": 2, "alpha": 4.0})
            before, after = two_steps(model, processor, ["connector", "*lora_*"])
            assert after < before, f"the loss went from {before:.4f} to {after:.4f}"
            save_model(model, processor, work / "lora", slim=True)
            again, processor_again = load_model(work / "lora")
            close(logits(again, processor_again), logits(model, processor))
            merge_lora(again)
            close(logits(again, processor_again), logits(model, processor))
            told[step] = "yes"
            step = "answers"
            engine = Engine(again, processor_again, "tiny")
            replies = engine.reply(ROWS, Options(max_new_tokens=5))
            assert all(reply.num_tokens > 0 for reply in replies), "an answer without a token"
            told[step] = "yes"
    except Exception as error:  # a row of the table says what went wrong
        told[step] = f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"
    return told


def slim_folder(
    kind: str, folders: tuple[Path, Path], place: Path, lora: dict[str, Any] | None = None
) -> Path:
    """A slim checkpoint in ``place`` of a tiny encoder and an LLM of that family; its LoRA is not zero."""
    llm = llm_folder(kind, place / "llm")
    model, processor = build_model("acdc", encoder=str(folders[0]), llm=str(llm), lora=lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    save_model(model, processor, place / "slim", slim=True)
    return place / "slim"
