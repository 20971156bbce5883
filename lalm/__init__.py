"""lalm: build, train, evaluate and serve language models that hear.

from lalm import Engine, ask
print(Engine.load().reply([ask(["samples/horse.ogg"], "What do you hear?")])[0].text)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lalm.models.opening_memory import no_collection

if TYPE_CHECKING:
    from lalm.audio.load import AudioError, load_audio
    from lalm.data.readers import read_manifest
    from lalm.data.sample import Sample, ask, write_manifest
    from lalm.errors import LalmError
    from lalm.evaluate.local import evaluate_model
    from lalm.inference.engine import Engine, Heard, Options, Reply
    from lalm.models.assemble import build_model
    from lalm.serve.app import create_app
    from lalm.training.train import train

    __version__: str

__all__ = [
    "AudioError",
    "Engine",
    "Heard",
    "LalmError",
    "Options",
    "Reply",
    "Sample",
    "__version__",
    "ask",
    "build_model",
    "create_app",
    "evaluate_model",  # not "evaluate", which is the sub-package of that name
    "load_audio",
    "read_manifest",
    "train",
    "write_manifest",
]

_HOMES = {
    "lalm.audio.load": ("AudioError", "load_audio"),
    "lalm.data.readers": ("read_manifest",),
    "lalm.data.sample": ("Sample", "ask", "write_manifest"),
    "lalm.errors": ("LalmError",),
    "lalm.evaluate.local": ("evaluate_model",),
    "lalm.inference.engine": ("Engine", "Heard", "Options", "Reply"),
    "lalm.models.assemble": ("build_model",),
    "lalm.serve.app": ("create_app",),
    "lalm.training.train": ("train",),
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: ``import lalm`` alone stays light."""
    if name == "__version__":
        from importlib.metadata import version

        return version("lalm")
    for home, names in _HOMES.items():
        if name in names:
            with no_collection():
                return getattr(import_module(home), name)
    raise AttributeError(f"module 'lalm' has no attribute '{name}'")
