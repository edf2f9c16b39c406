"""Thirty studies in MLflow's UI: found, read by rows and by trials through the views tune-lt leaves there, compared."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from mlflow.entities import Metric, Param
from processes import answers, environment, free_ports, wait_until

from tune_lt.documents import Trial
from tune_lt.store import TAG

if TYPE_CHECKING:
    from tests.report.conftest import Recorded

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")]
STUDY = """\
name: study-{number:02}
data: {{name: digits, imbalance: 20}}
model: {{name: resnet8, width: 4}}
recipe: {{epochs: 4, batch_size: 64}}
loss: {{name: ghm_cwap, alpha: {{uniform: [0.3, 1.0]}}}}
search: {{trials: 2}}
rows: {{softmax: {{loss: {{name: softmax}}}}, focal: {{loss: {{name: focal}}}}, ghm_cwap: {{}}}}
seeds: [0, 1]
"""
SCORES = {"softmax": 0.5, "focal": 0.7, "ghm_cwap": 0.6}
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    "--window-size=1600,1000",
)
See = Callable[[str, str], str]


@pytest.fixture(scope="module")
def see(recorded_once: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[See]:
    """A page of a real server on the store -> its text; ``name``: of a screenshot beside the store."""
    trials = [Trial({"loss/alpha": a}, "complete", {"val/balanced": a}, {"val/balanced": [a]}, 4) for a in (0.5, 0.9)]
    for number in range(30):
        study = recorded_once.study(STUDY.format(number=number))
        found = recorded_once.search(study, trials)
        recorded_once.rows(study, found, lambda row, factor, data, init: SCORES[row] + 0.01 * data)
    folder, (port,) = tmp_path_factory.mktemp("browser"), free_ports(1)
    address, log = f"http://127.0.0.1:{port}", folder / "server.txt"
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    with open(log, "w") as file:
        server = subprocess.Popen(
            [*command, "--backend-store-uri", recorded_once.store.uri], env=environment(), stdout=file, stderr=file
        )

    def page(path: str, name: str) -> str:
        options = [*QUIET, f"--user-data-dir={folder / name}", "--virtual-time-budget=60000", "--dump-dom"]
        shot = f"--screenshot={folder / f'{name}.png'}"
        done = subprocess.run(
            [str(CHROMIUM), *options, shot, f"{address}/#{path}"], capture_output=True, text=True, timeout=120
        )
        text = re.sub(r"<(style|script)[^>]*>.*?</\1>", "", done.stdout, flags=re.DOTALL)
        return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))

    try:
        wait_until(lambda: answers(port), log, 120)
        yield page
    finally:
        server.terminate()
        server.wait(30)


def _experiment(recorded: Recorded, name: str) -> str:
    return str(recorded.store.client.get_experiment_by_name(name).experiment_id)  # type: ignore[union-attr]


def test_studies_are_listed_by_name(see: See) -> None:
    text = see("/experiments", "studies")
    assert len(set(re.findall(r"study-\d\d", text))) == 25  # a page of them
    assert "study-29" in text


def test_the_view_of_the_tables_has_a_line_for_each_row(see: See, recorded_once: Recorded) -> None:
    text = see(f"/experiments/{_experiment(recorded_once, 'study-07')}/runs?viewStateShareKey=tables", "tables")
    assert "Tables: rows, means over seeds" in text
    for row, top1 in SCORES.items():
        assert re.search(rf"Group: {row}\b", text), text[-3000:]
        assert f"{top1 + 0.005:.3f}" in text
    assert "test/top1" in text


def test_the_view_of_the_search_has_the_best_trial_first(see: See, recorded_once: Recorded) -> None:
    client, experiment = recorded_once.store.client, _experiment(recorded_once, "study-07")
    for alpha in (0.31, 0.93, 0.62):
        run = client.create_run(experiment, tags={f"{TAG}row": "search", f"{TAG}kind": "cell"}, run_name=f"at {alpha}")
        params = [Param("loss/name", "ghm_cwap"), Param("loss/alpha", f"{alpha}1")]
        client.log_batch(run.info.run_id, [Metric("val/balanced", alpha, 0, 0)], params)
    text = see(f"/experiments/{experiment}/runs?viewStateShareKey=search", "search")
    assert "Search: trials by val/balanced, the best first" in text
    assert re.findall(r"\bat (0\.\d+)", text) == ["0.93", "0.62", "0.31"], text[-3000:]
    assert re.findall(r"0\.\d\d1\b", text) == ["0.931", "0.621", "0.311"], text[-3000:]  # a column of the parameter


def test_runs_are_filtered_by_their_row(see: See, recorded_once: Recorded) -> None:
    asked = quote("tags.`tune_lt.row` = 'focal'")
    text = see(f"/experiments/{_experiment(recorded_once, 'study-07')}/runs?searchFilter={asked}", "filtered")
    assert "focal · seed 0" in text, text[-3000:]
    assert "softmax ·" not in text


def test_two_runs_are_compared(see: See, recorded_once: Recorded) -> None:
    cells = [cell for cell in recorded_once.store.cells("study-07") if cell.tags.get("row") in ("focal", "softmax")][:2]
    experiment = _experiment(recorded_once, "study-07")
    runs, ids = quote(json.dumps([cell.run_id for cell in cells])), quote(json.dumps([experiment]))
    text = see(f"/compare-runs?runs={runs}&experiments={ids}", "compared")
    assert all(cell.run_id in text for cell in cells), text[-3000:]
    assert "test/top1" in text
