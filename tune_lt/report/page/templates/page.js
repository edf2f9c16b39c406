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
  const listen = (selector, event, react) =>
    all(selector).forEach((element) => element.addEventListener(event, () => react(element)));

  // Tables are sorted by the numbers of a column, or by its texts if it has none; cells without a value stay last.
  listen(".sort", "click", (button) => {
    const header = button.closest("th"), table = header.closest("table"), body = table.tBodies[0];
    const number = header.classList.contains("number");
    const before = header.getAttribute("aria-sort");
    const rising = before ? before === "descending" : !number;
    const key = (row) => {
      const cell = row.cells[header.cellIndex];
      const text = number ? cell.dataset.value : cell.textContent.trim();
      return text === "—" ? undefined : text;
    };
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      const order = number ? x - y : x.localeCompare(y, undefined, { numeric: true });
      return rising ? order : -order;
    };
    [...body.rows].sort(compare).forEach((row) => body.append(row));
    all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", rising ? "ascending" : "descending");
  });

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
  listen(".cell", "click", (button) => {
    const cell = page.cells[button.dataset.cell];
    const place = button.closest("td");
    const column = place.closest("table").tHead.rows[0].cells[place.cellIndex].textContent.trim();
    document.getElementById("runs-title").textContent = `${place.parentElement.cells[0].textContent.trim()} · ${column}`;
    const missing = cell.missing ? ` ${cell.missing} runs are missing; ${page.fill} trains them.` : "";
    document.getElementById("runs-text").textContent = button.textContent.trim() + "." + missing;
    list.textContent = "";
    if (cell.runs.length) listed(cell.against.length ? "This row" : "", cell.runs);
    if (cell.against.length) listed("The row it is compared with", cell.against);
    const local = `The links work while tune-lt ui runs, which shows the store at ${page.ui}.`;
    document.getElementById("runs-hint").textContent = cell.runs.length && !page.served ? local : "";
    dialog.showModal();
  });
  // The button is not in a form that closes the dialog: a sandboxed frame, such as MLflow's, sends no form.
  listen(".close", "click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

  // Figures come with the colours of the light page.
  const darkness = window.matchMedia("(prefers-color-scheme: dark)");
  let dark = darkness.matches;
  const shown = new Set(page.shown);
  const shades = new Map(Object.entries(page.shades));
  const shaded = (value) => (dark ? JSON.parse(JSON.stringify(value), (key, one) => shades.get(one) ?? one) : value);
  const [ink, quiet, grid] = ["#1f2328", "#6a737d", "#d8dde3"];
  const axis = {
    gridcolor: grid, linecolor: quiet, showline: true, zerolinecolor: grid, ticks: "outside", tickcolor: quiet,
    automargin: true, title: { standoff: 8 },
  };
  const defaults = {
    xaxis: { ...axis, showgrid: false, zeroline: false },
    yaxis: axis,
    title: { font: { size: 13 }, x: 0, xref: "paper" },
  };
  function dressed(plot, label, narrow) {
    const layout = {
      ...plot.layout,
      template: { layout: defaults },
      font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12, color: ink },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 48, r: 8, t: plot.layout.title ? 36 : 12, b: 44 },
      legend: { orientation: "h", y: -0.22, yanchor: "top", x: 0, font: { size: 11 } },
      uirevision: label,
      modebar: { bgcolor: "rgba(0,0,0,0)", color: quiet, activecolor: ink },
      hoverlabel: { align: "left" },
    };
    const data = plot.data.map((trace) => {
      const row = trace.meta && trace.meta.row;
      if (row === undefined) return trace;
      // A row that is not chosen: its line is hidden; its point among those of all rows is pale and has no name.
      if (trace.mode !== "markers+text") return { ...trace, visible: shown.has(row) };
      return shown.has(row) ? trace : { ...trace, mode: "markers", opacity: 0.4 };
    });
    return [shaded(data), shaded(layout)];
  }
  function draw(id) {
    const box = document.querySelector(`[data-plots="${id}"]`);
    const select = document.querySelector(`select[data-block="${id}"]`);
    const label = select ? select.value : Object.keys(page.plots[id])[0];
    const plots = page.plots[id][label];
    while (box.children.length < plots.length) make("div", "", box).className = "plot";
    const buttons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
    all(".plot", box).forEach((place, index) => {
      place.hidden = index >= plots.length; // not removed: Plotly may still be drawing there
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
  listen("select[data-block]", "change", (select) => draw(select.dataset.block));

  // A chip shows or hides a row in all figures of rows.
  function show(chips, on) {
    for (const chip of chips) {
      chip.setAttribute("aria-pressed", String(on));
      shown[on ? "add" : "delete"](chip.dataset.row);
    }
    rowBlocks.forEach(draw);
  }
  listen(".chip[data-row]", "click", (chip) => show([chip], !shown.has(chip.dataset.row)));
  listen(".chip[data-all]", "click", (button) => show(all(".chip[data-row]"), button.dataset.all === "true"));

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

  // Between two figures the browser gets time, so that a reader can scroll and sort from the start.
  (async () => {
    for (const id of blocks) {
      draw(id);
      await new Promise((resolve) => setTimeout(resolve));
    }
    document.documentElement.dataset.ready = "true";
  })();
})();
