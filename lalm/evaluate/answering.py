"""Sources of answers: a local model, an OpenAI-compatible endpoint, or a file of given answers.

Answers are appended to ``predictions.jsonl``, an endpoint's one by one as they arrive and others chunk by
chunk, so that a killed run goes on where it stopped.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lalm.data.messages import message_to_openai, part_recording
from lalm.data.sample import Sample
from lalm.evaluate.perplexity import answer_nll
from lalm.evaluate.task import Decoding
from lalm.inference.engine import Engine, Options, Reply
from lalm.models.lora import set_lora_scale
from lalm.synthesis.completions import Completion, EndpointWriter, Sampling
from lalm.synthesis.resumable_rows import append, whole_lines

CHUNK = 64  # answers between two writes


@dataclass(frozen=True)
class Said:
    """One answer; seconds of each recording given, and heard where that is known. ``likelihood``: nats that
    the known answer costs the model, and its tokens, where that was asked for. ``finish_reason``: why it
    ended ("stop", "length", "repetition"), where that is known. ``accounts``: of each recording, as JSON."""

    text: str
    given_s: tuple[float, ...] = ()
    heard_s: tuple[float, ...] | None = None
    likelihood: tuple[float, int] | None = None
    finish_reason: str = ""
    accounts: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Key:
    """Which answer: of a task, under a control, to an item."""

    task: str
    control: str
    id: str


class Wanted(NamedTuple):
    """One answer that is needed: the sample as it is asked, how the answer is generated, and whether the
    likelihood of its first reference is wanted too."""

    key: Key
    sample: Sample
    decoding: Decoding
    likelihood: bool = False


class Answerer(Protocol):
    """Anything that answers samples; ``name`` is what the report calls it."""

    @property
    def name(self) -> str:
        """For people."""

    def answer(self, keys: Sequence[Key], samples: Sequence[Sample], decoding: Decoding) -> list[Said]:
        """One answer a sample, in order."""


@dataclass
class Local:
    """A loaded model, answering greedily, batched by length."""

    engine: Engine
    lora_scale: float | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        return self.engine.name

    def answer(self, keys: Sequence[Key], samples: Sequence[Sample], decoding: Decoding) -> list[Said]:
        """One answer a sample, in order."""
        options = Options(**decoding._asdict(), seed=self.seed, lora_scale=self.lora_scale)
        return _said(self.engine.reply(samples, options))

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
        return _said(self.seer.reply(samples, Options(**decoding._asdict(), seed=self.seed)))


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
        return self.answer_each(keys, samples, decoding, lambda number, said: None)

    def answer_each(
        self,
        keys: Sequence[Key],
        samples: Sequence[Sample],
        decoding: Decoding,
        arrived: Callable[[int, Said], None],
    ) -> list[Said]:
        """One answer a sample, in order; ``arrived`` gets each with its number as soon as it is there."""
        chats = [[message_to_openai(_plain(message)) for message in sample.messages] for sample in samples]
        spoken = ("temperature", "top_p")
        if odd := {name: value for name, value in decoding.unusual().items() if name not in spoken}:
            named = ", ".join(f"{value} for {name}" for name, value in odd.items())
            raise ValueError(
                f"{keys[0].task} asks for {named}, which not every endpoint has words for: score a local "
                "model, or a task without it"
            )
        sampling = Sampling(decoding.temperature, decoding.top_p, decoding.max_new_tokens, self.seed)
        given = [_given(sample) for sample in samples]
        done = self.writer.complete(
            chats,
            [self.seed] * len(chats),
            sampling,
            lambda number, reply: arrived(number, _completed(reply, given[number])),
        )
        return [_completed(reply, accounts) for accounts, reply in zip(given, done, strict=True)]


class Recorded:
    """Answers of a file: JSONL rows with "id" and "text", and "task" and "control" where several are.

    A ``predictions.jsonl`` that this program wrote is such a file. Raises ValueError for one that is not.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self._said: dict[tuple[str, str, str], Said] = {}
        for place, row in rows_of(path):
            task, control = row.get("task", ""), row.get("control", "audio")
            if not isinstance(row.get("id"), str) or not isinstance(row.get("text"), str):
                raise ValueError(f"{place}: an answer needs an id and a text, both strings")
            said = _said_of(row)
            self._said[str(task), str(control), row["id"]] = said

    def answer(self, keys: Sequence[Key], samples: Sequence[Sample], decoding: Decoding) -> list[Said]:
        """The recorded answers. Raises ValueError naming the first that is not there."""
        found = [
            self._said.get((k.task, k.control, k.id)) or self._said.get(("", k.control, k.id)) for k in keys
        ]
        lacking = [key for key, said in zip(keys, found, strict=True) if said is None]
        if lacking:
            more = f", nor to {len(lacking) - 1} others" if len(lacking) > 1 else ""
            spoiled = f" under the control '{lacking[0].control}'" if lacking[0].control != "audio" else ""
            raise ValueError(
                f"the predictions hold no answer to '{lacking[0].id}' of {lacking[0].task}{spoiled}{more}"
            )
        return [said for said in found if said is not None]


