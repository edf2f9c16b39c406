"""What the figure of accuracy by class size shows, read from its objects."""

from __future__ import annotations

import io
from collections.abc import Callable
from math import nan
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from svg import texts

from tune_lt.report.figures.classes import accuracy_by_class_size

pytestmark = pytest.mark.filterwarnings("error")


def ys(figure: Figure) -> list[list[float]]:
    return [np.asarray(line.get_ydata(), dtype=float).tolist() for line in figure.axes[0].lines]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def ticks(figure: Figure) -> list[str]:
    return [tick.get_text() for tick in figure.axes[0].get_xticklabels()]


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def test_lines_are_means_over_runs_from_head_to_tail(frame: pd.DataFrame) -> None:
    """Classes lynx 4, cat 100, dog 20 images, so the order is cat, dog, lynx.

    softmax per class (cat 0.9, dog 0.5/0.6/0.7, lynx half of it) → 90, 60, 30; margin+weight_ura → 90, 80, 40.
    """
    figure = accuracy_by_class_size(frame, ["softmax", "margin+weight_ura"], "digits")
    assert ys(figure) == [pytest.approx([90, 60, 30]), pytest.approx([90, 80, 40])]
    assert legend(figure) == ["softmax (3 runs)", "margin+weight_ura (3 runs)"]
    assert ticks(figure) == ["100\ncat", "20\ndog", "4\nlynx"]
    assert figure.get_suptitle() == "digits"


def test_the_band_is_one_standard_deviation(frame: pd.DataFrame) -> None:
    """softmax on dog: 50, 60, 70 → 60 ± 10; on lynx 25, 30, 35 → 30 ± 5; on cat no spread."""
    figure = accuracy_by_class_size(frame, ["softmax"], "digits")
    (band,) = [c for c in figure.axes[0].collections if isinstance(c, PolyCollection)]
    corners = {(x, y) for x, y in np.asarray(band.get_paths()[0].vertices).round(6).tolist()}
    assert corners == {(0, 90), (1, 50), (1, 70), (2, 25), (2, 35)}


def test_class_sizes_are_bars_on_a_logarithmic_axis_behind_the_lines(frame: pd.DataFrame) -> None:
    axes, sizes = accuracy_by_class_size(frame, ["softmax"], "digits").axes
    heights = [patch.get_height() for patch in sizes.patches if isinstance(patch, Rectangle)]
    assert heights == [100, 20, 4]
    assert sizes.get_yscale() == "log"
    assert axes.get_zorder() > sizes.get_zorder()


def test_one_run_has_a_line_and_no_band(frame: pd.DataFrame) -> None:
    figure = accuracy_by_class_size(frame, ["margin"], "digits")
    assert legend(figure) == ["margin (1 run)"]
    assert not figure.axes[0].collections


def test_a_row_without_runs_is_named_and_not_drawn(frame: pd.DataFrame) -> None:
    figure = accuracy_by_class_size(frame, ["softmax", "weight_ura"], "digits")
    assert legend(figure) == ["softmax (3 runs)", "weight_ura (no runs)"]
    assert np.isnan(ys(figure)[1]).all()


def test_repeated_runs_count_once(frame: pd.DataFrame, make_line: Callable[..., dict[str, Any]]) -> None:
    again = pd.DataFrame([make_line("softmax", 1, (0, 0, 0, 0, 0))])
    figure = accuracy_by_class_size(pd.concat([frame, again]), ["softmax"], "digits")
    assert ys(figure) == [pytest.approx([90, 60, 30])]


def test_a_class_without_test_images_leaves_a_gap(make_line: Callable[..., dict[str, Any]]) -> None:
    runs = [make_line("softmax", seed, (0.5,) * 5, per_class=[0.5, nan, 0.7]) for seed in range(2)]
    figure = accuracy_by_class_size(pd.DataFrame(runs), ["softmax"], "digits")
    assert ys(figure) == [pytest.approx([nan, 70, 50], nan_ok=True)]
    assert png(figure)


def many(make_line: Callable[..., dict[str, Any]], classes: int) -> pd.DataFrame:
    """The head is the last class; accuracy equals the rank from the tail, in thousandths; the tail's is NaN."""
    accuracy = [nan, *(rank / 1000 for rank in range(1, classes))]
    names = [f"class {i}" for i in range(classes)]
    counts = list(range(1, classes + 1))
    changes = {"class_counts": counts, "per_class": accuracy, "class_names": names}
    return pd.DataFrame([make_line("softmax", seed, (0.5,) * 5, **changes) for seed in range(2)])


