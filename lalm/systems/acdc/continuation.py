"""Targets by dialogue continuation (section 2.2): a caption manifest -> the LLM's own replies.

The caption stands alone in the user turn of a bare chat template; the reply is what the audio model learns
to say on hearing the clip. Beside it: the caption itself (the baseline), a prompt pool, and a short
continuation, as the sibling papers have them. Whatever the LLM saw beside the caption stays in the trained
row, so that both see the same but for the caption, whose place the audio takes.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from lalm.data.readers import Reading, read_manifest
from lalm.data.sample import Message, Part, Sample, message_text
from lalm.errors import LalmError
from lalm.synthesis.completions import Chat, Completion, Sampling, Writer
from lalm.synthesis.resumable_rows import Counts, write_rows
from lalm.systems.acdc.choosing import Drawing, drawn, taken_up
from lalm.systems.acdc.prompts import BASELINE_SYSTEM

Mode = Literal["response", "caption", "pool", "continuation"]

# Our wording; each row of the pool mode draws one by its id.
POOL = (
    "What do you hear?",
    "Describe the sounds.",
    "What is happening here?",
    "Which sounds are in this recording?",
    "Tell me about this audio in one sentence.",
    "Where could this have been recorded?",
    "What is making these sounds?",
    "Summarize the recording in a few words.",
)
CAPTION_TASKS = ("caption", "music_caption", "audiocaption")
CONTINUATION = "Continue the following description in fewer than 40 words."


class ContinuationError(LalmError, ValueError):
    """A manifest or option that cannot be used."""


@dataclass(frozen=True)
class Request:
    """One row to be: the caption's sample, what stands before the caption, and the seed of its reply."""

    sample: Sample
    caption: str
    mode: Mode
    system: str
    instruction: str
    row_id: str
    seed: int
    question: str = ""  # asked after the caption

    @property
    def chat(self) -> Chat:
        """What the LLM sees."""
        turns = [{"role": "system", "content": self.system}] if self.system else []
        asked = f"{self.caption}\n{self.question}" if self.question else self.caption
        return [*turns, {"role": "user", "content": self._before + asked}]

    def row(self, answer: Completion) -> Sample:
        """What the audio model learns: the same chat with the audio in the caption's place."""
        content: list[Part] = [self.sample.audios[0]]
        if self.instruction:
            content.insert(0, {"type": "text", "text": self._before})
        if self.question:
            content.append({"type": "text", "text": self.question})
        system = BASELINE_SYSTEM if self.mode == "caption" else self.system
        messages: list[Message] = [{"role": "system", "content": system}] if system else []
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer.text}]
        return replace(
            self.sample,
            messages=tuple(messages),
            id=self.row_id,
            task=self.mode,
            references=(self.caption,),
            truncated=answer.truncated,
        )

    @property
    def _before(self) -> str:
        return f"{self.instruction}\n" if self.instruction else ""


