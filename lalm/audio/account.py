"""The account of a recording: what its file says, what was decoded, what was left out, what is wrong with it.

It is made once, where audio is decoded, and goes with the samples to every reply, report and model card.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Hole:
    """A place where sound is missing or wrong; ``lost_s`` is None where nobody can know how much is gone."""

    at_s: float
    lost_s: float | None
    what: str


@dataclass(frozen=True)
class Account:
    """One recording as it was read. Channels and tracks are counted from 0.

    ``declared_s`` is what the file's own numbers promise (None: nothing, or the file does not say);
    ``decoded_s`` what was decoded of the part that was asked for; ``heard_s`` what of it reached the LLM.
    ``starts_s`` is how long after the picture the sound begins. ``channels`` went into the mono mix.
    ``peak`` and ``rms`` are the mix's, ``silent_fraction`` the share of its samples that are digital silence.
    ``notes`` are the remarks that a listener should know; most recordings have none.
    """

    name: str = ""
    container: str = ""
    codec: str = ""
    rate_hz: int = 0
    num_channels: int = 0
    channels: tuple[int, ...] = ()
    track: int = 0
    num_tracks: int = 1
    declared_s: float | None = None
    decoded_s: float = 0.0
    heard_s: float | None = None
    starts_s: float = 0.0
    holes: tuple[Hole, ...] = ()
    peak: float = 0.0
    rms: float = 0.0
    silent_fraction: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The notes as one sentence that names the recording; empty when there is nothing to say."""
        return f"{self.name}: {'; '.join(self.notes)}" if self.notes else ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object; seconds to the millisecond, empty fields left out."""
        written: dict[str, Any] = {}
        for name in (item.name for item in fields(self)):
            value = getattr(self, name)
            if name == "holes":
                value = [
                    {"at_s": round(h.at_s, 3), "lost_s": h.lost_s and round(h.lost_s, 3), "what": h.what}
                    for h in value
                ]
            elif isinstance(value, tuple):
                value = list(value)
            elif isinstance(value, float):
                value = round(value, 5 if name in ("peak", "rms") else 3)
            if value not in (None, "", []):
                written[name] = value
        return written


@dataclass
class Tally:
    """What the accounts of many recordings say together.

    ``noted``: recordings with a remark; ``damaged``: with holes; ``silent``: of digital silence alone.
    """

    recordings: int = 0
    seconds: float = 0.0
    noted: int = 0
    damaged: int = 0
    silent: int = 0

    def add(self, account: Mapping[str, Any]) -> None:
        """Count one recording by the JSON of its account."""
        self.recordings += 1
        self.seconds += account.get("decoded_s", 0.0)
        self.noted += "notes" in account
        self.damaged += "holes" in account
        self.silent += account.get("silent_fraction") == 1

    def to_json(self) -> dict[str, Any]:
        """A JSON object; seconds to the tenth."""
        return asdict(self) | {"seconds": round(self.seconds, 1)}

    @property
    def sentence(self) -> str:
        """What stands out among the recordings; empty when nothing does."""
        found = {"damaged": self.damaged, "nothing but digital silence": self.silent}
        told = ", ".join(f"{count} {what}" for what, count in found.items() if count)
        if not self.noted:
            return ""
        return f"{self.noted} of {self.recordings} recordings have a remark" + (f" ({told})" if told else "")
