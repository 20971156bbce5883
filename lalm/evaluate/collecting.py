"""Collects the answers that a run wants, from any source of them.

Answers are appended to ``predictions.jsonl`` one by one as they arrive, so that a killed run goes on where it
stopped. A recording that cannot be read is an item that failed, and the run goes on.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, overload

from lalm.audio.load import AudioError
from lalm.data.sample import Sample
from lalm.evaluate.answer_settings import Decoding
from lalm.evaluate.answering import Answerer, Local, Streaming
from lalm.evaluate.said import Key, Said, row_of, rows_of, said_of
from lalm.synthesis.resumable_rows import append, whole_lines

CHUNK = 64  # items that are prepared and asked for at a time
STREAMED = 256  # the same of an endpoint, which is asked for many at once
DEALT = 32  # neighbouring items that one of several processes answers


class Wanted(NamedTuple):
    """One answer that is needed: the sample as it is asked, how the answer is generated, and whether the
    likelihood of its first reference is wanted too. ``prepare`` does to the sample, when its turn comes, what
    takes its recording: a control's silence, say."""

    key: Key
    sample: Sample
    decoding: Decoding
    likelihood: bool = False
    prepare: Callable[[Sample], Sample] | None = None


@dataclass(frozen=True)
class Share:
    """One of ``total`` processes that answer together; ``wait`` returns when all have called it."""

    rank: int = 0
    total: int = 1
    wait: Callable[[], None] = lambda: None


def collect(
    wanted: Sequence[Wanted],
    answerer: Answerer,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
    share: Share | None = None,
) -> dict[Key, Said]:
    """Answers to all of ``wanted``: those in the folder's logs, and new ones, which its own log gets. What
    failed is asked again."""
    share = share or Share()
    log = folder / (f"predictions.{share.rank}.jsonl" if share.rank else "predictions.jsonl")
    whole_lines(log)
    share.wait()
    said = {key: answer for key, answer in _read(folder).items() if not answer.failed}
    share.wait()  # nobody writes before all have read
    missing = _dealt(in_order([item for item in wanted if item.key not in said]), share)
    done, total = 0, len(missing)
    if progress:
        progress(done, total)
    size = STREAMED if isinstance(answerer, Streaming) else CHUNK
    if isinstance(answerer, Local):  # it decodes ahead of the LLM, as long as there is more to ask
        size = max(1, total)
    while missing:
        decoding = missing[0].decoding
        chunk = [item for item in missing[:size] if item.decoding == decoding]
        missing = missing[len(chunk) :]

        def keep(item: Wanted, answer: Said) -> None:
            nonlocal done
            said[item.key] = answer
            append(log, [json.dumps(row_of(item.key, answer), ensure_ascii=False)])
            done += 1
            if progress:
                progress(done, total)

        _answer_chunk(answerer, chunk, decoding, keep)
    share.wait()
    if share.rank:  # the first one scores, and takes the other logs away
        return {}
    if share.total > 1:
        said = _read(folder)
    return {item.key: said[item.key] for item in wanted}


def in_order(wanted: Sequence[Wanted]) -> list[Wanted]:
    """One way of decoding after the other, and within it all that is asked about a recording in a row, so
    that it is heard once."""
    first: dict[tuple[Any, ...], int] = {}
    places = [first.setdefault(_sources(item.sample), len(first)) for item in wanted]
    order = sorted(range(len(wanted)), key=lambda at: (wanted[at].decoding, places[at], at))
    return [wanted[at] for at in order]


def _sources(sample: Sample) -> tuple[Any, ...]:
    """Where a sample's recordings lie; for those in memory, which they are."""
    sources = [part["audio"] for part in sample.audios]
    return tuple(str(one) if isinstance(one, str | Path) else id(one) for one in sources)


def _dealt(items: Sequence[Wanted], share: Share) -> list[Wanted]:
    """This process' part: neighbours stay together."""
    size = max(1, min(DEALT, len(items) // share.total))
    return [item for at, item in enumerate(items) if at // size % share.total == share.rank]


class _Prepared(Sequence[Sample]):
    """Samples as they are asked, each prepared when its turn comes: by the thread that decodes ahead."""

    def __init__(self, items: Sequence[Wanted]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, number: int) -> Sample: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Sample]: ...
    def __getitem__(self, number: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(number, slice):
            return _Prepared(self._items[number])
        item = self._items[number]
        return item.prepare(item.sample) if item.prepare else item.sample


def _answer_chunk(
    answerer: Answerer, chunk: Sequence[Wanted], decoding: Decoding, keep: Callable[[Wanted, Said], None]
) -> None:
    """Every answer of a chunk to ``keep``, as it arrives."""
    if not isinstance(answerer, Streaming):
        _answer_together(answerer, chunk, decoding, keep)
        return
    samples = _Prepared(chunk)

    def arrived(number: int, answer: Said) -> None:
        item = chunk[number]
        wants = item.likelihood and item.sample.references and not answer.failed
        if wants and isinstance(answerer, Local):
            answer = replace(answer, likelihood=answerer.likelihood(samples[number]))
        keep(item, answer)

    answerer.answer_each([item.key for item in chunk], samples, decoding, arrived)


def _answer_together(
    answerer: Answerer, chunk: Sequence[Wanted], decoding: Decoding, keep: Callable[[Wanted, Said], None]
) -> None:
    """The same of one that answers all at once; those whose recording cannot be read first."""
    items, samples = list[Wanted](), list[Sample]()
    for item in chunk:
        try:
            samples.append(item.prepare(item.sample) if item.prepare else item.sample)
        except AudioError as error:
            keep(item, Said("", failed=str(error)))
            continue
        items.append(item)
    found = answerer.answer([item.key for item in items], samples, decoding) if items else []
    for item, answer in zip(items, found, strict=True):
        keep(item, answer)


def _read(folder: Path) -> dict[Key, Said]:
    """The answers in a run's logs, of whichever process; an answer stands before a failure."""
    said: dict[Key, Said] = {}
    for log in sorted(folder.glob("predictions*.jsonl")):
        for _, row in rows_of(log):
            key = Key(str(row.get("task")), str(row.get("control")), str(row.get("id")))
            found = said_of(row)
            if not (found.failed and key in said and not said[key].failed):
                said[key] = found
    return said
