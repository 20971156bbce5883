"""The whole build on one small package, made here: manifests, splits, resumption, and what goes wrong."""

import hashlib
import importlib
import io
import json
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lalm import corpus
from lalm.audio.load import SAMPLE_RATE, AudioError
from lalm.corpus import clips, packages
from lalm.corpus.catalogue import SPLITS, Row, split_of
from lalm.corpus.packages import Archive, PackageError
from lalm.data.readers import read_manifest

tables = importlib.import_module("lalm.corpus.catalogue")  # the package's function has its name
NAME = "tuxpaint-stamps-default"  # its Danish is a held-out language
UNSEEN = "scorched3d-data"
LABELS = {
    "animal/dog": "a dog barks",
    "vehicle/train": "a train passes",
    "weather/rain": "rain falls",
    "instrument/piano": "a piano note is played",
    "speech/danish": "a person speaks in Danish",
    "speech/french": "a person speaks in French",
}
SCENES = {"sequence": 6, "bed": 4, "repetition": 4}

needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb")


def rows() -> list[Row]:
    found = []
    for number, (label, caption) in enumerate(LABELS.items()):
        for letter in "abcdefghijklmnopqrst":
            member = "data.zip!" if letter in "abcde" else ""
            path = f"usr/share/{member}{letter * 3}sound{'xyz'[number % 3] * (number + 1)}.wav"
            spoken = ("da", "Hej.") if label == "speech/danish" else ("fr", "Salut.")
            name = UNSEEN if letter in "pqrst" else NAME
            if label.startswith("speech"):
                language, said = spoken
                found.append(Row(name, path, label, caption, "speech", language, "GPL-2", said))
            else:
                found.append(Row(name, path, label, caption, "sfx", "", "GPL-2", ""))
    return found


def wave(row: Row) -> bytes:
    """Noise of its own for every row, faded in and out; rain lasts."""
    rng = np.random.default_rng(list(row.path.encode()))
    shape = np.cumsum(rng.standard_normal(40))
    seconds = 3.0 if row.label == "weather/rain" else 0.6
    size = int(seconds * SAMPLE_RATE)
    tone = np.sin(np.cumsum(np.interp(np.arange(size), np.linspace(0, size, 40), 0.2 + 0.1 * np.abs(shape))))
    file = io.BytesIO()
    soundfile.write(file, 0.4 * tone, SAMPLE_RATE, format="WAV")
    return file.getvalue()


@pytest.fixture(scope="module")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with the files of ``rows``, some in a zip, but for one that it lacks and one that is text."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("needs dpkg-deb")
    root = tmp_path_factory.mktemp("package")
    (root / "DEBIAN").mkdir()
    control = (
        f"Package: {NAME}\nVersion: 1.0\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
    )
    (root / "DEBIAN" / "control").write_text(control)
    folder = root / "usr" / "share"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for number, row in enumerate(rows()):
            body = b"no audio" if number == 1 else wave(row)
            _, _, member = row.path.partition("!")
            if number == 7:
                continue
            if member:
                archive.writestr(member, body)
            else:
                (root / row.path).write_bytes(body)
    target = tmp_path_factory.mktemp("debs") / f"{NAME}_1.0_all.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(root), str(target)],
        check=True,
        capture_output=True,
    )
    return target


