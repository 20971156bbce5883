"""Detection, retrieval, counting, comparison and few-shot episodes from events: every answer checked by hand
or against the events it came from."""

import re
from collections import Counter
from itertools import islice

import pytest
from tiny_parts import noise

from lalm.data.episode import Labelled
from lalm.data.readers import read_manifest
from lalm.data.sample import Sample, write_manifest
from lalm.systems.apt.prompts import FEW_SHOT, prompts
from lalm.tasks import Source, SourceError, build, comparisons, episodes, events
from lalm.tasks.comparisons import BOTH, FIRST, NEITHER, SECOND
from lalm.tasks.events import Recorded, Sounding, joined, number_word, spans_text


def event(label, onset_s, offset_s):
    return {"label": label, "caption": label, "onset_s": onset_s, "offset_s": offset_s}


@pytest.fixture
def manifest(tmp_path):
    rows = []
    for number, found in enumerate(
        [
            [event("animal/dog", 0.5, 1.24), event("rain", 0.0, 9.96), event("animal/dog", 3.0, 4.06)],
            [event("animal/dog", 2.0, 2.5)],
            [event("bell", 1.0, 3.0)],
        ]
    ):
        audio = tmp_path / f"{number}.wav"
        audio.touch()
        rows.append(
            Sample(
                ({"role": "user", "content": [{"type": "audio", "audio": str(audio)}]},),
                id=f"clip-{number}",
                events=tuple(found),
            )
        )
    write_manifest(tmp_path / "scenes.jsonl", [*rows, rows[0]])  # a recording twice is one recording
    return tmp_path / "scenes.jsonl"


def asked(sample):
    return next(p["text"] for p in sample.messages[0]["content"] if p["type"] == "text")


def test_detection_says_every_stretch(manifest):
    found = {
        s.origin["recording"] + "/" + asked(s): s.target
        for s in events.READERS["detect"]["manifest"](Source(manifest))
    }
    assert found == {
        "clip-0/rain": "0.0s-10.0s.",
        "clip-0/a dog barking": "0.5s-1.2s; 3.0s-4.1s.",
        "clip-1/a dog barking": "2.0s-2.5s.",
        "clip-2/bell": "1.0s-3.0s.",
    }
    assert joined([(3, 4), (1, 2), (2.02, 3)]) == [(1, 4)] and joined([(0, 1), (1.2, 2)]) == [
        (0, 1),
        (1.2, 2),
    ]
    assert spans_text([(0.04, 11.96)]) == "0.0s-12.0s."


def test_counting_counts(manifest):
    found = [
        (asked(s), s.target, s.references) for s in events.READERS["count"]["manifest"](Source(manifest))
    ]
    assert found == [
        ("rain", "one", ("one", "1")),
        ("a dog barking", "two", ("two", "2")),
        ("a dog barking", "one", ("one", "1")),
        ("bell", "one", ("one", "1")),
    ]
    assert [number_word(n) for n in (0, 11, 12)] == ["zero", "eleven", "12"]


def test_presence_asks_of_a_sound_that_is_there_and_of_one_that_is_not(manifest, tmp_path):
    made = list(events.READERS["presence"]["manifest"](Source(manifest)))
    assert [(s.target, *s.references) for s in made] == [("Yes.", "yes"), ("No.", "no")] * 3
    for sample in made:
        there = asked(sample) in {event["label"] for event in sample.events}
        assert there == (sample.target == "Yes.") and sample.origin["asked"] == asked(sample)
    alone = tmp_path / "alone.jsonl"
    write_manifest(alone, list(read_manifest(manifest))[1:2])
    with pytest.raises(SourceError, match=r"alone\.jsonl' has one kind of sound"):
        list(events.READERS["presence"]["manifest"](Source(alone)))


def test_retrieval_names_what_overlaps(manifest):
    answers = set()
    for seed in range(30):
        for sample in events.READERS["retrieve"]["manifest"](Source(manifest, seed=seed)):
            start_s, stop_s = map(float, re.fullmatch(r"([\d.]+)s and ([\d.]+)s", asked(sample)).groups())
            truth = {
                events.class_name(e["label"])
                for e in sample.events
                if min(stop_s, e["offset_s"]) - max(start_s, e["onset_s"]) >= 0.2
            }
            assert set(sample.target.rstrip(".").split("; ")) == truth
            answers.add(sample.target)
    assert {"rain; a dog barking.", "a dog barking.", "bell."} <= answers


