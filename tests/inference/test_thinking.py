"""A budget for thinking: it ends the thinking, never the answer, and what it did is told."""

import pytest
import torch

from lalm.data.sample import Sample, ask
from lalm.evaluate.answering import Local
from lalm.evaluate.items import Asked
from lalm.evaluate.page import notes
from lalm.evaluate.run import Job, run
from lalm.evaluate.said import rows_of
from lalm.evaluate.task import Task
from lalm.inference.engine import Engine
from lalm.inference.final_answer import without_reasoning
from lalm.inference.generation import Progress, processors_of
from lalm.inference.options import Options
from lalm.inference.thinking import unfinished

SAMPLES = "samples/horse.ogg", "samples/bird.ogg"


def said(tokenizer, wants: str, options: Options, prompt: str = "ask: ") -> tuple[str, object]:
    """What an LLM says that wants to say ``wants``, then its end, under the options; and its answer."""
    end = tokenizer.eos_token_id
    script = [*tokenizer.encode(wants, add_special_tokens=False), *[end] * 999]
    progress = Progress(1, options, {end}, tokenizer)
    ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False)])
    processors = processors_of(list(ids), len(tokenizer), {end}, options, progress)
    new = torch.zeros(1, 0, dtype=torch.long)
    own = 0
    while progress.answers[0].reason is None:
        scores = torch.zeros(1, len(tokenizer))
        scores[0, script[own]] = 5.0
        token = int(processors(new, scores).argmax())
        own = own + 1 if token == script[own] else script.index(end)  # once interrupted, it wants no more
        new = torch.cat([new, torch.tensor([[token]])], 1)
        progress(new, scores)
    return tokenizer.decode(progress.answers[0].tokens), progress.answers[0]


@pytest.mark.parametrize("tags", [("<think>", "</think>"), ("[THINK]", "[/THINK]")])
def test_thinking_ends_at_its_budget_and_the_answer_keeps_its_own(tiny, tags):
    tokenizer = tiny("acdc")[1].tokenizer
    opened, closed = tags
    short = f"{opened}so so\n{closed}\n\na horse"
    text, answer = said(tokenizer, short, Options(max_new_tokens=40, thinking_tokens=60))
    assert without_reasoning(text).startswith("a horse") and not answer.thinking_cut
    long = f"{opened}" + " ".join(f"thought {n}" for n in range(90))
    text, answer = said(tokenizer, long, Options(max_new_tokens=40, thinking_tokens=60))
    assert answer.thinking_cut and answer.reason == "stop" and closed in text and "thought 89" not in text
    plain = Options(max_new_tokens=40)  # without a budget the limit takes thinking and answer together
    text, answer = said(tokenizer, long, plain)
    assert (
        answer.reason == "length" and len(answer.tokens) == 40 and unfinished(text) and not unfinished(short)
    )
    endless = f"{opened}so\n{closed}" + " ".join(f"word {n}" for n in range(90))
    text, answer = said(tokenizer, endless, Options(max_new_tokens=30, thinking_tokens=60))
    assert answer.reason == "length" and len(answer.tokens) - answer.thinking.spent == 30
    text, answer = said(tokenizer, "a horse, " * 3, Options(max_new_tokens=40, thinking_tokens=5))
    assert not answer.thinking_cut and closed not in text  # who does not think is not stopped


def test_thinking_that_the_template_opens_is_ended_and_told(tiny, tmp_path):
    torch.manual_seed(0)  # another connector may end its answer while it thinks
    model, processor = tiny("acdc")
    processor.chat_template = (
        str(processor.chat_template) + "{% if add_generation_prompt %}<think>\n{% endif %}"
    )
    items = [Sample(ask([clip], "What?").messages, id=clip, references=("x",)) for clip in SAMPLES]
    task = Task(name="t", about="x", metrics=("names",), max_new_tokens=6, thinking_tokens=9)
    card = run(Job([Asked(task, tuple(items), "x")], tmp_path), Local(Engine(model, processor, "tiny"))).card
    rows = [row for _, row in rows_of(tmp_path / "predictions.jsonl")]
    assert [row["thinking_cut"] for row in rows] == [True, True]
    assert all("</think>" in row["text"] for row in rows)
    assert card["tasks"]["t"]["thinking_cut"] == 2 and card["tasks"]["t"]["thinking_tokens"] == 9
    told = "t: 2 answers had not done thinking after 9 tokens and were made to answer then"
    assert told in notes("t", card["tasks"]["t"])
    with pytest.raises(ValueError, match="one beam"):
        Options(beams=2, thinking_tokens=5)
