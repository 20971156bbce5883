"""Targets by dialogue continuation: what the LLM sees, what is written, and going on after a kill."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from lalm.completions import Completion, CompletionError, EndpointWriter, Sampling
from lalm.sample import ask, read_manifest, write_manifest
from lalm.systems.acdc.continuation import POOL, ContinuationError, respond

CAPTIONS = ["A dog barks.", "Rain falls on a tin roof.", "A bell rings, then a car passes.", "Birds sing."]


class Echo:
    """A writer that answers with the last user turn, and remembers what it was asked."""

    name = "echo"

    def __init__(self, fail_after: int = 10**6, truncated: bool = False) -> None:
        self.asked: list[list[dict[str, str]]] = []
        self.fail_after, self.truncated = fail_after, truncated

    def complete(self, chats, seeds, sampling):
        if len(self.asked) + len(chats) > self.fail_after:
            raise KeyboardInterrupt
        self.asked += [list(c) for c in chats]
        return [Completion("Oh! " + c[-1]["content"], self.truncated) for c in chats]


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "captions.jsonl"
    rows = [ask([tmp_path / f"{i}.wav"], "").with_target(c) for i, c in enumerate(CAPTIONS)]
    write_manifest(path, rows)
    return path


def rows(path):
    return sorted(read_manifest(path), key=lambda s: s.id)


def test_llm_sees_the_bare_caption_and_the_row_keeps_audio_and_caption(manifest, tmp_path):
    writer = Echo()
    counts = respond(manifest, tmp_path / "out.jsonl", writer)
    assert (counts.written, counts.already) == (4, 0)
    assert sorted(writer.asked, key=str) == sorted(
        ([{"role": "user", "content": c}] for c in CAPTIONS), key=str
    )
    for i, row in enumerate(rows(tmp_path / "out.jsonl")):
        assert row.target == f"Oh! {CAPTIONS[i]}" and row.references == (CAPTIONS[i],)
        assert [p["type"] for p in row.messages[0]["content"]] == ["audio"] and len(row.messages) == 2


def test_killed_run_goes_on_without_repeating_or_losing(manifest, tmp_path):
    out = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        respond(manifest, out, Echo(fail_after=2), batch_size=1)
    with out.open("a") as file:
        file.write('{"id": "captions-3", "messa')  # killed while writing
    second = Echo()
    counts = respond(manifest, out, second, batch_size=1)
    assert (counts.written, counts.already) == (2, 2) and len(second.asked) == 2
    assert [r.target for r in rows(out)] == [f"Oh! {c}" for c in CAPTIONS]


def test_shards_are_disjoint_and_complete(manifest, tmp_path):
    ids = []
    for i in (1, 2, 3):
        path = tmp_path / f"{i}.jsonl"
        respond(manifest, path, Echo(), shard=f"{i}/3")
        ids += [r.id for r in rows(path)]
    assert sorted(ids) == [f"captions-{n}" for n in (1, 2, 3, 4)]


def test_cut_off_replies_are_marked(manifest, tmp_path):
    counts = respond(manifest, tmp_path / "out.jsonl", Echo(truncated=True))
    assert counts.truncated == 4 and all(r.truncated for r in rows(tmp_path / "out.jsonl"))


def test_caption_mode_is_the_baseline_and_needs_no_llm(manifest, tmp_path):
    respond(manifest, tmp_path / "out.jsonl", None, mode="caption")
    for row, caption in zip(rows(tmp_path / "out.jsonl"), CAPTIONS, strict=True):
        assert row.target == caption and row.messages[0]["role"] == "system"


def test_pool_mode_keeps_the_instruction_in_the_trained_row(manifest, tmp_path):
    writer = Echo()
    respond(manifest, tmp_path / "out.jsonl", writer, mode="pool")
    for row in rows(tmp_path / "out.jsonl"):
        audio, text = row.messages[0]["content"]
        assert audio["type"] == "audio" and text["text"] in POOL
        assert any(c[-1]["content"] == f"{row.references[0]}\n{text['text']}" for c in writer.asked)


def test_a_system_text_is_seen_by_llm_and_trained_model_alike(manifest, tmp_path):
    writer = Echo()
    respond(manifest, tmp_path / "out.jsonl", writer, system="You hear sounds.")
    expected = {"role": "system", "content": "You hear sounds."}
    assert all(chat[0] == expected for chat in writer.asked)
    assert all(row.messages[0] == expected for row in rows(tmp_path / "out.jsonl"))


def test_several_replies_a_caption(manifest, tmp_path):
    respond(manifest, tmp_path / "out.jsonl", Echo(), replies=3)
    assert len(rows(tmp_path / "out.jsonl")) == 12


def test_replies_that_miss_the_caption_can_be_dropped(manifest, tmp_path):
    class Deaf(Echo):
        def complete(self, chats, seeds, sampling):
            return [
                Completion(
                    "I cannot help." if "Rain" in c[-1]["content"] else "Barking bells and birds!", False
                )
                for c in chats
            ]

    counts = respond(manifest, tmp_path / "out.jsonl", Deaf(), keep_mentioning=True)
    assert counts.dropped == 1 and len(rows(tmp_path / "out.jsonl")) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": "3/2"}, "shard must look like 2/8, not '3/2'"),
        ({"shard": "x"}, "shard must look like 2/8"),
    ],
)
def test_bad_options_are_named(manifest, tmp_path, options, message):
    with pytest.raises(ContinuationError, match=message):
        respond(manifest, tmp_path / "out.jsonl", Echo(), **options)


def test_other_settings_do_not_mix_into_one_file(manifest, tmp_path):
    respond(manifest, tmp_path / "out.jsonl", Echo())
    with pytest.raises(ContinuationError, match=r"was begun with temperature=0\.7, not 0\.1"):
        respond(manifest, tmp_path / "out.jsonl", Echo(), sampling=Sampling(temperature=0.1))


def test_row_without_caption_is_named(tmp_path):
    path = tmp_path / "q.jsonl"
    write_manifest(path, [ask([tmp_path / "a.wav"], "What?")])
    with pytest.raises(ContinuationError, match=r"q.jsonl:1: not a caption row"):
        respond(path, tmp_path / "out.jsonl", Echo())


class Flaky(BaseHTTPRequestHandler):
    """Fails the first two calls, then echoes."""

    calls = 0

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Flaky.calls += 1
        if Flaky.calls == 1:
            self.send_response(429)
            self.end_headers()
            return
        if Flaky.calls == 2:
            self.connection.close()
            return
        text = body["messages"][-1]["content"]
        reason = "length" if "dog" in text else "stop"
        answer = {"choices": [{"message": {"content": f" {text} "}, "finish_reason": reason}]}
        data = json.dumps(answer).encode()
        self.send_response(400 if text == "bad" else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        return


@pytest.fixture
def endpoint():
    Flaky.calls = 0
    server = HTTPServer(("127.0.0.1", 0), Flaky)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def test_endpoint_is_asked_again_after_429_and_a_lost_connection(endpoint):
    writer = EndpointWriter(endpoint, "m", concurrency=1, pause_s=0.01)
    chats = [[{"role": "user", "content": c}] for c in CAPTIONS]
    assert writer.complete(chats, [0] * 4, Sampling()) == [
        Completion(c, truncated="dog" in c) for c in CAPTIONS
    ]


def test_endpoint_refusal_is_one_sentence(endpoint):
    Flaky.calls = 5
    writer = EndpointWriter(endpoint, "m", pause_s=0.01)
    with pytest.raises(CompletionError, match=r"does not answer: HTTP 400"):
        writer.complete([[{"role": "user", "content": "bad"}]], [0], Sampling())
