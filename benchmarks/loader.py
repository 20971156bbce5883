"""The data loader: seconds of FLAC decoded a second, and a manifest of a million lines.

    python benchmarks/loader.py --out results/loader_speed.json

The manifest's lines name a few real files; what is measured is opening it, finding batches anywhere in it
and the memory that takes. Clips are noise at 16 kHz: FLAC packs it badly, so it decodes slower than speech.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile

from lalm.audio.load import load_audio
from lalm.data.mixture import Mixture, audio_seconds, open_manifest, text_tokens
from lalm.data.samplers import Limits, PackedMixture


def write(folder: Path, lines: int, clips: int) -> list[Path]:
    """Clips of 2 to 30 s, and a manifest that names them over and over."""
    rng = np.random.default_rng(0)
    files = []
    for i, seconds in enumerate(np.geomspace(2, 30, clips)):
        path = folder / f"{i}.flac"
        soundfile.write(path, rng.normal(0, 0.1, int(seconds * 16_000)).clip(-1, 1), 16_000)
        files.append(path)
    with (folder / "m.jsonl").open("w") as file:
        for i in range(lines):
            part = {"type": "audio", "audio": f"{i % clips}.flac", "duration_s": 2 + i % 28}
            turns = [{"role": "user", "content": [part]}, {"role": "assistant", "content": f"Clip {i}."}]
            file.write(json.dumps({"messages": turns, "id": str(i)}) + "\n")
    return files


def memory_mb() -> float:
    """Memory of this process."""
    return psutil.Process().memory_info().rss / 2**20


def index(path: Path, packed: bool) -> dict[str, Any]:
    """Opening the manifest, the first batch, and two hundred batches at drawn places."""
    before, began, clock = memory_mb(), time.process_time(), time.perf_counter()
    sources: Any = [(open_manifest(path), 1.0)]

    def length(sample: Any) -> float:
        return text_tokens(sample) + 12.5 * sum(audio_seconds(part) for part in sample.audios)

    mixture: Mixture
    if packed:
        mixture = PackedMixture(sources, length, Limits(seconds=240), batch_size=64)
    else:
        mixture = Mixture(sources, length, batch_size=16)
    mixture.keys(0)
    opened = time.process_time() - began, time.perf_counter() - clock, memory_mb() - before
    began, seen = time.process_time(), 0
    places = range(200) if packed else np.random.default_rng(1).integers(0, mixture.steps_per_epoch, 20)
    for place in places:
        seen += sum(sources[0][0][row] is not None for _, row in mixture.keys(int(place)))
    return {
        "lines": len(sources[0][0]),
        "batches": "as large as fits, 240 s" if packed else "16 samples",
        "start processor_s": opened[0],
        "start clock_s": opened[1],
        "start mb": opened[2],
        "samples read": seen,
        "samples read a processor second": seen / (time.process_time() - began),
        "mb after them": memory_mb() - before,
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        files = write(Path(name), options.lines, options.clips)
        began, clock = time.process_time(), time.perf_counter()
        seconds = sum(len(load_audio(file)) for file in files) / 16_000
        decoding = {
            "clips": len(files),
            "seconds of audio": seconds,
            "times real time, a processor second": seconds / (time.process_time() - began),
            "times real time, a clock second": seconds / (time.perf_counter() - clock),
        }
        print(decoding, file=sys.stderr)
        rows = [index(Path(name) / "m.jsonl", packed) for packed in (False, True)]
    text = json.dumps({"decoding FLAC, one process": decoding, "manifest": rows}, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
