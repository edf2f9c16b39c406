"""The page as a browser shows it: in a sandboxed frame, as MLflow's artifact viewer does, and without a network."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mlflow.entities import Metric

from tune_lt.report import collect
from tune_lt.report.page import page

if TYPE_CHECKING:
    from tests.report.conftest import Recorded

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
STUDY = """\
name: browsed
data: {name: digits, imbalance: 20}
model: {name: resnet8, width: 4}
recipe: {epochs: 4, batch_size: 64}
loss: {name: ghm_cwap, alpha: {uniform: [0.3, 1.0]}}
search: {trials: 4}
rows: {softmax: {loss: {name: softmax}}, focal: {loss: {name: focal}}, ghm_cwap: {}}
cross: {imbalance: [10, 100]}
seeds: [0, 1, 2]
"""
SCORES = {"softmax": 0.5, "focal": 0.7, "ghm_cwap": 0.6}
NOTHING = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
BEFORE = f"""<meta http-equiv="Content-Security-Policy" content="{NOTHING}"><script>
const wrong = [];
addEventListener("error", (event) => wrong.push(event.message));
addEventListener("unhandledrejection", (event) => wrong.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => wrong.push(`asked for ${{event.blockedURI}}`));
const asked = [], matching = matchMedia.bind(window);
window.matchMedia = (query) => {{
  const answer = matching(query);
  if (query.includes("dark")) asked.push(answer);
  return answer;
}};
console.error = (...told) => wrong.push(told.join(" "));
const saved = [], images = [];
HTMLAnchorElement.prototype.click = function () {{ saved.push(this.download); }};
URL.createObjectURL = (blob) => {{ blob.text().then((text) => images.push(text)); return "#"; }};
</script>"""
PROBE = """<script>
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const shown = (id) => document.querySelector(`#${id} .plot`).data.filter((t) => t.meta && t.visible !== false).length;
function look() {
  if (!document.documentElement.dataset.ready) return setTimeout(look, 50);
  const root = document.documentElement, table = document.querySelector('[data-name="by_imbalance"]');
  const column = () => all("tbody tr", table).map((row) => row.cells[0].textContent.trim());
  const said = { wide: root.scrollWidth, room: root.clientWidth, drawn: shown("sizes") };
  said.plots = all(".main-svg").length;
  said.names = column();
  const sort = all(".sort", table)[1];
  sort.click();
  said.falling = column();
  said.order = sort.closest("th").getAttribute("aria-sort");
  sort.click();
  said.rising = column();
  const cell = document.querySelector(".cell"), dialog = document.querySelector("dialog");
  cell.focus();
  cell.click();
  said.opened = dialog.open;
  said.runs = all("#runs-list tbody tr").map((row) => [...row.cells].map((one) => one.textContent));
  said.link = document.querySelector("#runs-list a").href;
  document.querySelector(".close").click();
  said.closed = !dialog.open;
  document.querySelector('.chip[data-row="softmax"]').click();
  said.fewer = shown("sizes");
  const select = document.querySelector('select[data-block="sizes"]');
  select.selectedIndex = 1;
  select.dispatchEvent(new Event("change"));
  said.axis = document.querySelector("#sizes .plot").layout.xaxis.type;
  said.page = getComputedStyle(document.body).backgroundColor;
  said.ink = document.querySelector("#sizes .plot").layout.font.color;
  dispatchEvent(new Event("beforeprint"));
  said.printed = document.querySelector("#sizes .plot").layout.font.color;
  dispatchEvent(new Event("afterprint"));
  const change = { matches: !asked[0].matches };
  asked[0].dispatchEvent(new MediaQueryListEvent("change", change));
  said.switched = document.querySelector("#sizes .plot").layout.font.color;
  all('#search .plot [data-title^="Download plot"]').forEach((button) => button.click());
  Object.assign(said, { wrong, saved, images });
  setTimeout(() => parent.postMessage(said, "*"), 500);
}
look();
</script>"""
FRAME = """<!doctype html><body style="margin:0"><iframe sandbox="allow-scripts" src="page.html"
style="border:0;width:{width}px;height:900px"></iframe><script>
addEventListener("message", (event) => {{
  const said = document.createElement("pre");
  said.textContent = JSON.stringify(event.data);
  document.body.append(said);
}});
</script>"""


@pytest.fixture
def folder(recorded: Recorded, tmp_path: Path) -> Path:
    """A study's page with what watches it, as ``page.html``."""
    study = recorded.study(STUDY)
    from tune_lt.documents import Norms, Trial

    trials = [Trial({"loss/alpha": a}, "complete", {"val/balanced": a}, {"val/balanced": [a]}, 4) for a in (0.5, 0.9)]
    found = recorded.search(study, trials)
    recorded.rows(study, found, lambda row, factor, data, init: SCORES[row] + 0.01 * data)
    for record in recorded.store.finished_cells().values():
        history = [Metric("train/loss", 1 / epoch, 0, epoch) for epoch in range(1, 5)]
        recorded.store.client.log_batch(record.run_id, metrics=history)
        counts = {name: [100 - g for g in range(100)] for name in ("all", "many", "rare", "largest", "smallest")}
        edges = {"largest": [0, 0.2, 1], "smallest": [0, 0.5, 1]}
        classes = {"largest": "cat", "smallest": "lynx"}
        content = Norms(100, counts, 0, 2, edges, classes=classes).content()
        recorded.store.log_json(record.run_id, "norms.json", content)
    text = page.html(collect.collect(recorded.store, "browsed"))
    text = text.replace("<head>", f"<head>{BEFORE}", 1)
    at = text.rindex("</body>")
    (tmp_path / "page.html").write_text(text[:at] + PROBE + text[at:], encoding="utf-8")
    return tmp_path


