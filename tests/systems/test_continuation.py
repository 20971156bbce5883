"""Targets by dialogue continuation: what the LLM sees, what is written, and going on after a kill."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest
import torch
from tiny_parts import byte_tokenizer

from lalm.cli.app import run as command
from lalm.data.readers import read_manifest
from lalm.data.sample import ask, write_manifest
from lalm.models.processing import AUDIO_TOKEN
from lalm.synthesis.completions import (
    Completion,
    CompletionError,
    EndpointWriter,
    LocalWriter,
    Sampling,
    draw,
    text_beside,
)
from lalm.synthesis.resumable_rows import RowsError
from lalm.systems.acdc.choosing import Drawing, refuses
from lalm.systems.acdc.continuation import CONTINUATION, POOL, ContinuationError, mentions, respond

CAPTIONS = ["A dog barks.", "Rain falls on a tin roof.", "A bell rings, then a car passes.", "Birds sing."]


class Echo:
    """A writer that answers with the last user turn, and remembers what it was asked."""

    name = "echo"
    template = "none"

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


def test_each_caption_of_a_clip_gets_its_own_reply(tmp_path):
    five = replace(
        ask([tmp_path / "a.wav"], "Describe it."), id="a", task="caption", references=("A", "B", "A")
    )
    write_manifest(tmp_path / "in.jsonl", [five.with_target("A")])
    respond(tmp_path / "in.jsonl", tmp_path / "out.jsonl", Echo())
    made = [(s.id, s.target, s.references) for s in rows(tmp_path / "out.jsonl")]
    assert made == [("a-caption1", "Oh! A", ("A",)), ("a-caption2", "Oh! B", ("B",))]


@pytest.mark.parametrize("task", ["audio_qa", "asr", ""])
def test_answers_that_are_no_captions_are_refused(tmp_path, task):
    asked = replace(ask([tmp_path / "a.wav"], "Is it loud?").with_target("yes"), task=task)
    write_manifest(tmp_path / "in.jsonl", [asked])
    with pytest.raises(ContinuationError, match=r"in.jsonl:1: .*'yes'"):
        respond(tmp_path / "in.jsonl", tmp_path / "out.jsonl", Echo())


def rows(path):
    return sorted(read_manifest(path), key=lambda s: s.id)


def test_llm_sees_the_bare_caption_and_the_row_keeps_audio_and_caption(manifest, tmp_path):
    writer = Echo()
    counts = respond(manifest, tmp_path / "out.jsonl", writer)
    assert (counts.written, counts.existing) == (4, 0)
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
    assert (counts.written, counts.existing) == (2, 2) and len(second.asked) == 2
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
        text, audio = row.messages[0]["content"]
        assert audio["type"] == "audio" and text["text"].strip() in POOL
        assert any(c[-1]["content"] == text["text"] + row.references[0] for c in writer.asked)


def test_continuation_mode_asks_for_a_short_one(manifest, tmp_path):
    writer = Echo()
    respond(manifest, tmp_path / "out.jsonl", writer, mode="continuation")
    assert {c[-1]["content"] for c in writer.asked} == {f"{CONTINUATION}\n{c}" for c in CAPTIONS}
    for row in rows(tmp_path / "out.jsonl"):
        assert row.messages[0]["content"][0]["text"] == f"{CONTINUATION}\n" and row.task == "continuation"


@pytest.mark.parametrize("mode", ["response", "pool", "continuation"])
@pytest.mark.parametrize("system", ["", "You hear sounds."])
def test_the_trained_row_differs_from_what_the_llm_saw_by_the_audio_alone(
    manifest, tmp_path, tiny, tiny_folders, mode, system
):
    writer = Echo()
    respond(manifest, tmp_path / "out.jsonl", writer, mode=mode, system=system)
    _, processor = tiny("acdc")
    local = LocalWriter(tiny_folders[1], "tiny", torch.float32)
    seen = {local.render(chat) for chat in writer.asked}
    trained = {
        processor.render(row.prompt())[0].replace(AUDIO_TOKEN, row.references[0])
        for row in rows(tmp_path / "out.jsonl")
    }
    assert trained == seen and len(seen) == 4


def test_a_baseline_row_gives_a_bare_row_and_references_serve_as_captions(tmp_path):
    path = tmp_path / "captions.jsonl"
    clip = tmp_path / "a.wav"
    from_baseline = ask([clip], "", system="Describe the audio").with_target("A dog barks.")
    only_reference = ask([clip], "").from_json(
        {
            "messages": [{"role": "user", "content": [{"type": "audio", "audio": "b.wav"}]}],
            "references": ["rain"],
        },
        place="here",
    )
    write_manifest(path, [from_baseline, only_reference])
    respond(path, tmp_path / "out.jsonl", Echo())
    first, second = rows(tmp_path / "out.jsonl")
    assert [m["role"] for m in first.messages] == ["user", "assistant"]
    assert second.target == "Oh! rain" and second.references == ("rain",)


def test_a_system_text_is_seen_by_llm_and_trained_model_alike(manifest, tmp_path):
    writer = Echo()
    respond(manifest, tmp_path / "out.jsonl", writer, system="You hear sounds.")
    expected = {"role": "system", "content": "You hear sounds."}
    assert all(chat[0] == expected for chat in writer.asked)
    assert all(row.messages[0] == expected for row in rows(tmp_path / "out.jsonl"))


def test_several_replies_a_caption(manifest, tmp_path):
    respond(manifest, tmp_path / "out.jsonl", Echo(), replies=3)
    assert len(rows(tmp_path / "out.jsonl")) == 12


class Several(Echo):
    """Says the next of its texts each time, all with a log-probability of their own; rates 1, 2, 3, ..."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self.texts, self.rated = list(texts), 0

    def complete(self, chats, seeds, sampling):
        self.asked += [list(c) for c in chats]
        if "from 1 (useless" in chats[0][-1]["content"]:
            return [Completion(str(i), False) for i in range(1, len(chats) + 1)]
        said = [self.texts.pop(0) for _ in chats]
        return [Completion(text, text.endswith("..."), log_prob=-len(text) / 10) for text in said]


