"""``lalm cache``: what a frame cache holds, and making it smaller."""

import json
import re
from pathlib import Path

from lalm.data import frame_cache as cache

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def info(folder: Path, *, as_json: bool) -> None:
    """Print what the cache holds for each encoder."""
    rows = cache.contents(folder)
    if as_json:
        print(json.dumps([row._asdict() for row in rows]))
        return
    for row in rows:
        size = f"{row.clips:>9,} clips {row.bytes / 1e9:>9.3f} GB"
        print(f"{row.identity}  {row.encoder:<16} {size}  last used {row.used}")
    print(f"{folder}: {sum(row.bytes for row in rows) / 1e9:.3f} GB")


def prune(folder: Path, keep: str) -> None:
    """Delete the shards that were not used for longest until at most ``keep`` ("20GB") is left."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", keep.strip().lower())
    if found is None:
        raise ValueError(f"--keep is a size such as 20GB, not '{keep}'")
    removed, freed = cache.prune(folder, int(float(found[1]) * UNITS[found[2]]))
    print(f"{folder}: {removed} shards deleted, {freed / 1e9:.3f} GB freed")
