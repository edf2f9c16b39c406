"""A whole study whose trials are trained by two processes each, against the same study with one."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import driver

from tune_lt.store import CellRecord, Store

pytestmark = pytest.mark.slow


def _cells(folder: Path, text: str) -> dict[str, CellRecord]:
    """Key of each cell -> its record, of the study run in a folder of its own."""
    folder.mkdir()
    (folder / "tiny.yaml").write_text(text)
    with driver(folder / "tiny.yaml", folder / "out.txt") as process:
        assert process.wait(600) == 0, (folder / "out.txt").read_text()
    return {record.tags["key"]: record for record in Store(f"sqlite:///{folder / 'mlflow.db'}").cells("tiny")}


def test_two_workers_a_trial_give_what_one_gives(tmp_path: Path, tiny_text: str) -> None:
    text = tiny_text.replace("trials: 5", "trials: 1, scheduler: none").replace("seeds: [0, 1]", "seeds: [0]")
    one = _cells(tmp_path / "one", text.replace("cpus: 1, concurrent: 2", "cpus: 1, gpus: 0, concurrent: 1"))
    two = _cells(
        tmp_path / "two", text.replace("cpus: 1, concurrent: 2", "cpus: 1, gpus: 0, workers: 2, concurrent: 1")
    )
    assert {record.tags["workers"] for record in two.values()} == {"2"}
    rows = [key for key, record in one.items() if record.tags["row"] in ("softmax", "ldam+drw")]
    assert len(rows) == 2
    for key in rows:  # the searched ones hang on what was found, which may differ by a rounding
        assert two[key].status == "FINISHED"
        (epochs, alone), (same, together) = (
            Store(f"sqlite:///{tmp_path / name / 'mlflow.db'}").history(record.run_id, "train/loss")
            for name, record in (("one", one[key]), ("two", two[key]))
        )
        assert epochs == same == (1, 2, 3, 4)
        assert together[:2] == pytest.approx(alone[:2], rel=1e-4)  # later a rounding changes which side of 0 a ReLU is
        assert together == pytest.approx(alone, rel=0.02)  # (docs/LOG.md), and the accuracy of a network at chance
    assert len(two) == len(one)