@pytest.mark.parametrize(
    ("by", "chosen"),
    [("mentions", "A bell and a car pass."), ("likelihood", "A bell."), ("judge", "Nice song.")],
)
def test_one_of_several_draws_is_chosen(tmp_path, by, chosen):
    write_manifest(tmp_path / "in.jsonl", [ask([tmp_path / "a.wav"], "").with_target(CAPTIONS[2])])
    texts = ("", "Oh...", "A bell.", "A bell and a car pass.", "Nice song.")
    writer = Several(*texts)
    respond(tmp_path / "in.jsonl", tmp_path / "out.jsonl", writer, drawing=Drawing(5, by))
    (made,) = rows(tmp_path / "out.jsonl")
    assert made.target == chosen and not made.truncated
    assert [chat[-1]["content"] for chat in writer.asked[:5]] == [CAPTIONS[2]] * 5
    kept = json.loads((tmp_path / "out.jsonl.json").read_text())
    assert (kept["draws"], kept["by"]) == (5, by)
    with pytest.raises(ContinuationError, match="draws must be 1 or more"):
        respond(tmp_path / "in.jsonl", tmp_path / "no.jsonl", writer, drawing=Drawing(0))


def test_thinking_is_taken_away_and_refusals_are_rephrased(manifest, tmp_path):
    """The row keeps the audio alone: what was asked the second time is not learned."""
    said = [
        "<think>A dog? Loud.</think> Woof, a dog!",
        "I'm sorry, but as a text-based assistant I cannot hear.",
        "<think>So there is",
        "As an AI language model, I can't listen to birds.",
    ]
    writer = Several(*said, "Rain, I hear rain.", "A bell first.", "I cannot hear it.")
    respond(manifest, tmp_path / "out.jsonl", writer, drawing=Drawing(rephrase=True))
    made = {s.references[0]: s for s in rows(tmp_path / "out.jsonl")}
    targets = {caption: made[caption].target if caption in made else "" for caption in CAPTIONS}
    order = sorted(CAPTIONS, key=len)
    assert [targets[c] for c in order] == ["Woof, a dog!", "Rain, I hear rain.", "A bell first.", ""]
    assert all(order[1 + i] in writer.asked[4 + i][-1]["content"] for i in range(3))
    assert all(len(s.messages) == 2 and not s.messages[0]["content"][1:] for s in made.values())
    again = Several(*["I cannot hear it."] * 4, *["A sound."] * 4)
    respond(manifest, tmp_path / "told.jsonl", again, system="Be brief.", drawing=Drawing(rephrase=True))
    assert len(again.asked) == 8  # with the system text each time, which a template may need
    assert all(chat[0] == {"role": "system", "content": "Be brief."} for chat in again.asked)
    assert refuses("Unfortunately, I don't have ears.") and not refuses("A dog barks; I cannot say why.")


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
    assert (counts.written, counts.dropped) == (3, 1) and len(rows(tmp_path / "out.jsonl")) == 3
    again = respond(manifest, tmp_path / "out.jsonl", Echo(fail_after=0), keep_mentioning=True)
    assert (again.written, again.existing, again.dropped) == (0, 3, 1)  # nothing is asked twice


