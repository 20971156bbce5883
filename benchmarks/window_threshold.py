"""How well the windows of `lalm detect` tell, and where its threshold should lie, on held-out recordings.

    python benchmarks/window_threshold.py ~/corpus --out results/small/windows.json

Of a folder of `lalm corpus build`: 60 recordings of single sounds from packages that training never saw, of
as many kinds as there are. The first 4 s of each are scored for its own kind and for three of other groups.
"""

import argparse
import json
import random
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from lalm import Engine, load_audio
from lalm.inference.window_detection import score_windows

ITEMS, OTHERS, SECONDS, DRAWS = 60, 3, 4.0, 2000


def drawn(corpus: Path, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of single sounds, the kinds in turn."""
    rows = [json.loads(line) for line in (corpus / "test_unseen.jsonl").read_text().splitlines()]
    rows = [r for r in rows if r["origin"]["kind"] == "single" and "speech" not in r["events"][0]["label"]]
    random.Random(seed).shuffle(rows)
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["events"][0]["label"], []).append(row)
    found = []
    while len(found) < ITEMS and any(kinds.values()):
        found += [kinds[kind].pop() for kind in kinds if kinds[kind]]
    return found[:ITEMS]


def area(own: np.ndarray, others: np.ndarray) -> float:
    """How often a recording's own sound scores above another: .5 is chance."""
    return float((own[:, None] > others.ravel()[None]).mean())


def main() -> None:
    """Score, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    table = (resources.files("lalm.corpus") / "classes.tsv").read_text().splitlines()
    names = {line.split("\t")[0]: line.split("\t")[1] for line in table}
    rows, rng = drawn(options.corpus), random.Random(1)
    labels = sorted({row["events"][0]["label"] for row in rows})
    engine, scores = Engine.load(), []
    for row in rows:
        kind = row["events"][0]["label"]
        far = [label for label in labels if label.split("/")[0] != kind.split("/")[0]]
        asked = [names[label] for label in (kind, *rng.sample(far, OTHERS))]
        path = options.corpus / row["messages"][0]["content"][0]["audio"]
        window = load_audio(path)[: int(SECONDS * 16_000)]
        [(_, [found])] = list(score_windows(engine, [window], asked))
        scores.append(found)
    scored = np.array(scores)  # (recordings, 1 + OTHERS)
    own, others = scored[:, 0], scored[:, 1:]
    draw = np.random.default_rng(0)
    again = [draw.integers(0, len(own), len(own)) for _ in range(DRAWS)]
    limits = np.quantile([area(own[i], others[i]) for i in again], (0.025, 0.975))
    found = {
        "recordings": len(own),
        "area": [round(area(own, others), 3), *(round(float(x), 3) for x in limits)],
        "thresholds": {
            str(t): {"hit": round(float((own > t).mean()), 3), "false": round(float((others > t).mean()), 3)}
            for t in np.arange(0, 8, 0.5)
        },
        "scores": [[round(float(x), 2) for x in row] for row in scores],
    }
    print(json.dumps({key: value for key, value in found.items() if key != "scores"}, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