def test_a_thousand_classes_are_averaged_over_neighbours(make_line: Callable[..., dict[str, Any]]) -> None:
    """1000 classes in 30 groups (10 of 34, then 20 of 33): the head's ranks are 966 ... 999, mean 982.5 → 98.25 %;
    the tail's are 0 ... 32 without the NaN of rank 0: mean of 1 ... 32 is 16.5 → 1.65 %."""
    figure = accuracy_by_class_size(many(make_line, 1000), ["softmax"], "ImageNet-LT")
    (line,) = ys(figure)
    assert len(line) == 30
    assert (line[0], line[-1]) == pytest.approx((98.25, 1.65))
    assert "a point is the mean of 33 or 34 of the 1000 classes" in figure.axes[0].get_xlabel()
    assert len(ticks(figure)) <= 12
    assert png(figure)


@pytest.mark.parametrize(("classes", "labels", "named"), [(10, 10, True), (12, 12, True), (13, 12, False)])
def test_ticks_are_thinned_and_names_are_shown_where_they_fit(
    make_line: Callable[..., dict[str, Any]], classes: int, labels: int, named: bool
) -> None:
    figure = accuracy_by_class_size(many(make_line, classes), ["softmax"], "t")
    assert len(ys(figure)[0]) == classes
    assert len(ticks(figure)) == labels
    assert all(("\n" in tick) == named for tick in ticks(figure))
    assert "mean of" not in figure.axes[0].get_xlabel()


def test_long_class_names_are_left_out(make_line: Callable[..., dict[str, Any]]) -> None:
    run = make_line("softmax", 0, (0.5,) * 5, class_names=["a", "b", "a very long name"])
    assert ticks(accuracy_by_class_size(pd.DataFrame([run]), ["softmax"], "t")) == ["100", "20", "4"]


def test_runs_on_other_class_sizes_are_refused(make_line: Callable[..., dict[str, Any]]) -> None:
    runs = [
        make_line("softmax", 0, (0.5,) * 5),
        make_line("softmax", 1, (0.5,) * 5, class_counts=[4, 99, 20]),
    ]
    with pytest.raises(ValueError, match="different numbers of images per class"):
        accuracy_by_class_size(pd.DataFrame(runs), ["softmax"], "t")


def test_a_study_without_runs_says_so() -> None:
    figure = accuracy_by_class_size(pd.DataFrame(columns=["row", "data_seed", "init_seed"]), ["softmax"], "digits")
    assert [text.get_text() for text in figure.axes[0].texts] == ["no finished runs"]
    assert png(figure)


def test_dollars_are_not_mathematics(make_line: Callable[..., dict[str, Any]]) -> None:
    rows, names = [r"a$\b$", "$5_$ and $6_$", "_b_"], ["$x_1$", "$", r"_\$"]
    runs = pd.DataFrame([make_line(row, 0, (0.5,) * 5, class_names=names) for row in rows])
    figure = accuracy_by_class_size(runs, rows, "$5 and $6")
    assert {"$5 and $6", *names, *(f"{row} (1 run)" for row in rows)} <= set(texts(figure))
    assert legend(figure)[2] == "_b_ (1 run)", "matplotlib leaves out what begins with _ unless it is told"


def test_rows_with_long_names_are_in_the_legend_line_by_line(make_line: Callable[..., dict[str, Any]]) -> None:
    rows = [letter * 100 for letter in "abcd"]
    figure = accuracy_by_class_size(pd.DataFrame([make_line(row, 0, (0.5,) * 5) for row in rows]), rows, "long")
    figure.draw_without_rendering()
    width = figure.bbox.width
    assert all(
        0 <= text.get_window_extent().x0 < text.get_window_extent().x1 <= width
        for text in figure.legends[0].get_texts()
    )


def test_matplotlibs_global_state_is_untouched(frame: pd.DataFrame) -> None:
    from matplotlib import _pylab_helpers

    assert png(accuracy_by_class_size(frame, ["softmax", "margin"], "digits"))[:4] == b"\x89PNG"
    assert not _pylab_helpers.Gcf.figs