def test_mentions_wants_a_content_word():
    assert mentions("I love barking dogs!", "A dog barks, then a bell rings.")
    assert not mentions("And then? I can't be sure.", "A dog barks, then a bell rings.")


def test_the_sidecar_says_how_the_rows_were_made(manifest, tmp_path):
    respond(manifest, tmp_path / "out.jsonl", Echo(), sampling=Sampling(seed=3), system="Hear.")
    assert json.loads((tmp_path / "out.jsonl.json").read_text()) == {
        "manifest": "captions.jsonl",
        "mode": "response",
        "llm": "echo",
        "template": "none",
        "system": "Hear.",
        "replies": 1,
        "keep_mentioning": False,
        "shard": "1/1",
        "temperature": 0.7,
        "top_p": 1.0,
        "max_new_tokens": 64,
        "seed": 3,
        "top_k": 0,
        "min_p": 0.0,
    }


def test_an_empty_shard_is_an_empty_manifest(tmp_path):
    path = tmp_path / "captions.jsonl"
    write_manifest(path, [ask([tmp_path / "a.wav"], "").with_target("A dog barks.")])
    for i in range(1, 9):
        respond(path, tmp_path / f"{i}.jsonl", Echo(), shard=f"{i}/8")
    assert sorted(len(rows(tmp_path / f"{i}.jsonl")) for i in range(1, 9)) == [0] * 7 + [1]


SLOW_RUN = """
import sys, time
from pathlib import Path
from lalm.synthesis.completions import Completion
from lalm.systems.acdc.choosing import Drawing, refuses
from lalm.systems.acdc.continuation import respond

class Slow:
    name, template = "echo", "none"
    def complete(self, chats, seeds, sampling):
        time.sleep(0.02)
        return [Completion("Oh! " + c[-1]["content"], False) for c in chats]

respond(Path(sys.argv[1]), Path(sys.argv[2]), Slow(), batch_size=2)
"""


def test_a_run_killed_with_signal_9_goes_on_and_keeps_its_rows(tmp_path):
    path, out = tmp_path / "captions.jsonl", tmp_path / "out.jsonl"
    write_manifest(
        path, [ask([tmp_path / f"{i}.wav"], "").with_target(f"Bell {i} rings.") for i in range(400)]
    )
    run = subprocess.Popen([sys.executable, "-c", SLOW_RUN, str(path), str(out)])
    end = time.monotonic() + 120
    while not (out.exists() and out.stat().st_size > 2000) and time.monotonic() < end:
        time.sleep(0.01)
    with pytest.raises(RowsError, match=r"another run is writing"):
        respond(path, out, Echo())
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    before = [json.loads(line)["id"] for line in out.read_text().splitlines()]
    assert 0 < len(before) < 400
    counts = respond(path, out, Echo())
    assert counts.existing == len(before) and counts.written == 400 - len(before)
    ids = [row.id for row in read_manifest(out)]
    assert ids[: len(before)] == before and len(set(ids)) == len(ids) == 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": "3/2"}, "shard must look like 2/8, not '3/2'"),
        ({"shard": "x"}, "shard must look like 2/8"),
        ({"replies": 0}, "replies and batch_size must be 1 or more, not 0 and 64"),
        ({"replies": 2, "mode": "caption"}, "mode 'caption' has one target a caption"),
        ({"writer": None}, "mode 'response' needs an LLM"),
        ({"drawing": Drawing(rephrase=True), "mode": "caption"}, "mode 'caption' asks no LLM: leave out"),
        ({"replies": 3, "sampling": Sampling(temperature=0.0)}, "at temperature 0 all 3 replies"),
        ({"drawing": Drawing(4), "sampling": Sampling(temperature=0.0)}, "at temperature 0 all 4 replies"),
    ],
)
def test_bad_options_are_named(manifest, tmp_path, options, message):
    with pytest.raises(ContinuationError, match=message):
        respond(manifest, tmp_path / "out.jsonl", **{"writer": Echo(), **options})


