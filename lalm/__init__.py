"""lalm: build, train, evaluate and serve language models that hear.

from lalm import Engine, ask
print(Engine.load().reply([ask(["samples/horse.ogg"], "What do you hear?")])[0].text)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lalm.audio.load import AudioError, load_audio
    from lalm.data.sample import Sample, ask, read_manifest, write_manifest
    from lalm.inference.engine import Engine, Heard, Options, Reply

__all__ = [
    "AudioError",
    "Engine",
    "Heard",
    "Options",
    "Reply",
    "Sample",
    "ask",
    "load_audio",
    "read_manifest",
    "write_manifest",
]

_HOMES = {
    "lalm.audio.load": ("AudioError", "load_audio"),
    "lalm.inference.engine": ("Engine", "Heard", "Options", "Reply"),
    "lalm.data.sample": ("Sample", "ask", "read_manifest", "write_manifest"),
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: ``import lalm`` alone stays light."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'lalm' has no attribute '{name}'")
