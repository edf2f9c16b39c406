"""Hard images of the head and the precision of unit regions, against loops and by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch

from tune_lt.documents import ByImage, Norms
from tune_lt.report.tables import claims

Line = Callable[..., dict[str, Any]]
ACCURACIES = (0.9, 0.8, 0.7, 0.6, 0.8)


def _content(seed: int, shift: float) -> ByImage:
    """12 images, nine of the three head classes 1, 2, 3 of five; right with a probability that is in p."""
    generator = torch.Generator().manual_seed(seed)
    label = [1, 2, 3, 1, 2, 3, 1, 2, 3, 0, 4, 4]
    p = (torch.rand(12, generator=generator) * 0.5 + torch.linspace(0, 0.5, 12) + shift).clamp(0, 1)
    return ByImage(label, [int(one > 0.5) for one in p.tolist()], p.tolist())


def _study(make_line: Line, rows: dict[str, float], seeds: int) -> tuple[pd.DataFrame, dict[str, ByImage]]:
    counts = [5, 100, 90, 80, 4]
    lines = [make_line(row, seed, ACCURACIES, class_counts=counts) for row in rows for seed in range(seeds)]
    content = {f"{row}-{seed}": _content(seed, shift) for row, shift in rows.items() for seed in range(seeds)}
    frame = pd.DataFrame(lines)
    frame["imbalance"] = 10.0
    return frame, content


def test_terciles_of_head_images_against_plain_loops(make_line: Line) -> None:
    frame, content = _study(make_line, {"softmax": 0.0, "other": 0.1}, 3)
    sheet = claims.terciles(frame, "softmax", lambda run: content[run])
    assert sheet is not None
    data = sheet.data.set_index(["row", "tercile"])
    head = [2, 1]  # five classes make groups of two, one, one, one: the two with 100 and 90 images
    for row in ("softmax", "other"):
        shares: dict[str, list[float]] = {"easy": [], "middle": [], "hard": []}
        for seed in range(3):
            own = content[f"{row}-{seed}"]
            ranked = []
            for image in range(12):
                if own.label[image] in head:
                    others = [content[f"softmax-{other}"].p[image] for other in range(3) if other != seed]
                    ranked.append((-sum(others) / 2, image))
            ranked.sort()
            for place, name in enumerate(shares):
                part = [image for _, image in ranked[2 * place : 2 * place + 2]]
                shares[name].append(sum(own.right[image] for image in part) / 2)
        for name, values in shares.items():
            assert data.loc[(row, name), "mean"] == pytest.approx(100 * sum(values) / 3)
    assert sheet.header[4:] == ("Δ easy [95 % CI]", "Δ middle [95 % CI]", "Δ hard [95 % CI]")
    assert sheet.lines[0][4:] == ("—", "—", "—")


def test_equally_hard_images_are_not_shared_out_by_class(make_line: Line) -> None:
    """The first class always right, the second never, all of one difficulty: each tercile about one half."""
    frame, content = _study(make_line, {"softmax": 0.0}, 2)
    for run in content:
        content[run] = ByImage([1] * 300 + [2] * 300, [1] * 300 + [0] * 300, [1.0] * 600)
    sheet = claims.terciles(frame, "softmax", lambda run: content[run])
    assert sheet is not None
    assert sheet.data["mean"].between(40, 60).all()


def test_a_row_with_a_missing_run_is_left_out_and_one_reference_run_is_too_few(make_line: Line) -> None:
    frame, content = _study(make_line, {"softmax": 0.0, "other": 0.1}, 2)
    sheet = claims.terciles(frame.iloc[:3], "softmax", lambda run: content[run])
    assert sheet is not None
    assert [line[0] for line in sheet.lines] == ["softmax"]
    frame, content = _study(make_line, {"softmax": 0.0, "other": 0.1}, 1)
    assert claims.terciles(frame, "softmax", lambda run: content[run]) is None
    frame, _ = _study(make_line, {"softmax": 0.0}, 2)
    assert claims.terciles(frame, "softmax", lambda run: None) is None  # runs of an older version


def test_precision_by_group_of_classes_over_seeds_by_hand(make_line: Line) -> None:
    """Counts 100, 50, 20, 5 make groups of one class each. Errors of three runs in the largest: equal 0.4, 0.6 and 0.5
    (mean 0.5, s = 0.1), own 0.3, 0.4 and 0.35 (0.35, 0.05); own less equal −0.1, −0.2 and −0.15: −0.15 ± t · 0.05 / √3.

    t(0.975, 2) = 4.3027: [−0.274, −0.026].
    """
    counts = [100, 50, 20, 5]
    rows = ("softmax", "aura", "short")
    frame = pd.DataFrame(
        [make_line(row, seed, (0.9, 0.8, 0.7, 0.6, 0.8), class_counts=counts) for row in rows for seed in (0, 1, 2)]
    ).iloc[:7]
    content = {
        "aura-0": Norms(100, {}, 0, 3, {}, {"equal": [0.4, 0.2, None, 0.1], "own": [0.3, 0.1, None, 0.5]}),
        "aura-1": Norms(100, {}, 0, 3, {}, {"equal": [0.6, 0.2, None, 0.1], "own": [0.4, 0.3, None, 0.5]}),
        "aura-2": Norms(100, {}, 0, 3, {}, {"equal": [0.5, 0.2, None, 0.1], "own": [0.35, 0.2, None, 0.5]}),
        "short-0": Norms(100, {}, 0, 3, {}, {"equal": [0.6, 0.2, None, 0.1], "own": [0.4, 0.3, None, 0.5]}),
    }
    without = Norms(100, {}, 0, 3, None)  # softmax has no regions
    sheet = claims.precision(frame, lambda run: content.get(run, without))
    assert sheet is not None
    assert sheet.header[1:5] == ("many equal", "many own", "many Δ [95 % CI]", "medium equal")
    ((row, *texts),) = sheet.lines  # short lacks a run
    assert row == "aura"
    assert texts[:3] == ["0.50 ± 0.10", "0.35 ± 0.05", "−0.15 [−0.27, −0.03]"]
    assert texts[3:5] == ["0.20 ± 0.00", "0.20 ± 0.10"]
    assert texts[6:] == ["—", "—", "—", "0.10 ± 0.00", "0.50 ± 0.00", "+0.40"]  # equal differences say nothing
    assert claims.precision(frame, lambda run: without) is None
    assert claims.precision(frame, lambda run: None) is None  # runs of an older version


def test_an_images_difficulty_is_that_of_other_sub_samples(make_line: Line) -> None:
    """Images 0 and 1 are hard for data seed 0 in both its runs, 2 and 3 for data seed 1: each judges the other."""
    lines = [
        make_line(row, 0, ACCURACIES, class_counts=[5, 100, 4], run_id=f"{row}-{d}{i}", data_seed=d, init_seed=i)
        for row in ("softmax", "other") for d in (0, 1) for i in (0, 1)
    ]  # fmt: skip
    hard = {0: [0, 1], 1: [2, 3]}
    content = {}
    for line in lines:
        missed = hard[line["data_seed"]]
        right = [int(image not in missed) for image in range(6)]
        content[line["run_id"]] = ByImage([1] * 6, right, [0.9 if one else 0.1 for one in right])
    frame = pd.DataFrame(lines)
    sheet = claims.terciles(frame, "softmax", lambda run: content[run])
    assert sheet is not None
    data = sheet.data.set_index(["row", "tercile"])["mean"]
    assert data["softmax", "hard"] == 100  # what is hard for the other sub-sample is right here


def test_two_sub_samples_are_two_units_however_many_runs_they_have(make_line: Line) -> None:
    frame, content = _study(make_line, {"softmax": 0.0, "other": 0.1}, 4)
    frame["data_seed"] = frame["init_seed"] // 2
    sheet = claims.terciles(frame, "softmax", lambda run: content[run])
    assert sheet is not None
    assert sheet.data["low"].isna().all()