def respond(
    manifest: Path,
    out: Path,
    writer: Writer | None,
    *,
    mode: Mode = "response",
    sampling: Sampling | None = None,
    replies: int = 1,
    shard: str = "1/1",
    system: str = "",
    batch_size: int = 64,
    keep_mentioning: bool = False,
    questions: Sequence[str] = (),
    drawing: Drawing | None = None,
    reading: Reading | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Counts:
    """Write ``out``, a manifest whose targets are the LLM's replies; the caption stays in ``references``.

    The captions of a row are its references, or else its assistant text; each one gets its own reply. Rows
    that ask something, such as Clotho-AQA's, are refused: their answers are no captions. ``writer`` answers
    (None in caption mode, which needs no LLM). ``shard`` "2/8" takes the second of eight parts. ``system``
    (the paper has none) is shown to the LLM and stays in the row. ``keep_mentioning`` drops replies without
    any content word of the caption. Of ``questions`` (mode "response") each row asks one after the caption,
    drawn by its id. ``drawing``: how many replies are drawn for each that is written, and by what it is
    chosen (``lalm.systems.acdc.choosing``). Rows already in ``out`` are kept, so a killed run goes on where
    it stopped. How the rows were made is written to ``<out>.json``, the ids of dropped replies to
    ``<out>.dropped``.

    Raises ContinuationError for a manifest or option that does not fit, RowsError for an existing ``out``.
    """
    sampling = sampling or Sampling()
    if mode != "caption" and writer is None:
        raise ContinuationError(f"mode '{mode}' needs an LLM")
    if replies < 1 or batch_size < 1:
        raise ContinuationError(f"replies and batch_size must be 1 or more, not {replies} and {batch_size}")
    if mode == "caption" and replies > 1:
        raise ContinuationError("mode 'caption' has one target a caption, so replies must be 1")
    if questions and mode != "response":
        raise ContinuationError(f"questions go with mode 'response', not with '{mode}'")
    drawing = drawing or Drawing()
    if drawing.draws < 1:
        raise ContinuationError(f"draws must be 1 or more, not {drawing.draws}")
    if mode == "caption" and drawing != Drawing():
        raise ContinuationError("mode 'caption' asks no LLM: leave out draws, choose and rephrase")
    if sampling.temperature == 0 and max(replies, drawing.draws) > 1:
        raise ContinuationError(
            f"at temperature 0 all {max(replies, drawing.draws)} replies to a caption are one and the same: "
            "give a temperature above 0, or draw one"
        )
    wanted = list(_requests(manifest, mode, system, sampling.seed, replies, shard, reading, questions))
    made = {
        "manifest": manifest.name,
        "mode": mode,
        "llm": writer.name if writer else None,
        "template": writer.template if writer else None,
        "system": system,
        "replies": replies,
        "keep_mentioning": keep_mentioning,
        "shard": shard,
        **({"questions": list(questions)} if questions else {}),
        **{key: value for key, value in asdict(sampling).items() if key != "log_probs"},
        **(asdict(drawing) if drawing != Drawing() else {}),
    }

    def answers(requests: Sequence[Request], attempt: int) -> list[Completion]:
        if writer is None:
            return [Completion(r.caption, truncated=False) for r in requests]
        return drawn(
            writer,
            [r.chat for r in requests],
            [r.caption for r in requests],
            [r.sample for r in requests],
            [r.seed for r in requests],
            sampling,
            drawing,
        )

    def row(request: Request, answer: Completion) -> Sample | None:
        good = bool(answer.text) and (not keep_mentioning or mentions(answer.text, request.caption))
        return request.row(answer) if good else None

    rows_at_once = max(1, batch_size // drawing.draws)
    wanted.sort(key=lambda r: len(r.caption))  # replies to captions alike in length end alike
    return write_rows(wanted, out, answers, row, made, batch_size=rows_at_once, progress=progress)


def mentions(reply: str, caption: str) -> bool:
    """Does the reply name anything of the caption? By the stems of its content words."""
    return taken_up(reply, caption) > 0


def _requests(
    manifest: Path,
    mode: Mode,
    system: str,
    seed: int,
    replies: int,
    shard: str,
    reading: Reading | None,
    questions: Sequence[str],
) -> Iterator[Request]:
    index, count = _shard(shard)
    seen: set[str] = set()
    for number, sample in enumerate(read_manifest(manifest, reading), 1):
        place = f"{manifest.name}:{number}"
        captions = _captions(sample, place)
        name = sample.id or f"{manifest.stem}-{number}"
        if name in seen:
            raise ContinuationError(f"{place}: the id '{name}' belongs to an earlier row too")
        if "\n" in name:
            raise ContinuationError(f"{place}: the id has a line break")
        seen.add(name)
        if int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % count != index:
            continue
        for which, caption in enumerate(captions, 1):
            told = name if len(captions) == 1 else f"{name}-caption{which}"
            for take in range(replies):
                row_id = told if replies == 1 else f"{told}-reply{take + 1}"
                digest = int(hashlib.sha256(f"{seed} {row_id}".encode()).hexdigest()[:15], 16)
                asked = {"pool": POOL[digest % len(POOL)], "continuation": CONTINUATION}.get(mode, "")
                question = questions[digest % len(questions)] if questions else ""
                yield Request(sample, caption, mode, system, asked, row_id, digest, question)


def _captions(sample: Sample, place: str) -> list[str]:
    """All captions of a row, each once. Raises ContinuationError for a row of something else."""
    captions = list(dict.fromkeys(text for text in sample.references or (sample.target,) if text))
    if not captions or len(sample.audios) != 1:
        raise ContinuationError(f"{place}: not a caption row (one audio, one assistant text)")
    if sample.task and sample.task not in CAPTION_TASKS:
        raise ContinuationError(
            f"{place}: a row of the task '{sample.task}', whose answer '{captions[0][:40]}' is no caption; "
            f"captions are rows of the tasks {', '.join(CAPTION_TASKS)}, or of none and without a question"
        )
    asked = " ".join(message_text(m) for m in sample.messages if m["role"] == "user").strip()
    if asked and not sample.task:
        raise ContinuationError(
            f"{place}: the row asks '{asked[:60]}': if '{captions[0][:40]}' is a caption all the same, give "
            "the row the task 'caption'"
        )
    return captions


def _shard(shard: str) -> tuple[int, int]:
    part, _, total = shard.partition("/")
    if not (part.isdigit() and total.isdigit() and 1 <= int(part) <= int(total)):
        raise ContinuationError(f"shard must look like 2/8, not '{shard}'")
    return int(part) - 1, int(total)
