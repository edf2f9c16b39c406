"""The numbers of the paper's Tables 1 to 3, as printed there."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

GROUPS = {"many": "Many", "medium": "Medium", "few": "Few", "rare": "Rare", "overall": "Overall"}
ROWS = {"R": "margin", "A_ura": "weight_ura", "R+A_ura": "margin+weight_ura", "R+A_aura": "margin+weight_aura"}
DATASETS = {"imagenet_lt": "imagenet"}  # the paper's name -> ours, where they differ
AS_IT_IS = {"inaturalist2017"}  # its imbalance is its own: no other profile is applied


@dataclass(frozen=True)
class Column:
    """A column of a paper's table: ``dataset`` and ``group`` by our names, ``imbalance`` None where it is as it is."""

    dataset: str
    imbalance: float | None
    group: str = "Overall"

    @property
    def bare(self) -> Column:
        """The same data set and imbalance factor, of all classes together."""
        return replace(self, group="Overall")

    @property
    def label(self) -> str:
        """The column's name in a table: cifar10 100, imagenet 100 Many."""
        factor = [] if self.imbalance is None else [f"{self.imbalance:g}"]
        group = [] if factor and self.group == "Overall" else [self.group]
        return " ".join([self.dataset, *factor, *group])


@cache
def values(table: int) -> dict[tuple[str, Column], float]:
    """Top-1 accuracy in percent of a row (our name) and column of table 1, 2 or 3, in the paper's order."""
    text = resources.files("tune_lt.report.tables").joinpath("paper_tables.csv").read_text(encoding="utf-8")
    found = {}
    for line in csv.DictReader(text.splitlines()):
        if line["table"] == str(table):
            dataset = DATASETS.get(line["dataset"], line["dataset"])
            imbalance = None if dataset in AS_IT_IS else float(line["imbalance_factor"])
            column = Column(dataset, imbalance, GROUPS[line["group"]])
            found[ROWS.get(line["method"], line["method"]), column] = float(line["top1_percent"])
    return found
