"""Whatever a model answers, `lalm eval` ends with a card: every parser and every metric, end to end."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lalm.cli.app import run
from lalm.data.sample import Sample, ask, write_manifest
from lalm.evaluate.metrics import METRICS, Answer, Resources
from lalm.evaluate.metrics.intervals import interval
from lalm.evaluate.parsers import PARSERS
from lalm.evaluate.scores import numbers, score
from lalm.evaluate.task import Task

BELL = str(Path(__file__).parents[2] / "samples" / "bell.flac")
ODD = {
    "empty": "",
    "white": " \n\t ",
    "dots": "...",
    "symbols": "&()$%#@!?*^~|\\/<>[]{}",
    "long": "the dog barks and " * 120,
    "no_spaces": "x" * 5_000,
    "ranges": "0.1-0.2 s " * 120,
    "far": "from 0 to 99999999999999999999999999999999 seconds",
    "digits": "9" * 6000,
    "cut": "The answer is (",
    "thinking": "<think>A? B? It could be yes or no, 1 or 2, 0-1 s",
    "thought": "<think>not B</think><answer>A</answer>",
    "letter": "A",
    "yes": "Yes.",
    "dog": "a dog barks",
    "chinese": "答案是狗,从零到一秒",
    "burmese": "ခွေးဟောင်သည်",
    "arabic": "الجواب هو ب",
    "emoji": "🐕🔊",
    "superscript": "²½Ⅷ",
    "marks": "e\u0301\u0302\u200b\u200d\ufeff",
    "nul": "a\x00b\x07",
    "json": '{"answer": "A", "time": [0.5, 1.2]}',
}
NEEDY = (
    "open_asr_wer",
    "voicebench_bbh",
    "bleu_flores101",
    "spice",
    "spider",
    "spider_fl",
    "similarity",
    "fense",
    "cider_content_fl",
    "perplexity",
    "judge",
    "judge_following",
)
READING = ("accuracy", "macro_f1", "count_error")  # what depends on the parser
EVENT = {"label": "dog", "caption": "a dog barks", "onset_s": 0.1, "offset_s": 0.9}


def item(name: str, **more) -> Sample:
    told = {"transcript": "what is it", "language": "en", "asked": "dog", "target_language": "de"}
    told |= {"task_identifier": "No Commas", "kwargs": '[{"num_words": 3, "relation": "at least"}]'}
    told |= {"instruction_id_list": '["length_constraints:number_words"]'}
    fields = {
        "references": ("dog", "2", "yes"),
        "choices": ("dog", "rain", "dog barking", "rain"),
        "events": (EVENT,),
        "origin": told,
    }
    return Sample(ask([BELL], "What is it?").messages, id=name, **(fields | more))


def evaluated(folder: Path, parser: str, answers: dict[str, str], capsys, **more) -> dict:
    """The card of a run of `lalm eval` over given answers, with every metric."""
    write_manifest(folder / "rows.jsonl", [item(name, **more) for name in answers])
    rows = [json.dumps({"id": name, "text": text}) for name, text in answers.items()]
    (folder / "said.jsonl").write_text("\n".join(rows) + "\n")
    task = {"about": "x", "parser": parser, "prompts": ["{question} {options}"], "metrics": list(METRICS)}
    (folder / "task.yaml").write_text(yaml.safe_dump({"odd": task}))
    words = ["eval", str(folder / "said.jsonl"), "--task", f"{folder / 'task.yaml'}={folder / 'rows.jsonl'}"]
    assert run([*words, "--out", str(folder / "out"), "--json"]) == 0, capsys.readouterr().err
    card = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} in the card"))
    assert card["finished"] and card == json.loads((folder / "out" / "card.json").read_text())
    return card["tasks"]["odd"]


def limited(found: dict) -> None:
    for name, own in found.items():
        assert own["low"] is None or own["low"] <= own["mean"] + 1e-9 <= own["high"] + 2e-9, name
        least, most = METRICS[name].bounds
        assert own["low"] is None or (own["low"] >= least and own["high"] <= most), name


def test_odd_answers_are_scored_by_every_metric(tmp_path, capsys):
    entry = evaluated(tmp_path, "choice", ODD, capsys)
    assert not entry["failed"] and set(entry["metrics"]) == set(METRICS) - set(NEEDY)
    limited(entry["metrics"])


@pytest.mark.parametrize("parser", [name for name in PARSERS if name != "choice"])
def test_odd_answers_are_read_by_every_parser(parser):
    found = scored(parser, ODD, READING)
    assert not found["failed"] and set(found["metrics"]) == set(READING)
    limited(found["metrics"])


def scored(parser: str, answers: dict[str, str], metrics=tuple(METRICS)) -> dict:
    """What the card would say, without the run around it."""
    task = Task(name="odd", about="x", parser=parser, metrics=metrics)
    items = [item(name) for name in answers]
    read = [Answer(one, t, PARSERS[parser](one, t)) for one, t in zip(items, answers.values(), strict=True)]
    return json.loads(json.dumps(numbers(score(task, read, Resources(), judged=False)), allow_nan=False))


@pytest.mark.parametrize("odd", ODD)
def test_one_item_alone_is_scored(odd):
    found = scored("choice", {odd: ODD[odd]})
    assert not found["failed"] and set(found["metrics"]) == set(METRICS) - set(NEEDY)


@pytest.mark.parametrize("answers", [{"empty": ""}, {str(i): "" for i in range(8)}], ids=["one", "all"])
def test_one_item_or_all_answers_alike_are_scored(answers, tmp_path, capsys):
    """One empty answer, and the same empty answer to all."""
    assert not evaluated(tmp_path, "choice", answers, capsys)["failed"]


def test_items_without_any_positive_are_scored(tmp_path, capsys):
    few = {name: ODD[name] for name in ("empty", "dog", "ranges", "yes", "chinese", "thought", "digits")}
    entry = evaluated(tmp_path, "ranges", few, capsys, references=("",), events=(), choices=("rain", "wind"))
    assert set(entry["failed"]) <= {"count_error"}


def test_a_metric_that_breaks_is_reported_and_the_others_stand(tmp_path, capsys, monkeypatch):
    def broken(answers, resources):
        raise ZeroDivisionError("nothing to divide by")

    monkeypatch.setitem(METRICS, "wer", type(METRICS["wer"])(broken))
    entry = evaluated(tmp_path, "text", {"dog": "dog", "empty": ""}, capsys)
    assert entry["failed"] == {"wer": "ZeroDivisionError: nothing to divide by"}
    assert entry["metrics"]["rouge_l"]["mean"] > 0
    assert (
        "wer failed: ZeroDivisionError: nothing to divide by"
        in (tmp_path / "out" / "report.html").read_text()
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=60), min_size=1, max_size=7), st.sampled_from(sorted(PARSERS)))
def test_any_text_can_be_read_and_measured(texts, parser):
    samples = [item(str(i)) for i in range(len(texts))]
    answers = [Answer(s, t, PARSERS[parser](s, t)) for s, t in zip(samples, texts, strict=True)]
    for name, metric in METRICS.items():
        if name not in NEEDY:
            interval(metric.measure(answers, Resources()), [answer.recording for answer in answers])
