"""Preference pairs: which replies become one, by which judge, going on after a kill, and the command."""

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tiny_parts import noise

from lalm.cli.app import run
from lalm.data.readers import read_manifest
from lalm.data.sample import ask, write_manifest
from lalm.evaluate.metric_judge import judge_by_metric
from lalm.models.save import save_model
from lalm.synthesis.completions import Completion
from lalm.synthesis.judging import dialogue, known, read_rating, read_yes_no
from lalm.synthesis.preferences import (
    PreferenceError,
    judge_by_llm,
    read_prompts,
    write_pairs,
)
from lalm.synthesis.resumable_rows import RowsError
from lalm.training.objectives.dpo import check_pairs

REPLIES = {"a": ["a dog barks", "a dog", "a cat", "a dog barks"], "b": ["no", "no", " ", "no"]}


@pytest.fixture
def manifest(tmp_path):
    noise(tmp_path / "a.wav", 0.5)
    rows = [
        replace(ask([tmp_path / "a.wav"], "What?").with_target("a dog barks"), id="a", task="asr"),
        replace(ask([tmp_path / "a.wav"], "Who?"), id="b", task="presence", references=("no",)),
    ]
    write_manifest(tmp_path / "prompts.jsonl", rows)
    return tmp_path / "prompts.jsonl"


class Drawing:
    """Draws the replies of ``REPLIES`` in turn; stops like a killed run after so many calls."""

    def __init__(self, stop_after=10**6, truncated=()):
        self.calls, self.seeds, self.stop_after, self.truncated = 0, [], stop_after, truncated

    def __call__(self, samples, seed):
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        self.seeds.append(seed)
        texts = [REPLIES[s.id][(self.calls - 1) % 4] for s in samples]
        return [Completion(text, text in self.truncated) for text in texts]


def pairs(manifest, judge, draw=None, **options):
    out = manifest.with_name("pairs.jsonl")
    counts = write_pairs(
        read_prompts(manifest), out, draw or Drawing(), judge, made={"model": "m"}, **options
    )
    return counts, list(read_manifest(out))


def test_best_against_worst_by_word_errors_and_by_accuracy(manifest):
    draw = Drawing()
    counts, [row] = pairs(manifest, judge_by_metric(), draw)
    assert (row.id, row.chosen, row.rejected) == ("a", "a dog barks", "a cat")
    assert row.origin["chosen_rating"] == "-0" and float(row.origin["rejected_rating"]) == pytest.approx(
        -2 / 3
    )
    assert not row.target and row.audios and len(set(draw.seeds)) == 4
    check_pairs([row], "pairs.jsonl")
    assert (counts.written, counts.dropped) == (1, 1)  # b's replies are all the same
    assert manifest.with_name("pairs.jsonl.dropped").read_text() == "b\n"
    assert json.loads(manifest.with_name("pairs.jsonl.json").read_text())["judge"] == "metric"


def test_a_reply_that_was_cut_off_is_never_chosen(manifest):
    _, [row] = pairs(manifest, judge_by_metric(), Drawing(truncated=("a dog barks",)))
    assert (row.chosen, row.rejected) == ("a dog", "a cat")


def test_pairs_are_further_apart_than_the_margin(manifest):
    counts, rows = pairs(manifest, judge_by_metric(), margin=0.7)
    assert (counts.written, counts.dropped, rows) == (0, 2, [])


def test_the_tasks_own_metric_judges(manifest, monkeypatch):
    monkeypatch.setitem(REPLIES, "b", ["No.", "Yes.", "Perhaps.", "Yes."])
    monkeypatch.setitem(REPLIES, "a", ["x"] * 4)
    _, [row] = pairs(manifest, judge_by_metric())
    assert (row.id, row.chosen, row.rejected) == ("b", "No.", "Yes.")


class Rater:
    """An LLM judge that likes long answers, and has no opinion on one of them."""

    name = "rater"
    template = "none"

    def __init__(self):
        self.chats = []

    def complete(self, chats, seeds, sampling):
        self.chats += chats
        answers = [c[-1]["content"].split("The assistant's answer: ")[1].split("\n")[0] for c in chats]
        return [Completion("Hm." if a == "a cat" else f"{min(len(a), 10)}/10", False) for a in answers]


def test_an_llm_judges_what_it_can_read(manifest):
    rater = Rater()
    _, [row] = pairs(manifest, judge_by_llm(rater))
    assert (row.chosen, row.rejected) == ("a dog barks", "a dog")
    shown = rater.chats[0][-1]["content"]
    assert "Accepted answers: a dog barks\n" in shown and "User: What?" in shown


def test_a_judge_that_reasons_is_read_behind_its_thoughts_or_named(caplog):
    class Thinking:
        name, template, said = "thinker", "bare", "<think>3 dogs? No.</think> 9"

        def complete(self, chats, seeds, sampling):
            return [Completion(self.said, False) for _ in chats]

    writer = Thinking()
    asked = [(ask(["a.wav"], "What?").with_target("a dog"), "a dog")] * 2
    assert judge_by_llm(writer).rate(asked) == [9, 9] and not caplog.records
    writer.said = "<think>The answer says 4"
    assert judge_by_llm(writer).rate(asked) == [None, None]
    assert "'thinker' gave no rating from 1 to 10 to any of 2 answers" in caplog.text


