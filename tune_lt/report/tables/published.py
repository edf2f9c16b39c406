"""The numbers of the paper's Tables 1 to 3, as printed there."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

GROUPS = {"many": "Many", "medium": "Medium", "few": "Few", "rare": "Rare", "overall": "Overall"}
ROWS = {"R": "margin", "A_ura": "weight_ura", "R+A_ura": "margin+weight_ura", "R+A_aura": "margin+weight_aura"}
DATASETS = {"imagenet_lt": "imagenet"}  # the paper's name -> ours, where they differ
AS_IT_IS = {"inaturalist2017"}  # its imbalance is its own: no profile is laid over it


@dataclass(frozen=True)
class Column:
    """A column of a paper's table: ``dataset`` and ``group`` by our names, ``imbalance`` None where it is as it is."""

    dataset: str
    imbalance: float | None
    group: str = "Overall"


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
