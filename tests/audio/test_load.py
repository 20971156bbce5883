"""The loader: every format and kind of source, and one sentence for everything that can be wrong."""

import base64
import io
import os
import struct
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import soxr

from lalm.audio import sources
from lalm.audio.ffmpeg_tracks import open_container
from lalm.audio.load import SAMPLE_RATE, AudioError, audio_name, load_audio, seconds

SAMPLES = Path(__file__).parents[2] / "samples"
CLIPS = sorted(path for path in SAMPLES.iterdir() if path.suffix in (".ogg", ".flac"))


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """4 s of real sound, (N,) float32 at 44.1 kHz."""
    parts = [soundfile.read(SAMPLES / name, dtype="float32")[0] for name in ("bell.flac", "train.ogg")]
    return np.concatenate(parts)[: 4 * 44_100]


def encoded(clip: np.ndarray, name: str, subtype: str | None = None, rate: int = 44_100) -> bytes:
    """``clip`` through soundfile in the format called ``name``."""
    file = io.BytesIO()
    soundfile.write(file, clip, rate, format=name, subtype=subtype)
    return file.getvalue()


def packed(clip: np.ndarray, path: Path, codec: str, rate: int = 44_100, **options: str) -> bytes:
    """``clip`` through PyAV in the container that ``path``'s extension names; mp4 gets a video track."""
    layout = "stereo"
    kind = {"aac": "adts", "m4a": "ipod", "mkv": "matroska"}.get(path.suffix[1:], path.suffix[1:])
    with av.open(str(path), "w", format=kind, options=options) as container:
        if path.suffix == ".mp4":
            video = container.add_stream("mpeg4", rate=5)
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
        track: Any = container.add_stream(codec, rate=rate)
        track.layout = layout
        frame = av.AudioFrame.from_ndarray(np.stack([clip, clip]), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = 44_100, 0
        if path.suffix == ".mp4":
            for n in range(5):
                picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * n, np.uint8), format="rgb24")
                container.mux(video.encode(picture))
            container.mux(video.encode(None))
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path.read_bytes()


def likeness(audio: np.ndarray, reference: np.ndarray) -> float:
    """Best normalised correlation over shifts of up to 0.1 s (codecs delay)."""
    n = 1 << 18
    cross = np.fft.irfft(np.fft.rfft(audio, n) * np.fft.rfft(reference, n).conj(), n)
    near = np.concatenate([cross[:1600], cross[-1600:]])
    return float(near.max() / np.linalg.norm(audio) / np.linalg.norm(reference))


def refused(source: Any, **options: Any) -> str:
    """The sentence with which the loader refuses ``source``."""
    with pytest.raises(AudioError) as caught:
        load_audio(source, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "wavfloat": ("WAV", "FLOAT"),
    "wavu8": ("WAV", "PCM_U8"),
    "aiff": ("AIFF", None),
    "flac": ("FLAC", None),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", None),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_of_libsndfile(kind: str, clip: np.ndarray) -> None:
    name, subtype = FORMATS[kind]
    rate = 48_000 if kind == "opus" else 44_100
    source = soxr.resample(clip, 44_100, rate) if rate != 44_100 else clip
    audio = load_audio(encoded(np.stack([source, source], 1), name, subtype, rate))
    assert audio.dtype == np.float32 and audio.ndim == 1
    assert abs(seconds(audio) - 4) < 0.001
    assert likeness(audio, soxr.resample(clip, 44_100, SAMPLE_RATE)) > 0.97


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.m4a", "aac", 44_100),
        ("a.aac", "aac", 44_100),
        ("a.mp4", "aac", 44_100),
        ("a.webm", "libopus", 48_000),
        ("a.mkv", "libmp3lame", 44_100),
    ],
)
def test_formats_of_ffmpeg(name: str, codec: str, rate: int, clip: np.ndarray, tmp_path: Path) -> None:
    data = packed(clip, tmp_path / name, codec, rate)
    reference = soxr.resample(clip, 44_100, SAMPLE_RATE)
    for source in (tmp_path / name, data):
        audio = load_audio(source)
        assert abs(seconds(audio) - 4) < 0.1
        assert likeness(audio, reference) > 0.95
    part = load_audio(tmp_path / name, offset_s=2.0, duration_s=1.0)
    assert len(part) == SAMPLE_RATE
    assert likeness(part, audio[2 * SAMPLE_RATE : 3 * SAMPLE_RATE]) > 0.99


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.name)
def test_samples_are_sound(path: Path) -> None:
    audio = load_audio(path)
    assert 1.5 < seconds(audio) < 6
    assert 0.1 < np.abs(audio).max() <= 1.05
    assert path.stat().st_size < 150_000
    assert f"`{path.name}`" in (SAMPLES / "README.md").read_text()