def test_a_killed_run_goes_on_and_other_settings_are_refused(manifest):
    with pytest.raises(KeyboardInterrupt):
        pairs(manifest, judge_by_metric(), Drawing(stop_after=6), batch_size=1)
    counts, rows = pairs(manifest, judge_by_metric(), batch_size=1)
    assert (counts.written, counts.existing, counts.dropped) == (0, 1, 1) and len(rows) == 1
    with pytest.raises(RowsError, match=r"was begun with margin=0\.0, not 0\.5"):
        pairs(manifest, judge_by_metric(), margin=0.5)


def test_what_cannot_be_judged_is_named(manifest, tmp_path):
    bare = tmp_path / "bare.jsonl"
    write_manifest(bare, [replace(ask([tmp_path / "a.wav"], "What?"), id="bare")])
    for judge, lack in (
        (judge_by_metric(), "it lacks a task that `lalm tasks` lists, and its 'task' is ''"),
        (judge_by_llm(Rater()), "it lacks origin.transcript"),
    ):
        with pytest.raises(PreferenceError, match=f"'bare' cannot be judged by .*: {lack}"):
            pairs(bare, judge)
    write_manifest(bare, [replace(s, id="same") for s in read_manifest(manifest)])
    with pytest.raises(PreferenceError, match=r"bare\.jsonl:2: the id 'same' belongs to an earlier row"):
        read_prompts(bare)
    bare.write_text("")
    with pytest.raises(PreferenceError, match="holds no prompts"):
        read_prompts(bare)


@pytest.mark.parametrize(
    ("reply", "rating"),
    [("7", 7), ("8.5 of 10", 8.5), ("Rating: 10", 10), ("0", None), ("12", None), ("", None)],
)
def test_reading_a_rating(reply, rating):
    assert read_rating(reply) == rating


def test_what_a_judge_is_told():
    asked = replace(
        ask(["a.wav"], ""),
        references=("a bell",),
        origin={"transcript": "hello", "question": "What is this?"},
        events=({"label": "x", "caption": "a bell rings", "onset_s": 0.0, "offset_s": 1.0},),
    )
    told = "Words spoken in the recording: hello\nSounds in the recording: a bell rings"
    assert known(asked, accepted=False) == told
    assert known(asked, accepted=True) == told + "\nAccepted answers: a bell"
    assert dialogue(asked.with_target("no matter")) == "User: What is this?"
    assert [read_yes_no(t) for t in ("Yes.", "no, it", "perhaps", "")] == [True, False, None, None]


def test_the_command_with_a_model_here(manifest, tmp_path, tiny, capsys):
    model, processor = tiny("qwen2-audio")
    save_model(model, processor, tmp_path / "model", slim=False)
    out = tmp_path / "out.jsonl"
    words = ["build", "preferences", str(manifest), "--out", str(out), "--model", str(tmp_path / "model")]
    assert run([*words, "--judge", "metric", "--max-new-tokens", "4", "--replies", "3"]) == 0
    # Random weights end no answer within four tokens, and what is cut off is never chosen.
    said = capsys.readouterr().out
    assert said == (
        f"{out}: 0 pairs written, 0 were there already, 2 prompts gave no two replies that far apart\n"
    )
    assert out.with_name("out.jsonl.dropped").read_text() == "a\nb\n"
    assert run([*words, "--judge", "llm", "--llm", "nobody"]) == 2
    assert run([*words, "--replies", "1"]) == 2
    assert run(["build", "preferences", "nothing.jsonl", "--out", str(out)]) == 2
    assert "there is no manifest 'nothing.jsonl'" in capsys.readouterr().err
    assert run([*words[:-1], str(tmp_path / "no-model"), "--judge", "metric"]) == 2


class Server(BaseHTTPRequestHandler):
    """An audio model that says how many requests there were, and a judge that likes the last."""

    asked = 0

    def do_GET(self):
        self._send({"data": [{"id": "served"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["model"] == "served":
            Server.asked += 1
            assert body["messages"][0]["content"][0]["type"] == "input_audio"
            text = f"reply {Server.asked}"
        else:
            text = body["messages"][-1]["content"].split("answer: reply ")[1][0]
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        self._send({"choices": [choice], "usage": {"prompt_tokens": 900}})

    def _send(self, value):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *words):
        pass


def test_the_command_with_servers(manifest, tmp_path, capsys):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    out = tmp_path / "out.jsonl"
    words = ["build", "preferences", str(manifest), "--out", str(out), "--model", url, "--url", url]
    try:
        assert run([*words, "--llm", "judge", "--replies", "2"]) == 0
    finally:
        server.shutdown()
    rows = {row.id: row for row in read_manifest(out)}
    assert set(rows) == {"a", "b"} and Server.asked == 4
    assert int(rows["a"].chosen[-1]) > int(rows["a"].rejected[-1])
    assert run([*words[:-3], "http://127.0.0.1:9/v1", "--judge", "metric"]) == 2
    assert "does not say which models it serves" in capsys.readouterr().err
