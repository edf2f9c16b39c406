"""The paper's Tables 1 to 3 from all studies of a store that are parts of them, beside the published numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isnan, nan
from typing import Any

import pandas as pd

from tune_lt.documents import CONTENTS, Contents
from tune_lt.report.tables import published
from tune_lt.report.tables.differences import LEAST, PAIRS_TO_TEST
from tune_lt.report.tables.origins import provenance
from tune_lt.report.tables.published import Column
from tune_lt.report.tables.scoring import covered, scorings
from tune_lt.report.tables.sheet import NONE, TIES, Sheet, gains, marked, means, of_columns
from tune_lt.report.tables.summary import Runs, Scoring, Table, cells_at, records_of, runs_by_row
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


@dataclass(frozen=True)
class Part:
    """What a study has of one data set and imbalance factor: its ``runs`` by row and group, and their ``records``.

    ``as_paper``: whether it was trained on the paper's profile, all of it, with the paper's network. ``notes``: on what
    its intervals cover.
    """

    study: str
    as_paper: bool
    runs: Mapping[tuple[str, str], Runs]
    records: Sequence[CellRecord]
    notes: Sequence[str] = ()

    @property
    def missing(self) -> int:
        """How many runs are missing, of all rows together."""
        return sum(runs.missing for (_, group), runs in self.runs.items() if group == "Overall")


Parts = Mapping[Column, Part]  # by columns of the group Overall


def sheets(store: Store, scale: str = FULL) -> list[Sheet]:
    """Every table of the paper that some study of the store is a part of.

    A study says so with ``table`` in its file. What is missing is shown as missing, with the command that trains it.
    Of two studies with the same column the one with more runs has it; of equal ones the newer.
    """
    finished = store.finished_cells()
    found: dict[int, dict[Column, Part]] = {}
    for run in store.study_runs():  # the newest first
        tags = own_tags(run)
        if not tags.get("table") or tags.get("scale", FULL) != scale:
            continue
        content = store.read(run.info.run_id, CONTENTS, Contents.of)
        parts = found.setdefault(int(tags["table"]), {})
        own = _parts(tags, content, finished, scorings(store, content, finished)) if content else {}
        for column, part in own.items():
            if column not in parts or len(part.records) > len(parts[column].records):
                parts[column] = part
    return [sheet for table in sorted(found) if found[table] for sheet in _of_table(table, found[table], scale)]


def sheets_of(
    tags: Mapping[str, str],
    content: Contents,
    finished: Mapping[str, CellRecord],
    scoring: Mapping[float | None, Scoring],
) -> list[Sheet]:
    """As `sheets`, of one study alone with its own columns; none where it is no part of a table.

    ``tags`` (without their prefix) and ``content`` of cells.json are those of the study's run; ``finished``: as
    `Store.finished_cells` gives them; ``scoring``: by imbalance factor.
    """
    if not tags.get("table"):
        return []
    parts = _parts(tags, content, finished, scoring)
    return _of_table(int(tags["table"]), parts, tags.get("scale", FULL), alone=True)


def _command(name: str, scale: str) -> str:
    small = scale == SMALL
    own = name.removesuffix("-small") if small else name
    return command_line("run", own if own in STUDIES.values() else f"{own}.yaml", small)


def _parts(
    tags: Mapping[str, str],
    content: Contents,
    finished: Mapping[str, CellRecord],
    scoring: Mapping[float | None, Scoring],
) -> dict[Column, Part]:
    """What a study has of its table, by columns of the group Overall."""
    whole = (
        content.data["profile"] == "exponential" and content.data["largest"] is None and content.data["sealed"] is None
    ) and not content.data.get("resample")
    as_paper = whole and content.model == NETWORKS[int(tags["table"])]
    parts = {}
    for imbalance in content.columns:
        cells = cells_at(content.rows, imbalance)
        runs = runs_by_row(cells, finished, scoring=scoring[imbalance])
        records = records_of(cells, finished)
        parts[Column(tags["dataset"], imbalance)] = Part(tags["study"], as_paper, runs, records, covered(content))
    return parts


def _of_table(number: int, parts: Parts, scale: str, *, alone: bool = False) -> list[Sheet]:
    """The table of accuracies and, if anything can be compared, that of differences. ``alone``: as `_columns`."""
    every = published.values(number)
    other = {column for column, part in parts.items() if not part.as_paper}  # these cannot be compared with the paper
    printed = {key: value for key, value in every.items() if scale == FULL and key[1].bare not in other}
    ours = {
        (row, replace(column, group=group)): runs
        for column, part in parts.items()
        for (row, group), runs in part.runs.items()
    }
    rows = list(dict.fromkeys(row for row, _ in (*every, *ours)))
    columns = _columns(every, parts, alone)
    table = Table(rows, columns, ours, REFERENCE, pooled=True)
    name = f"table{number}" + ("" if scale == FULL else f"_{scale}")
    notes = [
        LEGEND,
        TIES,
        *([BESIDE] if printed else []),
        *_sources(parts, scale),
        *_missing(number, parts, columns, scale),
    ]
    found = [_accuracies(name, TITLES[number], table, printed, notes)]
    found += [_differences(name, TITLES[number], table)] if table.differences else []
    return [marked(sheet, scale) for sheet in found]


def _columns(printed: Iterable[tuple[str, Column]], parts: Parts, alone: bool) -> list[Column]:
    """The paper's columns in its order, then those that only we have; ``alone``: without those nobody has trained."""
    groups = dict.fromkeys(column.group for _, column in printed)
    extra = [replace(column, group=group) for column in parts for group in groups]
    every = dict.fromkeys([*(column for _, column in printed), *extra])
    return [column for column in every if not alone or column.bare in parts]


