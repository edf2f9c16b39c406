"""The paper's Tables 1 to 3 from all studies of a store that are parts of them, beside the published numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from typing import Any

import pandas as pd

from tune_lt.documents import CONTENTS, Contents
from tune_lt.report.tables import published
from tune_lt.report.tables.differences import Difference, Pair, corrected, difference, tied
from tune_lt.report.tables.origins import provenance
from tune_lt.report.tables.published import Column
from tune_lt.report.tables.sheet import NONE, TIED, TIES, Behind, Sheet, difference_text, marked, plus_minus
from tune_lt.report.tables.summary import COLUMNS, Scored, Summary, best, summarise
from tune_lt.store import CellRecord, Store, own_tags
from tune_lt.study import FULL, SMALL, command_line
from tune_lt.study.rows import REFERENCE

STUDIES = {  # the bundled study that fills a part of a table
    (1, "cifar10"): "table1_cifar10",
    (1, "cifar100"): "table1_cifar100",
    (1, "tiny_imagenet"): "table1_tiny_imagenet",
    (2, "imagenet"): "table2_imagenet_lt",
    (2, "inaturalist2017"): "table2_inaturalist2017",
    (3, "imagenet"): "table3_ablation",
}
NETWORKS = {1: "resnet32", 2: "resnet50", 3: "resnet50"}
TITLES = {
    1: "Table 1: top-1 accuracy by loss, data set and imbalance factor",
    2: "Table 2: top-1 accuracy by loss and group of classes",
    3: "Table 3: ablation by group of classes",
}
LEGEND = (
    "Accuracy in %: mean ± standard deviation over the runs (seeds) of each cell; bold: the highest mean of a column."
)
BESIDE = "Lines 'paper': the published number, one run, and in brackets ours minus it."


@dataclass
class Part:
    """What the store has of one place in a table: its runs, how many are ``expected``, the ``study`` they are of.

    ``as_paper``: whether it was trained on the paper's profile, all of it, with the paper's network.
    """

    expected: int
    study: str
    as_paper: bool
    runs: list[tuple[CellRecord, Pair]] = field(default_factory=list)

    def values(self, group: str) -> dict[Pair, float]:
        return {pair: record.metrics.get(COLUMNS[group], nan) for record, pair in self.runs}

    def scored(self, group: str) -> tuple[Scored, ...]:
        values = self.values(group)
        return tuple(Scored.of(run.run_id, run.experiment, pair, values[pair]) for run, pair in self.runs)

    @property
    def whole(self) -> bool:
        return len(self.runs) >= self.expected


Cells = Mapping[tuple[str, Column], Part]  # by row, and column without its group


def sheets(store: Store, scale: str = FULL) -> list[Sheet]:
    """Every table of the paper that some study of the store is a part of.

    A study says so with ``table`` in its file. What is missing is shown as missing, with the command that fills it.
    """
    finished = store.finished_cells()
    found: dict[int, dict[tuple[str, Column], Part]] = {}
    for run in store.study_runs():
        tags = own_tags(run)
        if tags.get("table") and tags.get("scale", FULL) == scale:
            content = store.read(run.info.run_id, CONTENTS, Contents.of)
            if content:
                _take_over(found.setdefault(int(tags["table"]), {}), _parts(tags, content, finished))
    return [sheet for table in sorted(found) for sheet in _of_table(table, found[table], scale, alone=False)]


def sheets_of(tags: Mapping[str, str], content: Contents, finished: Mapping[str, CellRecord]) -> list[Sheet]:
    """As `sheets`, of one study alone with its own columns; none where it is no part of a table.

    ``tags`` (no prefix) and ``content`` of cells.json are those of its run, ``finished`` is what `Store.finished_cells`
    gives.
    """
    if not tags.get("table"):
        return []
    cells = _parts(tags, content, finished)
    return _of_table(int(tags["table"]), cells, tags.get("scale", FULL), alone=True)


def _command(name: str, scale: str) -> str:
    small = scale == SMALL
    own = name.removesuffix("-small") if small else name
    return command_line("run", own if own in STUDIES.values() else f"{own}.yaml", small)


def _parts(
    tags: Mapping[str, str], content: Contents, finished: Mapping[str, CellRecord]
) -> dict[tuple[str, Column], Part]:
    """What a study has of its table."""
    data = content.data
    whole = data["profile"] == "exponential" and data["head"] is None and data["sealed"] is None
    as_paper = whole and content.model == NETWORKS[int(tags["table"])]
    cells: dict[tuple[str, Column], Part] = {}
    for row, entries in content.rows.items():
        for entry in entries:
            column = Column(tags["dataset"], entry.imbalance)
            part = cells.setdefault((row, column), Part(0, tags["study"], as_paper))
            part.expected += 1
            if entry.fingerprint in finished:
                part.runs.append((finished[entry.fingerprint], (entry.data_seed, entry.init_seed)))
    return cells


def _take_over(cells: dict[tuple[str, Column], Part], own: Mapping[tuple[str, Column], Part]) -> None:
    """Of two studies with the same column the one with more runs has it, of equal ones the newer, which comes first."""
    for column in {column for _, column in own}:
        both = [{key: part for key, part in one.items() if key[1] == column} for one in (cells, own)]
        before, now = (sum(len(part.runs) for part in some.values()) for some in both)
        if both[0] and now <= before:
            continue
        for key in both[0]:
            del cells[key]
        cells.update(both[1])


def _of_table(table: int, cells: Cells, scale: str, *, alone: bool) -> list[Sheet]:
    every = published.values(table)
    other = {column for (_, column), part in cells.items() if not part.as_paper}  # nothing to compare it with
    printed = {key: value for key, value in every.items() if scale == FULL and _bare(key[1]) not in other}
    columns = _columns(every, cells, alone)
    rows = list(dict.fromkeys([*(row for row, _ in every), *(row for row, _ in cells)]))
    name = f"table{table}" + ("" if scale == FULL else f"_{scale}")
    whole = {(row, column): cells.get((row, _bare(column))) for row in rows for column in columns}
    means = {key: summarise(part.values(key[1].group).values()) for key, part in whole.items() if part and part.whole}
    gains = _gains(whole, rows, columns)
    notes = (
        LEGEND,
        TIES,
        *([BESIDE] if printed else []),
        *_sources(cells, scale),
        *_missing(table, cells, columns, scale),
    )
    found = [_accuracies(name, TITLES[table], rows, columns, whole, means, printed, notes)]
    found += [_differences(name, TITLES[table], rows, columns, gains)] if gains else []
    return [marked(sheet, scale) for sheet in found]


def _bare(column: Column) -> Column:
    return Column(column.dataset, column.imbalance)


def _columns(printed: Iterable[tuple[str, Column]], cells: Cells, alone: bool) -> list[Column]:
    """The paper's columns in its order, then those that only we have; ``alone``: without those nobody has trained."""
    groups = list(dict.fromkeys(column.group for _, column in printed))
    ours = dict.fromkeys(column for _, column in cells)
    extra = [Column(bare.dataset, bare.imbalance, group) for bare in ours for group in groups]
    every = dict.fromkeys([*(column for _, column in printed), *extra])
    return [column for column in every if not alone or _bare(column) in ours]


