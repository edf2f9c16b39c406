"""Whole reports of studies recorded on a real store."""

from __future__ import annotations

import io
import random
from math import isnan, sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from rich.console import Console

from tune_lt.documents import Trial
from tune_lt.errors import InputError
from tune_lt.report import collect, formats, write
from tune_lt.report.tables.sheet import Sheet
from tune_lt.study import Study

pytestmark = pytest.mark.long

if TYPE_CHECKING:
    from tests.report.conftest import Recorded

CROSSED = "cross: {imbalance: [10, 100]}\n"


def lines(sheet: Sheet) -> dict[str, tuple[str, ...]]:
    return {line[0]: line[1:] for line in sheet.lines}


def named(collected: collect.Report) -> dict[str, Sheet]:
    return {sheet.name: sheet for sheet in (*collected.tables, *collected.details)}


def scores(seed: int) -> dict[tuple[str, float, int], float]:
    draw = random.Random(seed)
    gain = {"softmax": 0.0, "focal": 0.02, "ghm_cwap": 0.1}
    return {
        (row, factor, at): 0.6 - factor / 1000 + gain[row] + draw.gauss(0, 0.02)
        for row in gain
        for factor in (10.0, 100.0)
        for at in range(5)
    }


def test_a_search_without_rows_is_a_report(
    recorded: Recorded, alphas: Study, alpha_trials: list[Trial], tmp_path: Path
) -> None:
    """The driver records no cells.json where there are no rows."""
    recorded.search(alphas, alpha_trials)
    collected = collect.collect(recorded.store, "alphas")
    assert [sheet.name for sheet in collected.tables] == ["search_ghm_cwap"]
    files = [file.name for file in write.write_report(collected, tmp_path / "out")]
    assert files == [
        "search_ghm_cwap.md", "search_ghm_cwap.tex", "search_ghm_cwap.csv",
        "trials_ghm_cwap.md", "trials_ghm_cwap.tex", "trials_ghm_cwap.csv",
        "report.html",
    ]  # fmt: skip
    assert all((tmp_path / "out" / file).stat().st_size for file in files)


def test_why_there_is_nothing_to_report_is_said(recorded: Recorded, alphas: Study, alpha_trials: list[Trial]) -> None:
    store = recorded.store
    parent = store.ensure_parent(alphas.name)

    def why(study: str = "alphas") -> str:
        with pytest.raises(InputError) as caught:
            collect.collect(store, study)
        return str(caught.value)

    assert "no study 'other' in" in why("other")
    assert why("other").endswith("studies there: alphas")
    assert "no search of it has ended" in why()
    recorded.rows(alphas, recorded.search(alphas, alpha_trials), lambda *cell: 0.5)
    store.begin(parent, alphas.text, {"tune_lt.dataset": "digits"})
    collect.collect(store, "alphas")
    store.client.rename_experiment(store.experiment("alphas"), "Alphas of 2024")
    collect.collect(store, "alphas")
    store.client.delete_run(parent)
    assert f"mlflow runs restore --run-id {parent} restores it" in why()
    store.client.restore_run(parent)
    store.client.delete_experiment(store.experiment("alphas"))
    assert "the experiment of the study 'alphas' was deleted from the store" in why()
    store.client.restore_experiment(store.home("alphas").experiment_id)
    collect.collect(store, "alphas")
    place = recorded.folder / "mlartifacts" / "alphas"
    place.rename(place.with_name("elsewhere"))
    assert f"none of its files are in file://{place}" in why()


def test_what_was_found_stands_before_the_rows_trained_with_it(
    recorded: Recorded, alphas: Study, alpha_trials: list[Trial]
) -> None:
    rows = "rows: {softmax: {loss: {name: softmax}}, best mean: {}, plain: {loss: {best: one_standard_error}}}\n"
    study = recorded.study(alphas.text.replace("seeds: [0, 1, 2, 3, 4]", "seeds: [0, 1]") + rows)
    found = recorded.search(study, alpha_trials)
    recorded.rows(study, found, lambda row, factor, data, init: 0.5 if row == "softmax" else 0.6)
    collected = collect.collect(recorded.store, "alphas")
    assert [sheet.name for sheet in collected.tables] == ["search_ghm_cwap", "ablation", "baselines", "recommendation"]
    assert set(collected.figures) == {"accuracy_by_class_size"}
    ablation = named(collected)["ablation"]
    assert "Searched on held-out training images (ghm_cwap): alpha 0.6." in ablation.notes
    assert "The plainest of them within one standard error of the best: alpha 1." in ablation.notes
    only = "Only ghm_cwap was searched; the other losses run as the study file has them."
    assert only in named(collected)["baselines"].notes
    assert lines(ablation)["best mean"][6] == "+10.00"
    assert any("too few seeds for an interval" in note for note in ablation.notes)