def test_content_decides_not_the_extension(clip: np.ndarray, tmp_path: Path) -> None:
    for name in ("a.raw", "a.mp3", "a", "ä ö.txt"):
        (tmp_path / name).write_bytes(encoded(clip, "FLAC"))
        assert len(load_audio(str(tmp_path / name))) == 64_000


def test_streaming_equals_resampling_at_once(clip: np.ndarray) -> None:
    long = np.tile(clip, 3)  # several blocks
    audio = load_audio(encoded(long, "WAV", "FLOAT"))
    np.testing.assert_allclose(audio, soxr.resample(long, 44_100, SAMPLE_RATE), atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 96_000, 192_000])
def test_rates(rate: int) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    audio = load_audio(tone, rate=rate)
    expected = np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    assert len(audio) == SAMPLE_RATE
    assert np.abs(audio - expected)[1_000:-1_000].max() < 1e-3


def test_arrays() -> None:
    rng = np.random.default_rng(0)
    tone = rng.uniform(-0.5, 0.5, 1_600).astype(np.float32)
    np.testing.assert_array_equal(load_audio(tone), tone)
    np.testing.assert_array_equal(load_audio(tone * 3), tone * 3)  # loud is not wrong
    np.testing.assert_array_equal(load_audio(np.stack([tone, -tone, tone], 1)), tone / 3)
    np.testing.assert_allclose(load_audio((tone * 32_768).astype(np.int16)), tone, atol=1e-4)
    np.testing.assert_allclose(load_audio((tone * 128 + 128).astype(np.uint8)), tone, atol=1e-2)
    np.testing.assert_array_equal(load_audio(tone, offset_s=0.01, duration_s=0.02), tone[160:480])
    assert not load_audio(np.zeros(800)).any()  # silence is sound
    own = load_audio(tone)
    own[0] = 9  # the caller's array is not touched
    assert tone[0] != 9


def test_sources_agree(clip: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(clip, "FLAC")
    path = tmp_path / "a.flac"
    path.write_bytes(data)
    reference = load_audio(data)
    text = base64.b64encode(data).decode()
    for source in (
        path,
        str(path),
        f"data:audio/flac;base64,{text}",
        f"DATA:;base64,{text[:80]}\n{text[80:]}",
    ):
        np.testing.assert_array_equal(load_audio(source), reference)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    np.testing.assert_array_equal(load_audio("-"), reference)


def test_named_pipe(clip: np.ndarray, tmp_path: Path) -> None:
    data = encoded(clip, "FLAC")
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,))
    writer.start()
    np.testing.assert_array_equal(load_audio(tmp_path / "pipe"), load_audio(data))
    writer.join()


@pytest.mark.parametrize("name", ["WAV", "FLAC", "OGG", "MP3"])
def test_parts(name: str, clip: np.ndarray) -> None:
    data = encoded(soxr.resample(clip, 44_100, SAMPLE_RATE), name, rate=SAMPLE_RATE)
    audio = load_audio(data)
    part = load_audio(data, offset_s=1.25, duration_s=0.5)
    exact = 2e-2 if name == "MP3" else 1e-6
    np.testing.assert_allclose(part, audio[20_000:28_000], atol=exact)
    np.testing.assert_allclose(load_audio(data, offset_s=3.5), audio[56_000:], atol=exact)
    assert len(load_audio(data, offset_s=3.5, duration_s=9)) == 8_000  # the recording ends first


def test_wav_written_to_a_pipe_has_no_length_to_keep(clip: np.ndarray) -> None:
    data = bytearray(encoded(clip, "WAV"))
    at = data.index(b"data") + 4
    data[4:8] = data[at : at + 4] = b"\xff\xff\xff\xff"
    assert abs(seconds(load_audio(bytes(data))) - 4) < 0.001


def test_lengths_that_headers_leave_out(clip: np.ndarray) -> None:
    """A streamed FLAC, a variable-rate MP3 without its index and a chained Ogg are read to their end."""
    quiet_first = np.tile(clip, 5) * np.repeat(np.linspace(0, 1, 20), 44_100).astype(np.float32)
    flac = bytearray(encoded(quiet_first, "FLAC"))
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 44_100, 1, format="MP3", bitrate_mode="VARIABLE") as writer:
        writer.write(quiet_first)
    mp3 = file.getvalue()
    bare = mp3[mp3.index(mp3[:2], mp3.index(b"Xing")) :]
    for data in (bytes(flac), mp3, bare):
        assert abs(seconds(load_audio(data)) - 20) < 0.1
        assert len(load_audio(data, offset_s=10, duration_s=1.5)) == 24_000
        assert "s long; the limit is 5 s" in refused(data, max_s=5)
        assert "is past the end" in refused(data, offset_s=21)
    chained = encoded(clip, "OGG", "VORBIS") + encoded(clip * 0.5, "OGG", "VORBIS")
    assert abs(seconds(load_audio(chained)) - 8) < 0.1


