"""English sentences spoken by flite, with the time of every word: speech to warm a SALMONN up with.

    apt-get install flite fortunes      # the measured run took its texts from /usr/share/games/fortunes
    python benchmarks/salmonn_speech.py --texts /usr/share/games/fortunes/* --out tts [--count 5200]

Takes sentences of three to twelve words from plain text files, has each spoken by a drawn voice at a drawn
pace, and writes train.jsonl and test.jsonl, whose voice (awb) the training set does not have. A row's
``events`` are its words with onset and offset, from flite's own phone durations; the recipe's ``warm_start``
reads them.
"""

import argparse
import random
import re
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from lalm.data.sample import Sample, write_manifest
from lalm.tasks.instructions import instruct

TRAIN_VOICES, TEST_VOICE = ("slt", "rms", "kal16"), "awb"
Phone = tuple[str, float, float]  # name, onset and offset in seconds


def sentences(paths: Sequence[Path]) -> list[str]:
    """Each once, in the order found."""
    found: dict[str, None] = {}
    for path in paths:
        if path.suffix in (".dat", ".u8"):  # an index of the file beside it, and a link to it
            continue
        for text in path.read_text("utf-8", errors="replace").split("\n%\n"):
            text = re.sub(r"\n\s*--.*", "", text, flags=re.DOTALL)  # who said it
            for sentence in re.split(r"(?<=[.?!])\s+", " ".join(text.split())):
                if spoken_easily(sentence):
                    found[sentence] = None
    return list(found)


def spoken_easily(sentence: str) -> bool:
    words = sentence.split()
    plain = re.fullmatch(r"[A-Z][A-Za-z',\- ]+[.?!]", sentence) and not re.search(r"[A-Z]{2,}", sentence)
    return bool(plain) and 3 <= len(words) <= 12 and len(sentence) <= 70 and max(map(len, words)) < 14


@cache
def phones(text: str, voice: str, pace: float) -> tuple[Phone, ...]:
    """What flite says, pauses left out."""
    command = ["flite", "-voice", voice, "--setf", f"duration_stretch={pace}", "-t", text]
    printed = subprocess.run([*command, "-psdur", "-o", "none"], check=True, capture_output=True, text=True)
    found, before = [], 0.0
    for piece in printed.stdout.split():
        name, end = piece.split(":")
        if name != "pau":
            found.append((name, before, float(end)))
        before = float(end)
    return tuple(found)


def word_times(text: str, voice: str, pace: float) -> list[dict[str, str | float]]:
    """Words with onset and offset: each takes as many of the sentence's phones as it has alone."""
    said = phones(text, voice, pace)
    words = text.split()
    alone = [len(phones(re.sub(r"[^\w']+$", "", word), voice, 1.0)) or 1 for word in words]
    stretch = len(said) / sum(alone)  # 1 but where flite joins or splits phones across words
    events: list[dict[str, str | float]] = []
    first = 0.0
    for word, count in zip(words, alone, strict=True):
        start = min(len(said) - 1, round(first))
        end = min(len(said), max(start + 1, round(first + count * stretch)))
        times = {"onset_s": round(said[start][1], 3), "offset_s": round(said[end - 1][2], 3)}
        events.append({"label": "word", "caption": word, **times})
        first += count * stretch
    return events


def speak(texts: Sequence[str], voices: Sequence[str], split: str, out: Path, seed: int) -> Iterator[Sample]:
    draw = random.Random(seed)
    for number, text in enumerate(texts):
        voice, pace = draw.choice(voices), round(draw.uniform(0.85, 1.15), 2)
        name = f"{split}-{number:05d}"
        path = (out / f"{name}.wav").resolve()
        command = ["flite", "-voice", voice, "--setf", f"duration_stretch={pace}", "-t", text]
        subprocess.run([*command, "-o", str(path)], check=True, capture_output=True)
        row = {
            "messages": [
                {"role": "user", "content": [{"type": "audio", "audio": str(path)}]},
                {"role": "assistant", "content": text},
            ],
            **{"id": f"asr-{name}", "task": "asr", "references": [text], "split": split},
            "origin": {"recording": name, "package": f"flite-{voice}", "transcript": text},
            "events": word_times(text, voice, pace),
        }
        yield Sample.from_json(row, place=name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=5200)
    parser.add_argument("--test", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    texts = sentences(options.texts)
    random.Random(options.seed).shuffle(texts)
    texts = texts[: options.count]
    options.out.mkdir(parents=True, exist_ok=True)
    parts = {
        "test": (texts[: options.test], [TEST_VOICE]),
        "train": (texts[options.test :], TRAIN_VOICES),
    }
    for split, (own, voices) in parts.items():
        rows = instruct(list(speak(own, voices, split, options.out, options.seed)), seed=options.seed)
        write_manifest(options.out / f"{split}.jsonl", list(rows))
        print(f"{split}: {len(own)} sentences")


if __name__ == "__main__":
    main()