def browse(folder: Path, width: int, *options: str) -> dict[str, Any]:
    """What the page says of itself in a frame of that width."""
    (folder / "frame.html").write_text(FRAME.format(width=width), encoding="utf-8")
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--disable-features=IsolateSandboxedIframes", *options,  # virtual time does not reach into other processes
        f"--user-data-dir={folder / 'profile'}", f"--window-size={max(width, 800)},1000",
        "--virtual-time-budget=30000", "--dump-dom", (folder / "frame.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = re.search(r"<pre>(.*)</pre>", done.stdout)
    assert said, done.stderr[-2000:]
    return json.loads(html.unescape(said[1]))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("width", "dark"),
    [
        pytest.param(width, dark, marks=pytest.mark.smoke if (width, dark) == (390, True) else pytest.mark.slow)
        for width in (390, 1400)
        for dark in (False, True)
    ],
)
def test_a_browser_sorts_opens_and_draws_without_a_fault(folder: Path, width: int, dark: bool) -> None:
    said = browse(folder, width, f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    assert said["wrong"] == []
    assert said["room"] == said["wide"] == width
    assert said["names"] == ["softmax", "focal", "ghm_cwap"]
    assert said["falling"] == ["focal", "ghm_cwap", "softmax"]
    assert said["order"] == "descending"
    assert said["rising"] == ["softmax", "ghm_cwap", "focal"]
    assert said["opened"]
    assert said["closed"]
    assert [run[:3] for run in said["runs"]] == [["0", "0", "50.00"], ["1", "1", "51.00"], ["2", "2", "52.00"]]
    assert said["link"].endswith(f"/runs/{said['runs'][0][3]}")
    assert said["plots"] >= 8
    assert said["fewer"] == said["drawn"] - 2  # softmax's line and its band
    assert said["axis"] == "log"
    assert said["page"] == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
    assert said["ink"] == ("#e6e8eb" if dark else "#1f2328")
    assert said["switched"] == ("#1f2328" if dark else "#e6e8eb")
    assert said["printed"] == "#1f2328"
    assert said["saved"] == ["browsed_search_ghm_cwap.svg"]
    (image,) = said["images"]
    assert image.startswith("<svg ")
    assert image.count('class="point"') >= 2  # a trial each, and the star
