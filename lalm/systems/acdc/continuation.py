"""Targets by dialogue continuation (section 2.2): a caption manifest -> the LLM's own replies.

The caption stands alone in the user turn of a bare chat template; the reply is what the audio model learns
to say on hearing the clip. Beside it: the caption itself (the baseline), a prompt pool, and a short
continuation, as the sibling papers have them.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from lalm.completions import Chat, Completion, Sampling, Writer
from lalm.sample import Sample, read_manifest
from lalm.systems.acdc.prompts import BASELINE_SYSTEM
from lalm.words import stems

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
CONTINUATION = "Continue the following description in fewer than 40 words."
CONTINUATION_USER = "{caption}"


class ContinuationError(ValueError):
    """A manifest or option that cannot be used."""


@dataclass(frozen=True)
class Counts:
    """What a run did: rows written now, rows that lay there already, replies the token limit cut off."""

    written: int
    already: int
    truncated: int
    dropped: int = 0


@dataclass(frozen=True)
class Request:
    """One row: the caption's sample, the chat that the LLM sees, and the question the trained row keeps."""

    sample: Sample
    chat: Chat
    question: str
    system: str
    row_id: str
    seed: int


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
    progress: Callable[[int, int], None] | None = None,
) -> Counts:
    """Write ``out``, a manifest whose targets are the LLM's replies; the caption stays in ``references``.

    ``writer`` answers (None in caption mode, which needs no LLM). ``shard`` "2/8" takes the second of eight
    parts. ``system`` (the paper has none) is shown to the LLM and stays in the row, so that LLM and trained
    model see the same but for the caption. ``keep_mentioning`` drops replies without any word of the
    caption. Rows already in ``out`` are kept, so a killed run goes on where it stopped. How the rows were
    made is written to ``<out>.json``.
    """
    sampling = sampling or Sampling()
    if mode != "caption" and writer is None:
        raise ContinuationError(f"mode '{mode}' needs an LLM")
    done, truncated = _resume(out)
    _note(out, writer, mode, sampling, system, shard)
    requests = [
        r for r in _requests(manifest, mode, system, sampling.seed, replies, shard) if r.row_id not in done
    ]
    requests.sort(key=lambda r: len(r.sample.target))  # replies to captions alike in length end alike
    written = dropped = 0
    with out.open("a", encoding="utf-8") as file:
        for at in range(0, len(requests), batch_size):
            batch = requests[at : at + batch_size]
            if writer is None:
                answers = [Completion(r.sample.target, truncated=False) for r in batch]
            else:
                answers = writer.complete([r.chat for r in batch], [r.seed for r in batch], sampling)
            for request, answer in zip(batch, answers, strict=True):
                usable = bool(answer.text) and (
                    not keep_mentioning or mentions(answer.text, request.sample.target)
                )
                dropped += not usable
                truncated += usable and answer.truncated
                row = _row(request, answer, mode, out) if usable else {"id": request.row_id, "dropped": True}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
            written += len(batch)
            if progress:
                progress(written, len(requests))
    _finish(out)
    return Counts(written, len(done), truncated, dropped)


def mentions(reply: str, caption: str) -> bool:
    """Does the reply name anything of the caption? By the stems of its content words."""
    return bool(stems(reply) & stems(caption))


def _requests(
    manifest: Path, mode: Mode, system: str, seed: int, replies: int, shard: str
) -> Iterable[Request]:
    index, count = _shard(shard)
    for number, sample in enumerate(read_manifest(manifest), 1):
        caption = sample.target
        if not caption or len(sample.audios) != 1:
            raise ContinuationError(
                f"{manifest.name}:{number}: not a caption row (one audio, one assistant text)"
            )
        name = sample.id or f"{manifest.stem}-{number}"
        for take in range(replies):
            row_id = name if replies == 1 else f"{name}-reply{take + 1}"
            digest = int(hashlib.sha256(f"{seed} {row_id}".encode()).hexdigest()[:15], 16)
            if int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % count != index:
                continue
            question = POOL[digest % len(POOL)] if mode == "pool" else ""
            opening = CONTINUATION if mode == "continuation" else system
            text = f"{caption}\n{question}" if question else caption
            turns = [{"role": "system", "content": opening}] if opening else []
            yield Request(
                sample, [*turns, {"role": "user", "content": text}], question, system, row_id, digest
            )


def _shard(shard: str) -> tuple[int, int]:
    part, _, total = shard.partition("/")
    if not (part.isdigit() and total.isdigit() and 1 <= int(part) <= int(total)):
        raise ContinuationError(f"shard must look like 2/8, not '{shard}'")
    return int(part) - 1, int(total)


def _row(request: Request, answer: Completion, mode: Mode, out: Path) -> dict[str, object]:
    """The manifest line: audio (and the pool's question) in, the reply out."""
    sample = request.sample
    messages = list(sample.prompt().messages)
    if request.question:
        parts = [*messages[-1]["content"], {"type": "text", "text": request.question}]
        messages[-1] = {"role": "user", "content": parts}
    if mode == "caption":  # the baseline is told to describe (section 2.1)
        messages.insert(0, {"role": "system", "content": BASELINE_SYSTEM})
    elif request.system:
        messages.insert(0, {"role": "system", "content": request.system})
    trained = replace(
        sample, messages=tuple(messages), id=request.row_id, task=mode, references=(sample.target,)
    ).with_target(answer.text)
    return replace(trained, truncated=answer.truncated).to_json(out.parent)


def _resume(out: Path) -> tuple[set[str], int]:
    """Ids already written, and how many were cut off; a half-written last line is taken away."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if not out.exists():
        return set(), 0
    raw = out.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) < len(raw):
        with out.open("r+b") as file:
            file.truncate(len(whole))
    try:
        rows = [json.loads(line) for line in whole.splitlines()]
        return {row["id"] for row in rows}, sum(bool(row.get("truncated")) for row in rows)
    except (ValueError, KeyError, TypeError):
        raise ContinuationError(f"{out} exists and is not a manifest this command wrote") from None


def _note(out: Path, writer: Writer | None, mode: Mode, sampling: Sampling, system: str, shard: str) -> None:
    """``<out>.json``: how the rows were made; going on with other settings is refused."""
    made = {
        "mode": mode,
        "llm": writer.name if writer else None,
        "system": system,
        "shard": shard,
        **asdict(sampling),
    }
    path = out.with_name(out.name + ".json")
    if path.exists() and (before := json.loads(path.read_text())) != made:
        changed = next(key for key in made if before.get(key) != made[key])
        raise ContinuationError(
            f"{out} was begun with {changed}={before.get(changed)!r}, not {made[changed]!r}: "
            "choose another file"
        )
    path.write_text(json.dumps(made, indent=1) + "\n")


def _finish(out: Path) -> None:
    """Take the marks of dropped rows out of the finished file."""
    lines = out.read_text(encoding="utf-8").splitlines(keepends=True)
    kept: Sequence[str] = [line for line in lines if not json.loads(line).get("dropped")]
    if len(kept) < len(lines):
        draft = out.with_name(out.name + ".part")
        draft.write_text("".join(kept), encoding="utf-8")
        draft.replace(out)
