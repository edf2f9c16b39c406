"""How finely a sealed test scores, by hand."""

from __future__ import annotations

import pytest

from tune_lt.report.tables.scoring import steps


def test_one_image_changes_each_accuracy_by_hand() -> None:
    """Classes of 100, 50, 20 and 5 training images are a group each; 10, 20, 0 and 5 sealed images: 35 in all, none of
    Few. The mean over the three classes that have some changes most with an image of the last: by 1/5 of a third."""
    labels = [0] * 10 + [1] * 20 + [3] * 5
    assert steps([100, 50, 20, 5], labels) == pytest.approx(
        {"test/many": 1 / 10, "test/medium": 1 / 20, "test/rare": 1 / 5, "test/top1": 1 / 35, "test/balanced": 1 / 15}
    )
