"""The order of a run, length grouping, and what happens to samples that cannot be read."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_parts import byte_tokenizer, noise
from torch.utils.data import DataLoader

from lalm.data.mixture import DataError, Mixture, audio_seconds, open_manifest, subset, text_tokens
from lalm.data.readers import ReaderError, Samples
from lalm.data.sample import Message, Sample
from lalm.models.config import AudioLMConfig
from lalm.models.processing import AudioLMProcessor
from lalm.training.batches import Batches, Collator


class SlotsConfig(AudioLMConfig):
    """Ten audio tokens a second."""

    def __init__(self, **others: object) -> None:  # transformers writes one of its own where there is none
        super().__init__(**others)

    def num_frames(self, num_samples: int) -> int:
        return num_samples // 160

    def num_tokens(self, num_frames: int) -> int:
        return num_frames // 10


def sample(name: str, answer: str = "A hum.", audio: Path | str | None = None) -> Sample:
    user: Message = {"role": "user", "content": "What?"}
    if audio is not None:
        user = {"role": "user", "content": [{"type": "audio", "audio": str(audio)}]}
    return Sample((user, {"role": "assistant", "content": answer}), id=name)


def named(prefix: str, count: int) -> list[Sample]:
    return [sample(f"{prefix}{i}", "x" * (1 + (i * 37) % 200)) for i in range(count)]


def names(mixture: Mixture, first: int, last: int) -> list[list[str]]:
    batches = Batches(mixture, last)
    return [[s.id for s in batches[i].samples] for i in range(first, last)]


def test_any_position_gives_the_same_batch_in_a_new_process() -> None:
    def mixture() -> Mixture:
        return Mixture([(named("a", 70), 1.0), (named("b", 30), 0.5)], text_tokens, batch_size=4, seed=3)

    whole = names(mixture(), 0, 80)
    assert names(mixture(), 57, 80) == whole[57:]
    assert whole != names(
        Mixture([(named("a", 70), 1.0), (named("b", 30), 0.5)], text_tokens, batch_size=4, seed=4), 0, 80
    )


def test_one_epoch_sees_every_sample_weight_times() -> None:
    mixture = Mixture(
        [(named("a", 60), 1.0), (named("b", 10), 3.0), (named("c", 20), 0.5)], text_tokens, batch_size=4
    )
    assert mixture.steps_per_epoch == 25
    first = Counter(n for batch in names(mixture, 0, 25) for n in batch)
    assert [first[f"a{i}"] for i in range(60)] == [1] * 60
    assert [first[f"b{i}"] for i in range(10)] == [3] * 10
    half = {n for n in first if n[0] == "c"}
    second = {n for batch in names(mixture, 25, 50) for n in batch if n[0] == "c"}
    assert len(half) == 10 and half | second == {f"c{i}" for i in range(20)}


def test_epochs_differ_in_order() -> None:
    mixture = Mixture([(named("a", 64), 1.0)], text_tokens, batch_size=4)
    assert names(mixture, 0, 16) != names(mixture, 16, 32)


def test_a_step_holds_the_same_samples_however_it_is_split() -> None:
    samples = named("a", 50)
    whole = names(Mixture([(samples, 1.0)], text_tokens, batch_size=4, seed=1), 0, 30)
    split = names(Mixture([(samples, 1.0)], text_tokens, batch_size=1, parts=4, seed=1), 0, 120)
    assert [[n for batch in split[i : i + 4] for n in batch] for i in range(0, 120, 4)] == whole


def padding(batches: Sequence[Sequence[float]]) -> float:
    padded = sum(max(batch) * len(batch) for batch in batches)
    return 1 - sum(sum(batch) for batch in batches) / padded


def test_batches_of_like_length_pad_little() -> None:
    lengths = {f"a{i}": float(v) for i, v in enumerate(np.random.default_rng(0).integers(1, 400, 800))}
    samples = [sample(name) for name in lengths]
    grouped = Mixture([(samples, 1.0)], lambda s: lengths[s.id], batch_size=8)
    shuffled = Mixture([(samples, 1.0)], lambda s: 1.0, batch_size=8)
    waste = [padding([[lengths[n] for n in b] for b in names(m, 0, 100)]) for m in (grouped, shuffled)]
    assert waste[0] < 0.03 < 0.3 < waste[1]
    order = [lengths[batch[0]] for batch in names(grouped, 0, 100)]
    assert order != sorted(order)  # short and long batches come mixed, not as a curriculum


def test_lengths_come_from_the_manifest_or_the_header(tmp_path: Path) -> None:
    clip = noise(tmp_path / "clip.wav", 2.0)
    assert audio_seconds({"type": "audio", "audio": str(clip)}) == 2.0
    assert audio_seconds({"type": "audio", "audio": str(clip), "offset_s": 0.5}) == 1.5
    assert audio_seconds({"type": "audio", "audio": "missing.wav", "duration_s": 7.0}) == 7.0
    assert audio_seconds({"type": "audio", "audio": np.zeros(8000, np.float32), "rate": 8000}) == 1.0
    assert audio_seconds({"type": "audio", "audio": "missing.wav"}) > 0


def test_subset_is_spread() -> None:
    assert [s.id for s in subset(named("a", 10), 5)] == ["a0", "a2", "a4", "a6", "a8"]
    assert len(subset(named("a", 3), 5)) == 3


def test_manifests(tmp_path: Path) -> None:
    with pytest.raises(ReaderError, match=r"no manifest '.*none\.jsonl'"):
        open_manifest(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no samples"):
        open_manifest(tmp_path / "empty.jsonl")
    line = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "bad.jsonl").write_text(json.dumps(line) + "\n{}\n")
    with pytest.raises(ValueError, match=r"bad\.jsonl:2: "):
        open_manifest(tmp_path / "bad.jsonl")


@pytest.fixture
def processor() -> AudioLMProcessor:
    return AudioLMProcessor.build(byte_tokenizer(), SlotsConfig())


def collated(samples: list[Sample], processor: AudioLMProcessor, batch_size: int) -> tuple[Collator, Batches]:
    mixture = Mixture([(samples, 1.0)], text_tokens, batch_size=batch_size)
    return Collator(processor, processor.clips), Batches(mixture, mixture.steps_per_epoch)


def test_the_loss_is_on_the_answer_only(tmp_path: Path, processor: AudioLMProcessor) -> None:
    collator, batches = collated([sample("a", "A low hum.", noise(tmp_path / "a.wav", 1.0))], processor, 1)
    batch = collator([batches[0]])
    learned = batch["labels"][0] != -100
    assert processor.tokenizer.decode(batch["labels"][0][learned]) == "A low hum.<|im_end|>"
    assert torch.equal(batch["labels"][0][learned], batch["input_ids"][0][learned])
    assert int((batch["input_ids"] == processor.config.audio_token_id).sum()) == 10


def test_unreadable_samples_are_left_out_counted_and_named(
    tmp_path: Path, processor: AudioLMProcessor, caplog: pytest.LogCaptureFixture
) -> None:
    good = [sample(f"good{i}", audio=noise(tmp_path / f"{i}.wav", 1.0)) for i in range(5)]
    (tmp_path / "broken.wav").write_bytes(b"RIFF and then nothing")
    bad = [
        sample("absent", audio=tmp_path / "absent.wav"),
        sample("broken", audio=tmp_path / "broken.wav"),
        sample("blink", audio=noise(tmp_path / "blink.wav", 0.01)),  # too short for one token
    ]
    collator, batches = collated(good + bad, processor, 8)
    with caplog.at_level(logging.WARNING, logger="lalm.training.batches"):
        assert collator([batches[0]])["input_ids"].shape[0] == 5
        assert collator([batches[0]])["input_ids"].shape[0] == 5  # the second epoch does not count them again
    assert sorted(collator.skipped["training"]) == [(0, 5), (0, 6), (0, 7)]
    log = [record.getMessage() for record in caplog.records]
    assert len(log) == 3
    assert all(any(name in line for line in log) for name in ("absent", "broken", "blink"))


def test_a_batch_of_unreadable_samples_becomes_the_next_one(
    tmp_path: Path, processor: AudioLMProcessor
) -> None:
    samples = [
        sample("bad", audio=tmp_path / "none.wav"),
        sample("good", audio=noise(tmp_path / "a.wav", 1.0)),
    ]
    collator, batches = collated(samples, processor, 1)
    both = [collator([batches[i]])["input_ids"] for i in range(2)]
    assert torch.equal(both[0], both[1])


def test_too_many_unreadable_samples_stop_the_run(tmp_path: Path, processor: AudioLMProcessor) -> None:
    samples = [sample(f"bad{i}", audio=tmp_path / f"none{i}.wav") for i in range(30)]
    collator, batches = collated(samples, processor, 1)
    with pytest.raises(
        DataError, match=r"21 of 30 training samples cannot be read \(limit 20\).*none\d+\.wav"
    ):
        for i in range(30):
            collator([batches[i]])


def test_loader_processes_count_unreadable_samples_together(
    tmp_path: Path, processor: AudioLMProcessor
) -> None:
    clip = noise(tmp_path / "a.wav", 0.5)
    samples = [sample(f"s{i}", audio=tmp_path / "none.wav" if i < 14 else clip) for i in range(30)]
    collator, batches = collated(samples, processor, 1)
    loader = DataLoader(batches, batch_size=1, shuffle=False, collate_fn=collator, num_workers=2)
    assert len(list(loader)) == 30
    assert int(batches.mixture.unreadable.sum()) == 14
    assert not collator.skipped  # the loader processes have their own
    samples = [sample(f"s{i}", audio=tmp_path / "none.wav" if i < 24 else clip) for i in range(30)]
    collator, batches = collated(samples, processor, 1)
    loader = DataLoader(batches, batch_size=1, shuffle=False, collate_fn=collator, num_workers=2)
    with pytest.raises(DataError, match=r"^2[12] of 30 training samples cannot be read [^\n]*$"):
        list(loader)


def test_nothing_readable_says_so(tmp_path: Path, processor: AudioLMProcessor) -> None:
    collator, batches = collated([sample("bad", audio=tmp_path / "none.wav")], processor, 1)
    with pytest.raises(DataError, match="none of the training samples can be read"):
        collator([batches[0]])


class Stream(Samples):
    """Samples that are best read one after another."""

    in_order = True
    folder = Path()

    def __len__(self) -> int:
        return 5000

    def place(self, number: int) -> str:
        return str(number)

    def row(self, number: int) -> Any:
        return {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def test_a_stream_is_shuffled_among_neighbours_and_spread_over_the_epoch() -> None:
    others = [Stream().sample(0)] * 1000
    mixed = Mixture([(Stream(), 1.0), (others, 1.0)], lambda s: 1.0, batch_size=10, seed=3)
    keys = [key for i in range(mixed.steps_per_epoch) for key in mixed.keys(i)]
    rows = np.array([row for source, row in keys if source == 0])
    assert sorted(rows) == list(range(5000)) and len(keys) == 6000
    late = rows - np.arange(5000)
    assert 200 < np.abs(late).max() < 2200 and (late == 0).mean() < 0.01
    first = [source for source, _ in keys[:3000]]
    assert 400 < sum(first) < 600
