"""Every two rows of a table compared by seeds: what a study answers beside the differences from its reference."""

from __future__ import annotations

import itertools
from dataclasses import asdict

import pandas as pd

from tune_lt.report.tables.differences import difference
from tune_lt.report.tables.sheet import Sheet, difference_text
from tune_lt.report.tables.summary import COLUMNS, Table, by_seeds

MOST_ROWS = 12  # 66 pairs: more are a table that nobody reads


def sheet(frame: pd.DataFrame, table: Table, name: str, title: str) -> Sheet | None:
    """Each complete row of the ``table`` less each one before it, in every column of it.

    None with fewer than two rows, more than `MOST_ROWS`, or a single pair of runs. ``frame``: as `tables` has it.
    """
    rows = [row for row in table.spec.rows if not table.missing.get(row)]
    if not 2 <= len(rows) <= MOST_ROWS or table.spec.expected < 2:
        return None
    values = {(row, column): by_seeds(frame, row, [source]) for row in rows for column, source in COLUMNS.items()}
    lines, data = [], []
    for less, row in itertools.combinations(rows, 2):
        found = {column: difference(values[row, column], values[less, column]) for column in COLUMNS}
        lines.append((row, less, *map(difference_text, found.values())))
        for column, one in found.items():
            shown = {key: value for key, value in asdict(one).items() if key not in ("p", "holm")}
            data.append({"row": row, "less": less, "column": column, **shown})
    notes = (
        "Points that the row is above the other, over runs paired by data seed and init seed, with the 95 % interval "
        "(Student's t). No correction: of twenty intervals about one leaves 0 out by chance.",
    )
    return Sheet(name, title, ("Row", "less", *COLUMNS), tuple(lines), pd.DataFrame(data), notes, left=2)