def _gains(
    whole: Mapping[tuple[str, Column], Part | None], rows: Sequence[str], columns: Sequence[Column]
) -> dict[tuple[str, Column], Difference]:
    """Every complete cell minus the reference's, run by run; Holm's correction over the whole table."""
    found = {}
    for column in columns:
        base = whole.get((REFERENCE, column))
        for row in rows:
            part = whole[row, column]
            if row == REFERENCE or not (base and base.whole and part and part.whole):
                continue
            own, reference = part.values(column.group), base.values(column.group)
            if own.keys() == reference.keys():
                found[row, column] = difference(own, reference)
    return corrected(found)


def _accuracies(
    name: str,
    title: str,
    rows: Sequence[str],
    columns: Sequence[Column],
    whole: Mapping[tuple[str, Column], Part | None],
    means: Mapping[tuple[str, Column], Summary],
    printed: Mapping[tuple[str, Column], float],
    notes: Sequence[str],
) -> Sheet:
    """A line for each row, below it the paper's where it has one."""
    lines: list[tuple[str, ...]] = []
    bold, dim, behind, data = set(), set(), {}, []
    equals = {column: _equals(column, rows, whole, means) for column in columns}
    for row in rows:
        here = len(lines)
        texts = []
        for index, column in enumerate(columns, start=1):
            part, mean = whole[row, column], means.get((row, column))
            top, same = equals[column]
            texts.append(_shown(part, mean) + (f" {TIED}" if row in same else ""))
            if row in top:
                bold.add((here, index))
            if part:
                behind[here, index] = Behind(part.scored(column.group), missing=part.expected - len(part.runs))
            data.append(_line(row, column, part, mean, printed.get((row, column))))
        lines.append((row, *texts))
        if not any((row, column) in means for column in columns):
            dim.add(here)
        if any((row, column) in printed for column in columns):
            dim.add(len(lines))
            lines.append((f"{row}, paper", *(_beside(printed, means, row, column) for column in columns)))
    return Sheet(
        name,
        title,
        ("Method", *map(_label, columns)),
        tuple(lines),
        pd.DataFrame(data),
        tuple(notes),
        bold=frozenset(bold),
        dim=frozenset(dim),
        narrow={_label(column): _label(column).replace(" ", "\n") for column in columns},
        behind=behind,
    )


