"""Manifests for APT at small size, of a corpus that ``lalm corpus build`` made.

    python benchmarks/apt_small_data.py --corpus corpus/medium --train train --out apt

Clips of up to 10.2 s, one pass of the aligner. Classes of sounds with ten recordings or more are candidates
to be held out, 24 of them are drawn, and a recording in which one of them is heard is in no training,
validation or test manifest but in novel.jsonl alone. The others become questions of all tasks, tests with
the task's first prompt: detection of mixtures alone, counting of sounds that are repeated once to four times
(else "one" and "from the start" would nearly always be right). Half of the few-shot episodes are renamed.
"""

import argparse
import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import soundfile

from lalm.data.readers import read_manifest
from lalm.data.sample import Sample, write_manifest
from lalm.tasks import Source, build
from lalm.tasks.episodes import labelled
from lalm.tasks.events import class_name
from lalm.tasks.instructions import instruct

LONGEST_S = 10.2
HELD_OUT, LEAST_RECORDINGS = 24, 10
NO_SOUND_EFFECTS = ("speech", "music", "ambience")
KINDS = {"detect": ("sequence", "bed", "repetition"), "count": ("repetition",)}  # of the corpus's scenes
TASKS = ("detect", "retrieve", "count", "presence", "compare")
EPISODES = ((4, 1, 3000), (3, 2, 1200), (5, 1, 1500), (5, 2, 800), (8, 1, 500))  # ways, shots, how many
RENAMED = 0.5


def short(path: Path) -> list[Sample]:
    """The samples of a manifest whose clip one pass of the aligner hears."""
    return [
        sample
        for sample in read_manifest(path)
        if soundfile.info(str(sample.audios[0]["audio"])).duration <= LONGEST_S
    ]


def names(sample: Sample) -> set[str]:
    """What is heard in it."""
    return {class_name(event["label"]) for event in sample.events}


def held_out(samples: list[Sample]) -> set[str]:
    """The classes that nothing is trained on: those whose names' sha256 come first."""
    groups = {class_name(e["label"]): e["label"].split("/")[0] for s in samples for e in s.events}
    counts = Counter(clip.label for clip in labelled(samples))
    candidates = [
        name
        for name, count in counts.items()
        if count >= LEAST_RECORDINGS and groups.get(name, "speech") not in NO_SOUND_EFFECTS
    ]
    return set(sorted(candidates, key=lambda name: hashlib.sha256(name.encode()).digest())[:HELD_OUT])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--train", default="train", help="the training manifest's name in the corpus")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, help="a novel.jsonl whose classes are held out again")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    files = {"train": args.train, "valid": "valid", "test": "test_known"}
    splits = {split: short(args.corpus / f"{name}.jsonl") for split, name in files.items()}
    every = [sample for samples in splits.values() for sample in samples]
    again = read_manifest(args.held_out) if args.held_out else []
    novel = set().union(*map(names, again)) or held_out(every)
    write_manifest(args.out / "novel.jsonl", (s for s in every if names(s) and names(s) <= novel))
    for split, samples in splits.items():
        known = args.out / f"{split}.caption.jsonl"
        captions = (replace(s, task="caption") for s in samples if not names(s) & novel)
        count = write_manifest(known, instruct(captions, seed=0 if split == "train" else None))
        print(f"{split}: {count} of {len(samples)} clips")
        for task in TASKS:
            source = known
            if task in KINDS:
                source = args.out / f"{split}.{task}.clips.jsonl"
                write_manifest(source, (s for s in read_manifest(known) if s.origin["kind"] in KINDS[task]))
            made = build(
                *(task, Source(source, seed=0), args.out / f"{split}.{task}.jsonl"),
                seed=0 if split == "train" else None,
            )
            print(f"{split}: {made.written} of {task}")
    for seed, (ways, shots, count) in enumerate(EPISODES):
        episodes = Source(
            args.out / "train.caption.jsonl",
            **{"ways": ways, "shots": shots, "episodes": count, "renamed": RENAMED, "seed": seed},
        )
        build("few_shot", episodes, args.out / f"train.few_shot.{ways}x{shots}.jsonl")
    unseen = Source(args.out / "valid.caption.jsonl", episodes=80)
    build("few_shot", unseen, args.out / "valid.few_shot.4x1.jsonl")


if __name__ == "__main__":
    main()
