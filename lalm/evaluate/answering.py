"""Sources of answers: a local model, a vision-language model, an OpenAI-compatible endpoint.

Answers that are given already are ``lalm.evaluate.recorded``. A recording that cannot be read is an item that
failed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from lalm.audio.load import AudioError
from lalm.data.messages import message_to_openai, part_recording
from lalm.data.sample import Sample
from lalm.evaluate.answer_settings import Decoding
from lalm.evaluate.perplexity import answer_nll
from lalm.evaluate.said import Key, Said
from lalm.inference.engine import Engine, Options, Reply, TooLongError
from lalm.inference.shared_frames import SharedFrames, sharing
from lalm.models.lora import set_lora_scale
from lalm.synthesis.completions import Chat, Completion, CompletionError, EndpointWriter, Sampling

Arrived: TypeAlias = Callable[[int, Said], None]
Accounts: TypeAlias = tuple[dict[str, Any], ...]  # of a sample's recordings, as JSON


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


class VisionModel(Protocol):
    """A model that takes images and videos beside sounds, such as ``systems.apt.vision.APTBlip2``."""

    name: str

    def reply(self, samples: Sequence[Sample], options: Options | None = None) -> list[Reply]:
        """One answer a sample, in order."""


@dataclass
class Vision:
    """A vision-language model that also hears, from two ``folders``: its own and the audio model's."""

    model: VisionModel
    folders: tuple[Path, Path]
    seed: int = 0

    @property
    def name(self) -> str:
        return self.model.name

    def answer(self, keys: Sequence[Key], samples: Sequence[Sample], decoding: Decoding) -> list[Said]:
        """One answer a sample, in order."""
        return [_replied(r) for r in self.model.reply(samples, Options(**decoding._asdict(), seed=self.seed))]


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
