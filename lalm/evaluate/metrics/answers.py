"""What metrics take and are: an answered item, the folders they use, and what a metric computes."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lalm.data.sample import Sample
from lalm.evaluate.lacking import Lacking
from lalm.evaluate.metrics.intervals import UNBOUNDED, Measured


@dataclass(frozen=True)
class Answer:
    """One answered item. ``read`` is what the task's parser made of the text; None: nothing readable.
    ``judged`` is a judge's score, from 0 to 1; None: the judge's reply was not readable, or nobody judged.
    ``tried``: the judge's verdict whether it tries to answer, where that is asked apart.
    ``likelihood``: what the known answer costs the model, in nats, and its tokens. ``raw``: the text with its
    reasoning."""

    sample: Sample
    text: str
    read: str | None
    judged: float | None = None
    likelihood: tuple[float, int] | None = None
    tried: float | None = None
    raw: str = ""

    @property
    def recording(self) -> str:
        return self.sample.origin.get("recording") or self.sample.id


@dataclass
class Resources:
    """Folders that metrics use ("meteor", "spice", "sentences", "fluency", "aligner"); what each metric says
    it used."""

    folders: Mapping[str, Path] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)

    def folder(self, name: str, metric: str) -> Path:
        """The folder given for ``name``. Raises Lacking when there is none."""
        if name not in self.folders:
            raise Lacking(f"{metric} needs a folder: say --resource {name}=FOLDER (docs/evaluate.md)")
        self.used[metric] = self.named(name)
        return self.folders[name]

    def named(self, name: str) -> str:
        """The folder's name, and of a model's the hash of its weights."""
        folder = self.folders[name]
        files = sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".bin"))
        whole = hashlib.sha256(b"".join(hashlib.sha256(p.read_bytes()).digest() for p in files)).hexdigest()
        return f"{folder.name} (weights {whole[:12]})" if files else folder.name


@dataclass(frozen=True)
class Metric:
    """``measure`` takes a run's answers; ``percent`` says that the number is shown times 100, ``compares``
    that answers are compared with references. ``bounds``: what it can be at least and at most."""

    measure: Callable[[Sequence[Answer], Resources], Measured]
    lower_is_better: bool = False
    percent: bool = True
    compares: bool = True
    bounds: tuple[float, float] = UNBOUNDED
