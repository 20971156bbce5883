"""Runs the examples of the command line's reference again: python docs/examples.py [COMMAND]

``docs/examples.txt`` has lines that begin with ``$ ``, each followed by what it printed. They are run in
their order in a folder with ``samples/`` and what ``prepare`` writes; what they print replaces what is there.
Times and paths differ from run to run; a line that progress wrote over is shown as it was left.

A page shows what an example printed in a block of text below ``<!-- example: COMMAND LINE -->``. They are
written after the examples, or alone by ``python docs/examples.py --pages``.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FILE = HERE / "examples.txt"
SHOWN = re.compile(r"(<!-- example: ([^\n]+?) -->\n```text\n).*?(^```$)", re.M | re.S)


def sessions(text: str) -> list[tuple[str, str]]:
    """(command line, what it printed), in order."""
    parts = re.split(r"^\$ ", text, flags=re.M)[1:]
    return [(line, said.strip("\n")) for line, _, said in (part.partition("\n") for part in parts)]


def run(line: str, folder: Path) -> str:
    """What a command line prints, standard error below standard output."""
    call = f'lalm() {{ "{sys.executable}" -m lalm "$@"; }}\n{line}'
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "COLUMNS": "96", "PYTHONWARNINGS": "ignore"}
    environment |= {"OMP_NUM_THREADS": "1"}  # lalm then says nothing of the threads that it chose
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # for `timeout 120 lalm`
    environment |= {"PATH": scripts}
    done = subprocess.run(
        ["bash", "-c", call],
        **{"cwd": folder, "env": environment, "stdin": subprocess.DEVNULL},
        **{"capture_output": True, "text": True},
    )
    said = done.stdout.rstrip() + "\n" + re.sub(r"^.*\r", "", done.stderr, flags=re.M).rstrip()
    return said.strip("\n").replace(str(folder), ".").replace(str(Path.home()), "~")


def prepare(folder: Path) -> None:
    """What the examples ask about: samples, speech, a table, events, labelled clips, judges."""
    import csv
    import json

    import numpy as np
    import soundfile

    shutil.copytree(HERE.parent / "samples", folder / "samples")
    shutil.copy(HERE.parent / "tests" / "fixtures" / "speech.ogg", folder / "talk.ogg")
    sounds = {
        "bell": "flac",
        "bird": "ogg",
        "chainsaw": "ogg",
        "horse": "ogg",
        "train": "ogg",
        "water": "ogg",
    }
    captions = {"bell": "a bell rings", "bird": "a bird calls", "chainsaw": "a chainsaw runs"}
    captions |= {"horse": "a horse neighs", "train": "a steam train whistles", "water": "water flows"}
    rows = [(f"samples/{name}.{kind}", captions[name]) for name, kind in sounds.items()]
    with (folder / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "caption"), *rows])
    lines = []
    for path, caption in rows:
        samples, rate = soundfile.read(folder / path)
        event = {
            "label": Path(path).stem,
            "caption": caption,
            "onset_s": 0.0,
            "offset_s": round(len(samples) / rate, 2),
        }
        turns = [{"role": "user", "content": [{"type": "audio", "audio": path}]}]
        turns.append({"role": "assistant", "content": caption})
        name = Path(path).stem
        row = {"id": name, "messages": turns, "task": "caption", "events": [event]}
        lines.append(json.dumps(row | {"origin": {"label": name, "caption": caption}}))
        if name in ("bell", "bird"):  # two labelled clips each: the halves
            for half in (0, 1):
                part = folder / "labelled" / name / f"{half}.wav"
                part.parent.mkdir(parents=True, exist_ok=True)
                middle = len(samples) // 2
                soundfile.write(part, samples[half * middle : (half + 1) * middle], rate)
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    street = [np.zeros(2 * rate)]  # the bell from 2 s, the bird from 10 s, applause from 18 s
    for path, seconds in (("bell.flac", 8), ("bird.ogg", 8), ("applause.ogg", 10)):
        sound, own_rate = soundfile.read(folder / "samples" / path)
        at = np.arange(0, len(sound), own_rate / rate)
        sound = np.interp(at, np.arange(len(sound)), sound)
        street += [sound, np.zeros(seconds * rate - len(sound))]
    soundfile.write(folder / "street.wav", np.concatenate(street), rate)
    for judge, points in (("judge", (1, 0, 1, 1, 0, 1)), ("people", (1, 0, 1, 0, 0, 1))):
        text = "".join(json.dumps({"id": str(i), "judged": p}) + "\n" for i, p in enumerate(points))
        (folder / f"{judge}.jsonl").write_text(text)


def page(text: str) -> str:
    """A page with its examples as the file has them. Raises KeyError for one that the file does not have."""
    said = dict(sessions(FILE.read_text(encoding="utf-8")))
    return SHOWN.sub(lambda found: found[1] + said[found[2]] + "\n" + found[3], text)


def write_pages() -> None:
    """All pages of docs/ anew."""
    for file in HERE.rglob("*.md"):
        file.write_text(page(file.read_text(encoding="utf-8")), encoding="utf-8")


def main(wanted: str = "") -> None:
    """Run all examples, or those of one command, and write the file."""
    shown = sessions(FILE.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as made:
        prepare(Path(made))
        run('lalm ask samples/bell.flac "What is it?"', Path(made))  # what is fetched once is no example
        for number, (line, _) in enumerate(shown):
            if wanted in line:
                shown[number] = (line, run(line, Path(made)))
                print(f"$ {line}\n{shown[number][1]}\n", flush=True)
                text = "\n".join(f"$ {line}\n{said}\n" for line, said in shown)
                FILE.write_text(text, encoding="utf-8")
        for picture in Path(made).glob("*.png"):
            shutil.copy(picture, HERE / "pictures")


if __name__ == "__main__":
    if sys.argv[1:] != ["--pages"]:
        main(*sys.argv[1:])
    write_pages()
