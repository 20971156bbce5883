"""``lalm corpus build``: a captioned corpus of real recordings from Debian packages, with held-out sets.

Steps, each skipped where its result lies already: fetch packages, take the catalogued files out, decode them
to 16 kHz mono FLAC, split by source, compose scenes, write manifests, questions and attributions.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lalm.corpus.catalogue import SPLITS, TIERS, catalogue, split_of
from lalm.corpus.checkable_instructions import instructions
from lalm.corpus.clips import Progress, decode, gather, write_attribution
from lalm.corpus.empty import empty_questions
from lalm.corpus.questions import questions
from lalm.corpus.scenes import Recording, scenes, singles, takes
from lalm.corpus.wording import sentence
from lalm.data.sample import Sample, ask, write_manifest
from lalm.weights.fetch import cache_root

__all__ = ["TIERS", "build", "catalogue", "split_of"]

COPIES = 2  # varied takes of every training clip
VALID_SCENES = {"sequence": 90, "bed": 45, "repetition": 40}
TEST_SCENES = {"sequence": 160, "bed": 80, "repetition": 160}
TRAIN_SHARES = {"sequence": 0.5, "bed": 0.3, "repetition": 0.2}


def build(
    tier: str,
    out: Path,
    *,
    seed: int = 0,
    num_scenes: int = 5000,
    packages: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Build the corpus of ``tier`` in ``out``; returns how many lines each manifest has.

    ``packages`` is a folder of .deb files to use where they match the package index; others are downloaded to
    the cache. ``num_scenes`` is for training; the tests have 400 each. The same seed gives the same corpus.
    ``progress`` is called with a step, how much of it is done and how much there is. Stopped and called
    again, it goes on where it was. Example: ``build("small", Path("corpus"), progress=print)``.
    """
    tell = progress or (lambda step, done, total: None)
    rows = catalogue(tier)
    decode(rows, out, cache_root() / "packages", packages, tell)
    clips = gather(rows, out)
    write_attribution(clips, out)
    counts = {}
    for split in SPLITS:
        own = [clip for clip in clips if clip.split == split]
        if split == "train":
            wanted = {kind: round(share * num_scenes) for kind, share in TRAIN_SHARES.items()}
        else:
            wanted = VALID_SCENES if split == "valid" else TEST_SCENES
        recordings = [*singles(own), *scenes(own, out, split, wanted, seed, tell)]
        if split == "train":
            recordings += takes(own, out, COPIES, seed, tell)
        counts[split] = write_manifest(
            out / f"{split}.jsonl", (_captioned(r, split, out) for r in recordings)
        )
        if split.startswith("test"):
            counts |= _write_tests(recordings, split.removeprefix("test_"), out, seed)
        _clean(out / "scenes" / split, {recording.path for recording in recordings}, out)
    text = json.dumps({"tier": tier, "seed": seed, "num_scenes": num_scenes, **counts}, indent=1)
    (out / "corpus.json").write_text(text + "\n", "utf-8")
    return counts


def _write_tests(recordings: Sequence[Recording], name: str, out: Path, seed: int) -> dict[str, int]:
    counts = {}
    for kind, make in (("questions", questions), ("instructions", instructions)):
        items = make(recordings, np.random.default_rng([seed, *kind.encode()]))
        counts[f"{kind}_{name}"] = write_manifest(
            out / f"{kind}_{name}.jsonl", (_placed(item, f"test_{name}", out) for item in items)
        )
    counts["empty"] = write_manifest(
        out / "empty.jsonl", empty_questions(out / "empty", np.random.default_rng([seed, 2]))
    )
    return counts


def _placed(item: Sample, split: str, out: Path) -> Sample:
    """The same item with the audio's path as it is seen from here."""
    (part,) = item.audios
    question = item.messages[0]["content"][1]
    assert isinstance(part["audio"], str) and not isinstance(question, str) and question["type"] == "text"
    messages = ask([str(out / part["audio"])], question["text"]).messages
    return Sample(
        messages=messages,
        id=item.id,
        task=item.task,
        references=item.references,
        choices=item.choices,
        split=split,
        events=item.events,
        origin=item.origin,
    )


def _captioned(recording: Recording, split: str, out: Path) -> Sample:
    """A line of a caption manifest."""
    rows = list({clip.row.id: clip.row for clip in recording.clips}.values())
    origin = {
        "recording": recording.id,
        "kind": recording.kind,
        "package": ", ".join(sorted({row.package for row in rows})),
        "path": ", ".join(row.path for row in rows),
        "licence": ", ".join(sorted({row.licence for row in rows})),
    }
    transcript = " ".join(row.transcript for row in rows if row.transcript)
    if transcript:
        origin["transcript"] = transcript
    return Sample(
        messages=ask([str(out / recording.path)], "").with_target(sentence(recording.caption)).messages,
        id=recording.id,
        task="caption",
        references=(recording.caption,),
        split=split,
        events=recording.events,
        origin=origin,
    )


def _clean(folder: Path, used: set[str], out: Path) -> None:
    """Remove scenes that no manifest names: of an earlier build with other options."""
    for path in folder.glob("*.flac"):
        if str(path.relative_to(out)) not in used:
            path.unlink()
