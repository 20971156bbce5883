"""Speech as it comes: utterances, streams of PCM and WAV, and ``lalm chat`` over files and standard input."""

import io
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from lalm.audio import vad as voice
from lalm.audio.load import SAMPLE_RATE, AudioError, load_audio
from lalm.cli import chat
from lalm.cli.chat_lines import Turn
from lalm.models.save import save_model

SAMPLES = Path(__file__).parents[2] / "samples"


class Loudness:
    """A detector with silero-vad's answers, for which whatever is loud is speech."""

    def __init__(self, pause_frames: int = 5) -> None:
        self.pause, self.quiet, self.speaking = pause_frames, 0, False

    def __call__(self, frame: torch.Tensor) -> dict[str, int] | None:
        assert frame.shape == (512,) and frame.dtype == torch.float32
        loud = bool(frame.abs().max() > 0.1)
        self.quiet = 0 if loud else self.quiet + 1
        if loud and not self.speaking:
            self.speaking = True
            return {"start": 0}
        if self.speaking and self.quiet >= self.pause:
            self.speaking = False
            return {"end": 0}
        return None


def tone(seconds: float) -> np.ndarray:
    return (0.5 * np.sin(np.arange(int(seconds * 16_000)) * 0.1)).astype(np.float32)


def quiet(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * 16_000), np.float32)


def test_utterances_come_one_by_one_with_what_was_before_them():
    track = np.concatenate([quiet(1), tone(1), quiet(1), tone(0.5), quiet(0.1)])
    blocks = np.array_split(track, 97)
    drawn = []

    def given():
        for number, block in enumerate(blocks):
            drawn.append(number)
            yield block

    found = voice.utterances(given(), Loudness(), before_s=0.32)
    first = next(found)
    assert len(drawn) < 0.75 * len(blocks)  # the second has not been read when the first is there
    (second,) = list(found)
    assert len(first) / 16_000 == pytest.approx(0.32 + 1 + 5 * 0.032, abs=0.07)
    assert np.abs(first[: int(0.2 * 16_000)]).max() == 0 and np.abs(first).max() > 0.4
    assert len(second) / 16_000 == pytest.approx(0.32 + 0.5 + 0.1, abs=0.07)  # speech until the very end
    assert list(voice.utterances([quiet(2)], Loudness())) == []


def test_frames_keep_every_sample():
    track = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    found = np.concatenate(list(voice.frames(np.array_split(track, 7))))
    assert len(found) % 512 == 0 and np.array_equal(found[:5000], track) and not found[5000:].any()


@pytest.mark.parametrize("rate, channels", [(16_000, 1), (48_000, 2), (8_000, 1)])
def test_wav_and_pcm_streams_are_the_same_sound(rate, channels):
    time = np.arange(rate) / rate
    sound = 0.3 * np.sin(2 * np.pi * 440 * time)
    file = io.BytesIO()
    soundfile.write(file, np.stack([sound] * channels, 1), rate, format="WAV", subtype="PCM_16")
    file.seek(0)
    found = np.concatenate(list(voice.pcm_blocks(file)))
    wanted = 0.3 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert len(found) == pytest.approx(16_000, abs=2) and found.dtype == np.float32
    assert np.abs(found[500:15_000] - wanted[500:15_000]).max() < 0.01
    raw = io.BytesIO((wanted * 32767).astype("<i2").tobytes() + b"\x01")  # half a sample more
    assert np.abs(np.concatenate(list(voice.pcm_blocks(raw))) - wanted).max() < 1e-3


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
def test_wav_streams_of_other_samples(subtype, form):
    sound = 0.3 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    file = io.BytesIO()
    soundfile.write(file, np.stack([sound, sound], 1), 16_000, format=form, subtype=subtype)
    file.seek(0)
    found = np.concatenate(list(voice.pcm_blocks(file)))
    assert np.abs(found[:16_000] - sound).max() < 0.01 and np.abs(found[16_000:]).max(initial=0) <= 1


def test_a_wav_stream_with_a_nan_is_silent_there():
    data = wav(3, 1, 16_000, 32)[:-2] + np.array([0.5, np.nan, np.inf, -0.5], "<f4").tobytes()
    assert np.concatenate(list(voice.pcm_blocks(io.BytesIO(data)))).tolist() == [0.5, 0, 0, -0.5]


def wav(kind: int, channels: int, rate: int, bits: int) -> bytes:
    form = struct.pack("<HHIIHH", kind, channels, rate, 0, 0, bits)
    return b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", len(form)) + form + b"data\xff\xff\xff\xff\0\0"


@pytest.mark.parametrize(
    "data, text",
    [
        (b"RIFF\0\0\0\0AVI ", "begins like a WAV file and is none"),
        (wav(6, 1, 16_000, 8), "must be PCM or float of 1 to 64 channels, not 1 of 8 bits, kind 6"),
        (wav(1, 0, 16_000, 16), "of 1 to 64 channels, not 0 of 16 bits"),
        (b"RIFF\0\0\0\0WAVEfmt ", "no samples"),
        (b"RIFF\0\0\0\0WAVE" + b"LIST\xff\xff\xff\xff" + b"x" * 100, "no samples"),
    ],
)
def test_bad_streams_are_refused(data, text):
    with pytest.raises(AudioError, match=text):
        list(voice.pcm_blocks(io.BytesIO(data)))


