"""The channel that a manifest of Kaldi or Lhotse names is the one that is heard."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lalm.data.messages import SampleError, part_recording
from lalm.data.readers import ReaderError, open_samples
from lalm.data.sample import Sample

HZ = (440, 880)  # left, right


@pytest.fixture
def call(tmp_path: Path) -> Path:
    """A call of two speakers, one a channel."""
    at = np.arange(32_000) / 16_000
    path = tmp_path / "call.wav"
    soundfile.write(path, np.stack([0.3 * np.sin(2 * np.pi * hz * at) for hz in HZ], 1), 16_000)
    return path


def heard_hz(sample: Sample) -> int:
    (part,) = sample.audios
    recording = part_recording(part)
    assert len(recording.account.channels) == 1
    power = np.abs(np.fft.rfft(recording.audio))
    return round(float(power.argmax()) * 16_000 / len(recording.audio))


def test_kaldis_sides_of_a_recording(call: Path) -> None:
    folder = call.parent
    (folder / "wav.scp").write_text("c-A call.wav\nc-B call.wav\n")
    (folder / "reco2file_and_channel").write_text("c-A c A\nc-B c B\n")
    (folder / "segments").write_text("u1 c-A 0 1\nu2 c-B 0.5 1.5\n")
    (folder / "text").write_text("u1 hello\nu2 yes\n")
    assert [heard_hz(sample) for sample in open_samples(folder)] == list(HZ)
    (folder / "segments").write_text("u1 c-A 0 1 1\nu2 c-B 0.5 1.5 A\n")  # a segment's own channel wins
    assert [heard_hz(sample) for sample in open_samples(folder)] == [880, 440]
    (folder / "segments").write_text("u1 c-A 0 1 left\nu2 c-B 0.5 1.5\n")
    with pytest.raises(ReaderError, match="its channel is 'left'"):
        open_samples(folder)[0]


def test_kaldis_recordings_of_one_channel_each_are_heard_whole(call: Path) -> None:
    folder = call.parent
    (folder / "wav.scp").write_text("c call.wav\n")
    (folder / "reco2file_and_channel").write_text("c c A\n")
    (folder / "text").write_text("c hello\n")
    (part,) = open_samples(folder)[0].audios
    assert "channel" not in part and part_recording(part).account.channels == (0, 1)


def test_the_channel_of_a_lhotse_cut(call: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    recording = lhotse.Recording.from_file(call, recording_id="r")
    cuts = []
    for channel in (0, 1):
        words = lhotse.SupervisionSegment(f"s{channel}", "r", 0.0, 1.0, channel=channel, text="hello")
        cut = lhotse.MonoCut(f"c{channel}", 0.5, 1.0, channel, recording=recording, supervisions=[words])
        cuts.append(cut)
    path = call.parent / "cuts.jsonl"
    lhotse.CutSet.from_cuts(cuts).to_jsonl(path)
    samples = open_samples(path)
    assert [heard_hz(sample) for sample in samples] == list(HZ)
    shar = call.parent / "shar"
    shar.mkdir()
    lhotse.CutSet.from_cuts(cuts).to_shar(shar, fields={"recording": "flac"}, shard_size=2)
    for sample, hz in zip(open_samples(shar), HZ, strict=True):
        (part,) = sample.audios
        audio = part_recording(part).audio
        assert round(float(np.abs(np.fft.rfft(audio)).argmax()) * 16_000 / len(audio)) == hz


def test_choices_in_manifests_and_messages_are_checked(call: Path) -> None:
    def line(**choice: object) -> Sample:
        part = {"type": "audio", "audio": "call.wav", **choice}
        row = {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "?"}]}]}
        return Sample.from_json(json.loads(json.dumps(row)), place="m.jsonl:1", folder=call.parent)

    assert heard_hz(line(channel=1)) == 880
    for choice, said in (
        ({"channel": -1}, "channel must be a whole number from 0 on, not -1"),
        ({"channel": True}, "channel must be a whole number from 0 on, not true"),
        ({"track": "de"}, 'track must be a whole number from 0 on, not "de"'),
        ({"lenient": 1}, "lenient must be true or false, not a number"),
        ({"chanel": 1}, "has the unknown key 'chanel'"),
    ):
        with pytest.raises(SampleError, match=f"m.jsonl:1: message 1 part 1 {said}"):
            line(**choice)
    audio = {"data": "UklGRg==", "format": "wav", "channel": 1, "lenient": True, "track": None}
    sample = Sample.from_openai(
        [{"role": "user", "content": [{"type": "input_audio", "input_audio": audio}]}]
    )
    assert sample.audios[0] == {"type": "audio", "audio": b"RIFF", "channel": 1, "lenient": True}
    url = {"url": "data:audio/wav;base64,UklGRg==", "track": 2}
    sample = Sample.from_openai([{"role": "user", "content": [{"type": "audio_url", "audio_url": url}]}])
    assert sample.audios[0].get("track") == 2
    for kind, given, said in (
        ("input_audio", {**audio, "chanel": 1}, "has the unknown key 'chanel'"),
        ("audio_url", {**url, "speed": 1}, "has the unknown key 'speed'"),
        ("audio_url", {**url, "channel": "left"}, 'channel must be a whole number from 0 on, not "left"'),
    ):
        with pytest.raises(SampleError, match=said):
            Sample.from_openai([{"role": "user", "content": [{"type": kind, kind: given}]}])
