"""SPICE (Anderson et al. 2016) by its own Java program, where it and Java are installed.

``folder`` is the ``spice`` part of an unpacked ``pycocoevalcap`` wheel, with the two files of Stanford
CoreNLP 3.6.0 that the wheel lacks put into its ``lib``. Nothing here stands in for SPICE: ``content_f1`` of
``lalm.evaluate.metrics.captions`` does, under its own name.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lalm.errors import LalmError
from lalm.evaluate.lacking import Lacking
from lalm.evaluate.metrics.intervals import Array

JAR = "spice-1.0.jar"
PARSER = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
MEMORY = "-Xmx8G"  # as the COCO tools start it
NEEDS = (
    "SPICE needs Java 8 to 13, the spice folder of the pycocoevalcap wheel and in its lib Stanford CoreNLP "
    "3.6.0 with its models (docs/evaluate.md); content_f1 is a stand-in that is not SPICE"
)


class SpiceError(LalmError, ValueError):
    """The Java program failed or wrote something else than scores."""


def lacking(folder: Path) -> str | None:
    """What SPICE still needs to run in ``folder``, in words; None when all is there."""
    if not (folder / JAR).is_file():
        return f"'{folder.name}' has no {JAR}: it is no spice folder of the pycocoevalcap wheel"
    absent = [name for name in PARSER if not (folder / "lib" / name).is_file()]
    if absent:
        return f"'{folder.name}/lib' has no {' and no '.join(absent)} (Stanford CoreNLP 3.6.0)"
    return None if shutil.which("java") else "SPICE needs Java 8 to 13, and there is no 'java' to be found"


def spice(folder: Path, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
    """SPICE of each caption, (items,). Raises Lacking saying what is lacking, SpiceError on failure."""
    if (why := lacking(folder)) is not None:
        raise Lacking(why)
    rows = [
        {"image_id": number, "test": said, "refs": list(texts)}
        for number, (said, texts) in enumerate(zip(hypotheses, references, strict=True))
    ]
    with tempfile.TemporaryDirectory() as place:
        asked, told = Path(place, "in.json"), Path(place, "out.json")
        asked.write_text(json.dumps(rows), encoding="utf-8")
        command = ["java", "-jar", MEMORY, JAR, str(asked), "-out", str(told), "-subset", "-silent"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
            raise SpiceError(f"SPICE's program failed (Java 8 to 13 is needed): {last}")
        try:
            found = {
                row["image_id"]: float(row["scores"]["All"]["f"]) for row in json.loads(told.read_text())
            }
            return np.nan_to_num([found[number] for number in range(len(rows))])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise SpiceError(f"SPICE's program wrote no scores that can be read: {error!r}") from None
