"""Encoder frames shared by tasks, controls and orders of the options: the same answers, fewer encodings."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from lalm.data.sample import Sample, ask, write_manifest
from lalm.evaluate.answering import Local
from lalm.evaluate.controls import RELIANCE
from lalm.evaluate.items import open_task
from lalm.evaluate.run import Job, run
from lalm.evaluate.said import rows_of
from lalm.inference.engine import Engine
from lalm.inference.shared_frames import sharing

SAMPLES = Path(__file__).parents[2] / "samples"
NAMES = ("bird", "horse", "train")


def jobs(folder: Path, out: str) -> Job:
    """Two tasks about the same three recordings, with options that can be moved, under all controls."""
    (folder / "which.yaml").write_text(
        'which: {about: x, prompts: ["{question}\\n{options}"], parser: choice, metrics: [accuracy], '
        "max_new_tokens: 6}"
    )
    rows = [
        Sample(ask([str(SAMPLES / f"{n}.ogg")], "Which?").messages, id=n, references=(n,), choices=NAMES)
        for n in NAMES
    ]
    write_manifest(folder / "rows.jsonl", rows)
    tasks = open_task(f"{folder / 'which.yaml'}={folder / 'rows.jsonl'}", folder)
    (folder / "what.yaml").write_text("what: {about: x, metrics: [names], max_new_tokens: 8}")
    tasks += open_task(f"{folder / 'what.yaml'}={folder / 'rows.jsonl'}", folder)
    return Job(tasks, folder / out, RELIANCE)


@pytest.mark.parametrize("system", ["acdc", "salmonn"])  # one encoder, and two
def test_each_recording_is_encoded_once_and_the_answers_stay(tiny, tmp_path, monkeypatch, system):
    model, processor = tiny(system)
    tower, encoded = model.model.audio_tower, list[bytes]()
    forward = tower.forward

    def counting(audio, lengths):
        encoded.extend(clip.numpy().tobytes() for clip in audio)
        return forward(audio, lengths)

    tower.forward = counting
    local = Local(Engine(model, processor, "tiny"))
    run(jobs(tmp_path, "shared"), local)
    shared = len(encoded)
    encoded.clear()
    monkeypatch.setattr(local, "sharing", nullcontext)
    run(jobs(tmp_path, "each"), local)
    answers = [
        {
            (r["task"], r["control"], r["id"]): r["text"]
            for _, r in rows_of(tmp_path / out / "predictions.jsonl")
        }
        for out in ("shared", "each")
    ]
    assert answers[0] == answers[1] and len(set(answers[0].values())) > 3
    # Of each recording: itself, zeros, noise, two halves. Asked: these and another's by two tasks, and twice
    # itself with the options moved.
    assert shared == len(set(encoded)) == 3 * 5 and len(encoded) == 3 * (2 * 6 + 2)


def test_frames_beyond_the_memory_are_encoded_again(tiny):
    model, _ = tiny("acdc")
    clips = [torch.full((1, 16_000), value) for value in (0.1, 0.2, 0.3)]
    lengths = torch.tensor([16_000])
    with torch.no_grad():
        first = model.model.encode(clips[0], lengths)[0]
        with sharing(model.model.audio_tower, limit_bytes=2 * first.nbytes) as shared:
            for number in (0, 1, 0, 2, 0, 1):  # the third puts the second out, which was not used since
                frames = model.model.encode(clips[number], lengths)[0]
                assert number or torch.equal(frames, first)
            assert (shared.encoded, shared.shared) == (4, 2) and shared.num_bytes == 2 * first.nbytes
            twice = model.model.encode(torch.cat([clips[2], clips[2]]), torch.tensor([16_000, 8_000]))[1]
    assert twice.tolist()[0] > twice.tolist()[1]  # the second is another clip: half of the first
    assert "forward" not in vars(model.model.audio_tower)
