"""Questions about what is said: with Whisper's transcript beside the audio, without it, and the text alone.

    python benchmarks/speech_questions.py QUESTIONS.jsonl --out results/speech_questions.json

A line of QUESTIONS is {"audio": "x.wav", "question": "Where does the train go?", "answers": ["oxford"]}. An
answer counts that holds the beginning of one of the words. Intervals are over recordings.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lalm.data.sample import Sample, ask
from lalm.inference.engine import Engine, Options

NEW_TOKENS = 32
DRAWS = 2000


def is_right(row: dict[str, Any], answer: str) -> bool:
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
    parser.add_argument("questions", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows = [json.loads(line) for line in given.questions.read_text().splitlines() if line.strip()]
    engine = Engine.load(given.model, transcript="whisper")
    heard = [ask([given.questions.parent / row["audio"]], row["question"]) for row in rows]
    said = [engine.clips(sample)[0].transcript for sample in heard]
    alone = [
        Sample(({"role": "user", "content": f'Transcript: "{text}"\n{row["question"]}'},))
        for row, text in zip(rows, said, strict=True)
    ]
    found = {}
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
    given.out.write_text(json.dumps({"model": engine.name, "transcripts": said, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
