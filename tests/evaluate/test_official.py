"""Benchmarks' own scorers: their programs' verdicts on the same answers, and what may stand beside them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lalm.data.sample import Sample, ask, write_manifest
from lalm.evaluate.items import open_task
from lalm.evaluate.metrics import METRICS, Answer, Resources
from lalm.evaluate.official import audio_following, ifeval
from lalm.evaluate.official.audiobench import spoken_words
from lalm.evaluate.official.helm import begins_with
from lalm.evaluate.official.string_match import matches
from lalm.evaluate.official.voicebench import choice_of, choice_score, refuses
from lalm.evaluate.run import Job, run
from lalm.evaluate.said import Said
from lalm.evaluate.task import known_tasks

SAMPLES = Path(__file__).parents[2] / "samples"
# Made by benchmarks/official_scorers.py: what the benchmarks' own programs say of these answers.
THEIRS = json.loads((Path(__file__).parent / "official_scores.json").read_text())
FORMS = THEIRS["forms"]


def answers() -> list[Answer]:
    return [
        Answer(
            Sample((), row["id"], references=(row["answer"],), choices=tuple(row["choices"])),
            row["said"],
            None,
        )
        for row in THEIRS["items"]
    ]


def test_string_match_is_mmaus_and_mmars():
    ours = [matches(row["answer"], row["said"], row["choices"]) for row in THEIRS["items"]]
    assert ours == THEIRS["string_match"] == THEIRS["mmar"] and 30 < sum(ours) < 270
    measured = METRICS["string_match"].measure(answers(), Resources())
    assert measured.value == pytest.approx(sum(THEIRS["mmar"]) / len(ours))
    # Letters alone, which lalm's own reading takes, are wrong by the official rule.
    assert not matches("a dog", "A", ["a dog", "rain"]) and not matches("a dog", "", ["a dog", "rain"])


def test_letters_are_read_as_mmsu_and_airbench_read_them():
    for metric, name in (("mmsu_accuracy", "mmsu"), ("airbench_accuracy", "airbench")):
        assert METRICS[metric].measure(answers(), Resources()).value == pytest.approx(THEIRS[name]), name


def test_choices_and_refusals_are_voicebenchs():
    said = [row["said"] for row in THEIRS["items"]]
    assert [choice_of(text) for text in said] == THEIRS["voicebench"]["letters"]
    assert [refuses(text) for text in said] == THEIRS["voicebench"]["refusals"]
    assert choice_score("???", "A") == 0.25 and choice_score("the answer is b", "B") == 1.0


@pytest.mark.parametrize("row", THEIRS["ifeval"], ids=lambda row: row["instruction"])
def test_instructions_are_checked_as_ifeval_checks_them(row):
    ours = [ifeval.follows([row["instruction"]], [row["given"]], said, loose=False)[0] for said in FORMS]
    assert ours == row["followed"]


@pytest.mark.parametrize("row", THEIRS["mmau_pro"], ids=lambda row: row["task"])
def test_instructions_are_checked_as_mmau_pro_checks_them(row):
    ours = [audio_following.follows(row["task"], row["given"], said, "one. two") for said in FORMS]
    assert ours == row["followed"]


def test_short_answers_are_matched_as_helm_matches_them():
    assert [begins_with(said.strip(), right) for right, said, _ in THEIRS["helm"]] == [
        verdict for _, _, verdict in THEIRS["helm"]
    ]
    right = Answer(Sample((), "1", references=("the garage",)), "Garage, I think", None)
    assert METRICS["helm_prefix_match"].measure([right], Resources()).value == 1.0


def test_texts_are_audiobenchs():
    assert [spoken_words(text) for text in THEIRS["spoken"]] == THEIRS["audiobench"]


def test_ifevals_final_number_is_the_mean_of_four_shares():
    two = (["punctuation:no_comma", "startend:quotation"], [{}, {}])
    said = ['"one, two"', "one two", '** \n"plain"', "a, b"]
    rows = [(ifeval.follows(*two, t, loose=False), ifeval.follows(*two, t, loose=True)) for t in said]
    origin = {"instruction_id_list": json.dumps(two[0]), "kwargs": json.dumps(two[1])}
    made = [Answer(Sample((), str(i), origin=origin), t, None) for i, t in enumerate(said)]
    measured = METRICS["ifeval"].measure(made, Resources())
    assert measured.value == pytest.approx(ifeval.final_score(rows)) and 0 < measured.value < 1


class Saying:
    """Says what it is told to, by the item's id; reads the reference where there is nothing for an id."""

    name = "saying"

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def answer(self, keys, samples, decoding):
        return [Said(self.texts[n % len(self.texts)], (1.0,)) for n, _ in enumerate(keys)]