@pytest.fixture
def prepared(deb: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The builder with our package and no network; the list tells which packages were looked up."""
    data, asked = deb.read_bytes(), []
    archive = Archive(NAME, "1.0", len(data), hashlib.sha256(data).hexdigest(), deb.name)

    def look_up(name: str, state: Path) -> Archive:
        asked.append(name)
        return archive

    monkeypatch.setenv("LALM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packages, "look_up", look_up)
    monkeypatch.setattr(corpus, "catalogue", lambda tier: rows())
    for name in ("VALID_SHARE", "TEST_SHARE"):  # enough recordings in every split
        monkeypatch.setattr(tables, name, 0.3)
    for name in ("VALID_SCENES", "TEST_SCENES"):
        monkeypatch.setattr(corpus, name, SCENES)
    monkeypatch.setattr("lalm.corpus.empty.TEST_FILES", 4)
    return asked


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@needs_dpkg
def test_build(deb: Path, prepared: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    counts = corpus.build("small", out, num_scenes=20, packages=deb.parent)
    assert sorted(prepared) == [UNSEEN, NAME]
    note = json.loads((out / "packages" / f"{NAME}.json").read_text())
    assert note["version"] == "1.0" and len(note["refused"]) == 2
    assert "not in the package" in note["refused"].values()
    assert not (out / "unpacked").exists()
    seen: dict[str, set[str]] = {}
    for split in SPLITS:
        samples = list(read_manifest(out / f"{split}.jsonl"))
        assert len(samples) == counts[split] > 0
        for sample in samples:
            (part,) = sample.audios
            info = soundfile.info(part["audio"])
            assert (info.samplerate, info.channels, info.format, info.subtype) == (16000, 1, "FLAC", "PCM_16")
            assert sample.split == split and sample.target[0].isupper() and sample.target.endswith(".")
            assert max(e["offset_s"] for e in sample.events) <= info.duration + 1e-4
            assert sample.origin["licence"] == "GPL-2"
        seen[split] = {path for s in samples for path in s.origin["path"].split(", ")}
    for split in SPLITS:
        assert all(split_of(r) == split for r in rows() if r.path in seen[split])
    assert {s.origin["kind"] for s in read_manifest(out / "train.jsonl")} == {
        *("single", "take", "sequence", "bed", "repetition")
    }
    text = (out / "train.jsonl").read_text()
    assert str(tmp_path) not in text and '"transcript": "Salut."' in text and "Hej." not in text
    attributed = (out / "attribution.tsv").read_text().splitlines()
    assert len(attributed) == 1 + len(rows()) - 2 and attributed[1].split("\t")[2] == "1.0"
    used = {s.audios[0]["audio"] for split in SPLITS for s in read_manifest(out / f"{split}.jsonl")}
    for name in ("questions_known", "questions_unseen", "instructions_known", "instructions_unseen"):
        items = list(read_manifest(out / f"{name}.jsonl"))
        assert len(items) == counts[name] > 0
        assert {item.audios[0]["audio"] for item in items} <= used


@needs_dpkg
def test_build_goes_on_where_it_was_and_repeats_itself(
    deb: Path, prepared: list[str], tmp_path: Path
) -> None:
    def stop(step: str, done: int, total: int) -> None:
        if step == "scenes of train" and done == 7:
            raise KeyboardInterrupt

    out, whole = tmp_path / "out", tmp_path / "whole"
    with pytest.raises(KeyboardInterrupt):
        corpus.build("small", out, num_scenes=20, packages=deb.parent, progress=stop)
    assert len(list((out / "scenes" / "train").glob("*.flac"))) == 7
    corpus.build("small", out, num_scenes=20, packages=deb.parent)
    assert sorted(prepared) == [UNSEEN, NAME]  # looked up and unpacked once
    corpus.build("small", whole, num_scenes=20, packages=deb.parent)
    assert contents(out) == contents(whole)
    corpus.build("small", out, num_scenes=10, seed=1, packages=deb.parent)
    assert len(list((out / "scenes" / "valid").glob("*.flac"))) == sum(SCENES.values())


@needs_dpkg
def test_a_package_that_is_not_what_the_index_says_is_not_used(
    deb: Path, prepared: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "given").mkdir()
    broken = tmp_path / "given" / deb.name
    data = bytearray(deb.read_bytes())
    data[-1] ^= 1
    broken.write_bytes(bytes(data))

    def run(command: Sequence[str], folder: Path, failure: str) -> None:
        assert list(command[:2]) == ["apt-get", "download"] and command[-1] == f"{NAME}=1.0"
        shutil.copy(source, folder)

    monkeypatch.setattr(packages, "_run", run)
    source = broken
    with pytest.raises(
        PackageError, match=f"package '{NAME}' as downloaded is not what the package index says"
    ):
        packages.fetch(NAME, tmp_path / "downloads", also_in=broken.parent)
    source = deb
    path, _ = packages.fetch(NAME, tmp_path / "downloads", also_in=broken.parent)
    assert path.read_bytes() == deb.read_bytes()
    assert [p.name for p in (tmp_path / "downloads").iterdir()] == [deb.name]


def test_preparing_a_recording() -> None:
    tone = np.sin(np.arange(SAMPLE_RATE) / 3).astype(np.float32)
    silence = np.zeros(4000, np.float32)
    assert len(clips.prepared(np.concatenate([silence, 0.5 * tone, silence]))) == pytest.approx(
        SAMPLE_RATE, abs=4
    )
    assert np.abs(clips.prepared(2 * tone)).max() == pytest.approx(0.99)
    assert np.abs(clips.prepared(0.01 * tone)).max() == pytest.approx(0.1)
    assert len(clips.prepared(np.tile(tone, 20))) == 10 * SAMPLE_RATE
    for audio, why in ((silence, "silent"), (tone[:3000], "shorter")):
        with pytest.raises(AudioError, match=why):
            clips.prepared(audio)


def test_bursts_and_fingerprints() -> None:
    rng = np.random.default_rng(0)
    bark = (rng.standard_normal(4000) * np.hanning(4000)).astype(np.float32)
    gap = np.zeros(3200, np.float32)
    assert clips.count_bursts(bark) == 1
    assert clips.count_bursts(np.concatenate([bark, gap, bark, gap, bark])) == 3
    same = clips.fingerprint(0.3 * bark + 1e-4 * rng.standard_normal(4000).astype(np.float32))
    other = clips.fingerprint(np.sin(np.arange(4000) / 5).astype(np.float32))
    assert clips.fingerprint(bark) @ same > clips.NEARLY_EQUAL > clips.fingerprint(bark) @ other
