"""The mmproj file: a Whisper encoder and a connector, where llama.cpp's mtmd has the same arithmetic.

Its Whisper reads 30 s at a time (``mtmd-audio.cpp``: silence fills a shorter clip) and gives the last layer.
Two of our connectors are exactly two of its projectors (``tools/mtmd/models/whisper-enc.cpp``):

    ultravox   last norm, ``stack`` frames joined, RMSNorm, SwiGLU, RMSNorm, linear  "swiglu"
    qwen2a     mean of 2 frames, last norm, linear with bias                         Qwen2-Audio's

Voxtral's projector is a GELU between two linear maps without biases, which none of ours is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from lalm.inference.llamacpp.gguf_file import Entry, GGUFError, float_entry, write_file
from lalm.models.modeling import AudioLMForConditionalGeneration

WINDOW_POSITIONS = 1500  # 30 s of 20 ms
MARKS = {"qwen2a": ("<|audio_bos|>", "<|audio_eos|>"), "ultravox": ("", "")}  # mtmd writes them around a clip
OF_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "self_attn_layer_norm": "ln1",
    "final_layer_norm": "ln2",
    "fc1": "ffn_up",
    "fc2": "ffn_down",
}


@dataclass(frozen=True)
class Projector:
    """A projector of llama.cpp's by its name there, and the connector's tensors under theirs."""

    name: str
    tensors: dict[str, Tensor]
    stack: int | None = None

    @property
    def marks(self) -> tuple[str, str]:
        """What llama.cpp itself writes before and behind every clip."""
        return MARKS[self.name]


def projector_of(model: AudioLMForConditionalGeneration, folder: str) -> Projector:
    """The projector that computes what the model's connector does. Raises GGUFError where there is none."""
    config: Any = model.config
    check_encoder(config, folder)
    connector: Any = model.model.connector
    kind = config.connector if config.model_type == "lalm_modular" else config.model_type
    inner = connector.connector if config.model_type == "lalm_modular" else connector
    encoder = config.audio_config
    if kind == "swiglu" and not encoder.qwen2_audio and encoder.pool == 1:
        check_stack(inner.stack, folder)
        tensors = {
            "mm.a.norm_pre.weight": inner.norm_in.weight,
            "mm.a.mlp.1.weight": inner.gate_and_value.weight,
            "mm.a.norm_mid.weight": inner.norm_middle.weight,
            "mm.a.mlp.2.weight": inner.linear.weight,
        }
        return Projector("ultravox", tensors, inner.stack)
    if kind == "lalm_qwen2_audio" and encoder.qwen2_audio and encoder.pool == 2:
        return Projector("qwen2a", {"mm.a.fc.weight": inner.linear.weight, "mm.a.fc.bias": inner.linear.bias})
    if kind == "swiglu":
        why = "needs the encoder without pool and without qwen2_audio (init.options.encoder)"
    else:
        why = "is none that llama.cpp has: train the system modular with 'swiglu', or the system qwen2-audio"
    raise GGUFError(f"the connector '{kind.removeprefix('lalm_')}' of '{folder}' {why}")


