"""Tries an exported pair of files in llama.cpp, as a process of its own.

    python -m lalm.inference.llamacpp.trial LLM MMPROJ ASKED.npz FOUND.npz

ASKED holds "prompt", a text with a marker, and clips (N,) float32 at 16 kHz under any other names. FOUND gets
for each the audio tokens (K, D) and the next-token logits (V,). A fault is one line on standard error and the
exit code 1; llama.cpp itself may end the process.
"""

import sys
from pathlib import Path

import numpy as np

from lalm.inference.llamacpp.library import LibraryError
from lalm.inference.llamacpp.running import Llama, Projection


def main(llm: str, projector: str, asked: str, found: str) -> None:
    """Answer the question about every clip with the logits of the first token."""
    llama = Llama(Path(llm), exact=True)
    projection = Projection(Path(projector), llama)
    results = {}
    with np.load(asked) as given:
        prompt = str(given["prompt"])
        for name in (name for name in given.files if name != "prompt"):
            llama.keep(0)
            pieces = projection.pieces(prompt, [given[name]])
            results[f"{name} tokens"] = np.concatenate([piece for piece in pieces if piece.ndim == 2])
            for piece in pieces:
                logits = llama.read(piece)
            results[f"{name} logits"] = logits
    np.savez(found, **results)  # type: ignore[arg-type]


if __name__ == "__main__":
    try:
        main(*sys.argv[1:5])
    except LibraryError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