def test_rows_by_imbalance_against_plain_loops(recorded: Recorded, three_rows: str) -> None:
    study = recorded.study(three_rows + CROSSED)
    score = scores(0)
    recorded.rows(study, {}, lambda row, factor, data, init: score[row, factor or 0, data])
    collected = collect.collect(recorded.store, "rows")
    assert [sheet.name for sheet in collected.tables] == ["by_imbalance", "baselines_10", "baselines_100"]
    sheet = collected.tables[0]
    assert sheet.header == ("Method", "10", "100", "Δ 10 [95 % CI]", "Δ 100 [95 % CI]", "Runs")
    data = pd.read_csv(io.StringIO(formats.csv(sheet))).set_index(["row", "imbalance"])
    tests = {}
    for row in ("softmax", "focal", "ghm_cwap"):
        for factor in (10.0, 100.0):
            values = [100 * score[row, factor, seed] for seed in range(5)]
            mean = sum(values) / 5
            std = sqrt(sum((value - mean) ** 2 for value in values) / 4)
            line = data.loc[(row, factor)]
            assert (line["mean"], line["std"], line["n"]) == pytest.approx((mean, std, 5))
            assert lines(sheet)[row][0 if factor == 10 else 1] == f"{mean:.2f} ± {std:.2f}"
            if row == "softmax":
                assert isnan(line["difference"])
                continue
            gains = [100 * (score[row, factor, seed] - score["softmax", factor, seed]) for seed in range(5)]
            gain = sum(gains) / 5
            error = sqrt(sum((one - gain) ** 2 for one in gains) / 4) / sqrt(5)
            assert line["difference"] == pytest.approx(gain)
            ends = (gain - 2.776445 * error, gain + 2.776445 * error)  # t(0.975, 4)
            assert (line["difference_low"], line["difference_high"]) == pytest.approx(ends, rel=1e-5)
            assert line["pairs"] == 5
            tests[row, factor] = line["p"]
    largest = 0.0
    for rank, (key, p) in enumerate(sorted(tests.items(), key=lambda item: item[1])):
        largest = max(largest, min(1, (4 - rank) * p))
        assert data.loc[key, "p_holm"] == pytest.approx(largest)
        assert (", p < 0.001" if largest < 0.001 else f", p {largest:.3f}") in lines(sheet)[key[0]][
            2 if key[1] == 10 else 3
        ]
    assert [line[-1] for line in sheet.lines] == ["5", "5", "5"]
    assert lines(sheet)["softmax"][2:4] == ("—", "—")


def test_missing_cells_are_counted_and_never_averaged(recorded: Recorded, three_rows: str) -> None:
    """focal lacks a run at 100, softmax one at 10: no difference at 10 at all, none of focal's at 100."""
    study = recorded.study(three_rows + CROSSED)
    score = scores(1)
    gone = {("focal", 100.0, 3), ("softmax", 10.0, 0)}
    recorded.rows(
        study,
        {},
        lambda row, factor, data, init: None if (row, factor, data) in gone else score[row, factor or 0, data],
    )
    sheet = collect.collect(recorded.store, "rows").tables[0]
    assert sheet.header == ("Method", "10", "100", "Δ 100 [95 % CI]", "Runs")
    assert lines(sheet)["focal"][1:] == ("—", "—", "5/4 of 5 runs")
    assert (lines(sheet)["softmax"][0], lines(sheet)["softmax"][-1]) == ("—", "4/5 of 5 runs")
    assert lines(sheet)["focal"][0] != "—"
    assert lines(sheet)["ghm_cwap"][2].startswith("+")
    assert "2 of 30 runs are missing; where one is, nothing is averaged." in sheet.notes
    data = pd.read_csv(io.StringIO(formats.csv(sheet))).set_index(["row", "imbalance"])
    assert isnan(data.loc[("focal", 100), "mean"])
    assert data.loc[("focal", 100), "n"] == 4
    one = data.loc[("ghm_cwap", 100)]
    assert one["p_holm"] == one["p"]  # the only comparison there is


