"""A tiny Qwen2-Audio of transformers' own classes, saved as the Hub has it, and questions to both sides."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_parts import byte_tokenizer
from transformers import (
    GenerationConfig,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from lalm.data.sample import Sample

SIZES = {  # seconds of the window; encoder width, layers, heads; LLM width, layers, heads, key-value heads
    "small": (4, 32, 2, 4, 32, 2, 4, 2),
    "medium": (30, 256, 2, 4, 512, 3, 8, 8),
}
TOKENS = ["<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|endoftext|>"]


def original(size: str, folder: Path) -> tuple[Any, Any]:
    """transformers' model and processor with random weights, also saved as the Hub has them."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": TOKENS})
    tokenizer.padding_side = "left"
    window_s, width, layers, heads, llm_width, llm_layers, llm_heads, kv_heads = SIZES[size]
    torch.manual_seed(0)
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "d_model": width,
            "encoder_layers": layers,
            "encoder_attention_heads": heads,
            "encoder_ffn_dim": 2 * width,
            "max_source_positions": 50 * window_s,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer) + 5,
            "hidden_size": llm_width,
            "intermediate_size": 2 * llm_width,
            "num_hidden_layers": llm_layers,
            "num_attention_heads": llm_heads,
            "num_key_value_heads": kv_heads,
            "max_position_embeddings": 8192,
            "initializer_range": 0.1,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    model = Qwen2AudioForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)  # biases too
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id], pad_token_id=tokenizer.pad_token_id
    )
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=window_s, return_attention_mask=True)
    processor = Qwen2AudioProcessor(extractor, tokenizer)
    model.save_pretrained(folder, max_shard_size="100KB" if size == "small" else "5GB")
    processor.save_pretrained(folder)
    return model, processor


def clip(num_samples: int) -> np.ndarray:
    """Loud to the last sample, so that what a clip leaves in the frames after it shows."""
    noise = np.random.default_rng(num_samples).standard_normal(num_samples) * 0.1
    return (noise + 0.2 * np.sin(np.arange(num_samples) * 0.05)).astype(np.float32)


def question(*lengths: int) -> Sample:
    parts: list[Any] = [{"type": "audio", "audio": clip(n), "rate": 16_000} for n in lengths]
    return Sample(({"role": "user", "content": [*parts, {"type": "text", "text": "What is it?"}]},))


def theirs_of(processor: Any, rows: list[Sample]) -> Any:
    """The batch that transformers' processor makes of the same conversations."""
    chats = [[{"role": m["role"], "content": m["content"]} for m in row.messages] for row in rows]
    texts = [processor.apply_chat_template(c, add_generation_prompt=True, tokenize=False) for c in chats]
    clips = [part["audio"] for row in rows for part in row.audios]
    audio = {"audio": clips, "sampling_rate": 16_000} if clips else {}
    return processor(text=texts, return_tensors="pt", padding=True, **audio)
