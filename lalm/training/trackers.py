"""Reporting a run to trackers beside metrics.jsonl and TensorBoard: Weights & Biases, MLflow, Trackio.

transformers' own integrations report; here stands what they need to be told. Nothing is sent anywhere unless
the tracker is set up so: offline they write into the run's folder.
"""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from lalm.training.report import TrainError

# tracker -> its package, and what is set where the user has not.
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
PROJECT = "lalm"


def check_trackers(names: Sequence[str]) -> None:
    """Raises TrainError for a tracker that is not installed."""
    for name in names:
        if name in PACKAGES and find_spec(PACKAGES[name]) is None:
            raise TrainError(f"report_to: {name} is not installed: pip install 'lalm[report]'")


def trackers(names: Sequence[str], out: Path) -> list[str]:
    """The trackers in the Trainer's words, with their files in ``out`` where nothing else was set."""
    folder = out.resolve()
    settings = {
        "wandb": {"WANDB_PROJECT": PROJECT, "WANDB_DIR": str(folder)},
        "mlflow": {
            "MLFLOW_EXPERIMENT_NAME": PROJECT,
            "MLFLOW_TRACKING_URI": (folder / "mlruns").as_uri(),
            "MLFLOW_ALLOW_FILE_STORE": "true",  # files need no database package
            "MLFLOW_FLATTEN_PARAMS": "true",
        },
        "trackio": {"TRACKIO_DIR": str(folder / "trackio")},
    }
    for name in names:
        for variable, value in settings.get(name, {}).items():
            os.environ.setdefault(variable, value)
    return [name for name in names if name in PACKAGES]  # TensorBoard's files are written anyway