def mmau(folder: Path, count: int = 5) -> Path:
    """MMAU's file as published, of one recording."""
    rows = [
        {
            "id": f"3fe64f3d-{n}",
            "audio_id": "./test-mini-audios/bell.flac",
            "question": "What rings?",
            "choices": ["A bell", "A horse", "Rain", "A train"],
            "answer": "A bell",
            "dataset": "AudioSet",
            "task": "sound" if n % 2 else "music",
            "split": "test-mini",
            "category": "Reasoning",
            "sub-category": "Acoustic Source Inference",
            "difficulty": ("easy", "medium", "hard")[n % 3],
        }
        for n in range(count)
    ]
    (folder / "test-mini-audios").mkdir(exist_ok=True)
    (folder / "test-mini-audios" / "bell.flac").write_bytes((SAMPLES / "bell.flac").read_bytes())
    (folder / "mmau-test-mini.json").write_text(json.dumps(rows))
    return folder / "mmau-test-mini.json"


def test_the_official_number_stands_beside_ours_and_says_where_it_may_go(tmp_path):
    opened = open_task(f"mmau={mmau(tmp_path)}", tmp_path)
    assert opened[0].samples[0].id == "3fe64f3d-0" and opened[0].samples[0].origin["difficulty"] == "easy"
    entry = run(Job(opened, tmp_path / "out"), Saying("A", "A", "B", "C", "D")).card["tasks"]["mmau"]
    assert entry["metrics"]["accuracy"]["mean"] == pytest.approx(0.4)  # two letters are right
    assert entry["metrics"]["string_match"]["mean"] == 0.0
    assert entry["by"]["difficulty"]["easy"]["num_items"] == 2 and set(entry["by"]["category"]) == {
        "music",
        "sound",
    }
    board = entry["leaderboard"]
    assert not board["may_stand_beside"] and board["because"] == ["5 of 1000 items are scored"]
    sent = json.loads((tmp_path / "out" / board["submission"]).read_text())
    assert sent[0]["model_output"] == "A" and sent[0]["difficulty"] == "easy" and sent[0]["task"] == "music"
    # MMAU's own program on that file: its rule over its keys.
    assert not any(matches(r["answer"], r["model_output"], r["choices"]) for r in sent)
    assert "no number here may stand beside MMAU" in (tmp_path / "out" / "report.html").read_text()


def test_a_whole_run_may_stand_beside_and_is_written_for_the_hub(tmp_path):
    (one,) = open_task(f"mmau={mmau(tmp_path)}", tmp_path)
    small = one.task.model_copy(update={"official": replace(one.task.official, items=5)})
    opened = [replace(one, task=small)]
    result = run(Job(opened, tmp_path / "out"), Saying("A. A bell"))
    board = result.card["tasks"]["mmau"]["leaderboard"]
    assert board["may_stand_beside"] and board["value"] == 1.0
    assert result.card["hub_results"] == ["eval_results/mmau-test-mini.yaml"]
    rows = yaml.safe_load((tmp_path / "out" / "eval_results" / "mmau-test-mini.yaml").read_text())
    assert rows[0]["dataset"] == {"id": "gamma-lab-umd/MMAU-test-mini", "task_id": "mmau_test_mini"}
    assert rows[0]["value"] == 100.0
    hub = pytest.importorskip("huggingface_hub")
    (entry,) = hub.parse_eval_result_entries(rows)
    assert (entry.dataset_id, entry.value) == ("gamma-lab-umd/MMAU-test-mini", 100.0)
    other = opened[0].task.model_copy(update={"system": "Answer briefly."})
    changed = [type(opened[0])(other, opened[0].samples[:3], opened[0].source)]
    because = run(Job(changed, tmp_path / "changed"), Saying("A bell")).card["tasks"]["mmau"]["leaderboard"][
        "because"
    ]
    assert because[1] == "asked otherwise than lalm's task of this name: another system"


def test_judged_numbers_say_whose_judge_they_need(tmp_path):
    write_manifest(
        tmp_path / "m.jsonl",
        [Sample(ask([str(SAMPLES / "bell.flac")], "What rings?").messages, "1", references=("a bell",))],
    )
    opened = open_task(f"airbench_chat={tmp_path / 'm.jsonl'}", tmp_path)
    board = run(Job(opened, tmp_path / "out"), Saying("a bell")).card["tasks"]["airbench_chat"]["leaderboard"]
    assert board["value"] is None and any("not by gpt-4-0125-preview" in why for why in board["because"])


def test_every_board_names_a_metric_of_its_task():
    for task in known_tasks().values():
        if task.official:
            assert task.official.metric in task.metrics, task.name
            assert "judge" not in task.metrics or task.judge, task.name