def _accuracies(
    name: str, title: str, table: Table[Column], printed: Mapping[tuple[str, Column], float], notes: Sequence[str]
) -> Sheet:
    """A line for each row, below it the paper's where it has one."""
    beside = {row: f"{row}, paper" for row in table.rows if any((row, column) in printed for column in table.columns)}
    lines = [line for row in table.rows for line in (row, beside.get(row)) if line]
    shown = []
    for column in table.columns:
        own = means(table, column, column.label, column.label.replace(" ", "\n"))
        texts = {**dict.fromkeys(table.rows, "missing"), **own.texts}
        texts |= {row: _count(runs) for row, runs in own.runs.items() if runs.missing}
        texts |= {line: _beside(printed.get((row, column)), own.runs.get(row)) for row, line in beside.items()}
        shown.append(replace(own, texts=texts))
    places = [(row, column) for row in table.rows for column in table.columns]
    data = pd.DataFrame([_line(*place, table.runs.get(place), printed.get(place)) for place in places])
    trained = {row for column in table.columns for row in table.complete(column)}
    return of_columns(name, title, lines, shown, data, notes, set(lines) - trained)


def _differences(name: str, title: str, table: Table[Column]) -> Sheet:
    """Each row's difference from plain cross-entropy, in the columns where there is one."""
    found = table.differences
    shown = list(dict.fromkeys(column for _, column in found))
    untested = all(isnan(one.p) for one in found.values())
    how = (
        f"no test with fewer than {PAIRS_TO_TEST}" if untested else "p: paired t-test, two-sided, Holm over this table"
    )
    places = [(row, column) for row in table.rows for column in shown if (row, column) in found]
    return of_columns(
        f"{name}_differences",
        f"{title}, against {REFERENCE}",
        list(dict.fromkeys(row for row, _ in places)),
        [gains(table, column, column.label, column.label.replace(" ", "\n")) for column in shown],
        pd.DataFrame([{"row": row, **vars(column), **vars(found[row, column])} for row, column in places]),
        [f"Points more than {REFERENCE}, paired by seeds [95 % interval, from {LEAST} pairs on]; {how}."],
    )


def _count(runs: Runs) -> str:
    return f"{len(runs.runs)} of {len(runs.runs) + runs.missing} runs"


def _beside(value: float | None, runs: Runs | None) -> str:
    """A published number, and how far our mean is above it."""
    if value is None:
        return NONE
    mean = runs.summary.mean if runs else nan
    return f"{value:.2f}" + ("" if isnan(mean) else f" ({mean - value:+.2f})".replace("-", "−"))


def _line(row: str, column: Column, runs: Runs | None, value: float | None) -> dict[str, Any]:
    """For the CSV file, in full precision."""
    own = runs or Runs(())
    mean = asdict(own.summary)
    return {
        "row": row,
        **vars(column),
        "n": mean.pop("n"),
        "expected": len(own.runs) + own.missing if runs else None,
        **mean,
        "published": value,
        "difference": mean["mean"] - value if value is not None else nan,
    }


def _sources(parts: Parts, scale: str) -> list[str]:
    """Which studies the columns are of, which of them are not the paper's, and where their runs come from."""
    studies = dict.fromkeys(part.study for part in parts.values())
    odd = dict.fromkeys(part.study for part in parts.values() if scale == FULL and not part.as_paper)
    notes = [f"Not beside the published numbers, for another profile, network or fewer images: {name}." for name in odd]
    records = [record for part in parts.values() for record in part.records]
    notes += dict.fromkeys(f"{part.study}: {note}" for part in parts.values() for note in part.notes)
    return [f"Studies: {', '.join(studies)}.", *notes, *([provenance(records)] if records else [])]


def _missing(number: int, parts: Parts, columns: Sequence[Column], scale: str) -> list[str]:
    """What is to be trained yet, each with its command."""
    counts: Counter[str] = Counter()
    for part in parts.values():
        counts[_command(part.study, scale)] += part.missing
    notes = [f"Missing: {count} runs; {command}" for command, count in counts.items() if count]
    absent: dict[str, list[str]] = {}
    for column in dict.fromkeys(column.bare for column in columns if column.bare not in parts):
        absent.setdefault(column.dataset, []).append("" if column.imbalance is None else f" {column.imbalance:g}")
    for dataset, factors in absent.items():
        notes.append(f"Missing: {dataset}{','.join(factors)}; {_command(STUDIES[number, dataset], scale)}")
    return notes
