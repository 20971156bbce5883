"""Sources of answers: a local model, an OpenAI-compatible endpoint, or a file of given answers.

Answers are appended to ``predictions.jsonl`` one by one as they arrive, so that a killed run goes on where it
stopped. A recording that cannot be read is an item that failed, and the run goes on.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, overload, runtime_checkable

from lalm.audio.load import AudioError
from lalm.data.messages import message_to_openai, part_recording
from lalm.data.sample import Sample
from lalm.evaluate.perplexity import answer_nll
from lalm.evaluate.recorded import Recorded as Recorded
from lalm.evaluate.said import Key as Key
from lalm.evaluate.said import Said as Said
from lalm.evaluate.said import row_of, said_of
from lalm.evaluate.said import rows_of as rows_of
from lalm.evaluate.task import Decoding
from lalm.inference.engine import Engine, Options, Reply, TooLongError
from lalm.inference.shared_frames import SharedFrames, sharing
from lalm.models.lora import set_lora_scale
from lalm.synthesis.completions import Chat, Completion, CompletionError, EndpointWriter, Sampling
from lalm.synthesis.resumable_rows import append, whole_lines

CHUNK = 64  # items that are prepared and asked for at a time
STREAMED = 256  # the same of an endpoint, which is asked for many at once
DEALT = 32  # neighbouring items that one of several processes answers

Arrived: TypeAlias = Callable[[int, Said], None]
Accounts: TypeAlias = tuple[dict[str, Any], ...]  # of a sample's recordings, as JSON


class Wanted(NamedTuple):
    """One answer that is needed: the sample as it is asked, how the answer is generated, and whether the
    likelihood of its first reference is wanted too. ``prepare`` does to the sample, when its turn comes, what
    takes its recording: a control's silence, say."""

    key: Key
    sample: Sample
    decoding: Decoding
    likelihood: bool = False
    prepare: Callable[[Sample], Sample] | None = None


class Answerer(Protocol):
    """Anything that answers samples; ``name`` is what the report calls it."""

    @property
    def name(self) -> str:
        """For people."""

    def answer(self, keys: Sequence[Key], samples: Sequence[Sample], decoding: Decoding) -> list[Said]:
        """One answer a sample, in order."""


@runtime_checkable
class Streaming(Answerer, Protocol):
    """An answerer whose answers arrive one by one."""

    def answer_each(
        self, keys: Sequence[Key], samples: Sequence[Sample], decoding: Decoding, arrived: Arrived
    ) -> None:
        """``arrived`` gets each answer with its sample's number as soon as it is there."""


def answer_all(
    answerer: Streaming, keys: Sequence[Key], samples: Sequence[Sample], decoding: Decoding
) -> list[Said]:
    """All answers of one that gives them one by one, in order."""
    found: dict[int, Said] = {}
    answerer.answer_each(keys, samples, decoding, found.__setitem__)
    return [found[number] for number in range(len(samples))]


@dataclass
class Local:
    """A loaded model, answering greedily unless a task says otherwise, batched by length."""

    engine: Engine
    lora_scale: float | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        return self.engine.name

    def answer(self, keys: Sequence[Key], samples: Sequence[Sample], decoding: Decoding) -> list[Said]:
        """One answer a sample, in order."""
        return answer_all(self, keys, samples, decoding)

    def answer_each(
        self, keys: Sequence[Key], samples: Sequence[Sample], decoding: Decoding, arrived: Arrived
    ) -> None:
        """The answers, batch by batch. A recording that cannot be read and a question that is too long for
        the model are answers that failed, and so is all that a model refuses under a control (a question
        without audio, say); whatever else it refuses is raised."""
        options = Options(**decoding._asdict(), seed=self.seed, lora_scale=self.lora_scale)

        def kept(number: int, reply: Reply | ValueError) -> None:
            if isinstance(reply, ValueError) and keys[number].control != "audio":
                arrived(number, Said("", failed=str(reply)))
            else:
                arrived(number, _replied(reply))

        self.engine.reply(samples, options, errors="return", arrived=kept)

    @contextmanager
    def sharing(self) -> Iterator[SharedFrames]:
        """Within it the encoder hears each recording once, whatever is asked about it."""
        with sharing(self.engine.model.model.audio_tower) as shared:
            yield shared

    def likelihood(self, sample: Sample) -> tuple[float, int]:
        """Nats of the sample's first reference and end, and their tokens."""
        set_lora_scale(self.engine.model, self.lora_scale)
        try:
            return answer_nll(self.engine, sample.with_target(sample.references[0]))
        finally:
            if self.lora_scale is not None:
                set_lora_scale(self.engine.model, None)


class Seer(Protocol):
    """A model that takes images and videos beside sounds, such as ``systems.apt.vision.APTBlip2``."""

    name: str

    def reply(self, samples: Sequence[Sample], options: Options | None = None) -> list[Reply]:
        """One answer a sample, in order."""


