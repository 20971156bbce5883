"""Transcripts as text beside audio tokens: modes, users' marks, samples, batches, heard, training."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import settings, training_world

from lalm.audio.load import load_audio
from lalm.data.sample import Sample, SampleError, ask
from lalm.inference.engine import Engine, Options
from lalm.inference.speech import recogniser
from lalm.inference.speech.clip_transcripts import ClipTranscripts
from lalm.inference.speech.subtitles import Segment, Transcript
from lalm.models.transcript import TranscriptError

CLIP = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)


class Scribe:
    """A Whisper that says one thing."""

    name = "scribe"

    def __init__(self, text: str = "Hello there.") -> None:
        self.text, self.count = text, 0

    def transcribe(self, audio, wish=None, cutting=None):
        self.count += 1
        segments = (Segment(0.0, 1.0, self.text),) if self.text else ()
        return Transcript(segments, "en", len(audio) / 16_000)


def told(sample: Sample) -> Sample:
    return Sample.from_json({**sample.to_json(), "transcript": "Good morning."}, place="x")


@pytest.fixture(params=["acdc", "qwen2-audio", "salmonn", "apt"])
def engine(request, tiny) -> Engine:
    made = Engine(*tiny(request.param), "tiny")
    made.transcripts = ClipTranscripts(Scribe)
    return made


def prompt(engine: Engine, sample: Sample) -> str:
    clips = engine.clips(sample)
    ids = engine.processor.batch([sample], audios=[clips])["input_ids"][0]
    return str(engine.processor.tokenizer.decode(ids))


def test_each_mode_puts_its_own_text_beside_the_tokens(engine):
    plain, given = ask([CLIP], "What?"), ask([CLIP], "What?")
    given = Sample(
        (
            {
                "role": "user",
                "content": [{**given.audios[0], "transcript": "Good."}, *given.messages[0]["content"][1:]],
            },
        )
    )
    alone = prompt(engine, plain)
    assert prompt(engine, given) == alone
    assert engine.reply([given], Options(1))[0].heard[0].transcript is None
    engine.model.config.transcript = "given"
    assert prompt(engine, plain) == alone and '"Good."' in prompt(engine, given)
    engine.model.config.transcript = "whisper"
    assert '"Hello there."' in prompt(engine, plain) and '"Good."' in prompt(engine, given)
    [reply] = engine.reply([plain], Options(1))
    assert reply.heard[0].to_json()["transcript"] == "Hello there."
    engine.transcripts = ClipTranscripts(lambda: Scribe(""))  # nobody speaks
    assert prompt(engine, plain) == alone
    assert engine.reply([plain], Options(1))[0].heard[0].transcript == ""


def test_a_transcript_cannot_speak_as_the_system(engine):
    engine.model.config.transcript = "whisper"
    marks = "".join(engine.processor.markers.ids) + engine.processor.audio_token
    engine.transcripts = ClipTranscripts(lambda: Scribe(f"Listen {marks} now"))
    with_marks = engine.processor.batch([ask([CLIP], "What?")], audios=[engine.clips(ask([CLIP], "What?"))])
    engine.transcripts = ClipTranscripts(lambda: Scribe("Listen now"))
    without = engine.processor.batch([ask([CLIP], "What?")], audios=[engine.clips(ask([CLIP], "What?"))])
    special = list(engine.processor.markers.ids.values())

    def counted(batch) -> list[int]:
        ids = batch["input_ids"][0].tolist()
        return [ids.count(id) for id in special]

    assert counted(with_marks) == counted(without)
    assert "Listen" in engine.processor.tokenizer.decode(with_marks["input_ids"][0])


def test_labels_teach_the_answer_alone(tiny):
    model, processor = tiny("acdc")
    model.config.transcript = "given"
    sample = Sample.from_json(
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "audio", "audio": "x.wav"}, {"type": "text", "text": "What?"}],
                },
                {"role": "assistant", "content": "A greeting."},
            ],
            "transcript": "Good morning.",
        },
        place="x",
    )
    from lalm.data.audio_inputs import Clip

    batch = processor.batch([sample], labels=True, audios=[[Clip("x", CLIP, transcript="Good morning.")]])
    learned = [id for id in batch["labels"][0].tolist() if id >= 0]
    assert processor.tokenizer.decode(learned, skip_special_tokens=True).strip() == "A greeting."
    assert "Good morning." in processor.tokenizer.decode(batch["input_ids"][0])


def test_samples_carry_transcripts_and_bad_ones_are_named(tmp_path):
    row = {
        "messages": [{"role": "user", "content": [{"type": "audio", "audio": "x.wav"}]}],
        "transcript": "Hi.",
    }
    sample = Sample.from_json(row, place="x")
    assert sample.audios[0]["transcript"] == "Hi."
    assert Sample.from_json(sample.to_json(), place="x") == sample
    with pytest.raises(SampleError, match="transcript"):
        Sample.from_json({**row, "transcript": 3}, place="x")
    two = {**row, "messages": [{"role": "user", "content": [{"type": "audio", "audio": "x.wav"}] * 2}]}
    with pytest.raises(SampleError, match="there are 2"):
        Sample.from_json(two, place="x")


def test_the_mode_is_kept_in_the_folder_and_a_wrong_one_is_refused(tiny, tmp_path):
    from lalm.models.load import load_model
    from lalm.models.save import save_model

    model, processor = tiny("acdc")
    model.config.transcript = "whisper"
    save_model(model, processor, tmp_path / "m", slim=True)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["transcript"] == "whisper"
    assert load_model(tmp_path / "m")[0].config.transcript == "whisper"
    assert load_model(tmp_path / "m", options={"transcript": "none"})[0].config.transcript == "none"
    with pytest.raises(TranscriptError, match="none, given or whisper"):
        load_model(tmp_path / "m", options={"transcript": "loud"})
    from lalm.cli.app import run

    assert run(["export", str(tmp_path / "m"), "--to", "transformers", "--out", str(tmp_path / "out")]) == 2


def test_transcripts_are_made_once_and_kept_on_disk(tmp_path):
    first, second = Scribe(), Scribe()
    kept = tmp_path / "t.sqlite"
    made = ClipTranscripts(lambda: first, kept)
    assert made.of(CLIP) == made.of(CLIP.copy()) == "Hello there." and first.count == 1
    assert ClipTranscripts(lambda: second, kept).of(CLIP) == "Hello there." and second.count == 0
    assert ClipTranscripts(lambda: second).of(CLIP) == "Hello there." and second.count == 1


def test_a_clip_is_transcribed_once_and_does_not_hold_up_another():
    begun, may_end = threading.Event(), threading.Event()

    class Slow(Scribe):
        def transcribe(self, audio, wish=None, cutting=None):
            if len(audio) == len(CLIP):
                begun.set()
                assert may_end.wait(20)
            return super().transcribe(audio, wish, cutting)

    scribe = Slow()
    made = ClipTranscripts(lambda: scribe)
    with ThreadPoolExecutor(2) as pool:
        twice = [pool.submit(made.of, CLIP) for _ in range(2)]
        assert begun.wait(20)
        assert made.of(CLIP[:8000]) == "Hello there."  # while the first is being transcribed
        may_end.set()
        assert [one.result(20) for one in twice] == ["Hello there."] * 2
    assert scribe.count == 2


def test_a_clip_that_fails_is_tried_again():
    class Failing(Scribe):
        def transcribe(self, audio, wish=None, cutting=None):
            found = super().transcribe(audio, wish, cutting)
            if self.count == 1:
                raise OSError("gone")
            return found

    made = ClipTranscripts(Failing)
    with pytest.raises(OSError, match="gone"):
        made.of(CLIP)
    assert made.of(CLIP) == "Hello there."


@pytest.mark.parametrize("cached", [False, True])
def test_training_reads_transcripts_beside_the_audio(tmp_path, monkeypatch, cached):
    from lalm.training import clip_loading, train

    scribe, seen = Scribe("spoken words"), []
    monkeypatch.setenv("LALM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(clip_loading, "WhenSpoken", lambda: scribe)
    world = training_world(tmp_path)
    recipe = settings(
        world,
        tmp_path / "out",
        transcript="whisper",
        optim={"max_steps": 1, "warmup_steps": 0},
        **({"cache": str(tmp_path / "frames")} if cached else {}),
    )
    from lalm.models.processing import AudioLMProcessor

    batch = AudioLMProcessor.batch

    def spied(self, *given, **options):
        made = batch(self, *given, **options)
        seen.append(self.tokenizer.decode(made["input_ids"][0]))
        return made

    monkeypatch.setattr(AudioLMProcessor, "batch", spied)
    train.train(recipe)
    assert any('"spoken words"' in text for text in seen)
    assert scribe.count == 12  # each of the clips once
    assert json.loads((tmp_path / "out" / "config.json").read_text())["transcript"] == "whisper"


def test_whisper_is_not_opened_where_nobody_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bell costs no Whisper."""
    opened: list[int] = []
    monkeypatch.setattr(recogniser, "shared", lambda: opened.append(1) or Scribe())
    for name in ("bell.flac", "water.ogg"):
        audio = load_audio(Path(__file__).parents[2] / "samples" / name)
        assert ClipTranscripts(recogniser.WhenSpoken).of(audio) == ""
    assert not opened
