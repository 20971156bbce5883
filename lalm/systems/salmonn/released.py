"""Reads and writes SALMONN's released checkpoints (salmonn_v1.pth: 13B, salmonn_7b_v0.pth), safely.

On disk: a pickled dict whose ``model`` holds what was trained (layer norms, queries, Q-Former, projection,
LoRA) and some buffers; optimizer, scaler, epoch and ``config`` may stand beside it. Encoders and LLM are not
in it, but for one thing: BEATs' layers share the first one's table of relative positions, and the authors'
``save_checkpoint`` knows the table as frozen under the first layer's name only, so that it writes those of
all others. Nothing in a file is run: it is read as tensors and plain containers only, and every key of
``model`` is either mapped, a known buffer, such a table, or an error that names it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lalm.errors import LalmError, refuse_pickled_code

HEAD_WIDTH = 64  # of the Q-Former, BERT's
SHORTEST_S = 1.0  # the released loader adds silence to shorter clips
LORA_SCALE = 4.0  # section 4.1; the files' config says it as alpha 32 at rank 8

# A released name -> ours, below "model.".
RENAMED = (
    (r"ln_speech\.(weight|bias)", r"connector.norms.0.\1"),
    (r"ln_audio\.(weight|bias)", r"connector.norms.1.\1"),
    (r"speech_query_tokens", r"connector.queries"),
    (r"speech_Qformer\.bert\.embeddings\.LayerNorm\.(weight|bias)", r"connector.qformer.layernorm.\1"),
    (
        r"speech_Qformer\.bert\.encoder\.layer\.(\d+)\.(attention|crossattention)\.self\.(\w+)\.(\w+)",
        r"connector.qformer.encoder.layer.\1.\2.attention.\3.\4",
    ),
    (
        r"speech_Qformer\.bert\.encoder\.layer\.(\d+)\."
        r"((?:attention\.output|crossattention\.output|intermediate_query|output_query)\.\w+\.\w+)",
        r"connector.qformer.encoder.layer.\1.\2",
    ),
    (r"speech_llama_proj\.(weight|bias)", r"connector.projection.\1"),
    (
        r"llama_model\.base_model\.model\.model\.(layers\.\d+\.self_attn\.[qv]_proj\.lora_[AB])"
        r"(?:\.default)?\.weight",
        r"language_model.\1.default.weight",
    ),
)
# And back.
RELEASED = (
    (r"connector\.norms\.0\.(\w+)", r"ln_speech.\1"),
    (r"connector\.norms\.1\.(\w+)", r"ln_audio.\1"),
    (r"connector\.queries", "speech_query_tokens"),
    (r"connector\.qformer\.layernorm\.(\w+)", r"speech_Qformer.bert.embeddings.LayerNorm.\1"),
    (
        r"connector\.qformer\.encoder\.layer\.(\d+)\.(attention|crossattention)\.attention\.(\w+\.\w+)",
        r"speech_Qformer.bert.encoder.layer.\1.\2.self.\3",
    ),
    (r"connector\.qformer\.encoder\.layer\.(.+)", r"speech_Qformer.bert.encoder.layer.\1"),
    (r"connector\.projection\.(\w+)", r"speech_llama_proj.\1"),
    (
        r"language_model\.(layers\.\d+\.self_attn\.[qv]_proj\.lora_[AB]\.default\.weight)",
        r"llama_model.base_model.model.model.\1",
    ),
)
BEATS_TABLES = re.compile(r"beats\.encoder\.layers\.\d+\.self_attn\.relative_attention_bias\.weight")
BUFFERS = re.compile(r"speech_Qformer\.bert\.embeddings\.position_ids|llama_model\..*\.rotary_emb\.inv_freq")


class SALMONNImportError(LalmError, ValueError):
    """A file is not a SALMONN checkpoint, or not a safe one; the text says why in one sentence."""


@dataclass(frozen=True)
class Released:
    """A checkpoint's trained tensors (float32, our names), the names left out, and what the shapes tell.

    ``beats_tables`` are copies of BEATs' table of relative positions, by their names in the file.
    ``speech_width`` and ``audio_width`` are those of the two encoders' frames, ``llm_width`` and
    ``llm_layers`` those of the LLM; ``options`` are fields of ``SALMONNConfig``.
    """

    tensors: dict[str, Tensor]
    skipped: list[str]
    beats_tables: dict[str, Tensor]
    speech_width: int
    audio_width: int
    llm_width: int
    llm_layers: int
    options: dict[str, Any]
    lora: dict[str, Any]


def read(path: Path) -> Released:
    """Read a released file. Raises SALMONNImportError."""
    content = _content(path)
    tensors: dict[str, Tensor] = {}
    skipped: list[str] = []
    beats_tables: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, value in content["model"].items():
        ours = next((re.sub(p, r, key) for p, r in RENAMED if re.fullmatch(p, key)), None)
        if ours and isinstance(value, Tensor) and f"model.{ours}" not in tensors:
            tensors[f"model.{ours}"] = value.float().contiguous()
        elif BUFFERS.fullmatch(key):
            skipped.append(key)
        elif BEATS_TABLES.fullmatch(key) and isinstance(value, Tensor):
            beats_tables[key] = value.float()
            skipped.append(key)
        else:
            unknown.append(str(key))
    if unknown:
        raise SALMONNImportError(
            f"'{path.name}' has {len(unknown)} tensors that no SALMONN has: {', '.join(sorted(unknown)[:5])}"
        )

    def shape(name: str, rank: int) -> tuple[int, ...]:
        found = tuple(tensors[name].shape) if name in tensors else None
        if found is None or len(found) != rank:
            raise SALMONNImportError(
                f"'{path.name}' is no whole SALMONN: its '{name}' is {found or 'absent'}"
            )
        return found

    [speech], [audio] = shape("model.connector.norms.0.weight", 1), shape("model.connector.norms.1.weight", 1)
    _, num_queries, width = shape("model.connector.queries", 3)
    at = "model.connector.qformer.encoder.layer"
    inner = shape(f"{at}.0.intermediate_query.dense.weight", 2)[0]
    llm_width = shape("model.connector.projection.weight", 2)[0]
    rank = shape("model.language_model.layers.0.self_attn.q_proj.lora_A.default.weight", 2)[0]
    if not rank or not width or width % HEAD_WIDTH:
        raise SALMONNImportError(
            f"'{path.name}' is no SALMONN: its Q-Former is {width} wide and its LoRA has rank {rank}"
        )
    options = {
        "num_queries": num_queries,
        "qformer_width": width,
        "qformer_heads": width // HEAD_WIDTH,
        "qformer_inner": inner,
        "qformer_layers": _count(tensors, at),
        **_windows(path, content.get("config")),
    }
    lora = {"rank": rank, "alpha": LORA_SCALE * rank, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}
    tensors["model.connector.frame_mean"] = torch.zeros(speech + audio)
    tensors["model.connector.frame_scale"] = torch.ones(speech + audio)
    layers = _count(tensors, "model.language_model.layers")
    return Released(tensors, skipped, beats_tables, speech, audio, llm_width, layers, options, lora)


def check_beats(path: Path, found: Released, table: Tensor) -> None:
    """Refuse a file whose copies of BEATs' table of relative positions are not the given one's."""
    for name, copy in found.beats_tables.items():
        if copy.shape != table.shape or not torch.equal(copy, table.float()):
            raise SALMONNImportError(f"'{path.name}' was trained with another BEATs: its '{name}' differs")


def write(
    tensors: Mapping[str, Tensor], lora: Mapping[str, Any], windows: Mapping[str, float], path: Path
) -> None:
    """Write trained tensors (our names, as a slim model folder holds them) as a released file that
    ``read`` and the authors' code open. Raises SALMONNImportError for what that layout has no place for."""
    model: dict[str, Tensor] = {}
    for name, value in tensors.items():
        short = name.removeprefix("model.")
        if short in ("connector.frame_mean", "connector.frame_scale"):
            if not torch.equal(value.float(), torch.full(value.shape, float(short.endswith("scale")))):
                raise SALMONNImportError(
                    "the released layout has no place for this model's standardised frames (warm_start)"
                )
            continue
        theirs = next((re.sub(p, r, short) for p, r in RELEASED if re.fullmatch(p, short)), None)
        if theirs is None:
            raise SALMONNImportError(f"the released layout has no place for the tensor '{name}'")
        model[theirs] = value.float().contiguous()
    if lora.get("rank_pattern") or lora.get("alpha_pattern"):
        raise SALMONNImportError("released files have one LoRA rank and alpha, without patterns")
    if lora["alpha"] != LORA_SCALE * lora["rank"]:
        raise SALMONNImportError(
            f"released files have LoRA alpha 4 times its rank, not {lora['alpha']:g} at rank {lora['rank']}"
        )
    settings = {"lora_rank": lora["rank"], "lora_alpha": int(lora["alpha"]), **windows}
    torch.save({"model": model, "config": {"model": settings}}, path)


