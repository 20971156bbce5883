"""Adds an instruction from a paper's prompts to a task's samples, drawn by the sample's id."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from lalm.data.sample import Message, Part, Sample, SampleError
from lalm.systems.apt.prompts import prompts as apt_prompts
from lalm.systems.salmonn.prompts import QUESTION
from lalm.systems.salmonn.prompts import prompts as salmonn_prompts

Prompts = Mapping[str, tuple[str, ...]]
PAPERS: Mapping[str, Callable[[], Prompts]] = {"salmonn": salmonn_prompts, "apt": apt_prompts}


def instruct(
    samples: Iterable[Sample], *, seed: int | None = 0, paper: str | None = None
) -> Iterator[Sample]:
    """Put a prompt of each sample's task after the audio of its first user turn.

    The prompt depends on the seed and the sample's id only; with ``seed=None`` it is always the task's first
    one, for tests. What the sample's own user turn says is the ``{question}`` of the prompt. ``paper`` is
    whose prompts they are ("apt"); None: SALMONN's, and APT's for tasks that only APT has. Raises
    SampleError for a task without prompts, and where a question is missing or has no place.
    """
    if paper is not None and paper not in PAPERS:
        raise SampleError(f"there are no prompts of '{paper}'; there are those of {' and '.join(PAPERS)}")
    known = {**apt_prompts(), **salmonn_prompts()} if paper is None else PAPERS[paper]()
    for sample in samples:
        bank = known.get(sample.task)
        if bank is None:
            raise SampleError(
                f"{sample.id}: task '{sample.task}' has no prompts{f' of {paper}' if paper else ''}; "
                f"those with are {', '.join(known)}"
            )
        prompt = bank[0] if seed is None else bank[_draw(seed, sample.id) % len(bank)]
        yield _asked(sample, prompt)


def _asked(sample: Sample, prompt: str) -> Sample:
    at = next(i for i, message in enumerate(sample.messages) if message["role"] == "user")
    content = sample.messages[at]["content"]
    parts: list[Part] = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    question = " ".join(part["text"] for part in parts if part["type"] == "text").strip()
    if bool(question) != (QUESTION in prompt):
        what = "needs a question" if QUESTION in prompt else "takes no question"
        raise SampleError(f"{sample.id}: task '{sample.task}' {what}")
    audios: list[Part] = [part for part in parts if part["type"] == "audio"]
    text = prompt.replace(QUESTION, question)
    user: Message = {"role": "user", "content": [*audios, {"type": "text", "text": text}]}
    return replace(sample, messages=(*sample.messages[:at], user, *sample.messages[at + 1 :]))


def _draw(seed: int, name: str) -> int:
    return int(hashlib.sha256(f"{seed} {name}".encode()).hexdigest()[:15], 16)
