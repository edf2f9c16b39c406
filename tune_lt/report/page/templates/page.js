"use strict";
(() => {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (tag, text, parent) => {
    const element = document.createElement(tag);
    element.textContent = text;
    parent.append(element);
    return element;
  };

  // Tables: a column's cells by their number, by their text where it has none; what has no value stays last.
  function sort(header) {
    const table = header.closest("table"), body = table.tBodies[0];
    const column = header.cellIndex, rows = [...body.rows];
    const number = header.classList.contains("number");
    const before = header.getAttribute("aria-sort");
    const rising = before ? before === "descending" : !number;
    const key = (row) => {
      const cell = row.cells[column];
      if (number) return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
      const text = cell.textContent.trim();
      return text === "—" ? null : text;
    };
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      const order = number ? x - y : x.localeCompare(y, undefined, { numeric: true });
      return rising ? order : -order;
    };
    rows.sort(compare).forEach((row) => body.append(row));
    all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", rising ? "ascending" : "descending");
  }
  all(".sort").forEach((button) => button.addEventListener("click", () => sort(button.closest("th"))));

  // The runs behind a number.
  const dialog = document.getElementById("runs");
  const list = document.getElementById("runs-list");
  function listed(title, runs) {
    if (title) make("h3", title, list);
    const table = make("table", "", list);
    const head = table.createTHead().insertRow();
    ["data seed", "init seed", "value (%)", "MLflow run"].forEach((name) => (make("th", name, head).scope = "col"));
    head.cells[2].className = "number";
    const body = table.createTBody();
    for (const [data, init, value, id, experiment] of runs) {
      const line = body.insertRow();
      make("td", data, line);
      make("td", init, line);
      make("td", value === null ? "—" : value.toFixed(2), line).className = "number";
      const link = make("a", id, line.insertCell());
      link.href = `${page.ui}/#/experiments/${encodeURIComponent(experiment)}/runs/${encodeURIComponent(id)}`;
      link.target = "_blank";
      link.rel = "noopener";
    }
  }
  function open(button) {
    const cell = page.cells[button.dataset.cell];
    const place = button.closest("td");
    const table = place.closest("table");
    const column = table.tHead.rows[0].cells[place.cellIndex].textContent.trim();
    document.getElementById("runs-title").textContent = `${place.parentElement.cells[0].textContent.trim()} · ${column}`;
    const missing = cell.missing ? ` ${cell.missing} runs are missing; ${page.fill} trains them.` : "";
    document.getElementById("runs-text").textContent = button.textContent.trim() + "." + missing;
    list.textContent = "";
    if (cell.runs.length) listed(cell.against.length ? "This row" : "", cell.runs);
    if (cell.against.length) listed("The row it is compared with", cell.against);
    const local = `Links lead to ${page.ui}, where tune-lt ui shows the store while it runs.`;
    document.getElementById("runs-hint").textContent = !cell.runs.length ? "" : page.served ? "" : local;
    if (dialog.showModal) dialog.showModal();
    else dialog.setAttribute("open", "");
  }
  all(".cell").forEach((button) => button.addEventListener("click", () => open(button)));
  // By hand: in a sandboxed frame, such as MLflow's, a form cannot close it.
  document.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

  // Figures. Python gives them the light page's colours.
  const darkness = window.matchMedia("(prefers-color-scheme: dark)");
  let dark = darkness.matches;
  const shown = new Set(page.shown);
  const shaded = (value) => {
    if (typeof value === "string") return dark && page.shades[value] ? page.shades[value] : value;
    if (Array.isArray(value)) return value.map(shaded);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, shaded(v)]));
    return value;
  };
  const [ink, quiet, grid] = ["#1f2328", "#6a737d", "#d8dde3"];
  function dressed(plot, label, narrow) {
    const axis = (own = {}) => ({
      gridcolor: grid, linecolor: quiet, zerolinecolor: grid, ticks: "outside", tickcolor: quiet, automargin: true,
      ...own, title: { standoff: 8, ...own.title },
    });
    const own = plot.layout;
    const layout = {
      ...own,
      xaxis: axis({ showgrid: false, showline: true, zeroline: false, ...own.xaxis }),
      yaxis: axis(own.yaxis),
      font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12, color: ink },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 48, r: 8, t: own.title ? 36 : 12, b: 44 },
      legend: { orientation: "h", y: -0.22, yanchor: "top", x: 0, font: { size: 11 } },
      title: { font: { size: 13 }, x: 0, xref: "paper", ...own.title },
      uirevision: label,
      modebar: { bgcolor: "rgba(0,0,0,0)", color: quiet, activecolor: ink },
      hoverlabel: { align: "left" },
    };
    const data = plot.data.map((trace) => {
      const row = trace.meta && trace.meta.row;
      if (row === undefined) return trace;
      // A row is a line, which is hidden, or a point among all rows, which steps back.
      if (trace.mode !== "markers+text") return { ...trace, visible: shown.has(row) };
      return shown.has(row) ? trace : { ...trace, mode: "markers", opacity: 0.4 };
    });
    return [shaded(data), shaded(layout)];
  }
  function draw(id) {
    const box = document.querySelector(`[data-plots="${id}"]`);
    const select = document.querySelector(`select[data-block="${id}"]`);
    const variants = Object.keys(page.plots[id]);
    const label = select ? variants[select.selectedIndex] : variants[0];
    const plots = page.plots[id][label];
    while (box.children.length < plots.length) make("div", "", box).className = "plot";
    const buttons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
    all(".plot", box).forEach((place, index) => {
      place.hidden = index >= plots.length; // not removed: Plotly may still be at work on it
      if (place.hidden) return;
      const [data, layout] = dressed(plots[index], label, place.clientWidth < 500);
      const parts = [page.study, id, label, ...(plots.length > 1 ? [index + 1] : [])];
      const image = { format: "svg", filename: parts.join(" ").replace(/[^\p{L}\p{N}.+-]+/gu, "_") };
      const config = { responsive: true, displaylogo: false, modeBarButtons: buttons, toImageButtonOptions: image };
      Plotly.react(place, data, layout, config);
    });
  }
  const blocks = Object.keys(page.plots);
  const rowBlocks = blocks.filter((id) => document.getElementById(id).dataset.rows);
  all("select[data-block]").forEach((select) => select.addEventListener("change", () => draw(select.dataset.block)));

  // The rows that the figures show, in all of them at once.
  const chips = all(".chip[data-row]");
  function press(chip, on) {
    chip.setAttribute("aria-pressed", String(on));
    shown[on ? "add" : "delete"](chip.dataset.row);
  }
  chips.forEach((chip) =>
    chip.addEventListener("click", () => {
      press(chip, chip.getAttribute("aria-pressed") !== "true");
      rowBlocks.forEach(draw);
    }),
  );
  all(".chip[data-all]").forEach((button) =>
    button.addEventListener("click", () => {
      chips.forEach((chip) => press(chip, button.dataset.all === "true"));
      rowBlocks.forEach(draw);
    }),
  );

  function recolour(to) {
    if (to === dark) return;
    dark = to;
    blocks.forEach(draw);
  }
  darkness.addEventListener("change", (event) => recolour(event.matches));
  window.addEventListener("beforeprint", () => {
    all("details").forEach((one) => (one.open = true));
    recolour(false);
  });
  window.addEventListener("afterprint", () => recolour(darkness.matches));

  // One after the other, so that the tables can be read at once.
  const waiting = [...blocks];
  (function next() {
    const id = waiting.shift();
    if (id === undefined) {
      document.documentElement.dataset.ready = "true";
      return;
    }
    draw(id);
    setTimeout(next);
  })();
})();
