"""The base class of readers: a sequence of samples that are read when they are indexed."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from lalm.data.sample import Message, Sample, SampleError, message_text

if TYPE_CHECKING:
    from lalm.data.readers.columns import ColumnMap


class ReaderError(SampleError):
    """Something that cannot be read as samples; the text names the file and the place in it."""


class Samples(Sequence[Sample]):
    """Rows of one source as samples; ``folder`` is what relative audio paths start from.

    ``heavy`` rows hold their audio, so nobody reads them all only to look whether they are good. Rows that
    are best read ``in_order`` are shuffled among their neighbours only. Rows of a table become manifest rows
    by ``columns``; ``prompts`` and ``seed`` are those of ``lalm.data.readers.columns.Reading``. ``told`` is a
    sentence about what was guessed, or empty.
    """

    folder: Path
    heavy = False
    in_order = False
    columns: "ColumnMap | None" = None
    prompts: tuple[str, ...] = ()
    seed = 0
    told = ""

    @abstractmethod
    def row(self, number: int) -> Any:
        """Row ``number`` as it stands in the source: a manifest line's JSON object, or a table's columns."""

    @abstractmethod
    def place(self, number: int) -> str:
        """Where row ``number`` is, for messages: "train.jsonl:42"."""

    @overload
    def __getitem__(self, number: int) -> Sample: ...
    @overload
    def __getitem__(self, number: slice) -> list[Sample]: ...
    def __getitem__(self, number: int | slice) -> Sample | list[Sample]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        sample = self.sample(number)
        return self._asked(sample, number) if self.prompts else sample

    def sample(self, number: int) -> Sample:
        """Sample ``number``, checked. Raises SampleError or ReaderError beginning with its place."""
        row, place = self.row(number), self.place(number)
        if self.columns is not None and isinstance(row, dict):
            row = self.columns.manifest_row(row, place)
        return Sample.from_json(row, place=place, folder=self.folder)

    def _asked(self, sample: Sample, number: int) -> Sample:
        """The sample with one of the prompts after its recordings, if it asks nothing itself."""
        turns = [i for i, message in enumerate(sample.messages) if message["role"] == "user"]
        if not turns or any(message_text(sample.messages[i]).strip() for i in turns):
            return sample
        drawn = int(np.random.default_rng([self.seed, number]).integers(len(self.prompts)))
        messages: list[Message] = list(sample.messages)
        content = messages[turns[-1]]["content"]
        parts = [] if isinstance(content, str) else list(content)
        messages[turns[-1]] = {
            "role": "user",
            "content": [*parts, {"type": "text", "text": self.prompts[drawn]}],
        }
        return replace(sample, messages=tuple(messages))


def spoken(audio: dict[str, Any], text: str | None, **fields: Any) -> dict[str, Any]:
    """A manifest row of one audio part, and what is said or heard in it as the answer."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "audio", **audio}]}]
    if text is not None:
        messages.append({"role": "assistant", "content": text})
    return {"messages": messages, **{key: value for key, value in fields.items() if value}}
