// Tables, filters and figures of the report. All text is set as text, never as markup.
"use strict";

const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 3, useGrouping: false });
const shown = (value) => {
  if (value === null) return "";
  const size = Math.abs(value);
  return value === 0 || (size >= 1e-3 && size < 1e4) ? number.format(value) : value.toExponential(1).replace(/([+-])(\d)$/, "$10$2");
};

const gpuSeconds = (seconds, onGpu) => (onGpu === null && seconds !== null ? "no gpu" : shown(onGpu));

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function chooser(label, options, onChange) {
  const select = element("select", {}, ...options.map(([text, value]) => element("option", { value }, text)));
  select.addEventListener("change", onChange);
  return [element("label", {}, label, select), select];
}

// Results --------------------------------------------------------------------------------------------------------

function places() {
  const { texts, rows } = JSON.parse(document.getElementById("data").textContent);
  return rows.map((r) => ({
    tier: texts[r[0]], estimator: texts[r[1]], estimatorPage: texts[r[2]], anchor: r[3] === 1, problem: texts[r[4]],
    problemPage: texts[r[5]], dim: r[6], budget: texts[r[7]], metric: texts[r[8]], mean: r[9], seconds: r[10],
    ratio: r[11], worst: r[12], ok: r[13], planned: r[14], text: texts[r[15]], kind: texts[r[16]],
    failures: texts[r[17]], reason: texts[r[18]], command: r[19], onGpu: r[20],
    transform: r[21], lost: r[22], against: r[23], group: r[3] === 1 ? "anchor" : r[24] === 1 ? "specialist" : "rival",
    counts: r[25] === 1, setting: texts[r[26]],
  }));
}

const COLUMNS = [
  { name: "estimator", key: (p) => p.estimator, cell: (p) => element("a", { href: p.estimatorPage }, p.estimator) },
  { name: "problem", key: (p) => p.problem, cell: (p) => element("a", { href: p.problemPage }, p.problem) },
  { name: "d", key: (p) => p.dim, cell: (p) => String(p.dim), number: true },
  { name: "budget", key: (p) => p.budget, cell: (p) => p.budget, className: "whole" },
  { name: "metric", key: (p) => p.metric, cell: (p) => ({ uvp: "UVP %", energy_distance: "energy distance" })[p.metric] ?? p.metric },
  { name: "error", key: (p) => (p.kind === "floor" ? 0 : p.mean), cell: answer, number: true },
  { name: "ratio", key: (p) => p.ratio, cell: (p) => (p.kind === "floor" ? "" : shown(p.ratio)), number: true },
  { name: "worst", key: (p) => p.worst, cell: (p) => (p.kind === "floor" ? "" : shown(p.worst)), number: true },
  { name: "fit s", key: (p) => p.seconds, cell: (p) => shown(p.seconds), number: true },
  { name: "GPU s", key: (p) => p.onGpu, cell: (p) => gpuSeconds(p.seconds, p.onGpu), number: true },
  { name: "transform s", key: (p) => p.transform ?? null, cell: (p) => shown(p.transform ?? null), number: true },
  { name: "n_ok/n_planned", key: (p) => p.ok / p.planned, cell: (p) => `${p.ok}/${p.planned}`, number: true },
  { name: "why, again", cell: again },
];
const FIRST_ROWS = 40;

function answer(p) {
  if (p.kind === "value") return p.text;
  return element("span", { className: `tag ${p.kind === "failed" ? "bad" : ""}` }, p.text);
}

function again(p) {
  const details = element("details", {}, element("summary", {}, p.failures ? "why, again" : "again"));
  if (p.failures) details.append(element("p", {}, `${p.failures}${p.reason ? `: ${p.reason}` : ""}`));
  details.append(element("code", {}, p.command));
  return details;
}

// Missing values last, whichever way is up.
function compare(a, b, up) {
  if (a === null || b === null) return (a === null) - (b === null);
  return (typeof a === "string" ? a.localeCompare(b) : a - b) * (up ? 1 : -1);
}