def test_audiosets_strong_labels_are_read(tmp_path):
    (tmp_path / "strong.tsv").write_text(
        "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
        "abc_30000\t0.0\t1.5\t/m/1\nabc_30000\t2.0\t3.0\t/m/1\nx_y_0\t0.1\t0.2\t/m/2\n"
    )
    (tmp_path / "mid_to_display_name.tsv").write_text("/m/1\tBark\n/m/2\tRain on surface\n")
    (tmp_path / "Yabc.wav").touch()
    source = Source(tmp_path / "strong.tsv")
    found = list(events.from_audioset_strong(source))
    assert [r.audio.name for r in found] == ["Yabc.wav", "x_y_0.wav"]
    assert found[0].events == (Sounding("bark", 0.0, 1.5), Sounding("bark", 2.0, 3.0))
    assert build("count", source, tmp_path / "count.jsonl", layout="audioset_strong").missing == 1
    (row,) = read_manifest(tmp_path / "count.jsonl")
    assert row.target == "two" and "bark" in asked(row) and asked(row) != "bark"
    (tmp_path / "strong.tsv").write_text(
        "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\nabc_0\t2.0\t1.0\t/m/1\n"
    )
    with pytest.raises(SourceError, match=r"strong\.tsv:2: the event ends at 1\.0 s, before"):
        list(events.from_audioset_strong(source))


def test_dcases_tables_are_read(tmp_path):
    """DCASE 2018, task 4: metadata/eval/eval.csv, tabs between, a clip without events with empty fields."""
    name = "Y-3cKQqfn-w_30.000_40.000.wav"
    rows = [
        f"{name}\t0.000\t1.500\tAlarm_bell_ringing",
        f"{name}\t8.2\t10.0\tSpeech",
        "Yx_0.000_10.000.wav\t\t\t",
    ]
    place = tmp_path / "metadata" / "eval" / "eval.csv"
    place.parent.mkdir(parents=True)
    place.write_text("\n".join(["filename\tonset\toffset\tevent_label", *rows]) + "\n")
    audio = noise(tmp_path / "audio" / "eval" / name, 10.0)
    source = Source(place, tmp_path / "audio" / "eval")
    (found,) = events.from_dcase(source)
    assert found.audio == audio and found.names == ["alarm bell ringing", "speech"]
    assert build("detect", source, tmp_path / "detect.jsonl", layout="dcase").written == 2
    assert [s.target for s in read_manifest(tmp_path / "detect.jsonl")] == ["0.0s-1.5s.", "8.2s-10.0s."]
    place.write_text("filename\tonset\toffset\tevent_label\na.wav\tx\t1\tDog\n")
    with pytest.raises(SourceError, match=r"eval\.csv:2: onset and offset must be seconds"):
        list(events.from_dcase(source))


def recorded(*found):
    return Recorded("r", None, tuple(Sounding(*e) for e in found))


def test_comparisons_are_right_in_both_orders(manifest):
    one = recorded(("dog", 0, 1), ("dog", 2, 3), ("rain", 0, 5))
    two = recorded(("dog", 1, 2))

    class Fixed:
        def integers(self, _):
            return 0

        def random(self):
            return 1.0

    found = dict(comparisons.questions(one, two, ["bell", "dog", "rain"], Fixed()))
    assert list(found.values()) == [BOTH, "yes", FIRST, FIRST, FIRST, FIRST]
    swapped = dict(comparisons.questions(two, one, ["bell", "dog", "rain"], Fixed()))
    assert list(swapped.values()) == [BOTH, "yes", SECOND, SECOND, SECOND, SECOND]
    Fixed.random = lambda self: 0.0
    asked_bell = dict(comparisons.questions(one, two, ["bell", "dog", "rain"], Fixed()))
    assert next(iter(asked_bell.values())) == NEITHER
    made = list(comparisons.comparisons(events.from_manifest, Source(manifest)))
    assert len(made) == 6
    for a, b in zip(made[::2], made[1::2], strict=True):
        assert a.audios == b.audios[::-1] and asked(a) == asked(b)
        assert (
            a.origin["recording"] == b.origin["recording"]
        )  # one pair: not two recordings, nor each other's control
        assert (a.references[0], b.references[0]) in {
            *((x, x) for x in (BOTH, NEITHER, "yes", "no")),
            *((FIRST, SECOND), (SECOND, FIRST)),
        }


def test_every_task_has_ten_templates_of_which_each_is_used(manifest, tmp_path):
    for task in ("detect", "retrieve", "count", "presence", "compare"):
        assert len(prompts()[task]) >= 10 and all("{question}" in p for p in prompts()[task])
        built = build(task, Source(manifest), tmp_path / f"{task}.jsonl")
        assert built.written >= 3 and built.missing == 0
        assert all("{question}" not in asked(s) for s in read_manifest(tmp_path / f"{task}.jsonl"))


def clips(labels):
    return [
        Labelled({"type": "audio", "audio": f"{label}{i}.wav"}, label, f"{label}{i}")
        for label, count in labels.items()
        for i in range(count)
    ]


