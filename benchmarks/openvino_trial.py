"""Would OpenVINO decode the embedded model's LLM faster? Its CPU plugin against lalm's step, in turns.

    pip install openvino nncf && python benchmarks/openvino_trial.py --out results/openvino_trial.json

The LLM, LoRA merged, is written as one graph of embeddings in and logits out, keys and values its state, as
OpenVINO's own exporter does it; nncf rounds the weights to 8 bits, or to 4 in groups (the head stays
at 8). All sides read this text, half of it at once and the rest token by token. KL is from the
bfloat16 LLM of torch, over the positions of that half.
"""

import argparse
import json
import os
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import nncf
import openvino
import torch
from decode import machine
from openvino._offline_transformations import apply_make_stateful_transformation
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lalm import Engine
from lalm.models.lora import merge_lora
from lalm.models.next_position import NextPosition
from lalm.models.prefill import preallocated_cache

PROMPT, TOKENS = 64, 64
KINDS: dict[str, dict[str, Any]] = {
    "int8": {"mode": nncf.CompressWeightsMode.INT8_ASYM},
    "int4, groups of 128": {"mode": nncf.CompressWeightsMode.INT4_ASYM, "group_size": 128},
    "int4, groups of 64": {"mode": nncf.CompressWeightsMode.INT4_ASYM, "group_size": 64},
}