def test_frames_together_are_as_likely_as_one_by_one():
    silero_vad = pytest.importorskip("silero_vad")
    rng = np.random.default_rng(0)
    audio = load_audio(SAMPLES / "water.ogg")[: 70 * voice.FRAME]
    audio = audio * np.repeat(rng.uniform(0, 1, len(audio) // voice.FRAME), voice.FRAME).astype(np.float32)
    rows = audio.reshape(-1, voice.FRAME)
    model, probability = silero_vad.load_silero_vad(), voice.load_probability()
    with torch.inference_mode():
        alone = [float(model(torch.from_numpy(row), SAMPLE_RATE)) for row in rows]
    together = np.concatenate([probability(rows[:1]), probability(rows[1:40]), probability(rows[40:])])
    assert np.ptp(alone) > 0.01 and np.allclose(together, alone, atol=1e-5)
    assert np.allclose(
        voice.load_probability()(rows[:5]), alone[:5], atol=1e-5
    )  # nothing is left of another recording


def test_blocks_of_any_size_become_groups_of_frames():
    audio = np.arange(100 * voice.FRAME + 7, dtype=np.float32)
    sizes = [3, 40_000, 1, 5000, len(audio)]
    at, blocks = 0, []
    for size in sizes:
        blocks.append(audio[at : at + size])
        at += size
    groups = list(voice.frame_groups(blocks))
    assert all(1 <= len(group) <= voice.GROUP for group in groups) and len(groups) < 12
    joined = np.concatenate(groups).reshape(-1)
    assert (
        np.array_equal(joined[: len(audio)], audio)
        and len(joined) == 101 * voice.FRAME
        and not joined[len(audio) :].any()
    )


def test_silero_vad_hears_no_speech_in_water_and_leaves_torch_its_threads():
    pytest.importorskip("silero_vad")
    threads = torch.get_num_threads()
    detector = voice.load_detector(0.5)
    assert torch.get_num_threads() == threads
    assert list(voice.utterances([load_audio(SAMPLES / "water.ogg"), quiet(1)], detector)) == []


@pytest.fixture
def model(tiny, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(*tiny("qwen2-audio"), tmp_path / "model", slim=False)
    return tmp_path / "model"


@pytest.fixture
def talk(model, monkeypatch, capsys):
    """Run ``lalm chat`` with what stands on standard input; what the model was asked, turn by turn."""
    from lalm.inference.conversation import Conversation

    say = Conversation.say

    def run(*words: str, stdin: bytes = b"") -> tuple[list[tuple[int, str]], str]:
        from lalm.cli.app import run as cli

        asked = []

        def spy(self, parts):
            asked.append((len(Turn(tuple(parts)).audios), Turn(tuple(parts)).text))
            return say(self, parts)

        monkeypatch.setattr(Conversation, "say", spy)
        text = io.TextIOWrapper(io.BytesIO(stdin))
        monkeypatch.setattr("sys.stdin", text)
        code = cli(["chat", *words, "--model", str(model), "--max-new-tokens", "4", "--device", "cpu"])
        out = capsys.readouterr()
        assert code == 0, out.err
        return asked, out.out

    return run


def test_chat_takes_audio_text_or_both_line_by_line(talk):
    bird = str(SAMPLES / "bird.ogg")
    asked, out = talk(
        bird, "What", "is it?", stdin=f"It's what?\n\n{bird}\n'{bird}' {bird} Which?\n".encode()
    )
    assert asked == [(1, "What is it?"), (0, "It's what?"), (1, ""), (2, "Which?")]
    assert len(out.splitlines()) >= 4


def test_voice_chat_makes_a_turn_of_every_utterance(talk, monkeypatch, tmp_path):
    monkeypatch.setattr("lalm.audio.vad.load_detector", lambda pause_s: Loudness(round(pause_s / 0.032)))
    soundfile.write(tmp_path / "two.wav", np.concatenate([tone(0.5), quiet(1), tone(0.5), quiet(1)]), 16_000)
    asked, _ = talk("--voice", str(tmp_path / "two.wav"), "Say it shorter.", str(SAMPLES / "horse.ogg"))
    assert asked == [(1, ""), (1, ""), (0, "Say it shorter."), (1, "")]
    pcm = (np.concatenate([tone(0.5), quiet(1), tone(0.4)]) * 32767).astype("<i2").tobytes()
    asked, _ = talk("--voice", "-", stdin=pcm)
    assert asked == [(1, ""), (1, "")]


def test_a_file_without_speech_and_absent_packages_are_one_sentence(model, monkeypatch, tmp_path, capsys):
    from lalm.cli.app import run as cli

    monkeypatch.setattr("lalm.audio.vad.load_detector", lambda pause_s: Loudness())
    soundfile.write(tmp_path / "still.wav", quiet(1), 16_000)
    assert cli(["chat", "--voice", str(tmp_path / "still.wav"), "--model", str(model)]) == 2
    assert "no speech was found in still.wav" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "silero_vad", None)
    assert cli(["chat", "--voice", "x.wav", "--model", str(model)]) == 2
    assert "pip install silero-vad" in capsys.readouterr().err


def test_at_the_microphone_typed_lines_come_between(monkeypatch, capsys):
    blocks = [quiet(0.2), tone(0.5), quiet(1)]
    fake = SimpleNamespace(PortAudioError=RuntimeError)

    class Stream:
        def __init__(self, callback, blocksize, **rest):
            self.callback, self.size = callback, blocksize

        def __enter__(self):
            for frame in voice.frames(blocks):
                self.callback(frame[:, None], len(frame), None, None)

        def __exit__(self, *error):
            pass

    fake.InputStream = Stream
    monkeypatch.setitem(__import__("sys").modules, "sounddevice", fake)
    monkeypatch.setattr("lalm.audio.vad.load_detector", lambda pause_s: Loudness())
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello.\n"))
    turns = chat.spoken_turns([], 0.5)
    found = [next(turns), next(turns)]
    assert [turn for turn in found if isinstance(turn, str)] == ["Hello."]
    assert [len(turn.audios) for turn in found if isinstance(turn, Turn)] == [1]
