"""Every two rows of a study compared by seeds; the other tables compare each row with the reference alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pandas as pd

from tune_lt.report.tables.differences import LEAST, difference
from tune_lt.report.tables.sheet import Sheet, difference_text
from tune_lt.report.tables.summary import COLUMNS, Runs

MOST_ROWS = 12  # that is 66 pairs; nobody reads a longer table


def sheet(rows: Sequence[str], runs: Mapping[tuple[str, str], Runs], name: str, title: str) -> Sheet | None:
    """Each complete row minus each complete one before it, in every group of classes.

    None with fewer than two such rows, more than `MOST_ROWS`, or one run each. ``runs``: by row and group.
    """
    complete = [row for row in rows if not runs[row, "Overall"].missing]
    if not 2 <= len(complete) <= MOST_ROWS or len(runs[complete[0], "Overall"].runs) < 2:
        return None
    lines, data = [], []
    for less, row in itertools.combinations(complete, 2):
        found = {column: difference(runs[row, column].sample, runs[less, column].sample) for column in COLUMNS}
        lines.append((row, less, *map(difference_text, found.values())))
        for column, one in found.items():
            shown = {key: value for key, value in asdict(one).items() if key not in ("p", "holm")}
            data.append({"row": row, "less": less, "column": column, **shown})
    notes = (
        f"Points that the row is above the other, paired by seeds, with the 95 % interval (Student's t), from {LEAST} "
        "pairs on. No correction: of twenty intervals about one leaves 0 out by chance.",
    )
    return Sheet(name, title, ("Row", "less", *COLUMNS), tuple(lines), pd.DataFrame(data), notes, left=2)
