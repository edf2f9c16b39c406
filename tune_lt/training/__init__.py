"""Training one network: a loop over epochs that needs neither Ray nor MLflow.

`run_epochs` trains a cell and yields what each epoch gave; `rehearse` checks beforehand that the cell can be built;
`timed_steps` tells how long its steps take.
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
