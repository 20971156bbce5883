"""What the parity tests share: the test signal that the authors' code heard, and unpacking of fixtures."""

import lzma
from pathlib import Path

import numpy as np
import soundfile

FIXTURES = Path(__file__).parent / "fixtures" / "parity"


def signal(num_samples: int, seed: int) -> np.ndarray:
    """A loud sweep with a hiss, int16, made by integers only: the same numbers on every machine."""
    k = np.arange(num_samples, dtype=np.int64)
    sweep = ((3 + seed) * k + k * k // 400) % 401 - 200
    hiss = (k * 7919 + (k * k * (13 + seed)) % 10007) % 1009 - 504
    slow = np.abs((k // 3 + 977 * seed) % 4000 - 2000) + 200
    return (sweep * 12 * slow // 1000 + hiss).clip(-32768, 32767).astype(np.int16)


def wav(path: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    """Write int16 samples, (N,) or (N, channels), as they are."""
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


def unpack(name: str, folder: Path) -> Path:
    """``name``.xz of the fixtures, unpacked into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Path(name).name
    path.write_bytes(lzma.decompress((FIXTURES / f"{name}.xz").read_bytes()))
    return path