def check_stack(stack: int, folder: str) -> None:
    """Raise GGUFError where llama.cpp rounds 30 s to another number of groups than the connector."""
    there, here = (
        -(-2 * WINDOW_POSITIONS // stack) // 2,
        -(-WINDOW_POSITIONS // stack),
    )  # clip_n_output_tokens
    if there != here:
        fitting = ", ".join(str(n) for n in (2, 3, 4, 5, 6, 10, 12, 15) if abs(n - stack) <= 4)
        raise GGUFError(
            f"with stack: {stack} llama.cpp makes {there} audio tokens of 30 s and '{folder}' makes {here}: "
            f"train with a stack that divides {WINDOW_POSITIONS}, such as {fitting or 20}"
        )


def check_encoder(config: Any, folder: str) -> None:
    """Raise GGUFError unless the frames of this config are those of llama.cpp's Whisper."""
    system = config.model_type.removeprefix("lalm_").replace("_", "-")
    why = {
        "acdc": "joins the frames of several layers and groups of them before a ReLU",
        "salmonn": "hears through two encoders and a Q-Former",
        "apt": "hears through a Q-Former that reads the question",
    }.get(system)
    if why is None and system not in ("modular", "qwen2-audio"):
        why = "is of no system that llama.cpp has a projector for"
    if why:
        raise GGUFError(
            f"'{folder}' cannot run in llama.cpp: {system} {why}, and llama.cpp has no such projector; "
            "--to transformers writes it whole for other programs"
        )
    encoder = config.audio_config
    if encoder.model_type != "lalm_whisper":
        kind = encoder.model_type.removeprefix("lalm_")
        raise GGUFError(
            f"'{folder}' hears through '{kind}', and of these encoders llama.cpp runs Whisper's alone"
        )
    if encoder.layers != [encoder.encoder_layers]:
        raise GGUFError(
            f"'{folder}' hears the encoder's layers {encoder.layers}, and llama.cpp gives the last one "
            "alone: train without init.options.encoder.layers"
        )
    if encoder.max_source_positions != WINDOW_POSITIONS or encoder.activation_function != "gelu":
        raise GGUFError(
            f"the Whisper encoder of '{folder}' is none of 30 s and GELU, the only kind in llama.cpp"
        )
    if not encoder.pad_to_window:
        raise GGUFError(
            f"'{folder}' hears a clip as long as it is, and llama.cpp always hears 30 s, silence behind the "
            "clip: train with init.options.encoder.pad_to_window: true, or say --pad-to-window to have this "
            "model hear so"
        )


def entries(model: AudioLMForConditionalGeneration, projector: Projector, kind: Type) -> Iterator[Entry]:
    """All tensors of the file. Convolutions are float16, as llama.cpp computes them, unless all is."""
    connector: Any = model.model.connector
    layers: Any = model.model.audio_tower.whisper
    norm: Any = layers.layer_norm
    weight, bias = norm.weight.detach().float(), norm.bias.detach().float()
    if hasattr(connector, "frame_mean"):  # frames are taken as (frames - mean) * scale: so is the norm
        weight = weight * connector.frame_scale
        bias = (bias - connector.frame_mean) * connector.frame_scale
    yield Entry("a.post_ln.weight", weight, Type.F32)
    yield Entry("a.post_ln.bias", bias, Type.F32)
    yield Entry("a.position_embd.weight", layers.embed_positions.weight, Type.F32)
    for number in (1, 2):
        convolution = getattr(layers, f"conv{number}")
        yield Entry(
            f"a.conv1d.{number}.weight", convolution.weight, Type.F32 if kind == Type.F32 else Type.F16
        )
        yield Entry(f"a.conv1d.{number}.bias", convolution.bias[:, None], Type.F32)
    for number, layer in enumerate(layers.layers):
        for name, tensor in layer.named_parameters():
            module, _, leaf = name.rpartition(".")
            yield float_entry(f"a.blk.{number}.{OF_LAYER[module]}.{leaf}", tensor, kind)
    for name, tensor in projector.tensors.items():
        yield float_entry(name, tensor, kind)


@torch.no_grad()
def write_projector(
    model: AudioLMForConditionalGeneration, projector: Projector, path: Path, dtype: str, name: str
) -> None:
    """Write encoder and connector to ``path``, in float32 or float16."""
    kind = Type.F32 if dtype == "float32" else Type.F16
    encoder: Any = model.config.audio_config
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_name(name)
    writer.add_file_type(
        int(gguf.LlamaFileType.ALL_F32 if kind == Type.F32 else gguf.LlamaFileType.MOSTLY_F16)
    )
    writer.add_clip_has_audio_encoder(True)
    writer.add_clip_projector_type(projector.name)
    writer.add_audio_projection_dim(model.config.embedding_width)
    writer.add_audio_embedding_length(encoder.d_model)
    writer.add_audio_feed_forward_length(encoder.encoder_ffn_dim)
    writer.add_audio_block_count(encoder.encoder_layers)
    writer.add_audio_head_count(encoder.encoder_attention_heads)
    writer.add_audio_attention_layernorm_eps(1e-5)
    writer.add_audio_num_mel_bins(encoder.num_mel_bins)
    if projector.stack:
        writer.add_audio_stack_factor(projector.stack)
    write_file(path, writer, list(entries(model, projector, kind)))
