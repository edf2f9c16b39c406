"""Training one network: a loop over epochs that needs neither Ray nor MLflow.

`run_epochs` trains a cell and yields what each epoch gave; `rehearse` checks beforehand that the cell can be built.
"""

from tune_lt.training.loop import EpochResult, load_dataset, pick_device, rehearse, run_epochs, trained

__all__ = ["EpochResult", "load_dataset", "pick_device", "rehearse", "run_epochs", "trained"]
