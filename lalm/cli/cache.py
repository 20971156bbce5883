"""``lalm cache``: what a frame cache holds, and making it smaller."""

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from lalm.cli.options import Json

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}

app = typer.Typer(help="Encoder frames kept on disk.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(help="The recipe's cache folder.", show_default=False)]


@app.command()
def info(folder: Folder, as_json: Json = False) -> None:
    """What is in it: clips, size and last use, by encoder."""
    from lalm.data import frame_cache as cache

    rows = cache.contents(folder)
    if as_json:
        print(json.dumps([row._asdict() for row in rows]))
        return
    for row in rows:
        size = f"{row.clips:>9,} clips {row.bytes / 1e9:>9.3f} GB"
        print(f"{row.identity}  {row.encoder:<16} {size}  last used {row.used}")
    print(f"{folder}: {sum(row.bytes for row in rows) / 1e9:.3f} GB")


@app.command()
def prune(
    folder: Folder,
    keep: Annotated[
        str, typer.Option(help="The size to leave, such as 20GB; 0 empties it.", show_default=False)
    ],
) -> None:
    """Delete what was not used for longest."""
    from lalm.data import frame_cache as cache

    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", keep.strip().lower())
    if found is None:
        raise ValueError(f"--keep is a size such as 20GB, not '{keep}'")
    removed, freed = cache.prune(folder, int(float(found[1]) * UNITS[found[2]]))
    print(f"{folder}: {removed} shards deleted, {freed / 1e9:.3f} GB freed")
