"""Run the notebooks again: python docs/notebooks.py [NAME]  (pip install 'lalm[test]'; some minutes)

Each is executed from its first cell to its last with the Python that runs this, and written with what its
cells print; the curves of ``train_and_evaluate`` become ``docs/pictures/training.png``. The repository's
own path is shown as ``~/lalm``, and what goes to standard error (progress) is left out. What was run is kept
in the notebook's metadata, so that a test tells a cell or a packaged model that has changed since.
"""

import base64
import hashlib
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OTHERS = re.compile(r"^\[.*\] \[real_accelerator.*\n", re.M)  # DeepSpeed's word when it is imported
DRAFTS = re.compile(r"/tmp/tmp\w+")  # folders of a day
FOLDER = HERE / "notebooks"
MODEL = HERE.parent / "lalm" / "models" / "small" / "model.safetensors"
CURVES = ("train_and_evaluate", HERE / "pictures" / "training.png")


def stamp(book: Any) -> dict[str, str]:
    """sha256 of what a notebook's outputs come from: its cells of code, and the packaged model."""
    code = "\0".join("".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code")
    of = {"cells": code.encode(), "model": MODEL.read_bytes()}
    return {name: hashlib.sha256(data).hexdigest() for name, data in of.items()}


def execute(path: Path) -> Any:
    """The notebook with its outputs. Raises CellExecutionError for a cell that fails."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    client = NotebookClient(
        book, timeout=None, coalesce_streams=True, resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
            for out in (one for one in cell.outputs if "text" in one):
                said = OTHERS.sub("", out["text"]).replace(str(HERE.parent), "~/lalm")
                out["text"] = DRAFTS.sub("~/drafts", said)
    book.metadata["run"] = stamp(book)
    return book


def pictures(book: Any) -> list[bytes]:
    """The PNG pictures that a notebook's cells show."""
    shown = [out.get("data", {}) for cell in book.cells for out in cell.get("outputs", ())]
    return [base64.b64decode(data["image/png"]) for data in shown if "image/png" in data]


def main(wanted: str = "") -> None:
    """Execute all notebooks, or the one of that name."""
    import nbformat

    for path in sorted(FOLDER.glob(f"{wanted or '*'}.ipynb")):
        book = execute(path)
        nbformat.write(book, path)
        if path.stem == CURVES[0]:
            CURVES[1].write_bytes(pictures(book)[-1])


if __name__ == "__main__":
    main(*sys.argv[1:])
