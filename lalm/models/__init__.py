"""The model that all systems share: modeling, processing, chat templates, assembling, loading and saving."""

from pathlib import Path

SMALL = Path(__file__).parent / "small"  # the embedded model