def test_choosing_among_one_reply_is_refused(manifest, tmp_path, capsys):
    assert command(["respond", str(manifest), str(tmp_path / "out.jsonl"), "--choose", "judge"]) == 2
    assert "--choose chooses one of several replies: give --draws" in capsys.readouterr().err


def test_other_settings_do_not_mix_into_one_file(manifest, tmp_path):
    respond(manifest, tmp_path / "out.jsonl", Echo())
    with pytest.raises(RowsError, match=r"was begun with temperature=0\.7, not 0\.1"):
        respond(manifest, tmp_path / "out.jsonl", Echo(), sampling=Sampling(temperature=0.1))


def test_row_without_caption_is_named(tmp_path):
    path = tmp_path / "q.jsonl"
    write_manifest(path, [ask([tmp_path / "a.wav"], "What?")])
    with pytest.raises(ContinuationError, match=r"q.jsonl:1: not a caption row"):
        respond(path, tmp_path / "out.jsonl", Echo())


def test_two_rows_with_one_id_are_named(tmp_path):
    path = tmp_path / "captions.jsonl"
    row = ask([tmp_path / "a.wav"], "").with_target("A dog barks.")
    write_manifest(path, [type(row)(row.messages, id="x"), type(row)(row.messages, id="x")])
    with pytest.raises(ContinuationError, match=r"captions.jsonl:2: the id 'x' belongs to an earlier row"):
        respond(path, tmp_path / "out.jsonl", Echo())


def test_a_foreign_file_is_not_overwritten(manifest, tmp_path):
    (tmp_path / "out.jsonl").write_text("notes\n")
    with pytest.raises(RowsError, match="not a manifest this command wrote"):
        respond(manifest, tmp_path / "out.jsonl", Echo())
    assert (tmp_path / "out.jsonl").read_text() == "notes\n"


# A local model


@pytest.fixture(scope="module")
def local(tiny_folders):
    return LocalWriter(tiny_folders[1], "tiny", torch.float32, torch.device("cpu"))


def chats_of(captions):
    return [[{"role": "user", "content": c}] for c in captions]


def test_replies_do_not_depend_on_the_batch(local):
    sampling = Sampling(max_new_tokens=24)
    seeds = [11, 12, 13, 14]
    batch = local.complete(chats_of(CAPTIONS), seeds, sampling)
    alone = [local.complete([c], [s], sampling)[0] for c, s in zip(chats_of(CAPTIONS), seeds, strict=True)]
    assert batch == alone and len({b.text for b in batch}) == 4
    other = local.complete(chats_of(CAPTIONS), [s + 1 for s in seeds], sampling)
    assert [o.text for o in other] != [b.text for b in batch]


def test_greedy_replies_are_those_of_generate(local):
    replies = local.complete(chats_of(CAPTIONS), [0] * 4, Sampling(temperature=0, max_new_tokens=12))
    for chat, reply in zip(chats_of(CAPTIONS), replies, strict=True):
        ids = local.tokenizer(local.render(chat), return_tensors="pt", add_special_tokens=False)
        new = local.model.generate(**ids, do_sample=False, max_new_tokens=12)[0, ids["input_ids"].shape[1] :]
        assert reply.text == local.tokenizer.decode(new, skip_special_tokens=True).strip()
        assert reply.truncated == (local.tokenizer.eos_token_id not in new.tolist())


def test_finished_rows_leave_the_batch_and_change_nothing(local, monkeypatch):
    ends = local.ends
    every_other = set(range(0, len(local.tokenizer), 2))  # half of the vocabulary ends a reply
    monkeypatch.setattr(local, "ends", ends | every_other)
    sizes = []
    monkeypatch.setattr(
        "lalm.synthesis.completions.draw",
        lambda logits, *rest: sizes.append(len(logits)) or draw(logits, *rest),
    )
    chats, seeds = chats_of(CAPTIONS * 4), list(range(16))
    batch = local.complete(chats, seeds, Sampling(max_new_tokens=12))
    assert sizes[0] == 16 and sizes[-1] < 8
    alone = [
        local.complete([c], [s], Sampling(max_new_tokens=12))[0] for c, s in zip(chats, seeds, strict=True)
    ]
    assert batch == alone and {b.truncated for b in batch} >= {False}


