"""Training one network, without Ray and MLflow.

`run_epochs` trains a cell and yields the result of each epoch. Before that, `rehearse` checks that the cell can be
trained, and `timed_steps` measures how long its steps take.
"""

from tune_lt.training.loop import (
    EpochResult,
    Training,
    images_of,
    load_dataset,
    pick_device,
    rehearse,
    run_epochs,
    trained,
)
from tune_lt.training.timing import timed_steps

__all__ = [
    "EpochResult", "Training", "images_of", "load_dataset", "pick_device", "rehearse", "run_epochs", "timed_steps",
    "trained",
]  # fmt: skip
