"""Reads CTranslate2's ``model.bin`` of a Whisper; every length is checked before it is used.

Layout, little-endian: u32 version, text, u32 revision, u32 count; then per variable: text name, u8 rank,
u32 per dimension, u8 type, u32 bytes, data; then u32 count of aliases, two texts each. A text is a u16
length, which counts a final zero byte, and the bytes.
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from lalm.errors import LalmError

Array: TypeAlias = np.ndarray[Any, Any]

TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
MAX_VARIABLES = 100_000
MAX_RANK = 8
MAX_TEXT = 512

# CTranslate2's names for a layer's modules -> transformers'; weights called gamma and beta are a norm's.
LAYER = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
QKV = "self_attention/linear_0"  # query, key and value in one
LEAF = {"gamma": "weight", "beta": "bias", "weight": "weight", "bias": "bias"}


class CTranslateError(LalmError, ValueError):
    """A file is not a CTranslate2 model, or not one of the kind that is read here."""


class _Bytes:
    """A file's bytes, read in order; going past the end is an error that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.empty(0, np.uint8)
        self.position = 0

    def fail(self, what: str) -> CTranslateError:
        return CTranslateError(f"'{self.path.name}' is no sound CTranslate2 model: {what}")

    def take(self, size: int, what: str) -> Array:
        if size > len(self.data) - self.position:
            raise self.fail(f"{what} would reach beyond the file's {len(self.data)} bytes")
        self.position += size
        return self.data[self.position - size : self.position]

    def number(self, code: str, what: str) -> int:
        return int(struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what).tobytes())[0])

    def text(self, what: str) -> str:
        size = self.number("H", what)
        if not 1 <= size <= MAX_TEXT:
            raise self.fail(f"{what} has a length of {size}")
        try:
            return self.take(size, what).tobytes()[:-1].decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} is not text") from None


def read_variables(path: Path) -> dict[str, Array]:
    """All variables of a ``model.bin`` by name, as read-only views of the file. Raises CTranslateError."""
    file = _Bytes(path)
    version = file.number("I", "the version")
    if version != 6:
        raise file.fail(f"its format version is {version}, not 6")
    file.text("the model's type")
    file.number("I", "the revision")
    count = file.number("I", "the number of variables")
    if count > MAX_VARIABLES:
        raise file.fail(f"it claims {count} variables")
    variables: dict[str, Array] = {}
    for number in range(count):
        name = file.text(f"the name of variable {number}")
        rank = file.number("B", name)
        if rank > MAX_RANK:
            raise file.fail(f"{name} has {rank} dimensions")
        shape = [file.number("I", name) for _ in range(rank)]
        code = file.number("B", name)
        if code not in TYPES:
            raise file.fail(f"{name} has the unknown type {code}")
        size, expected = file.number("I", name), np.dtype(TYPES[code]).itemsize
        for length in shape:
            expected *= length  # Python integers: no overflow
        if size != expected:
            raise file.fail(f"{name} of shape {shape} has {size} bytes instead of {expected}")
        if name in variables:
            raise file.fail(f"{name} stands there twice")
        variables[name] = file.take(size, name).view(TYPES[code]).reshape(shape)
    for number in range(file.number("I", "the number of aliases")):
        file.text(f"alias {number}")
        file.text(f"the target of alias {number}")
    if file.position != len(file.data):
        raise file.fail(f"{len(file.data) - file.position} bytes follow its end")
    return variables


def whisper_encoder(path: Path) -> tuple[dict[str, Array], int]:
    """The encoder's arrays under transformers' names (``conv1.weight``, ...), and its number of heads.

    Every variable that starts with ``encoder/`` is used; one that is not known raises CTranslateError.
    """
    variables = {
        name.removeprefix("encoder/"): array
        for name, array in read_variables(path).items()
        if name.startswith("encoder/")
    }
    tensors: dict[str, Array] = {}
    num_heads = 0
    for name, array in variables.items():
        module, _, leaf = name.rpartition("/")
        if name == "num_heads":
            num_heads = int(array)
        elif name == "position_encodings/encodings":
            tensors["embed_positions.weight"] = array.copy()
        elif module in ("conv1", "conv2", "layer_norm") and leaf in LEAF:
            tensors[f"{module}.{LEAF[leaf]}"] = array.copy()
        elif module.startswith("layer_") and leaf in LEAF:
            tensors |= _layer_tensors(path, module, leaf, array)
        else:
            raise CTranslateError(f"'{path.name}' has an unknown encoder variable '{name}' {array.shape}")
    needed = {"conv1.weight", "embed_positions.weight", "layers.0.fc1.bias"}
    if num_heads < 1 or not needed <= set(tensors):
        raise CTranslateError(f"'{path.name}' holds no Whisper encoder")
    return tensors, num_heads


def _layer_tensors(path: Path, module: str, leaf: str, array: Array) -> Mapping[str, Array]:
    """One variable of one layer under transformers' name; the joined query, key and value under three."""
    number, _, inner = module.removeprefix("layer_").partition("/")
    prefix = f"layers.{number}."
    if inner in LAYER and number.isdecimal():
        return {f"{prefix}{LAYER[inner]}.{LEAF[leaf]}": array.copy()}
    if inner != QKV or not number.isdecimal() or len(array) % 3:
        raise CTranslateError(
            f"'{path.name}' has an unknown encoder variable '{module}/{leaf}' {array.shape}"
        )
    query, key, value = np.split(array, 3)
    tensors = {f"{prefix}self_attn.q_proj.{leaf}": query, f"{prefix}self_attn.v_proj.{leaf}": value}
    if leaf == "weight":
        tensors[f"{prefix}self_attn.k_proj.weight"] = key
    elif key.any():  # Whisper's keys have no bias: the file holds zeros in its place
        raise CTranslateError(f"'{path.name}': the keys of layer {number} have a bias, which no Whisper has")
    return {name: part.copy() for name, part in tensors.items()}