class Graph(nn.Module):
    """The LLM's body and head as plain operations."""

    def __init__(self, body: Any, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, embeds: Tensor, positions: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """embeds: (1, L, D); positions: (1, L); past: keys and values (1, G, T, d) of each layer -> logits
        (1, V) after the last position, and all keys and values."""
        length, hidden, kept = embeds.shape[1], embeds, []
        angles = positions[..., None].float() * self.body.rotary_emb.inv_freq  # (1, L, d / 2)
        angles = torch.cat([angles, angles], -1)[:, None]
        cos, sin = angles.cos(), angles.sin()
        for number, layer in enumerate(self.body.layers):
            attention, rows = layer.self_attn, layer.input_layernorm(hidden)
            size, group = attention.head_dim, attention.num_key_value_groups
            projected = (attention.q_proj(rows), attention.k_proj(rows), attention.v_proj(rows))
            queries, keys, values = (p.view(1, length, -1, size).transpose(1, 2) for p in projected)
            queries, keys = (
                x * cos + torch.cat([-x[..., size // 2 :], x[..., : size // 2]], -1) * sin
                for x in (queries, keys)
            )
            keys = torch.cat([past[2 * number], keys], 2)
            values = torch.cat([past[2 * number + 1], values], 2)
            kept += [keys, values]
            total = keys.shape[2]
            seen = torch.arange(total)[None] <= positions[0][:, None]  # (L, T)
            wide = [
                x[:, :, None].expand(-1, -1, group, -1, -1).reshape(1, -1, total, size)
                for x in (keys, values)
            ]
            found = scaled_dot_product_attention(queries, *wide, attn_mask=seen[None, None])
            hidden = hidden + attention.o_proj(found.transpose(1, 2).reshape(1, length, -1))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return self.head(self.body.norm(hidden)[:, -1]), *kept


def converted(graph: Graph) -> Any:
    """OpenVINO's model, keys and values its state."""
    first = graph.body.layers[0].self_attn
    width = graph.body.config.hidden_size
    pairs = graph.body.config.num_key_value_heads
    count = 2 * len(graph.body.layers)
    past = [torch.randn(1, pairs, 3, first.head_dim) for _ in range(count)]
    example = (torch.randn(1, 2, width), torch.tensor([[3, 4]]), *past)
    shapes = [[1, -1, width], [1, -1], *[[1, pairs, -1, first.head_dim]] * count]
    with torch.no_grad():
        made = openvino.convert_model(graph.float().eval(), example_input=example, input=shapes)
    for number, port in enumerate(made.inputs):
        port.get_tensor().set_names({("embeds", "positions")[number] if number < 2 else f"past.{number - 2}"})
    for number, port in enumerate(made.outputs):
        port.get_tensor().set_names({"logits" if not number else f"present.{number - 1}"})
    apply_make_stateful_transformation(made, {f"past.{n}": f"present.{n}" for n in range(count)})
    return made


class OpenVino:
    """A compiled model."""

    def __init__(self, model: Any, threads: int) -> None:
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        self.request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    def begin(self) -> None:
        """Forget all positions."""
        self.request.reset_state()
        self.length = 0

    def read(self, embeds: Tensor) -> Tensor:
        """embeds: (L, D) float32 -> (V,)."""
        positions = torch.arange(self.length, self.length + len(embeds))[None]
        self.length += len(embeds)
        self.request.infer({"embeds": embeds[None].numpy(), "positions": positions.numpy()})
        return torch.from_numpy(self.request.get_tensor("logits").data[0].copy())


class Ours:
    """lalm's step."""

    def __init__(self, dtype: str) -> None:
        engine = Engine.load(device="cpu", dtype=dtype)  # type: ignore[arg-type]
        self.model: Any = engine.model
        self.step = NextPosition(self.model.model.language_model)

    def begin(self) -> None:
        """Forget all positions."""
        self.cache, self.length = preallocated_cache(), 0

    @torch.inference_mode()
    def read(self, embeds: Tensor) -> Tensor:
        """embeds: (L, D) float32 -> (V,)."""
        body = self.model.model.language_model
        embeds = embeds.to(body.norm.weight.dtype)
        if self.length == 0:
            hidden = body(inputs_embeds=embeds[None], past_key_values=self.cache, use_cache=True)[0][:, -1]
        else:
            hidden = self.step(embeds, torch.ones(1, self.length + 1, dtype=torch.long), self.cache)
        self.length += len(embeds)
        logits: Tensor = self.step.blocks(self.model.logits, hidden)[0]
        return logits


def answered(side: Any, prompt: Tensor, tokens: Tensor) -> tuple[float, float, Tensor]:
    """Seconds for the prompt, tokens a second, and the logits (P, V) after each of ``tokens`` (P, D)."""
    side.begin()
    began = time.perf_counter()
    side.read(prompt)
    first = time.perf_counter()
    found = [side.read(token[None]) for token in tokens]
    return first - began, len(tokens) / (time.perf_counter() - first), torch.stack(found)


def main() -> None:
    """Convert, take turns, tell medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sides: dict[str, Any] = {"lalm bfloat16": Ours("bfloat16"), "lalm int8": Ours("int8")}
    engine = Engine.load(device="cpu", dtype="float32")
    merge_lora(engine.model)
    body, head = engine.model.model.language_model, engine.model.lm_head
    ids = torch.tensor(engine.processor.tokenizer((__doc__ or "") * 2).input_ids[: PROMPT + TOKENS])
    embeds = body.get_input_embeddings()(ids).detach().float()
    prompt, tokens = embeds[:PROMPT], embeds[PROMPT:]
    for kind in options.kinds:
        model = nncf.compress_weights(converted(Graph(body, head)), **KINDS[kind])
        sides[f"OpenVINO {kind}"] = OpenVino(model, options.threads)
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    logits: dict[str, Tensor] = {}
    for number in range(options.rounds + 1):  # the first warms up
        for name, side in sides.items():
            first_s, rate, logits[name] = answered(side, prompt, tokens)
            if number:
                rounds[name].append((first_s, rate))
    wanted = logits["lalm bfloat16"].float().log_softmax(-1)
    found = {}
    for name, both in rounds.items():
        own = logits[name].float().log_softmax(-1)
        found[name] = {
            "prompt_s": round(median(first for first, _ in both), 4),
            "tokens_per_s": round(median(rate for _, rate in both), 2),
            "from": round(min(rate for _, rate in both), 2),
            "to": round(max(rate for _, rate in both), 2),
            "kl_from_bfloat16": round(float((wanted.exp() * (wanted - own)).sum(-1).mean()), 5),
        }
    told = {"machine": machine(), "openvino": version("openvino"), "nncf": version("nncf")}
    told |= {"threads": options.threads, "rounds": options.rounds, "prompt": PROMPT, "tokens": TOKENS}
    text = json.dumps({**told, "sides": found}, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