def test_memory_stays_near_the_result(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    minute = np.random.default_rng(0).standard_normal((48_000 * 60, 2)).astype(np.float32) * 0.01
    soundfile.write(path, minute, 48_000)
    del minute
    tracemalloc.start()
    audio = load_audio(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert audio.nbytes == 4 * 60 * SAMPLE_RATE
    assert peak < 2 * audio.nbytes  # at its own rate the recording is six times the result


def test_names() -> None:
    sources = ["x/dog.ogg", Path("x/dog.ogg"), "-", "data:,x", b"", np.zeros(1)]
    assert [audio_name(s) for s in sources] == ["dog.ogg", "dog.ogg", "stdin", "data URL", "bytes", "array"]


# --- what is wrong ---


def test_missing_folder_and_empty(tmp_path: Path) -> None:
    missing, empty = tmp_path / "no.wav", tmp_path / "empty.wav"
    empty.touch()
    assert refused(missing) == f"there is no file {missing}"
    assert refused(tmp_path) == f"{tmp_path} is a folder, not an audio file"
    assert refused(str(empty)) == f"{empty} is empty (0 bytes)"
    assert refused(b"") == "the audio data is empty (0 bytes)"
    assert refused("/dev/zero") == "/dev/zero is a device, not an audio file"
    assert refused("a\0b").endswith("holds a null character")
    assert refused("x" * 5_000).endswith("cannot be opened: File name too long")
    assert len(refused("x" * 5_000)) < 300
    assert refused({"a": 1}) == "audio must be a path, data URL, bytes or array, not dict"


@pytest.mark.parametrize(
    "data",
    [
        b"hello world\n" * 300,
        np.random.default_rng(0).bytes(100_000),
        b"RIFF\x00\x00\x00\x00WAVE",
        b"\x89PNG\r\n\x1a\n" + bytes(500),
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n",
        b"ffconcat version 1.0\nfile '/etc/hostname'\n",
    ],
    ids=["text", "noise", "riff", "png", "playlist", "concat"],
)
def test_not_audio(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    assert refused(path) == f"{path} is not audio, or in a format that cannot be read"


def test_no_audio_track(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("mpeg4", rate=5)
        video.width = video.height = 32
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux(video.encode(picture))
        container.mux(video.encode(None))
    assert refused(path) == f"{path} holds no audio track"


@pytest.mark.parametrize("cut", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("kind", FORMATS)
def test_truncated(kind: str, cut: float, clip: np.ndarray, tmp_path: Path) -> None:
    name, subtype = FORMATS[kind]
    data = encoded(np.tile(clip, 2), name, subtype, 48_000 if kind == "opus" else 44_100)
    path = tmp_path / f"a.{kind}"
    path.write_bytes(data[: int(cut * len(data))])
    sentence = refused(path)
    assert sentence.startswith(f"{path} is ") and "truncated" in sentence
    if name in ("WAV", "AIFF"):
        said = f"{path} is truncated: it promises 8 s of audio but ends after {8 * cut:g} s"
        assert sentence == f"{said}; lenient (--lenient) hears what is there"


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.m4a", "aac", {}),
        ("a.mp4", "aac", {"movflags": "faststart"}),
        ("a.webm", "libopus", {}),
    ],
)
def test_truncated_for_ffmpeg(
    name: str, codec: str, options: dict[str, str], clip: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / name
    data = packed(clip, path, codec, 48_000 if codec == "libopus" else 44_100, **options)
    path.write_bytes(data[: len(data) // 2])
    sentence = refused(path)
    assert sentence.startswith(f"{path} is ") and "truncated" in sentence


@pytest.mark.parametrize("kind", ["flac", "ogg", "opus"])
def test_damaged_in_the_middle(kind: str, clip: np.ndarray) -> None:
    name, subtype = FORMATS[kind]
    data = bytearray(encoded(np.tile(clip, 3), name, subtype, 48_000 if kind == "opus" else 44_100))
    middle = len(data) // 2
    data[middle : middle + 400] = b"\x55" * 400
    sentence = refused(bytes(data))
    assert "damaged" in sentence
    if kind == "flac":
        stop_s = float(sentence.partition(" s;")[0].rsplit(maxsplit=1)[1])
        assert 3 < stop_s < 7


def test_no_samples_and_bad_values(clip: np.ndarray) -> None:
    assert refused(encoded(clip[:0], "WAV")).endswith("no audio (0 samples)")
    assert refused(np.zeros(0)) == "the array holds no audio (0 samples)"
    for bad in (np.nan, np.inf, -np.inf):
        broken = clip.copy()
        broken[66_150] = bad
        for source in (encoded(broken, "WAV", "FLOAT"), encoded(np.stack([clip, broken], 1), "WAV", "FLOAT")):
            assert refused(source).endswith(
                "holds NaN or infinite values, first at 1.5 s; lenient (--lenient) hears what is there"
            )
        assert "first at 1.5 s" in refused(broken, rate=44_100, offset_s=1)
    assert refused(np.array([1e300])).startswith("the array holds NaN or infinite values, first at 0 s;")
    assert refused(np.zeros(9, complex)) == "the array holds complex128 values; audio must be real numbers"
    assert refused(np.zeros((2, 3, 4))).startswith(
        "the array has shape (2, 3, 4); audio must be (N,) or (N, C)"
    )
    assert refused(np.zeros((2, 16_000))).startswith("the array has shape (2, 16000)")


def test_limits(clip: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(clip, "WAV"))
    assert len(load_audio(path, max_s=4)) == 64_000
    assert len(load_audio(path, max_s=1, duration_s=1)) == SAMPLE_RATE
    assert refused(path, max_s=3.5) == f"{path} is 4 s long; the limit is 3.5 s"
    assert refused(np.zeros(7_200_000), rate=1_000, max_s=3_600) == (
        "the array is 7200 s long; the limit is 3600 s"
    )
    packed(clip, tmp_path / "a.aac", "aac")  # states no length: its frames are counted
    assert refused(tmp_path / "a.aac", max_s=2).endswith("a.aac is 4.04 s long; the limit is 2 s")


def test_offsets(clip: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(clip, "WAV"))
    assert refused(path, offset_s=5) == f"the offset 5 s is past the end of {path}, which is 4 s long"
    assert refused(clip, rate=44_100, offset_s=5).startswith("the offset 5 s is past the end of the array")
    packed(clip, tmp_path / "a.aac", "aac")
    assert refused(tmp_path / "a.aac", offset_s=60).startswith("the offset 60 s is past the end of ")
    assert refused(path, offset_s=-1) == f"offset_s of {path} must be 0 or more, not -1"
    assert refused(path, duration_s=0) == f"duration_s of {path} must be more than 0, not 0"
    assert "must be 0 or more, not nan" in refused(path, offset_s=float("nan"))


def test_rates_and_channels_refused(clip: np.ndarray) -> None:
    limits = "rates from 1000 to 768000 Hz can be read"
    assert refused(clip, rate=500) == f"the array has a rate of 500 Hz; {limits}"
    assert refused(encoded(clip, "WAV", rate=200)).endswith(f"a rate of 200 Hz; {limits}")
    assert refused(encoded(np.zeros((90, 65)), "WAV")).endswith("65 channels; 1 to 64 can be read")
    assert refused("a.wav", rate=8_000) == "rate is for arrays, and a.wav states its own"


def test_urls() -> None:
    assert refused("https://example.org/a.wav") == (
        "https://example.org/a.wav is a web address, and those are not fetched: download it and give the file"
    )
    assert refused("data:audio/wav;base64") == "the data URL has no comma between its type and its data"
    assert refused("data:audio/wav;base64,@@@@") == "the data URL is not valid base64"
    assert refused("data:audio/wav;base64,abcde") == "the data URL is not valid base64"
    assert refused("data:image/png;base64,AAAA") == "the data URL holds image/png, not audio"
    assert refused("data:audio/wav;base64,") == "the data URL is empty (0 bytes)"
    assert refused("data:audio/wav,hello").startswith("the data URL is not audio")


def test_piped_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_PIPED_BYTES", 1 << 20)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(bytes(3 << 20))))
    assert refused("-").startswith("stdin is more than")


def test_header_cannot_make_it_allocate() -> None:
    header = bytearray(encoded(np.zeros(10, np.float32), "WAV"))
    at = header.index(b"data") + 4
    header[at : at + 4] = (0x7FFE_0000).to_bytes(4, "little")  # 2 GB promised, 20 bytes there
    tracemalloc.start()
    assert "truncated" in refused(bytes(header))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_tags_that_are_no_text_do_not_keep_a_container_shut() -> None:
    """Whatever PyAV's release: before 19 it wanted an argument for this, which 19 refuses."""
    tag = b"INFOINAM" + struct.pack("<I", 4) + b"\xff\xfe\xe9\x80"
    body = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    body += b"LIST" + struct.pack("<I", len(tag)) + tag + b"data" + struct.pack("<I", 3200) + bytes(3200)
    wave = b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body
    with open_container(io.BytesIO(wave), "wav") as container:
        assert len(container.streams.audio) == 1 and container.metadata