function results() {
  const table = document.getElementById("results");
  const all = places();
  const state = { sort: null, up: true, whole: false };
  const selects = filters(all, () => { remember(selects); render(); });
  const body = element("tbody");
  const heads = COLUMNS.map((column) => {
    const head = element("th", { scope: "col", className: column.number ? "number" : "" });
    if (!column.key) return element("th", { scope: "col" }, column.name);
    const button = element("button", { type: "button" }, column.name);
    button.addEventListener("click", () => {
      state.up = state.sort === column ? !state.up : true;
      state.sort = column;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", state.up ? "ascending" : "descending");
      render();
    });
    head.append(button);
    return head;
  });
  table.append(element("thead", {}, element("tr", {}, ...heads)), body);
  const more = document.getElementById("more");
  more.addEventListener("click", () => { state.whole = true; render(); });

  function render() {
    const chosen = all.filter((place) => selects.every(({ column, select }) => !select.value || String(place[column]) === select.value
      || (column === "tier" && place.anchor)));
    const sorted = state.sort ? [...chosen].sort((a, b) => compare(state.sort.key(a), state.sort.key(b), state.up)) : chosen;
    const drawn = state.whole ? sorted : sorted.slice(0, FIRST_ROWS);
    body.replaceChildren(...drawn.map((place) => element("tr", { className: place.anchor ? "anchor" : "" },
      ...COLUMNS.map((column) => element("td", { className: column.number ? "number" : column.className ?? "" }, column.cell(place))))));
    more.hidden = drawn.length === sorted.length;
    const ok = chosen.reduce((sum, place) => sum + place.ok, 0);
    const planned = chosen.reduce((sum, place) => sum + place.planned, 0);
    document.getElementById("shown").textContent =
      `${drawn.length} of ${sorted.length} results shown; ${ok}/${planned} of their cells were measured.`;
    if (document.getElementById("board")) board(selects.some(({ select }) => select.value) ? chosen : null);
  }
  render();
}

// The address keeps what is chosen: a link leads to the same selection.
function remember(selects) {
  const chosen = new URLSearchParams(selects.filter(({ select }) => select.value).map(({ column, select }) => [column, select.value]));
  history.replaceState(null, "", chosen.size ? `#${chosen}` : location.pathname + location.search);
}

function filters(all, onChange) {
  const form = document.getElementById("filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  const found = [];
  for (const column of ["tier", "problem", "dim", "budget", "estimator"]) {
    const rivals = column === "tier" ? all.filter((place) => !place.anchor) : all;
    const values = [...new Set(rivals.map((place) => String(place[column])))];
    if (values.length < 2) continue;
    if (column === "dim") values.sort((a, b) => a - b);
    const [label, select] = chooser(column === "dim" ? "dimension" : column, [["all", ""], ...values.map((value) => [value, value])], onChange);
    form.append(label);
    found.push({ column, select });
  }
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const { column, select } of found) {
    const value = asked.get(column);
    if (value !== null && [...select.options].some((option) => option.value === value)) select.value = value;
  }
  return found;
}

// The leaderboard of the chosen places, by the rule of leaderboard.py: ratios of places come from there. What it
// resamples (intervals, probabilities, who is separated) is of the whole board, which null brings back.
const WHOLE = new Map();
function board(chosen) {
  const median = (values) => {
    const sorted = values.filter((value) => value !== null).sort((a, b) => a - b);
    const middle = sorted.length / 2;
    if (!sorted.length) return null;
    return sorted.length % 2 ? sorted[Math.floor(middle)] : (sorted[middle - 1] + sorted[middle]) / 2;
  };
  const geometric = (values) => (values.length ? Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length) : null);
  const where = (place) => JSON.stringify([place.problem, place.dim, place.budget]);
  for (const section of document.querySelectorAll("#board .tier")) {
    const { tier, group } = section.dataset;
    const body = section.querySelector("tbody");
    if (!WHOLE.has(section)) WHOLE.set(section, [...body.children]);
    if (chosen === null) {
      section.hidden = false;
      body.replaceChildren(...WHOLE.get(section));
      continue;
    }
    const rivals = chosen.filter((place) => place.tier === tier && place.group === group);
    const counted = new Set(rivals.filter((place) => place.counts).map(where));
    const planned = new Set(rivals.map(where));
    const anchors = group === "rival" ? chosen.filter((place) => place.anchor && planned.has(where(place))) : [];
    const lines = [...Map.groupBy([...rivals, ...anchors], (place) => place.estimator)].map(([name, mine]) => {
      const judged = mine.filter((place) => counted.has(where(place)) && place.ratio !== null);
      return { name, mine, judged, anchor: mine[0].anchor, ratio: geometric(judged.map((place) => place.ratio)) };
    });
    lines.sort((a, b) => a.anchor - b.anchor || (a.anchor ? 0 : compare(a.ratio, b.ratio, true)));
    section.hidden = rivals.length === 0;
    body.replaceChildren(...lines.map(({ name, mine, judged, anchor, ratio }) => {
      const sum = (places, key) => places.reduce((total, place) => total + place[key], 0);
      const [seconds, onGpu, transform] = ["seconds", "onGpu", "transform"].map((key) => median(mine.map((place) => place[key])));
      const worst = judged.reduce((found, place) => (found === null || place.worst > found.worst ? place : found), null);
      const cells = [
        [anchor ? "anchor" : [...new Set(mine.map((place) => place.setting))].join(", ")],
        [shown(ratio), "number"], ["", "number"], [""],
        [worst === null ? "" : `${shown(worst.worst)} at ${worst.problem}, d = ${worst.dim}`],
        [name === "identity" || !sum(judged, "against") ? "" : `${sum(judged, "lost")} of ${sum(judged, "against")} fits`, "number"],
        [shown(seconds), "number"], [shown(transform), "number"], [gpuSeconds(seconds, onGpu), "number"],
        [`${sum(mine, "ok")}/${sum(mine, "planned")}`, "number"],
      ];
      const failed = mine.filter((place) => place.failures).map((place) => place.failures);
      return element("tr", { className: anchor ? "anchor" : "" },
        element("th", { scope: "row" }, element("a", { href: mine[0].estimatorPage }, name)),
        ...cells.map(([text, className]) => element("td", { className: className ?? "" }, text)),
        element("td", {}, ...tally(failed)));
    }));
  }
}