def _differences(
    name: str,
    title: str,
    rows: Sequence[str],
    columns: Sequence[Column],
    gains: Mapping[tuple[str, Column], Difference],
) -> Sheet:
    some = [row for row in rows if any((row, column) in gains for column in columns)]
    shown = [column for column in columns if any((row, column) in gains for row in rows)]
    untested = all(isnan(one.p) for one in gains.values())
    how = "no test with fewer than 5 pairs" if untested else "p: paired t-test, two-sided, Holm over this table"
    data = [
        {"row": row, **vars(column), **vars(gains[row, column])}
        for row in some
        for column in shown
        if (row, column) in gains
    ]
    return Sheet(
        f"{name}_differences",
        f"{title}, against {REFERENCE}",
        ("Method", *map(_label, shown)),
        tuple((row, *(difference_text(gains.get((row, column))) for column in shown)) for row in some),
        pd.DataFrame(data),
        (f"Points more than {REFERENCE} [95 % interval], over runs paired by data seed and init seed; {how}.",),
        narrow={_label(column): _label(column).replace(" ", "\n") for column in shown},
    )


def _label(column: Column) -> str:
    imbalance = "" if column.imbalance is None else f" {column.imbalance:g}"
    return f"{column.dataset}{imbalance}" + ("" if column.group == "Overall" and imbalance else f" {column.group}")


def _equals(
    column: Column,
    rows: Sequence[str],
    whole: Mapping[tuple[str, Column], Part | None],
    means: Mapping[tuple[str, Column], Summary],
) -> tuple[list[str], set[str]]:
    """The rows with the highest printed mean of a column, and those that cannot be told from the first of them."""
    known = {row: means[row, column].mean for row in rows if (row, column) in means}
    top = best(known)
    values = {row: part.values(column.group) for row in known if (part := whole[row, column])}
    return top, tied(values, top[0]) - set(top) if top else set()


def _shown(part: Part | None, mean: Summary | None) -> str:
    if part is None:
        return "missing"
    return f"{len(part.runs)} of {part.expected} runs" if mean is None else plus_minus(mean.mean, mean.std)


def _beside(
    printed: Mapping[tuple[str, Column], float],
    means: Mapping[tuple[str, Column], Summary],
    row: str,
    column: Column,
) -> str:
    value, mean = printed.get((row, column)), means.get((row, column))
    if value is None:
        return NONE
    gain = "" if mean is None or isnan(mean.mean) else f" ({mean.mean - value:+.2f})".replace("-", "−")
    return f"{value:.2f}{gain}"


def _line(row: str, column: Column, part: Part | None, mean: Summary | None, value: float | None) -> dict[str, Any]:
    """For the CSV file, in full precision."""
    one = {"row": row, **vars(column), "n": len(part.runs) if part else 0, "expected": part.expected if part else None}
    own = mean.mean if mean else nan
    one |= {"mean": own, "std": mean.std if mean else nan}
    one |= {"low": mean.low if mean else nan, "high": mean.high if mean else nan}
    return one | {"published": value, "difference": own - value if value is not None else nan}


def _sources(cells: Cells, scale: str) -> list[str]:
    """Which studies the columns are of, which of them are not the paper's, and where their runs come from."""
    parts = list(cells.values())
    studies = dict.fromkeys(part.study for part in parts)
    odd = [] if scale != FULL else dict.fromkeys(part.study for part in parts if not part.as_paper)
    notes = [f"Not beside the published numbers, for another profile, network or fewer images: {name}." for name in odd]
    records = [record for part in parts for record, _ in part.runs]
    return [f"Studies: {', '.join(studies)}.", *notes, *([provenance(records)] if records else [])]


def _missing(table: int, cells: Cells, columns: Sequence[Column], scale: str) -> list[str]:
    """What is to be trained yet, each with its command."""
    some: dict[str, int] = {}
    for part in cells.values():
        if not part.whole:
            command = _command(part.study, scale)
            some[command] = some.get(command, 0) + part.expected - len(part.runs)
    notes = [f"Missing: {count} runs; {command}" for command, count in some.items()]
    ours = {column for _, column in cells}
    absent: dict[str, list[str]] = {}
    for column in dict.fromkeys(_bare(column) for column in columns if _bare(column) not in ours):
        absent.setdefault(column.dataset, []).append("" if column.imbalance is None else f" {column.imbalance:g}")
    for dataset, factors in absent.items():
        notes.append(f"Missing: {dataset}{','.join(factors)}; {_command(STUDIES[table, dataset], scale)}")
    return notes