@dataclass
class Seeing:
    """A model that sees and hears, from two ``folders``: its eyes' and its ears'."""

    seer: Seer
    folders: tuple[Path, Path]
    seed: int = 0

    @property
    def name(self) -> str:
        return self.seer.name

    def answer(self, keys: Sequence[Key], samples: Sequence[Sample], decoding: Decoding) -> list[Said]:
        """One answer a sample, in order."""
        return [_replied(r) for r in self.seer.reply(samples, Options(**decoding._asdict(), seed=self.seed))]


@dataclass
class Endpoint:
    """An OpenAI-compatible endpoint that takes ``input_audio``; what it hears of a recording is unknown."""

    writer: EndpointWriter
    seed: int = 0

    @property
    def name(self) -> str:
        return self.writer.name

    def answer(self, keys: Sequence[Key], samples: Sequence[Sample], decoding: Decoding) -> list[Said]:
        """One answer a sample, in order."""
        return answer_all(self, keys, samples, decoding)

    def answer_each(
        self, keys: Sequence[Key], samples: Sequence[Sample], decoding: Decoding, arrived: Arrived
    ) -> None:
        """The answers as they arrive. A recording that cannot be read, and a request that the endpoint
        refuses while it takes others, are answers that failed."""
        spoken = ("temperature", "top_p", "thinking_tokens")  # its limit is of both together
        if odd := {name: value for name, value in decoding.unusual().items() if name not in spoken}:
            named = ", ".join(f"{value} for {name}" for name, value in odd.items())
            raise ValueError(
                f"{keys[0].task} asks for {named}, which not every endpoint has words for: score a local "
                "model, or a task without it"
            )
        longest = decoding.max_new_tokens + decoding.thinking_tokens
        sampling = Sampling(decoding.temperature, decoding.top_p, longest, self.seed)
        places, chats, given = list[int](), list[Chat](), list[Accounts]()
        for number in range(len(samples)):
            try:
                sample = samples[number]
                accounts = _given(sample)
                chats.append([message_to_openai(_plain(message)) for message in sample.messages])
            except AudioError as error:
                arrived(number, Said("", failed=str(error)))
                continue
            places.append(number)
            given.append(accounts)

        def kept(place: int, reply: Completion) -> None:
            arrived(places[place], _completed(reply, given[place]))

        def refused(place: int, error: CompletionError) -> None:
            arrived(places[place], Said("", _seconds(given[place]), failed=str(error)))

        if chats:
            self.writer.complete(chats, [self.seed] * len(chats), sampling, kept, refused)


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
    """Answers to all of ``wanted``: those in the folder's logs, and new ones, which its own log gets."""
    share = share or Share()
    log = folder / (f"predictions.{share.rank}.jsonl" if share.rank else "predictions.jsonl")
    whole_lines(log)
    share.wait()
    said = _read(folder)
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
    """The answers in a run's logs, of whichever process."""
    said = {}
    for log in sorted(folder.glob("predictions*.jsonl")):
        for _, row in rows_of(log):
            key = Key(str(row.get("task")), str(row.get("control")), str(row.get("id")))
            said[key] = said_of(row)
    return said


def _seconds(accounts: Accounts) -> tuple[float, ...]:
    return tuple(account["decoded_s"] for account in accounts)


def _completed(reply: Completion, accounts: Accounts) -> Said:
    ended = "length" if reply.truncated else "stop"
    given = _seconds(accounts)
    return Said(reply.text, given, finish_reason=ended, tokens=reply.tokens, accounts=accounts)


def _replied(reply: Reply | ValueError) -> Said:
    if isinstance(reply, TooLongError):  # the model's own limit: it has no answer, which is wrong
        return Said("", finish_reason="too_long")
    if isinstance(reply, AudioError):
        return Said("", failed=str(reply))
    if isinstance(reply, ValueError):
        raise reply
    return Said(
        reply.text,
        tuple(round(heard.seconds_given, 3) for heard in reply.heard),
        tuple(round(heard.seconds_heard, 3) for heard in reply.heard),
        finish_reason=reply.finish_reason,
        thinking_cut=reply.thinking_cut,
        accounts=tuple(heard.account.to_json() for heard in reply.heard if heard.account),
    )


def _plain(message: Any) -> Any:
    """Captions in an audio's place as text, which any endpoint understands."""
    if isinstance(message["content"], str):
        return message
    parts = [
        {"type": "text", "text": part["text"]} if part["type"] == "caption" else part
        for part in message["content"]
    ]
    return {**message, "content": parts}


def _given(sample: Sample) -> Accounts:
    return tuple(part_recording(part).account.to_json() for part in sample.audios)
