"""A study that was run whole by the command line, as tests look at it."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
from pathlib import Path

from tune_lt.store import CellRecord, Store

PLUGIN = """\
import torch.nn.functional as F
from tune_lt import losses

@losses.register("half_softmax")
class HalfSoftmax(losses.Loss):
    def __init__(self, class_counts, *, factor: float = 0.5):
        super().__init__(class_counts)
        self.factor = factor

    def terms(self, logits, targets):
        return self.factor * F.cross_entropy(logits, targets, reduction="none"), None
"""
ROWS = """\
  margin+weight_aura: {loss: {best: true}}
  other: {loss: {best: true, gamma: 0.33}}
  half: {loss: {name: half_softmax}}
  diverges: {loss: {name: softmax}, recipe: {optimizer: {lr: 1.0e+30}, clip_norm: null}}
"""


@dataclasses.dataclass(frozen=True)
class Ran:
    """A study that was run: the folder of its store and reports, its file (called as the study), what was printed."""

    folder: Path
    file: Path
    printed: str

    @property
    def store(self) -> Store:
        return Store(f"sqlite:///{self.folder / 'mlflow.db'}")

    def cells(self, kind: str = "cell") -> list[CellRecord]:
        return [record for record in self.store.cells(self.file.stem) if record.tags["kind"] == kind]

    def copy(self, folder: Path) -> Ran:
        """The same store in another folder, for a test that adds to it. The study file and its plugins stay."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        (folder / "mlflow.db").unlink()
        with sqlite3.connect(self.folder / "mlflow.db") as old, sqlite3.connect(folder / "mlflow.db") as new:
            new.executescript("\n".join(old.iterdump()).replace(str(self.folder), str(folder)))
        return dataclasses.replace(self, folder=folder)