function tally(failures) {
  const counts = new Map();
  for (const text of failures.flatMap((all) => all.split(", "))) {
    const [count, status] = text.split(" ");
    counts.set(status, (counts.get(status) ?? 0) + Number(count));
  }
  return [...counts].flatMap(([status, count]) =>
    [element("span", { className: `tag ${status === "unsupported" ? "quiet" : "bad"}` }, `${count} ${status}`), " "]);
}

// Any other table whose headings should sort it.
function sortable(table) {
  [...table.tHead.rows[0].cells].forEach((head, index) => {
    const button = element("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      [...table.tHead.rows[0].cells].forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => {
        const text = row.cells[index].textContent.trim();
        if (!head.classList.contains("number")) return text === "" ? null : text;
        const value = Number.parseFloat(text);
        return Number.isNaN(value) ? null : value;
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b), up)));
    });
  });
}

// Figures --------------------------------------------------------------------------------------------------------

// Plotly reads a few tags in text as markup: what comes from plugins is shown as it is.
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

// What a reader hides in one figure is hidden in all.
const hidden = new Set();
const figures = [];
const look = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// Black and grey are the ink of the page, which may be dark.
const ink = (colour) => ({ "#111111": look("--theory"), "#737373": look("--muted"), "#000000": look("--theory"), "#0072B2": dark.matches ? "#4aa8e0" : colour })[colour] ?? colour;
const dark = matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", () => figures.forEach((draw) => draw()));