def check(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are missing, too many, or of another shape than the model's: SALMONNImportError."""
    for name in sorted(found.keys() | expected.keys()):
        here = tuple(found[name].shape) if name in found else "absent"
        due = tuple(expected[name].shape) if name in expected else "absent"
        if here != due:
            raise SALMONNImportError(f"'{path.name}': the tensor '{name}' is {here} instead of {due}")


def _content(path: Path) -> dict[str, Any]:
    try:
        with refuse_pickled_code(f"'{path.name}'", SALMONNImportError):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except SALMONNImportError:
        raise
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise SALMONNImportError(f"'{path}' cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise SALMONNImportError(f"'{path.name}' is no SALMONN checkpoint: it holds no 'model'")
    return content


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Layers below ``prefix``, from their numbers; one too many is found when all names are compared."""
    return len({name[len(prefix) + 1 :].split(".")[0] for name in tensors if name.startswith(f"{prefix}.")})


def _windows(path: Path, config: Any) -> dict[str, float]:
    """Window and stride in seconds where the file's config tells them; LoRA's scale must be the known one."""
    settings = config.get("model") if isinstance(config, dict) else None
    if not isinstance(settings, dict):
        return {}
    alpha, rank = settings.get("lora_alpha", 32), settings.get("lora_rank", 8)
    if not isinstance(alpha, int | float) or not isinstance(rank, int) or alpha != LORA_SCALE * rank:
        raise SALMONNImportError(
            f"'{path.name}' was trained with LoRA alpha {alpha} at rank {rank}, not 4 to 1"
        )
    names = {"second_per_window": "window_s", "second_stride": "stride_s"}
    found = {ours: settings[theirs] for theirs, ours in names.items() if theirs in settings}
    for name, value in found.items():
        if not isinstance(value, float) or not 0.02 <= value <= 30:
            raise SALMONNImportError(f"'{path.name}': its config gives {name} = {value!r}")
    return found