def test_the_local_prompt_is_the_caption_and_markers(local):
    bare = "<|im_start|>user\nA dog barks.<|im_end|>\n<|im_start|>assistant\n"
    assert local.render(chats_of(["A dog barks."])[0]) == bare


QWEN = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Q, made by A.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL = "{{ '<s>' }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
GEMMA = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<bos>{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}<start_of_turn>model\n"
)
ZEPHYR = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}<|assistant|>\n"
VICUNA = "{% for m in messages %}{{ m.role.upper() }}: {{ m.content }} {% endfor %}ASSISTANT:"
CHATTY = "A chat.\n" + VICUNA
DEAF = "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "added"),
    [
        *[(bare, "") for bare in (MISTRAL, GEMMA, ZEPHYR, VICUNA)],
        (QWEN, "system You are Q, made by A. user assistant"),
        (CHATTY, "A chat. USER: ASSISTANT:"),
        (DEAF, "(not the user turn)"),
    ],
)
def test_text_that_a_template_adds_is_found(template, added):
    tokenizer = byte_tokenizer()
    chat = [{"role": "user", "content": " A dog barks. "}]
    text = tokenizer.apply_chat_template(
        chat, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert text_beside(text, chat, tokenizer) == added


def test_a_template_with_its_own_text_is_refused_until_a_system_text_is_given(local, monkeypatch):
    monkeypatch.setattr(local, "_jinja", QWEN)
    chat = chats_of(["A dog barks."])[0]
    with pytest.raises(CompletionError, match=r"'tiny' adds the text 'system You are Q.*--system"):
        local.render(chat)
    with_system = local.render([{"role": "system", "content": "Hear."}, *chat])
    assert with_system.startswith("<|im_start|>system\nHear.<|im_end|>")
    monkeypatch.setattr(local, "_jinja", GEMMA)
    with pytest.raises(CompletionError, match=r"'tiny' refuses the chat: System role not supported"):
        local.render([{"role": "system", "content": "Hear."}, *chat])


@pytest.mark.parametrize("size", [5, 128, 300])
def test_tokens_are_drawn_by_their_probability(size):
    torch.manual_seed(size)
    logits = torch.randn(1, size) * 2
    logits[0, 1] = -torch.inf
    kept = logits.clone()
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(size)
    for token in draw(logits.expand(20_000, size), [generator] * 20_000, Sampling()):
        counts[token] += 1
    expected = (logits[0] / 0.7).softmax(0)
    assert torch.equal(logits, kept) and counts[1] == 0
    assert (counts / 20_000 - expected).abs().sum() < 3 * (expected * (1 - expected) / 20_000).sqrt().sum()


def test_top_p_keeps_the_likeliest_tokens():
    logits = torch.tensor([[0.1, 0.5, 0.25, 0.15]]).log().expand(500, 4)
    generator = torch.Generator().manual_seed(0)

    def drawn(top_p):
        return set(draw(logits, [generator] * 500, Sampling(temperature=1.0, top_p=top_p)).tolist())

    assert (
        drawn(0.0) == {1} and drawn(0.7) == {1, 2} and drawn(0.76) == {1, 2, 3} and drawn(1.0) == {0, 1, 2, 3}
    )


# An endpoint


class Server(BaseHTTPRequestHandler):
    """Answers with the caption; ``troubles`` are dealt out first, one a request."""

    troubles: list[object] = []  # noqa: RUF012
    bodies: list[dict] = []  # noqa: RUF012
    starts: list[float] = []  # noqa: RUF012
    prompt_tokens = 9

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Server.bodies.append(body)
        Server.starts.append(time.monotonic())
        text = body["messages"][-1]["content"]
        match Server.troubles.pop(0) if Server.troubles else None:
            case "disconnect":
                self.connection.close()
                return
            case "garbage":
                self._send(200, b"<html>")
                return
            case int(status):
                self._send(status, b"no luck", {"Retry-After": "0"} if status == 429 else {})
                return
        answer = {
            "choices": [
                {"message": {"content": f" {text} "}, "finish_reason": "length" if "dog" in text else "stop"}
            ],
            "usage": {"prompt_tokens": Server.prompt_tokens},
        }
        self._send(200, json.dumps(answer).encode())

    def _send(self, status, data, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        return


@pytest.fixture
def endpoint():
    Server.troubles, Server.bodies, Server.starts, Server.prompt_tokens = [], [], [], 9
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_endpoint_is_asked_again_after_passing_troubles(endpoint):
    Server.troubles = [429, 500, "disconnect", "garbage", 503]
    writer = EndpointWriter(endpoint, "m", pause_s=0.01)
    assert writer.complete(chats_of(CAPTIONS), [0] * 4, Sampling()) == [
        Completion(c, truncated="dog" in c) for c in CAPTIONS
    ]
    assert len(Server.bodies) == 5 + 1 + 4  # the troubles, the probe, the captions
    sent = Server.bodies[-1]
    assert (sent["model"], sent["temperature"], sent["max_tokens"]) == ("m", 0.7, 64)
    assert [m["role"] for m in sent["messages"]] == ["user"]


def test_endpoint_refusal_is_one_sentence_and_is_not_repeated(endpoint):
    Server.troubles = [401]
    with pytest.raises(CompletionError, match=r"does not answer: HTTP 401: no luck"):
        EndpointWriter(endpoint, "m").complete(chats_of(CAPTIONS), [0] * 4, Sampling())
    assert len(Server.bodies) == 1


def test_endpoint_that_never_recovers_is_given_up(endpoint):
    Server.troubles = [500] * 99
    writer = EndpointWriter(endpoint, "m", tries=3, pause_s=0.01)
    with pytest.raises(CompletionError, match=r"HTTP 500"):
        writer.complete(chats_of(CAPTIONS[:1]), [0], Sampling())
    assert len(Server.bodies) == 3


def test_an_endpoint_that_has_answered_is_waited_for_longer(endpoint):
    writer = EndpointWriter(endpoint, "m", tries=2, patient_tries=6, pause_s=0.01, bare=False)
    Server.troubles = [500] * 2
    with pytest.raises(CompletionError, match=r"HTTP 500"):
        writer.complete(chats_of(CAPTIONS[:1]), [0], Sampling())
    assert writer.complete(chats_of(CAPTIONS[:1]), [0], Sampling())[0].text == CAPTIONS[0]
    Server.troubles = [500] * 5
    assert writer.complete(chats_of(CAPTIONS[:1]), [0], Sampling())[0].text == CAPTIONS[0]


def test_endpoint_whose_template_adds_a_system_text_is_refused(endpoint):
    Server.prompt_tokens = 30
    writer = EndpointWriter(endpoint, "m")
    with pytest.raises(CompletionError, match=r"makes 30 tokens of a prompt of one letter.*--system"):
        writer.complete(chats_of(CAPTIONS), [0] * 4, Sampling())
    own = [[{"role": "system", "content": "Hear."}, *chat] for chat in chats_of(CAPTIONS)]
    assert len(writer.complete(own, [0] * 4, Sampling())) == 4


def test_an_address_where_nobody_listens_is_told_soon(monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    slept: list[float] = []
    monkeypatch.setattr("lalm.synthesis.completions.time.sleep", slept.append)
    with pytest.raises(CompletionError, match=rf"{url} does not answer: .*is the address right\?"):
        EndpointWriter(url, "m").complete(chats_of(CAPTIONS[:1]), [0], Sampling())
    assert 2 < sum(slept) < 5


def test_endpoint_requests_are_spread_out(endpoint):
    writer = EndpointWriter(endpoint, "m", requests_per_s=50.0)
    writer.complete(chats_of(CAPTIONS * 3), [0] * 12, Sampling())
    assert Server.starts[-1] - Server.starts[0] > 0.8 * 12 / 50
    assert all(a <= b for a, b in pairwise(Server.starts))


def test_a_run_through_an_endpoint_that_fails_goes_on_later(endpoint, manifest, tmp_path):
    out = tmp_path / "out.jsonl"
    writer = EndpointWriter(endpoint, "m", tries=2, pause_s=0.01, concurrency=1)
    respond(manifest, out, writer, batch_size=2)
    out.write_text("".join(out.read_text().splitlines(keepends=True)[:2]))
    Server.troubles = [500] * 2
    with pytest.raises(CompletionError):
        respond(manifest, out, writer, batch_size=1)
    assert len(rows(out)) == 2
    counts = respond(manifest, out, writer, batch_size=1)
    assert (counts.existing, counts.written, counts.truncated) == (2, 2, 1)
    assert [r.target for r in rows(out)] == CAPTIONS
