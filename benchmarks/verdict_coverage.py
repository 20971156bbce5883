"""Do the intervals of ``lalm reproduce`` cover? Over seeds and items, in made-up worlds whose truth is known.

    python benchmarks/verdict_coverage.py [--trials 400] [--out results/verdict_coverage.json]

An item is right with a chance that hangs on its recording (some are harder), its model and that model's seed.
Of each world: how often the interval holds the true share, and the true difference of two models.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lalm.reproduce.estimates import Scores, estimate

SHARE = (0.0, 1.0)
DRAWS = 400_000  # for the truth


class World(NamedTuple):
    """Items, how many of them a recording has, seeds; logits of the second model and how much better the
    first is; how much recordings and seeds differ."""

    items: int
    each: int
    seeds: int
    level: float
    gap: float
    recordings: float
    between: float


WORLDS = (
    *(World(40, 1, 1, -3, 0, 0.5, 0), World(40, 1, 3, -3, 0, 0.5, 0), World(40, 1, 3, -3, 1, 1, 0.3)),
    *(World(120, 1, 3, -1, 0.5, 1, 0.3), World(120, 1, 3, -1, 0.5, 1, 0), World(120, 3, 3, -1, 0.5, 2, 0.3)),
    *(World(12, 1, 3, -4, 5, 1, 0.5), World(12, 1, 3, -4, 5, 1, 0), World(20, 1, 1, 0, 0, 3, 0)),
    *(World(20, 1, 3, 0, 0.5, 3, 0.2), World(120, 1, 3, -4, 0.3, 1, 0.2), World(60, 1, 3, 3, 0.5, 1, 0.3)),
    *(World(120, 1, 1, -1, 0.5, 1, 0), World(40, 1, 1, -1, 0.5, 1, 0), World(10, 1, 3, -1, 1, 1, 0.3)),
    *(World(6, 1, 3, -1, 1, 1, 0.3), World(40, 1, 1, -4, 0, 0.5, 0), World(40, 1, 3, -4, 0.5, 0.5, 0.2)),
    World(120, 1, 1, -5, 1, 0.5, 0),
)


def chance(logits: Any) -> Any:
    return 1 / (1 + np.exp(-logits))


def truth(world: World) -> tuple[float, float]:
    """The first model's share, and how much more it is than the second's."""
    draw = np.random.default_rng(0)
    hard = world.level + draw.normal(0, world.recordings, DRAWS)
    first = chance(hard + world.gap + draw.normal(0, world.between, DRAWS)).mean()
    return float(first), float(first - chance(hard + draw.normal(0, world.between, DRAWS)).mean())


def runs(world: World, draw: np.random.Generator) -> list[list[Scores]]:
    """Both models' scores, one of each seed, on the same recordings."""
    names = [("task", str(i)) for i in range(world.items)]
    places = {name: str(i // world.each) for i, name in enumerate(names)}
    hard = world.level + draw.normal(0, world.recordings, world.items // world.each).repeat(world.each)
    found: list[list[Scores]] = [[], []]
    for own, gap in zip(found, (world.gap, 0.0), strict=True):
        for shift in draw.normal(0, world.between, world.seeds):
            right = (draw.random(world.items) < chance(hard + gap + shift)).astype(float)
            own.append(Scores(dict(zip(names, right.tolist(), strict=True)), places, SHARE))
    return found


def covered(world: World, trials: int) -> dict[str, Any]:
    draw, (share, gap), hits = np.random.default_rng(1), truth(world), [0, 0]
    for _ in range(trials):
        mine, other = runs(world, draw)
        alone, apart = estimate(mine), estimate(mine, other)
        assert alone is not None and apart is not None
        hits[0] += alone.low <= share <= alone.high
        hits[1] += apart.low <= gap <= apart.high
    told = {"share": round(share, 3), "difference": round(gap, 3)}
    return world._asdict() | told | {"share_in": hits[0] / trials, "difference_in": hits[1] / trials}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("results/verdict_coverage.json"))
    given = parser.parse_args(words)
    rows = [covered(world, given.trials) for world in WORLDS]
    given.out.write_text(json.dumps({"trials": given.trials, "worlds": rows}, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
