"""What a clip costs by its length, up to an hour: decoding and encoding, and the LLM reading it.

    python benchmarks/long_audio.py --out results/long_audio.json --picture results/long_audio.svg

Random weights in the sizes of ``benchmarks/training.py``; one recording of an hour, of which the first
seconds are heard. Processor seconds of one thread, each length once. The encoder works in windows of 30 s, so
hearing grows with the length and no faster; the LLM's attention grows with its square, and is apart.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from training import GROUP, POOL, SIZES, write_parts

SECONDS = (10, 60, 300, 600, 1200, 1800, 2700, 3600)


def write_hour(path: Path) -> None:
    """An hour of noise at 16 kHz as FLAC, block by block."""
    import soundfile

    rng = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", 16_000, 1, "PCM_16") as file:
        block = rng.normal(0, 0.1, 60 * 16_000).clip(-1, 1)
        for _ in range(60):
            file.write(block)


def measure(size: str, folder: Path) -> list[dict[str, float]]:
    """A row a length: processor seconds of decoding, of encoder and connector, and of the LLM; memory."""
    from lalm.audio.load import load_audio
    from lalm.models.assemble import build_model

    model, _ = build_model(
        "acdc",
        encoder=str(folder / "encoder"),
        llm=str(folder / "llm"),
        options={"encoder": {"pool": POOL}, "group_size": GROUP, "connector_width": 256},
    )
    rows = []
    for seconds in (SECONDS[0], *SECONDS):  # the first one twice: it also starts everything
        began = time.process_time()
        audio = torch.from_numpy(load_audio(folder / "hour.flac", duration_s=float(seconds)))[None]
        decoded = time.process_time()
        with torch.inference_mode():
            heard = model.get_audio_features(audio, torch.tensor([audio.shape[1]])).pooler_output
            connected = time.process_time()
            model.model.language_model(inputs_embeds=heard[None], use_cache=False)
        rows.append(
            {
                "seconds": seconds,
                "audio_tokens": len(heard),
                "decoding_s": decoded - began,
                "encoding_s": connected - decoded,
                "llm_s": time.process_time() - connected,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
        print(rows[-1], flush=True)
    return rows[1:]


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """Processor seconds over the length, hearing and the LLM apart, as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    plot = figure.subplots()
    minutes = [row["seconds"] / 60 for row in rows]
    heard = [row["decoding_s"] + row["encoding_s"] for row in rows]
    plot.plot(minutes, heard, "o-", label="decoding, encoder and connector")
    plot.plot([0, minutes[-1]], [0, heard[-1]], ":", color="grey", label="in proportion to the length")
    plot.plot(minutes, [row["llm_s"] for row in rows], "s--", label="the LLM reading the audio tokens")
    plot.set(xlabel="minutes of audio", ylabel="processor seconds", xlim=(0, None), ylim=(0, None))
    plot.legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    """Measure, fit and draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        write_parts(options.size, Path(name))
        write_hour(Path(name) / "hour.flac")
        rows = measure(options.size, Path(name))
    rates = [(row["decoding_s"] + row["encoding_s"]) / row["seconds"] for row in rows if row["seconds"] >= 60]
    report: dict[str, Any] = {
        "size": options.size,
        "threads": 1,
        "rows": rows,
        "hearing, processor seconds a minute of audio, from one minute on": [60 * rate for rate in rates],
        "dearest against cheapest second of audio": max(rates) / min(rates),
    }
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    if options.picture:
        draw(rows, options.picture)


if __name__ == "__main__":
    main()