def test_crossed_seeds_count_by_their_data_seeds_and_that_is_said(recorded: Recorded, three_rows: str) -> None:
    study = recorded.study(three_rows.replace("[0, 1, 2, 3, 4]", "{data: [0, 1, 2], init: [0, 1]}"))
    base = {(data, init): 0.5 + 0.1 * data + 0.03 * init for data in range(3) for init in range(2)}
    recorded.rows(study, {}, lambda row, factor, data, init: base[data, init] + (0 if row == "softmax" else 0.02))
    (sheet,) = collect.collect(recorded.store, "rows").tables
    assert lines(sheet)["focal"][6] == "+2.00 [+1.28, +2.72]"  # ± t(0.975, 2) · half of one of 300 images; no test
    note = (
        "6 runs on 3 sub-samples: for intervals, tests and ≈ the runs on a sub-sample count as one, their mean, so n "
    )
    assert note + "is 3." in sheet.notes
    assert any("with fewer than 5 pairs nothing is tested" in note for note in sheet.notes)


FIXED = "All runs have the same training images. So intervals, tests and ≈ cover initialisation, order and augmentation"


@pytest.mark.parametrize(
    ("seeds", "note", "error"),
    [
        ("[0, 1, 2, 3, 4]", FIXED, sqrt(2.5 / 5)),
        (
            "{resample: [0, 1, 2, 3, 4]}",
            "Each data seed draws the training images of every class anew",
            sqrt(2.5 * 1.2),
        ),
    ],
)
def test_what_the_seeds_of_all_images_of_a_folder_cover(
    recorded: Recorded, three_rows: str, seeds: str, note: str, error: float
) -> None:
    """Differences of 1 to 5 points, s² = 2.5; a bootstrap shares its images (`test_differences.py`)."""
    text = three_rows.replace("name: digits, imbalance: 20", "name: digits").replace("[0, 1, 2, 3, 4]", seeds)
    study = recorded.study(text)
    recorded.rows(study, {}, lambda row, factor, data, init: 0.5 + (0.0 if row == "softmax" else 0.01 * (init + 1)))
    (sheet,) = collect.collect(recorded.store, "rows").tables
    half = 2.776445 * error
    assert lines(sheet)["focal"][6].startswith(f"+3.00 [{3 - half:+.2f}, {3 + half:+.2f}]".replace("-", "−"))
    assert [one for one in sheet.notes if one.startswith(note)]
    every = named(collect.collect(recorded.store, "rows"))["pairs"]
    assert lines(every)["focal"][-1].startswith(f"+3.00 [{3 - half:+.2f}, {3 + half:+.2f}]".replace("-", "−"))


def test_a_base_row_is_the_reference_where_there_is_no_softmax(recorded: Recorded, three_rows: str) -> None:
    study = recorded.study(three_rows.replace("softmax: {loss: {name: softmax}}", "base: {loss: {gamma: 0.0}}"))
    recorded.rows(study, {}, lambda row, factor, data, init: 0.5 + 0.01 * data + (0.1 if row == "ghm_cwap" else 0.0))
    sheets = named(collect.collect(recorded.store, "rows"))
    assert "Δ Overall vs base [95 % CI]" in sheets["ablation"].header
    assert "Δ Overall vs focal [95 % CI]" in sheets["baselines"].header  # the first of those that are there


