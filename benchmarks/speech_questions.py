"""Questions about what is said: with Whisper's transcript beside the audio, without it, and the text alone.

    apt-get install flite
    python benchmarks/speech_questions.py --out results/speech_questions.json
    python benchmarks/speech_questions.py --questions QUESTIONS.jsonl --out mine.json

The forty sentences of ``speech_questions.tsv`` are spoken by flite's voices in turn. A line of QUESTIONS is
{"audio": "x.wav", "question": "Where does the train go?", "answers": ["oxford"]}. An answer counts that holds
the beginning of one of the words. Intervals are over recordings.
"""

import argparse
import csv
import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lalm.data.sample import Sample, ask
from lalm.inference.engine import Engine, Options

NEW_TOKENS = 32
DRAWS = 2000
VOICES = ("kal16", "slt", "rms", "awb")

Row = dict[str, Any]


def is_right(row: Row, answer: str) -> bool:
    """Whether the answer holds one of the words asked for."""
    return any(re.search(rf"\b{re.escape(word)}", answer.lower()) for word in row["answers"])


def interval(hits: Sequence[bool]) -> tuple[float, float, float]:
    """Mean, and the 95 % interval over recordings by the bootstrap."""
    scores, rng = np.array(hits, float), np.random.default_rng(0)
    means = [scores[rng.integers(0, len(scores), len(scores))].mean() for _ in range(DRAWS)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(scores.mean()), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = read(given.questions) if given.questions else spoken(Path(folder))
        found = measure(Engine.load(given.model, transcript="whisper"), rows)
    given.out.write_text(json.dumps(found, indent=1) + "\n")


def read(questions: Path) -> list[Row]:
    """The lines of a file of questions; paths of audio are relative to it."""
    rows = [json.loads(line) for line in questions.read_text().splitlines() if line.strip()]
    return [row | {"audio": questions.parent / row["audio"]} for row in rows]


def spoken(folder: Path) -> list[Row]:
    """The sentences of ``speech_questions.tsv``, spoken by flite."""
    rows = []
    with Path(__file__).with_suffix(".tsv").open(encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter="\t")):
            audio = folder / f"{number}.wav"
            voice = VOICES[number % len(VOICES)]
            subprocess.run(
                ["flite", "-voice", voice, "-t", row["sentence"], "-o", audio], check=True, timeout=60
            )
            rows.append({"audio": audio, "question": row["question"], "answers": row["answers"].split("|")})
    return rows


def measure(engine: Engine, rows: Sequence[Row]) -> dict[str, Any]:
    """Accuracy and answers, in the three ways."""
    heard = [ask([row["audio"]], row["question"]) for row in rows]
    said = [engine.clips(sample)[0].transcript for sample in heard]
    alone = [
        Sample(({"role": "user", "content": f'Transcript: "{text}"\n{row["question"]}'},))
        for row, text in zip(rows, said, strict=True)
    ]
    found: dict[str, Any] = {}
    for name, mode, samples in (
        ("transcript", "whisper", heard),
        ("audio tokens alone", "none", heard),
        ("text-only cascade", "none", alone),
    ):
        engine.model.config.transcript = mode
        answers = [reply.text for reply in engine.reply(samples, Options(NEW_TOKENS))]
        mean, low, high = interval([is_right(row, answer) for row, answer in zip(rows, answers, strict=True)])
        found[name] = {"accuracy": mean, "low": low, "high": high, "answers": answers}
        print(f"{name}: {mean:.3f} [{low:.3f}, {high:.3f}], {len(rows)} questions", flush=True)
    return {"model": engine.name, "transcripts": said, **found}


if __name__ == "__main__":
    main()
