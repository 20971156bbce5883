"""Tables whose columns have roles: benchmarks' files as published, and what is refused."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from lalm.data.sample import Sample
from lalm.evaluate.items import open_task, put, question_of
from lalm.evaluate.task import known_tasks, read_tasks
from lalm.tasks import Source
from lalm.tasks.published_tables import columns
from lalm.tasks.sources import Columns, SourceError

BELL = (Path(__file__).parents[2] / "samples" / "bell.flac").read_bytes()
CLIP = {"bytes": BELL, "path": "bell.flac"}


def rows_to(path: Path, *rows: dict[str, Any]) -> Path:
    """A table as its name says: parquet, CSV or JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".csv":
        file = io.StringIO()
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(file.getvalue(), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def clip(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(BELL)
    return path


def only(spec: str, root: Path) -> Sample:
    """The one sample of a task, of which nothing is missing."""
    (opened,) = open_task(spec, root)
    assert opened.missing == 0
    return opened.samples[0]


def test_voicebenchs_prompt_is_what_is_spoken_and_not_what_is_asked(tmp_path):
    row = {"audio": CLIP, "prompt": "Which is a bell?\nA. this\nB. that", "reference": "B"}
    rows_to(tmp_path / "VoiceBench" / "openbookqa" / "test-00000-of-00001.parquet", row)
    sample = only("voicebench_openbookqa", tmp_path)
    task = known_tasks()["voicebench_openbookqa"]
    assert question_of(put(task, sample)) == "" and len(put(task, sample).audios) == 1
    assert sample.origin["transcript"] == row["prompt"] and sample.references == ("B",)
    assert sample.choices == ("A", "B", "C", "D")
    told = {"key": 1000, "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None}]}
    rows_to(tmp_path / "VoiceBench" / "ifeval" / "t.parquet", {"audio": CLIP, "prompt": "Say it.", **told})
    following = only("voicebench_ifeval", tmp_path)
    assert following.id == "1000" and json.loads(following.origin["kwargs"]) == [{"num_words": None}]


def test_mmau_pro_has_several_recordings_and_three_kinds_of_question(tmp_path):
    given = {"N": 2, "keyword": None}
    row = {
        "id": "a",
        "audio_path": ["data/1.wav", "data/2.wav"],
        "question": "Which is louder?",
        "answer": "first",
    }
    row |= {"choices": ["first", "second"], "category": "multi", "length_type": "short"}
    row |= {"task_identifier": None, "kwargs": given}
    opened = {**row, "id": "b", "choices": [], "category": "open", "answer": "a bell rings"}
    form = {**row, "id": "c", "choices": [], "category": "instruction following", "answer": None}
    form |= {"task_identifier": "Number Bullets"}
    rows_to(tmp_path / "MMAU-Pro" / "test.parquet", row, opened, form)
    for n in (1, 2):
        clip(tmp_path / "MMAU-Pro" / "data" / f"{n}.wav")
    closed = only("mmau_pro", tmp_path)
    assert closed.id == "a" and len(closed.audios) == 2 and closed.references == ("first",)
    assert only("mmau_pro_open", tmp_path).id == "b"
    checked = only("mmau_pro_following", tmp_path)
    assert checked.id == "c" and json.loads(checked.origin["kwargs"])["N"] == 2 and not checked.references


def test_mmar_keeps_its_rubrics_and_mmsu_its_four_columns(tmp_path):
    rubric = [{"name": "Cue", "scoring_point": "Names the bell.", "choices": [0, 1]}]
    row = {
        "id": "x_00-01",
        "audio_path": "./audio/x_00-01.wav",
        "question": "What?",
        "choices": ["a bell", "rain"],
    }
    row |= {
        "answer": "a bell",
        "modality": "sound",
        "category": "Signal Layer",
        "sub-category": "s",
        "language": None,
    }
    row |= {"thinking": "It rings.", "cue": ["ring"], "rubric": rubric}
    rows_to(tmp_path / "MMAR" / "MMAR-meta.jsonl", row)
    clip(tmp_path / "MMAR" / "audio" / "x_00-01.wav")
    sample = only("mmar", tmp_path)
    assert json.loads(sample.origin["rubric"]) == rubric and sample.origin["layer"] == "Signal Layer"
    four = {f"choice_{letter}": f"option {letter}" for letter in "abcd"}
    row = {
        "id": 7,
        "audio": CLIP,
        "question": "Which?",
        **four,
        "answer_gt": "option c",
        "category": "Perception",
    }
    row |= {"sub-category": "Linguistics", "task_name": "pitch"}
    rows_to(tmp_path / "MMSU" / "data" / "train-0.parquet", row)
    asked = put(known_tasks()["mmsu"], only("mmsu", tmp_path))
    assert question_of(asked).endswith(
        "Question: Which?\n\nA. option a\nB. option b\nC. option c\nD. option d"
    )


def test_sakuras_options_stand_in_its_questions(tmp_path):
    row = {
        "file": "dog28.wav",
        "attribute_label": "dog",
        "single_instruction": "Which? (a) dog (b) crow (c) cow",
    }
    row |= {
        "single_answer": "(a) dog",
        "multi_instruction": "It has? (a) Feathers (b) Sharp claws",
        "multi_answer": "(b) Sharp claws",
    }
    rows_to(tmp_path / "SAKURA" / "data" / "Animal" / "metadata.csv", row)
    clip(tmp_path / "SAKURA" / "data" / "Animal" / "audio" / "dog28.wav")
    single, several = only("sakura_animal", tmp_path), only("sakura_animal_multi", tmp_path)
    assert (single.choices, single.references) == (("dog", "crow", "cow"), ("dog",))
    assert several.references == ("Sharp claws",) and question_of(several) == row["multi_instruction"]


def test_openaudiobench_names_its_columns_as_it_likes(tmp_path):
    folder = tmp_path / "OpenAudioBench" / "eval_datas"
    rows_to(
        folder / "reasoning_qa" / "reasoning_qa.csv",
        {"audio_filename": "1.mp3", "Prompt": "几?", "参考答案": "三"},
    )
    rows_to(
        folder / "trivia_qa" / "trivia_qa.csv",
        {"audio_filename": "2.mp3", "question": "Who?", "answer_normalized_aliases": "['a bell', 'bell']"},
    )
    clip(folder / "reasoning_qa" / "audios" / "1.mp3")
    clip(folder / "trivia_qa" / "audios" / "2.mp3")
    assert only("openaudiobench_reasoning_qa", tmp_path).references == ("三",)
    trivia = only("openaudiobench_trivia_qa", tmp_path)
    assert trivia.references == ("a bell", "bell") and trivia.origin["transcript"] == "Who?"


def test_spoken_problems_multiple_clips_and_challenge_sets(tmp_path):
    row = {"file_name": "data/question_0.mp3", "category": "navigate", "official_answer": "No", "id": 0}
    rows_to(tmp_path / "big_bench_audio" / "metadata.jsonl", row)
    clip(tmp_path / "big_bench_audio" / "data" / "question_0.mp3")
    assert only("big_bench_audio", tmp_path).references == ("No",)
    row = {
        "id": "dev_0001",
        "audio_path": "dev_audios/dev_0001.wav",
        "question_text": "Which?",
        "answer": "Rain",
    }
    row |= {"multi_choice": ["Rain", "Music"], "source_dataset": "x", "question_type": "sound"}
    rows_to(tmp_path / "DCASE2026-Task5-DevSet" / "dev.jsonl", row)
    clip(tmp_path / "DCASE2026-Task5-DevSet" / "dev_audios" / "dev_0001.wav")
    adqa = only("adqa", tmp_path)
    assert (adqa.id, adqa.references, adqa.choices) == ("dev_0001", ("Rain",), ("Rain", "Music"))
    five = {f"audio{n}": CLIP for n in range(1, 6)}
    row = {"instruction": "Which is like the first?", "reference_audio": CLIP, "answer": "(B)", **five}
    rows_to(tmp_path / "MUGEN" / "Keyword_Spotting" / "data" / "test-0.parquet", row)
    mugen = only("mugen", tmp_path)
    assert (
        len(mugen.audios) == 6
        and mugen.references == ("B",)
        and mugen.origin["category"] == "Keyword_Spotting"
    )
    pair = {
        "file": "a_b",
        "audio": CLIP,
        "audio2": CLIP,
        "instruction": "Same speaker? yes or no",
        "label": "yes",
    }
    path = rows_to(tmp_path / "Speaker" / "test.parquet", pair)
    superb = only(f"dynamic_superb={path.parent}", tmp_path)
    assert len(superb.audios) == 2 and superb.references == ("yes",)


def test_open_asr_leaves_out_what_it_does_not_score(tmp_path):
    row = {"audio": CLIP, "dataset": "ami", "text": "a bell", "id": "1", "audio_length_s": 2.8}
    unscored = {**row, "text": "ignore_time_segment_in_scoring", "id": "2"}
    rows_to(tmp_path / "open-asr" / "ami" / "test-0.parquet", row, unscored, {**row, "text": "", "id": "3"})
    (opened,) = open_task("open_asr_ami", tmp_path)
    assert [s.references for s in opened.samples] == [("a bell",)]


def test_numbers_of_classes_become_their_names_or_are_refused(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"path": datasets.Value("string"), "label": datasets.ClassLabel(names=["cat", "bell"])}
    )
    path = clip(tmp_path / "bell.flac")
    made = datasets.Dataset.from_dict({"path": [str(path), str(path)], "label": [1, 0]}, features=features)
    made.to_parquet(tmp_path / "named.parquet")
    roles = Columns(audio="path", answer="label")
    named = list(columns(Source(tmp_path / "named.parquet", columns=roles)))
    assert [sample.references for sample in named] == [("bell",), ("cat",)]
    bare = rows_to(tmp_path / "bare.parquet", {"path": str(path), "label": 1})
    with pytest.raises(SourceError, match=r"bare\.parquet:0: the answer column 'label' holds the number 1"):
        list(columns(Source(bare, columns=roles)))
    counts = Columns(audio="path", answer="label", numbers=True)
    assert next(columns(Source(bare, columns=counts))).references == ("1",)
    chosen = rows_to(tmp_path / "c.parquet", {"path": str(path), "label": 1, "options": ["a", "b"]})
    assert next(
        columns(Source(chosen, columns=Columns("path", answer="label", choices="options")))
    ).references == ("b",)


@pytest.mark.parametrize(
    ("row", "roles", "error"),
    [
        ({"sound": 1}, None, "has the columns sound: say in the task file"),
        ({"a": "x.wav"}, Columns("b"), r"there is no column 'b' \(for audio\); there are a"),
        ({"a": None}, Columns("a"), "no recording in a"),
        ({"a": 3}, Columns("a"), "neither bytes nor a path"),
        (
            {"a": "x.wav", "r": "z", "c": ["p", "q"]},
            Columns("a", answer="r", choices="c"),
            "'z' is not among the options p, q",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, row, roles, error):
    path = rows_to(tmp_path / "t.jsonl", row)
    with pytest.raises(SourceError, match=error):
        list(columns(Source(path, columns=roles)))


def test_a_task_file_names_roles_and_misspelt_ones_are_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("mine: {about: x, metrics: [wer], layout: columns, columns: {audio: a, anser: b}}\n")
    with pytest.raises(ValueError, match=r"mine\.columns\.anser"):
        read_tasks(path)


def test_options_that_look_like_lists_stay_what_they_are(tmp_path):
    """As item 54 of MMAU's test-mini has them."""
    options = ["['click', 'boil', 'ring']", "['boil', 'ring', 'click']"]
    path = rows_to(tmp_path / "t.jsonl", {"a": str(clip(tmp_path / "a.wav")), "c": options, "r": options[1]})
    (sample,) = columns(Source(path, columns=Columns("a", answer="r", choices="c")))
    assert sample.choices == tuple(options) and sample.references == (options[1],)