def test_several_searches_are_compared_and_each_has_files_of_its_own(
    recorded: Recorded, alpha_trials: list[Trial], tmp_path: Path
) -> None:
    text = """\
name: compared
data: {name: digits, imbalance: 20, validation: {folds: 5}}
model: {name: resnet8, width: 4}
recipe: {epochs: 4, batch_size: 64}
loss: {name: ghm_cwap, alpha: {uniform: [0.3, 1.0]}}
search: {trials: 4}
compare: {losses: [focal]}
seeds: [0]
"""
    study = recorded.study(text)
    other = [Trial({"loss/gamma": 1.0}, "complete", {"val/balanced": 0.5}, {"val/balanced": [0.5]}, 4)]
    found = recorded.search(study, alpha_trials, "ghm_cwap") | recorded.search(study, other, "focal")
    recorded.rows(study, found, lambda row, factor, data, init: 0.5)
    collected = collect.collect(recorded.store, "compared")
    assert collected.tables[0].name == "searches"
    names = ["search_ghm_cwap", "search_focal", "trials_ghm_cwap", "trials_focal"]
    assert [sheet.name for sheet in collected.details][: len(names)] == names
    shared = "Searched on held-out training images: focal, ghm_cwap; see the table of the searches."
    assert shared in collected.tables[1].notes
    files = {file.name for file in write.write_report(collected, tmp_path / "out")}
    assert {"searches.csv", "search_focal.md", "search_ghm_cwap.tex", "accuracy_by_class_size.pdf"} <= files
    for sheet in named(collected).values():
        console = Console(file=io.StringIO(), width=80)
        console.print(formats.terminal(sheet, console))
        printed = console.file.getvalue()  # type: ignore[attr-defined]
        assert "…" not in printed
        assert "nan" not in printed + formats.markdown(sheet) + formats.latex(sheet)


def test_every_two_rows_against_plain_loops(recorded: Recorded, three_rows: str) -> None:
    study = recorded.study(three_rows + CROSSED)
    score = scores(1)
    recorded.rows(study, {}, lambda row, factor, data, init: score[row, factor or 0, data])
    sheets = named(collect.collect(recorded.store, "rows"))
    for factor in (10.0, 100.0):
        sheet = sheets[f"pairs_{factor:g}"]
        data = sheet.data.set_index(["row", "less", "column"])
        assert [line[:2] for line in sheet.lines] == [
            ("focal", "softmax"),
            ("ghm_cwap", "softmax"),
            ("ghm_cwap", "focal"),
        ]
        for row, less, *texts in sheet.lines:
            gains = [100 * (score[row, factor, seed] - score[less, factor, seed]) for seed in range(5)]
            mean = sum(gains) / 5
            half = 2.776445 * sqrt(sum((one - mean) ** 2 for one in gains) / 4) / sqrt(5)  # t(0.975, 4)
            assert data.loc[(row, less, "Rare"), "mean"] == pytest.approx(mean)
            assert data.loc[(row, less, "Rare"), "high"] == pytest.approx(mean + half, rel=1e-5)
            expected = f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]".replace("-", "−")
            assert texts == [expected] * 5  # all groups have one score here


def test_an_incomplete_row_is_in_no_pair(recorded: Recorded, three_rows: str) -> None:
    study = recorded.study(three_rows)
    recorded.rows(study, {}, lambda row, factor, data, init: None if (row, data) == ("focal", 4) else 0.5 + data / 100)
    pairs = named(collect.collect(recorded.store, "rows"))["pairs"]
    assert [line[:2] for line in pairs.lines] == [("ghm_cwap", "softmax")]
    assert pairs.lines[0][2] == "+0.00 [−1.39, +1.39]"  # ± t(0.975, 4) · half of one of the 100 images of Many


def test_without_plain_cross_entropy_the_first_row_is_what_the_others_are_compared_with(
    recorded: Recorded, three_rows: str
) -> None:
    study = recorded.study(three_rows.replace("softmax: {loss: {name: softmax}}", "seesaw: {loss: {name: seesaw}}"))
    gain = {"seesaw": 0.5, "focal": 0.52, "ghm_cwap": 0.6}
    recorded.rows(study, {}, lambda row, factor, data, init: gain[row])
    (baselines,) = [one for one in collect.collect(recorded.store, "rows").tables if one.name == "baselines"]
    assert "Δ Overall vs seesaw [95 % CI]" in baselines.header
    assert lines(baselines)["ghm_cwap"][6].startswith("+10.00 [+9.54, +10.46], p < 0.001")  # of 300 images
    assert lines(baselines)["seesaw"][6] == "—"


def test_a_first_row_that_is_the_searched_loss_is_drawn_once(recorded: Recorded, three_rows: str) -> None:
    rows = "  ghm_cwap: {}\n  focal: {loss: {name: focal}}\n"
    study = recorded.study(three_rows[: three_rows.index("  softmax:")] + rows + "seeds: [0, 1]\n")
    recorded.rows(study, {}, lambda row, factor, data, init: 0.5)
    assert collect.collect(recorded.store, "rows").shown == ("ghm_cwap", "focal")