def rows_of(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(place, row) of a JSONL file."""
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            raise ValueError(f"{path.name}:{number}: not JSON") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path.name}:{number}: not a JSON object")
        rows.append((f"{path.name}:{number}", row))
    return rows


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
    missing = [item for item in wanted if item.key not in said][share.rank :: share.total]
    missing.sort(key=lambda item: item.decoding)  # one way of decoding a chunk
    done, total = 0, len(missing)
    if progress:
        progress(done, total)
    while missing:
        decoding = missing[0].decoding
        chunk = [item for item in missing[:CHUNK] if item.decoding == decoding]
        missing = missing[len(chunk) :]

        def keep(number: int, answer: Said, chunk: Sequence[Wanted] = chunk) -> None:
            nonlocal done
            said[chunk[number].key] = answer
            append(log, [json.dumps(asdict(chunk[number].key) | asdict(answer), ensure_ascii=False)])
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


def _answer_chunk(
    answerer: Answerer, chunk: Sequence[Wanted], decoding: Decoding, keep: Callable[[int, Said], None]
) -> None:
    """Every answer of a chunk to ``keep``: an endpoint's as it arrives, others' when all are there."""
    keys, samples = [item.key for item in chunk], [item.sample for item in chunk]
    if isinstance(answerer, Endpoint):
        answerer.answer_each(keys, samples, decoding, keep)
        return
    answers = answerer.answer(keys, samples, decoding)
    for number, (item, answer) in enumerate(zip(chunk, answers, strict=True)):
        if item.likelihood and item.sample.references and isinstance(answerer, Local):
            answer = replace(answer, likelihood=answerer.likelihood(item.sample))
        keep(number, answer)


def _read(folder: Path) -> dict[Key, Said]:
    """The answers in a run's logs, of whichever process."""
    said = {}
    for log in sorted(folder.glob("predictions*.jsonl")):
        for _, row in rows_of(log):
            key = Key(str(row.get("task")), str(row.get("control")), str(row.get("id")))
            said[key] = _said_of(row)
    return said


def _said_of(row: dict[str, Any]) -> Said:
    """The answer in a log's row."""
    given, heard = tuple(row.get("given_s") or ()), _maybe(row.get("heard_s"))
    ended, accounts = str(row.get("finish_reason") or ""), tuple(row.get("accounts") or ())
    return Said(str(row.get("text")), given, heard, likelihood_of(row), ended, accounts)


def _completed(reply: Completion, accounts: tuple[dict[str, Any], ...]) -> Said:
    seconds = tuple(account["decoded_s"] for account in accounts)
    ended = "length" if reply.truncated else "stop"
    return Said(reply.text, seconds, finish_reason=ended, accounts=accounts)


def likelihood_of(row: dict[str, Any]) -> tuple[float, int] | None:
    """What a log's row says of it."""
    found = row.get("likelihood")
    return None if found is None else (float(found[0]), int(found[1]))


def _said(replies: Sequence[Reply]) -> list[Said]:
    return [
        Said(
            reply.text,
            tuple(round(heard.seconds_given, 3) for heard in reply.heard),
            tuple(round(heard.seconds_heard, 3) for heard in reply.heard),
            finish_reason=reply.finish_reason,
            accounts=tuple(heard.account.to_json() for heard in reply.heard if heard.account),
        )
        for reply in replies
    ]


def _maybe(seconds: Any) -> tuple[float, ...] | None:
    return tuple(seconds) if seconds is not None else None


def _plain(message: Any) -> Any:
    """Captions in an audio's place as text, which any endpoint understands."""
    if isinstance(message["content"], str):
        return message
    parts = [
        {"type": "text", "text": part["text"]} if part["type"] == "caption" else part
        for part in message["content"]
    ]
    return {**message, "content": parts}


def _given(sample: Sample) -> tuple[dict[str, Any], ...]:
    return tuple(part_recording(part).account.to_json() for part in sample.audios)
