"""A few-shot episode: labelled clips, then one that is to be named."""

from collections.abc import Sequence
from dataclasses import dataclass

from lalm.data.sample import AudioPart, Part, Sample


@dataclass(frozen=True)
class Labelled:
    """A clip and what it is called; ``source`` is what it was made from, where several clips may be."""

    part: AudioPart
    label: str
    id: str
    source: str = ""


def episode(
    supports: Sequence[Labelled], query: Labelled, name: str, choices: tuple[str, ...], *, prompt: str
) -> Sample:
    """The labelled clips, each with ``prompt`` and its label behind it, then the one to be named."""
    content: list[Part] = []
    for clip in supports:
        content += [clip.part, {"type": "text", "text": f"{prompt} {clip.label}.\n"}]
    content += [query.part, {"type": "text", "text": prompt}]
    return Sample(
        ({"role": "user", "content": content}, {"role": "assistant", "content": f"{query.label}."}),
        id=name,
        task="few_shot",
        references=(query.label,),
        choices=choices,
        origin={"recording": query.id},
    )
