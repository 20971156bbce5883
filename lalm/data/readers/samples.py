"""The base class of readers: a sequence of samples that are read when they are indexed."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from lalm.data.sample import Sample, SampleError


class ReaderError(SampleError):
    """Something that cannot be read as samples; the text names the file and the place in it."""


class Samples(Sequence[Sample]):
    """Rows of one manifest as samples; ``folder`` is what relative audio paths start from.

    ``heavy`` rows hold their audio, so nobody reads them all only to look whether they are good. Rows that
    are best read ``in_order`` are shuffled among their neighbours only.
    """

    folder: Path
    heavy = False
    in_order = False

    @abstractmethod
    def row(self, number: int) -> Any:
        """Row ``number`` as the JSON object of a manifest line."""

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
        return self.sample(number)

    def sample(self, number: int) -> Sample:
        """Sample ``number``, checked. Raises SampleError or ReaderError beginning with its place."""
        return Sample.from_json(self.row(number), place=self.place(number), folder=self.folder)


def spoken(audio: dict[str, Any], text: str | None, **fields: Any) -> dict[str, Any]:
    """A manifest row of one audio part, and what is said or heard in it as the answer."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "audio", **audio}]}]
    if text is not None:
        messages.append({"role": "assistant", "content": text})
    return {"messages": messages, **{key: value for key, value in fields.items() if value}}
