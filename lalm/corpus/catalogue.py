"""The catalogue of the corpus: each file of each package with its label, caption and split.

``catalogue.tsv`` has a line a file (label, caption, licence, transcript), ``classes.tsv`` a line a label (its
name in questions and the words that count as naming it), ``packages.tsv`` a line a package.
"""

import csv
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import PurePosixPath

TIERS = ("small", "medium", "large")
SPLITS = ("train", "valid", "test_known", "test_unseen")
TEST_SHARE = 0.10
VALID_SHARE = 0.03


@dataclass(frozen=True)
class SoundClass:
    """A label such as ``animal/dog``: how questions call it and which words name it."""

    label: str
    name: str  # a noun phrase: "a dog barking"
    words: tuple[str, ...]  # accepted answers to "What makes the sound?"

    @property
    def group(self) -> str:
        """Top-level class: ``animal``."""
        return self.label.split("/")[0]


@dataclass(frozen=True)
class Package:
    """A Debian package of the corpus.

    ``quality`` is R (real recordings), F (foley, edited) or S (synthetic). ``unseen`` packages are never
    trained on: "all", or the languages of theirs that are not.
    """

    name: str
    tier: str
    quality: str
    unseen: str


@dataclass(frozen=True)
class Row:
    """One recording: a file of a package, or a member of a container in it (``data.pk3!rain.ogg``)."""

    package: str
    path: str
    label: str
    caption: str  # "a dog barks": a clause, lower case, no full stop
    kind: str  # "sfx", "ambience", "music" or "speech"
    language: str  # ISO code of speech, else ""
    licence: str
    transcript: str  # what is said, verbatim; speech only

    @property
    def id(self) -> str:
        """Stable short name, also the file name of its clip."""
        return f"{self.package}-{hashlib.sha1(self.path.encode()).hexdigest()[:10]}"

    @property
    def family(self) -> str:
        """What variants of one sound share: the file's stem without counters, across all packages."""
        if self.kind == "speech":
            return f"{self.package}/{self.path}"
        stem = PurePosixPath(self.path.split("!")[-1]).stem.lower()
        stem = re.sub(r"[\W_]*\d+[a-d]?$|[\W_]+[a-d]$", "", stem)
        stem = re.sub(r"[\W\d_]+", "", stem)
        return stem if len(stem) > 2 else f"{self.package}/{self.label}"


@cache
def classes() -> Mapping[str, SoundClass]:
    """All labels, by label."""
    rows = _table("classes.tsv")
    return {row["label"]: SoundClass(row["label"], row["name"], tuple(row["words"].split())) for row in rows}


@cache
def packages() -> Mapping[str, Package]:
    """All packages, by name."""
    rows = _table("packages.tsv")
    return {r["package"]: Package(r["package"], r["tier"], r["quality"], r["unseen"]) for r in rows}


def catalogue(tier: str) -> list[Row]:
    """The recordings of a tier; "medium" holds "small" too, and "large" both."""
    if tier not in TIERS:
        raise ValueError(f"there is no tier '{tier}'; the tiers are {', '.join(TIERS)}")
    known = packages()
    rows = [Row(**row) for row in _table("catalogue.tsv")]
    return [row for row in rows if TIERS.index(known[row.package].tier) <= TIERS.index(tier)]


def split_of(row: Row) -> str:
    """The split of a recording. It depends on nothing but the family, so it is the same in every build:
    no model trained on one build has heard another build's test recordings."""
    unseen = packages()[row.package].unseen
    if unseen == "all" or row.label.partition("/")[2] in unseen.split():
        return "test_unseen"
    draw = int(hashlib.sha256(row.family.encode()).hexdigest()[:8], 16) / 16**8
    if draw < TEST_SHARE:
        return "test_known"
    return "valid" if draw < TEST_SHARE + VALID_SHARE else "train"


def _table(name: str) -> list[dict[str, str]]:
    text = (resources.files("lalm.corpus") / name).read_text("utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
