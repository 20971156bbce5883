"""How long Whisper-base's encoder takes for 30 s of sound: lalm's and faster-whisper's in 8 bits, in turns.

    python benchmarks/encode.py --out results/encode.json

Each side gets the samples and makes the spectrogram too. lalm's encoder is the embedded model's, whose 30 s
are padded to nothing longer, as faster-whisper's are. Both take the same number of threads, in one process.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import ctranslate2
import numpy as np
import torch
from decode import machine
from faster_whisper.feature_extractor import FeatureExtractor

from lalm import Engine
from lalm.audio.load import load_audio
from lalm.weights.fetch import resolve

SECONDS = 30
SAMPLES = Path(__file__).parents[1] / "samples"


def sound() -> np.ndarray[Any, Any]:
    """(480000,) float32: recordings of samples/ behind each other."""
    pieces = [load_audio(path) for path in sorted(SAMPLES.iterdir()) if path.suffix in (".ogg", ".flac")]
    return np.resize(np.concatenate(pieces), SECONDS * 16_000)


def ours(dtype: str, wave: np.ndarray[Any, Any]) -> Callable[[], Any]:
    """lalm's encoder with weights of that number format."""
    model = Engine.load(device="cpu", dtype=dtype).model.model  # type: ignore[arg-type]
    values, lengths = torch.from_numpy(wave)[None], torch.tensor([len(wave)])

    @torch.inference_mode()
    def work() -> Any:
        return model.encode(values, lengths)

    return work


def theirs(kind: str, threads: int, wave: np.ndarray[Any, Any]) -> Callable[[], Any]:
    """CTranslate2's, with faster-whisper's spectrogram."""
    folder = str(resolve("faster-whisper-base"))
    model = ctranslate2.models.Whisper(folder, device="cpu", compute_type=kind, intra_threads=threads)
    extractor = FeatureExtractor()

    def work() -> Any:
        features = extractor(wave, padding=0)[None, :, : SECONDS * 100].astype(np.float32)
        return model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(features)), to_cpu=True)

    return work


def main() -> None:
    """Take turns, tell medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    wave = sound()
    sides = {f"lalm {dtype}": ours(dtype, wave) for dtype in ("bfloat16", "float32")}
    for kind in ("int8", "float32"):
        sides[f"faster-whisper {kind}"] = theirs(kind, options.threads, wave)
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.rounds + 1):  # the first warms up
        for name, work in sides.items():
            began = time.perf_counter()
            work()
            if number:
                spent[name].append(time.perf_counter() - began)
    table = {
        name: {"median_s": round(median(took), 4), "from": round(min(took), 4), "to": round(max(took), 4)}
        for name, took in spent.items()
    }
    found = {"machine": machine(), "seconds": SECONDS, "threads": options.threads, "rounds": options.rounds}
    text = json.dumps({**found, "sides": table}, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
