"""The archives of games, each built here byte by byte, whole and damaged."""

import gzip
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from lalm.corpus import containers
from lalm.corpus.containers import ContainerError, read_member

WAVE = b"RIFF" + struct.pack("<I", 12) + b"WAVEdata" + struct.pack("<I", 0)


def qt_resource(members: dict[str, bytes], *, version: int = 1, compress: bool = False) -> bytes:
    """A resource file with one folder, ``sounds``, that holds the members."""
    names, offsets = b"", []
    for name in ["sounds", *members]:
        offsets.append(len(names))
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    data, starts = b"", []
    for body in members.values():
        starts.append(len(data))
        stored = struct.pack(">I", len(body)) + zlib.compress(body) if compress else body
        data += struct.pack(">I", len(stored)) + stored
    tail = bytes(8) if version >= 2 else b""
    tree = struct.pack(">IHII", 0, 2, 1, 1) + tail + struct.pack(">IHII", 0, 2, len(members), 2) + tail
    for offset, start in zip(offsets[1:], starts, strict=True):
        tree += struct.pack(">IHHHI", offset, int(compress), 0, 0, start) + tail
    head = 20
    where = (head, head + len(tree), head + len(tree) + len(data))
    return b"qres" + struct.pack(">4I", version, *where) + tree + data + names


def clonk_group(members: dict[str, bytes], *, packed: bool = True) -> bytes:
    header = bytearray(204)
    header[:24] = b"RedWolf Design GrpFolder"
    struct.pack_into("<i", header, 36, len(members))
    for i in range(0, 202, 3):
        header[i], header[i + 2] = header[i + 2], header[i]
    entries, bodies = b"", b""
    for name, body in members.items():
        entry = bytearray(316)
        entry[: len(name)] = name.encode()
        struct.pack_into("<3i", entry, 268, len(body), 0, len(bodies))
        entries += bytes(entry)
        bodies += body
    raw = bytes(byte ^ 237 for byte in header) + entries + bodies
    return b"\x1e\x8c" + gzip.compress(raw)[2:] if packed else raw


def sound_catalogue(members: dict[str, bytes]) -> bytes:
    table, bodies = b"", b""
    for title, body in members.items():
        entry = bytes([len(title)]) + title.encode() + body
        table += struct.pack("<2I", (8 * len(members) + len(bodies)) | 0x80000000, len(body))
        bodies += entry
    return table + bodies


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("compress", [False, True])
def test_qt_resource(tmp_path: Path, version: int, compress: bool) -> None:
    members = {"rain.ogg": b"rain" * 50, "train.ogg": b"train"}
    path = tmp_path / "sounds.rcc"
    path.write_bytes(qt_resource(members, version=version, compress=compress))
    for name, body in members.items():
        assert read_member(path, f"sounds/{name}") == body
    with pytest.raises(ContainerError, match=r"sounds\.rcc has no member sounds/dog"):
        read_member(path, "sounds/dog.ogg")


def test_sound_catalogue(tmp_path: Path) -> None:
    path = tmp_path / "sounds.cat"
    path.write_bytes(sound_catalogue({"Cow": WAVE, "Dog": WAVE + b"tail"}))
    assert read_member(path, "00__Cow.wav") == WAVE
    assert read_member(path, "01__Dog.wav") == WAVE  # by the length in its own header
    with pytest.raises(ContainerError, match="has no entry 70"):
        read_member(path, "70__x.wav")


def test_clonk_group_in_a_group(tmp_path: Path) -> None:
    inner = clonk_group({"Rain.ogg": b"rain", "Wind.ogg": b"wind"}, packed=False)
    path = tmp_path / "Sound.ocg"
    path.write_bytes(clonk_group({"Bell.ogg": b"bell", "Weather.ocg": inner}))
    assert read_member(path, "Bell.ogg") == b"bell"
    assert read_member(path, "Weather.ocg/Wind.ogg") == b"wind"
    with pytest.raises(ContainerError, match=r"no entry 'Snow\.ogg'"):
        read_member(path, "Weather.ocg/Snow.ogg")


def test_zip(tmp_path: Path) -> None:
    path = tmp_path / "data.pk3"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sound/rain.ogg", b"rain" * 100)
    assert read_member(path, "sound/rain.ogg") == b"rain" * 100
    with pytest.raises(ContainerError, match=r"data\.pk3!sound/dog\.ogg"):
        read_member(path, "sound/dog.ogg")


def test_what_would_grow_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = b"\0" * 100_000
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", bomb)
    (tmp_path / "a.rcc").write_bytes(qt_resource({"x": bomb}, compress=True))
    (tmp_path / "a.ocg").write_bytes(clonk_group({"x": bomb}))
    monkeypatch.setattr(containers, "MAX_MEMBER_BYTES", 10_000)
    for name, member in (("a.zip", "x"), ("a.rcc", "sounds/x"), ("a.ocg", "x")):
        with pytest.raises(ContainerError, match=r"100000 bytes|more than 10000 bytes"):
            read_member(tmp_path / name, member)


@pytest.mark.parametrize(
    ("name", "member", "whole"),
    [
        ("a.rcc", "sounds/x", qt_resource({"x": b"sound" * 40}, compress=True)),
        ("a.cat", "00__Cow.wav", sound_catalogue({"Cow": WAVE})),
        ("a.ocg", "x", clonk_group({"x": bytes(range(256)) * 8})),
    ],
)
def test_damage_is_told_in_one_sentence(tmp_path: Path, name: str, member: str, whole: bytes) -> None:
    for size in [*range(0, len(whole), max(1, len(whole) // 60))]:
        path = tmp_path / f"{size}-{name}"
        path.write_bytes(whole[:size])
        try:
            data = read_member(path, member)
        except ContainerError as error:
            assert "\n" not in str(error)
        else:  # only what lies behind the member may be missing
            assert data == read_member_of(tmp_path, name, member, whole)[: len(data)]


def read_member_of(folder: Path, name: str, member: str, whole: bytes) -> bytes:
    path = folder / name
    path.write_bytes(whole)
    return read_member(path, member)