def test_episodes_have_ways_times_shots_and_no_clip_twice():
    drawn = list(islice(episodes.episodes(clips({c: 6 for c in "abcdef"}), ways=4, shots=3, queries=2), 40))
    for sample in drawn:
        content = sample.messages[0]["content"]
        names = [p["audio"] for p in content if p["type"] == "audio"]
        assert len(names) == len(set(names)) == 13
        said = [p["text"] for p in content if p["type"] == "text"]
        assert said[-1] == FEW_SHOT == "This is a sound of"
        told = [text.removeprefix(f"{FEW_SHOT} ").rstrip(".\n") for text in said[:-1]]
        assert told == [name[0] for name in names[:-1]] and sorted(told) == sorted(sample.choices * 3)
        assert names[-1][0] == sample.references[0] in sample.choices and sample.target == f"{names[-1][0]}."
    assert len({s.id for s in drawn}) == 40 and {s.references[0] for s in drawn} == set("abcdef")
    again = list(islice(episodes.episodes(clips({c: 6 for c in "abcdef"}), ways=4, shots=3, queries=2), 40))
    assert [s.messages for s in again] == [s.messages for s in drawn]


def test_renamed_episodes_are_told_by_their_labelled_clips_alone():
    """A class has one name in an episode, drawn anew in each; without renaming nothing changes."""
    own = clips({c: 6 for c in "abcdef"})
    drawn = list(islice(episodes.episodes(own, ways=4, shots=2, renamed=1.0), 200))
    pairs = Counter()
    for sample in drawn:
        *supports, query = [str(p["audio"])[0] for p in sample.audios]
        said = [p["text"] for p in sample.messages[0]["content"] if p["type"] == "text"][:-1]
        told = dict(
            zip(supports, (text.removeprefix(f"{FEW_SHOT} ").rstrip(".\n") for text in said), strict=True)
        )
        assert sorted(told.values()) == sorted(sample.choices) and len(told) == 4
        assert sample.references == (told[query],) and sample.target == f"{told[query]}."
        pairs[query, told[query]] += 1
    assert len(pairs) == 36 and max(pairs.values()) < 20
    some = list(islice(episodes.episodes(own, ways=4, shots=2, renamed=0.5), 200))
    kept = [str(sample.audios[-1]["audio"])[0] == sample.references[0] for sample in some]
    assert 0.5 < sum(kept) / 200 < 0.7  # half, and a sixth of the others by chance


def test_clips_of_one_source_never_meet_in_an_episode():
    """Takes of one recording would make the query a copy of a support."""
    takes = [
        Labelled(
            {"type": "audio", "audio": f"{label}-{file}-{take}"},
            label,
            f"{label}{file}{take}",
            f"{label}{file}",
        )
        for label in "ab"
        for file in range(3)
        for take in range(4)
    ]
    drawn = list(islice(episodes.episodes(takes, ways=2, shots=2), 200))
    heard = [[str(part["audio"]) for part in sample.audios] for sample in drawn]
    assert all(len({name.rpartition("-")[0] for name in names}) == 5 for names in heard)
    assert len({name for names in heard for name in names}) == 24  # and every take is drawn
    with pytest.raises(ValueError, match="4 sources, and there are 0"):
        next(episodes.episodes(takes, ways=2, shots=3))
    told = Sample(
        (
            {"role": "user", "content": [{"type": "audio", "audio": "x.wav"}]},
            {"role": "assistant", "content": "Owl."},
        ),
        origin={"recording": "x", "package": "birds", "path": "owl.ogg"},
    )
    assert [clip.source for clip in episodes.labelled([told])] == ["birds/owl.ogg"]


def test_too_few_classes_are_refused_with_the_numbers():
    few = clips({"a": 6, "b": 6, "c": 3})
    with pytest.raises(
        ValueError, match=r"3 ways of 3 shots and 1 queries need .* of 4 sources, and there are 2"
    ):
        next(episodes.episodes(few, ways=3, shots=3))


def test_labels_come_from_the_only_event_or_the_target(manifest):
    samples = list(read_manifest(manifest))
    named = Sample(
        (
            {"role": "user", "content": [{"type": "audio", "audio": "x.wav"}]},
            {"role": "assistant", "content": "Owl."},
        )
    )
    found = [(c.label, c.id) for c in episodes.labelled([*samples, named])]
    assert [label for label, _ in found] == ["a dog barking", "bell", "Owl"]


def test_no_time_is_asked_for_beyond_the_clip_and_no_answer_is_empty(tmp_path):
    noise(tmp_path / "short.wav", 1.53)
    event = {"label": "bell", "caption": "bell", "onset_s": 1.31, "offset_s": 1.5}
    clip = {"type": "audio", "audio": str(tmp_path / "short.wav")}
    samples = [
        Sample(
            ({"role": "user", "content": [clip]},), id=f"{i}", events=(event,), origin={"recording": f"{i}"}
        )
        for i in range(60)
    ]
    write_manifest(tmp_path / "in.jsonl", samples)
    made = list(events.READERS["retrieve"]["manifest"](Source(tmp_path / "in.jsonl")))
    stretches = [[float(x.rstrip("s")) for x in s.origin["asked"].split(" and ")] for s in made]
    assert len(made) > 50 and all(0 <= start < stop <= 1.5 for start, stop in stretches)
    assert events.spans_text([(0.52, 0.54), (1.0, 1.2)]) == "0.5s-0.6s; 1.0s-1.2s."
    assert events.spans_text([(0.96, 1.04)]) == "0.9s-1.0s."