function figure(frame) {
  const chart = JSON.parse(frame.querySelector("script").textContent);
  const plot = frame.querySelector(".plot");
  const choices = frame.querySelector(".choices");
  const select = (label, names) => {
    const [wrapped, made] = chooser(label, names.map((name, index) => [name, String(index)]), draw);
    if (names.length > 1) choices.append(wrapped);
    return made;
  };
  const pair = chart.square && chart.views.length > 1;
  const view = select("show", chart.views.map((one) => one.label));
  const beside = pair ? select("beside", chart.views.map((one) => one.label)) : null;
  if (pair) beside.value = "1";
  const axis = select("against", chart.x.map((one) => one.label));
  const quantity = select("quantity", ["error", ...(chart.choices ?? [])]);
  const scale = chart.square ? null : select("scale", ["as suits", "logarithmic", "linear"]);

  function draw() {
    const v = Number(view.value), a = Number(axis.value), q = Number(quantity.value);
    const w = pair ? Number(beside.value) : v;
    const named = new Set();
    const valued = (one) => (q === 0 ? one.y : one.chosen?.[q - 1] ?? []);
    const inView = (which, place) => chart.series.filter((one) => one.view === which && one.x[a].some((value) => value !== null) && valued(one).length).map((one) => ({ ...one, y: valued(one), error: q === 0 ? one.error : undefined, place }));
    const viewed = [...inView(v, ""), ...(pair ? inView(w, "2") : [])];
    const middle = halfway(viewed.flatMap((one) => one.x[a]), chart.x[a].type);  // labels lean towards it
    const traces = viewed.map((one) => {
      const first = !named.has(one.name);
      named.add(one.name);
      return {
        type: "scatter", mode: one.mode, text: one.x[a].map(() => `  ${plain(one.name)}  `), textposition: one.x[a].map((value) => (value > middle ? "middle left" : "middle right")), textfont: { size: 11 }, cliponaxis: false, name: plain(one.name), legendgroup: one.name, showlegend: first, visible: hidden.has(one.name) ? "legendonly" : true, xaxis: `x${one.place}`, yaxis: `y${one.place}`, x: one.x[a], y: one.y,
        line: { color: ink(one.colour), dash: one.dash, width: one.width ?? 1.8, shape: one.shape ?? "linear" },
        marker: { color: ink(one.colour), symbol: one.symbol, size: chart.square ? 5 : 8, opacity: chart.square ? 0.65 : 1 },
        error_y: one.error ? { type: "data", array: one.error, visible: true, thickness: 1, width: 3, color: ink(one.colour) } : undefined,
        hovertemplate: `${plain(one.name)}${one.note ? `, ${plain(one.note)}` : ""}<br>%{x:.4g}: %{y:.4g}<extra></extra>`,
      };
    });
    const narrow = plot.clientWidth < 620;
    const grid = { gridcolor: look("--grid"), zerolinecolor: look("--grid"), linecolor: look("--axis"), exponentformat: "power", automargin: true };
    const axisOf = (type, values) => ({ ...grid, type, ...(type === "log" && ticks(values)) });
    const asked = scale === null ? 0 : Number(scale.value);
    const suits = q > 0 && chart.choices[q - 1] === "cosine" ? "linear" : chart.y_type;
    const yType = ["", "log", "linear"][asked] || suits;
    const yTitle = q === 0 ? chart.views[v].y : chart.choices[q - 1];
    const x = { ...axisOf(chart.x[a].type, traces.flatMap((trace) => trace.x)), title: { text: chart.x[a].label } };
    const y = { ...axisOf(yType, traces.flatMap((trace) => trace.y)), title: { text: plain(yTitle) } };
    const equal = chart.square && chart.views[v].y !== "T(x)";
    const paired = pair && {
      grid: narrow ? { rows: 2, columns: 1, pattern: "independent" } : { rows: 1, columns: 2, pattern: "independent" },
      xaxis2: { ...x, matches: "x" }, yaxis2: { ...y, title: { text: narrow ? plain(yTitle) : "" }, matches: "y" },
      annotations: [["", v], ["2", w]].map(([place, which]) => ({ text: plain(chart.views[which].label), xref: `x${place} domain`, yref: `y${place} domain`, x: 0, y: 1, xanchor: "left", yanchor: "bottom", showarrow: false })),
    };
    Plotly.react(plot, traces, {
      xaxis: x, yaxis: { ...y, ...(equal && { scaleanchor: "x" }) }, ...paired,
      margin: { l: 60, r: 10, t: 34, b: 50 }, font: { family: "system-ui, sans-serif", size: 13, color: look("--ink") },
      paper_bgcolor: look("--paper"), plot_bgcolor: look("--paper"), hovermode: "closest",
      legend: { itemsizing: "constant", ...(narrow ? { orientation: "h", yref: "container", y: 0, yanchor: "bottom", font: { size: 11 } } : { x: 1.02, y: 1 }) },
    }, {
      responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"],
      toImageButtonOptions: { format: "svg", filename: chart.name },
    });
  }
  draw();
  figures.push(draw);
  plot.on("plotly_legendclick", ({ curveNumber, data }) => {
    const name = data[curveNumber].legendgroup;
    if (!hidden.delete(name)) hidden.add(name);
    figures.forEach((again) => again());
    return false;
  });
  plot.on("plotly_legenddoubleclick", ({ curveNumber, data }) => {
    const others = new Set(data.map((trace) => trace.legendgroup).filter((name) => name !== data[curveNumber].legendgroup));
    const alone = [...others].every((name) => hidden.has(name));
    hidden.clear();
    if (!alone) others.forEach((name) => hidden.add(name));
    figures.forEach((again) => again());
    return false;
  });
}

function halfway(values, type) {
  const ends = [Math.min, Math.max].map((end) => end(...values.filter((value) => value !== null)));
  return type === "log" ? Math.sqrt(ends[0] * ends[1]) : (ends[0] + ends[1]) / 2;
}

// Of a logarithmic axis: the values themselves where they are few whole numbers, else as many as the decades allow.
function ticks(values) {
  const positive = [...new Set(values.filter((value) => value > 0))];
  if (positive.length <= 8 && positive.every(Number.isInteger)) return { tickmode: "array", tickvals: positive };
  const decades = Math.log10(Math.max(...positive) / Math.min(...positive));
  return { dtick: decades > 8 ? Math.ceil(decades / 8) : decades > 1.5 ? 1 : "D2" };
}

if (document.getElementById("data")) results();
document.querySelectorAll("table.sortable").forEach(sortable);
// A figure is drawn when it comes near the window: a page of many opens at once.
const watcher = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
  watcher.unobserve(entry.target);
  figure(entry.target);
}), { rootMargin: "600px" });
document.querySelectorAll("figure.chart").forEach((frame) => watcher.observe(frame));
