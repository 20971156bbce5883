"""Reads the archive formats that games keep their sounds in; every size read from a file is bounded."""

import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

from lalm.errors import LalmError

MAX_MEMBER_BYTES = 256 * 1024 * 1024


class ContainerError(LalmError, ValueError):
    """A container that is damaged or not of its kind."""


def read_zip(path: Path, member: str) -> bytes:
    """A member of a zip archive (.pk3, .wz, .zip)."""
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(member)
            if info.file_size > MAX_MEMBER_BYTES:
                raise ContainerError(f"{path.name}!{member} says it holds {info.file_size} bytes: refused")
            return archive.read(info)
    except (KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ContainerError(f"{path.name}!{member} cannot be read: {error}") from None


def read_rcc(path: Path, member: str) -> bytes:
    """A member of a Qt resource file: big-endian header, a tree of 14- or 22-byte nodes, names, data."""
    raw = _bytes(path)
    if raw[:4] != b"qres":
        raise ContainerError(f"{path.name} is not a Qt resource file")
    version, tree, data, names = struct.unpack_from(">4I", raw, 4)
    size = 22 if version >= 2 else 14
    node, parts = 0, member.split("/")
    for depth, part in enumerate(parts):
        _, flags, count, first = struct.unpack_from(">IHII", raw, tree + node * size)
        if not flags & 2:
            raise ContainerError(f"{path.name}!{member}: '{parts[depth - 1]}' is not a folder")
        for child in range(first, first + count):
            at = names + struct.unpack_from(">I", raw, tree + child * size)[0]
            length = struct.unpack_from(">H", raw, at)[0]
            if raw[at + 6 : at + 6 + 2 * length].decode("utf-16-be") == part:
                node = child
                break
        else:
            raise ContainerError(f"{path.name} has no member {member}")
    _, flags = struct.unpack_from(">IH", raw, tree + node * size)
    start = data + struct.unpack_from(">I", raw, tree + node * size + 10)[0]
    length = struct.unpack_from(">I", raw, start)[0]
    body = raw[start + 4 : start + 4 + length]
    if flags & 4:
        raise ContainerError(f"{path.name}!{member} is compressed with zstd, which is not read")
    return _inflate(body[4:], f"{path.name}!{member}") if flags & 1 else body


def read_cat(path: Path, member: str) -> bytes:
    """An entry of an OpenTTD sound catalogue; members are called ``<two-digit index>__<title>``."""
    raw = _bytes(path)
    index = int(member.split("__", 1)[0])
    if len(raw) < 8 * (index + 1):
        raise ContainerError(f"{path.name} has no entry {index}")
    offset, size = struct.unpack_from("<2I", raw, 8 * index)
    offset &= 0x7FFFFFFF
    if offset >= len(raw) or size > len(raw):
        raise ContainerError(f"{path.name}: entry {index} lies outside the file")
    start = offset + 1 + raw[offset]  # a length byte and the title come first
    if raw[start : start + 4] != b"RIFF":
        raise ContainerError(f"{path.name}: entry {index} is not a wave file")
    return raw[start : start + 8 + struct.unpack_from("<I", raw, start + 4)[0]]


def read_ocg(path: Path, member: str) -> bytes:
    """A member of an OpenClonk group, which may lie in groups inside it ("Environment.ocg/Rain.ogg")."""
    folder, _, name = member.rpartition("/")
    return _group_entry(_group(path, folder), name, f"{path.name}!{member}")


@lru_cache(maxsize=4)
def _group(path: Path, folder: str) -> bytes:
    """A group unzipped: the file itself, or a group inside it."""
    if not folder:
        raw = path.read_bytes()
    else:
        outer, _, name = folder.rpartition("/")
        raw = _group_entry(_group(path, outer), name, f"{path.name}!{folder}")
    if raw[:2] == b"\x1e\x8c":  # gzip with a magic of its own
        raw = b"\x1f\x8b" + raw[2:]
    if raw[:2] == b"\x1f\x8b":
        raw = _inflate(raw, f"{path.name}!{folder}", zlib.MAX_WBITS | 16)
    return raw


@lru_cache(maxsize=2)
def _bytes(path: Path) -> bytes:
    return path.read_bytes()


def _group_entry(raw: bytes, name: str, place: str) -> bytes:
    """One entry of an unzipped group: a scrambled header, then entries of 316 bytes."""
    header = bytearray(byte ^ 237 for byte in raw[:204])
    for i in range(0, 202, 3):
        header[i], header[i + 2] = header[i + 2], header[i]
    if not header.startswith(b"RedWolf Design GrpFolder"):
        raise ContainerError(f"{place}: not an OpenClonk group")
    count = struct.unpack_from("<i", header, 36)[0]
    if not 0 <= count <= (len(raw) - 204) // 316:
        raise ContainerError(f"{place}: says it holds {count} entries")
    base = 204 + 316 * count
    for i in range(count):
        entry = raw[204 + 316 * i : 204 + 316 * (i + 1)]
        if entry[:260].split(b"\0", 1)[0].decode("latin-1") == name:
            size, _, offset = struct.unpack_from("<3i", entry, 268)
            if offset < 0 or size < 0 or base + offset + size > len(raw):
                raise ContainerError(f"{place}: '{name}' lies outside the group")
            return raw[base + offset : base + offset + size]
    raise ContainerError(f"{place}: no entry '{name}'")


def _inflate(body: bytes, place: str, window_bits: int = zlib.MAX_WBITS) -> bytes:
    """``body`` decompressed; refused when it ends early or would grow past MAX_MEMBER_BYTES."""
    stream = zlib.decompressobj(window_bits)
    try:
        data = stream.decompress(body, MAX_MEMBER_BYTES)
    except zlib.error as error:
        raise ContainerError(f"{place} cannot be read: {error}") from None
    if not stream.eof:
        why = f"holds more than {MAX_MEMBER_BYTES} bytes" if stream.unconsumed_tail else "ends early"
        raise ContainerError(f"{place} {why}")
    return data


READERS: Mapping[str, Callable[[Path, str], bytes]] = {
    ".pk3": read_zip,
    ".wz": read_zip,
    ".zip": read_zip,
    ".rcc": read_rcc,
    ".cat": read_cat,
    ".ocg": read_ocg,
    ".ocd": read_ocg,
}


def read_member(path: Path, member: str) -> bytes:
    """The bytes of ``member`` in the container ``path``, by the container's file name ending."""
    if path.suffix not in READERS:
        raise ContainerError(f"{path.name}: containers of this kind are not read")
    try:
        return READERS[path.suffix](path, member)
    except (struct.error, IndexError, UnicodeDecodeError):
        raise ContainerError(f"{path.name} is damaged") from None
