"""Question-answer pairs about clips, written by an LLM from transcripts or captions (section 4.2).

The prompts are our wording of what the paper asks its LLM for (appendix E): one question, its answer, as a
JSON object. Small models often break that form: such replies are asked for again and then dropped.
"""

import ast
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lalm.data.readers import Reading, read_manifest
from lalm.data.sample import Sample
from lalm.synthesis.completions import Chat, Completion, Sampling, Writer
from lalm.synthesis.resumable_rows import Counts, write_rows
from lalm.tasks.instructions import instruct
from lalm.tasks.sources import SourceError, asking

# Task of a caption or transcript -> task of the questions about it, and what the LLM is told the text is.
ABOUT = {
    "asr": ("speech_qa", "what someone says in a recording"),
    "caption": ("audio_qa", "a description of the sounds in a recording"),
    "music_caption": ("music_qa", "a description of a piece of music"),
}
PROMPT = """Below is {what}. Write one question about it that can be answered from the text alone, and the \
answer, which must be correct, simple and clear. Do not mention the text in the question. Reply with one \
line of this form and nothing else:
{{"Question": "...", "Answer": "..."}}
The text: {text}"""
LONG = " The answer must be several sentences long and explain itself."
MAX_QUESTION, MAX_ANSWER = 400, 4000  # characters


@dataclass(frozen=True)
class Request:
    """A clip whose text is to be asked about."""

    sample: Sample
    text: str
    row_id: str
    long: bool
    seed: int

    @property
    def chat(self) -> Chat:
        """What the LLM sees."""
        what = ABOUT[self.sample.task][1] + "." + (LONG if self.long else "")
        return [{"role": "user", "content": PROMPT.format(what=what, text=self.text)}]

    def row(self, reply: Completion) -> Sample | None:
        """Audio, question and answer, or None for a malformed reply."""
        pair = read_pair(reply.text)
        if pair is None:
            return None
        question, answer = pair
        made = Sample(
            asking(self.sample.audios, question),
            id=self.row_id,
            task=ABOUT[self.sample.task][0],
            references=(answer,),
            split=self.sample.split,
            events=self.sample.events,
            origin={**self.sample.origin, "question": question, "text": self.text},
        )
        return next(instruct([made.with_target(answer)], seed=self.seed))


def write_questions(
    manifest: Path,
    out: Path,
    writer: Writer,
    *,
    sampling: Sampling | None = None,
    long: bool = False,
    tries: int = 3,
    batch_size: int = 64,
    reading: Reading | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Counts:
    """Write ``out``: a question and an answer for every transcript, caption or music caption of ``manifest``.

    The text of a row is its ``origin.transcript`` (task asr) or its assistant text; a row that names no task
    counts as captioned. ``long`` asks for long
    answers (table 5's "QA (Long)"). A malformed reply is asked for ``tries`` times, then the row is dropped
    and its id noted in ``<out>.dropped``. Rows already in ``out`` are kept: a killed run goes on.
    """
    sampling = sampling or Sampling(max_new_tokens=128)
    wanted = list(_requests(manifest, long, sampling.seed, reading))
    wanted.sort(key=lambda r: len(r.text))  # replies to texts alike in length end alike
    made = {
        "manifest": manifest.name,
        "llm": writer.name,
        "template": writer.template,
        "prompt": hashlib.sha256((PROMPT + LONG).encode()).hexdigest()[:16],
        "long": long,
        **asdict(sampling),
    }

    def answers(requests: Sequence[Request], attempt: int) -> list[Completion]:
        seeds = [(r.seed + attempt) % 2**60 for r in requests]
        return writer.complete([r.chat for r in requests], seeds, sampling)

    return write_rows(
        wanted, out, answers, Request.row, made, batch_size=batch_size, tries=tries, progress=progress
    )


def read_pair(text: str) -> tuple[str, str] | None:
    """Question and answer out of a reply that holds one JSON (or Python) object with both; else None."""
    found = re.search(r"\{[^{}]*\}", text)
    if found is None:
        return None
    try:
        fields = json.loads(found[0])
    except (ValueError, RecursionError):
        try:
            fields = ast.literal_eval(found[0])
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    if not isinstance(fields, dict):
        return None
    lower = {str(key).lower(): value for key, value in fields.items()}
    question, answer = lower.get("question"), lower.get("answer")
    if not isinstance(question, str) or not isinstance(answer, str):
        return None
    question, answer = question.strip(), answer.strip()
    letters = re.search(r"\w", question) and re.search(r"\w", answer)
    if not letters or len(question) > MAX_QUESTION or len(answer) > MAX_ANSWER or "{" in question:
        return None
    return question, answer


def texts_of(manifest: Path, reading: Reading | None = None) -> Iterator[tuple[Sample, str]]:
    """The clips of a manifest, each with its id, its task and the text that is asked about.

    Raises SourceError naming the row that lacks something, or whose task has no such text.
    """
    seen: set[str] = set()
    for number, sample in enumerate(read_manifest(manifest, reading), 1):
        place = f"{manifest.name}:{number}"
        name = sample.id or f"{manifest.stem}-{number}"
        sample = replace(sample, task=sample.task or "caption", id=name)
        if sample.task not in ABOUT:
            raise SourceError(f"{place}: task '{sample.task}' is none of {', '.join(ABOUT)}")
        text = sample.origin.get("transcript", "") if sample.task == "asr" else ""
        text = text or sample.target or next(iter(sample.references), "")
        if not text or not sample.audios or not sample.id or "\n" in sample.id:
            raise SourceError(f"{place}: the row needs an id, audio and a text")
        if sample.id in seen:
            raise SourceError(f"{place}: the id '{sample.id}' belongs to an earlier row too")
        seen.add(sample.id)
        yield sample, text


def _requests(manifest: Path, long: bool, seed: int, reading: Reading | None) -> Iterator[Request]:
    for sample, text in texts_of(manifest, reading):
        row_id = f"{ABOUT[sample.task][0]}-{sample.id}"
        digest = int(hashlib.sha256(f"{seed} {row_id}".encode()).hexdigest()[:15], 16)
        yield Request(sample, text, row_id, long, digest)
