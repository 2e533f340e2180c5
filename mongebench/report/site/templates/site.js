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

// The address keeps what is chosen: a link leads to the same tables and figures.
const chosen = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
function keep(name, values) {
  chosen.delete(name);
  values.forEach((value) => chosen.append(name, value));
  history.replaceState(null, "", chosen.size ? `#${chosen}` : location.pathname + location.search);
}
addEventListener("hashchange", () => { if (location.hash.includes("=")) location.reload(); });

// The first option is the one that the address need not name.
function chooser(label, name, options, onChange) {
  const select = element("select");
  fill(select, name, options);
  select.addEventListener("change", () => {
    keep(name, select.selectedIndex === 0 ? [] : [select.value]);
    onChange();
  });
  return [element("label", {}, label, select), select];
}

function fill(select, name, options) {
  select.replaceChildren(...options.map(([text, value]) => element("option", { value }, text)));
  if (options.some(([, value]) => value === chosen.get(name))) select.value = chosen.get(name);
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

// A column that `varies` is left out where it says the same of every result.
const COLUMNS = [
  { name: "estimator", varies: true, key: (p) => p.estimator, cell: (p) => element("a", { href: p.estimatorPage }, p.estimator) },
  { name: "problem", varies: true, key: (p) => p.problem, cell: (p) => element("a", { href: p.problemPage }, p.problem) },
  { name: "d", key: (p) => p.dim, cell: (p) => String(p.dim), number: true },
  { name: "budget", key: (p) => p.budget, cell: (p) => p.budget, className: "whole" },
  { name: "metric", key: (p) => p.metric, cell: (p) => ({ uvp: "UVP %", energy_distance: "energy distance" })[p.metric] ?? p.metric },
  { name: "error", key: (p) => (p.kind === "floor" ? 0 : p.mean), cell: answer, number: true },
  { name: "ratio", key: (p) => p.ratio, cell: (p) => (p.kind === "floor" ? "" : shown(p.ratio)), number: true },
  { name: "worst", key: (p) => p.worst, cell: (p) => (p.kind === "floor" ? "" : shown(p.worst)), number: true },
  { name: "fit s", key: (p) => p.seconds, cell: (p) => shown(p.seconds), number: true },
  { name: "GPU s", varies: true, key: (p) => p.onGpu, cell: (p) => gpuSeconds(p.seconds, p.onGpu), number: true },
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
  const selects = filters(all, () => render());
  const body = element("tbody");
  const columns = COLUMNS.filter((column) => !column.varies || new Set(all.map(column.key)).size > 1);
  const heads = columns.map((column) => {
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
      ...columns.map((column) => element("td", { className: column.number ? "number" : column.className ?? "" }, column.cell(place))))));
    more.hidden = drawn.length === sorted.length;
    const ok = chosen.reduce((sum, place) => sum + place.ok, 0);
    const planned = chosen.reduce((sum, place) => sum + place.planned, 0);
    document.getElementById("shown").textContent =
      `${drawn.length} of ${sorted.length} results shown; ${ok}/${planned} of their cells were measured.`;
    if (document.getElementById("board")) board(selects.some(({ select }) => select.value) ? chosen : null);
  }
  render();
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
    const [label, select] = chooser(column === "dim" ? "dimension" : column, column, [["all", ""], ...values.map((value) => [value, value])], onChange);
    form.append(label);
    found.push({ column, select });
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

const look = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// Black and grey are the ink of the page, which may be dark.
const ink = (colour) => ({ "#111111": look("--theory"), "#737373": look("--muted"), "#000000": look("--theory"), "#0072B2": dark.matches ? "#4aa8e0" : colour })[colour] ?? colour;
const dark = matchMedia("(prefers-color-scheme: dark)");

const charts = [...document.querySelectorAll("figure.chart")].map((frame) => ({ frame, ...JSON.parse(frame.querySelector("script").textContent) }));
const figures = [];
const redraw = () => figures.forEach((draw) => draw());
dark.addEventListener("change", redraw);

// What is chosen here holds for all figures: the quantity, its scale, and which series are shown.
const shared = document.getElementById("shared");
const unique = (values) => [...new Set(values)];
const common = (label, name, names) => {
  const [wrapped, select] = chooser(label, name, names.map((one) => [one, one]), redraw);
  if (names.length > 1) shared.append(wrapped);
  return select;
};
const quantity = shared && common("quantity", "quantity", ["error", ...unique(charts.flatMap((chart) => chart.choices ?? []))]);
const scale = shared && charts.some((chart) => !chart.square) && common("scale", "scale", ["automatic", "logarithmic", "linear"]);
const hidden = new Set(chosen.getAll("hide"));
const boxes = new Map();
function hide(names, whether) {
  names.forEach((name) => (whether ? hidden.add(name) : hidden.delete(name)));
  boxes.forEach((box, name) => { box.checked = !hidden.has(name); });
  keep("hide", [...hidden]);
  redraw();
}
if (shared) {
  const names = unique(charts.flatMap((chart) => chart.series.map((one) => one.name)));
  const button = (text, whether) => {
    const made = element("button", { type: "button" }, text);
    made.addEventListener("click", () => hide(names, whether));
    return made;
  };
  const labels = names.map((name) => {
    const box = element("input", { type: "checkbox", checked: !hidden.has(name) });
    box.addEventListener("change", () => hide([name], !box.checked));
    boxes.set(name, box);
    return element("label", {}, box, name);
  });
  shared.append(element("details", {}, element("summary", {}, "series"), element("div", {}, button("show all", false), button("hide all", true), ...labels)));
}

function figure({ frame, ...chart }) {
  const plot = frame.querySelector(".plot");
  const choices = frame.querySelector(".choices");
  const own = (label, options, onChange) => {
    const [wrapped, made] = chooser(label, `${chart.name} ${label}`, options, onChange);
    choices.append(wrapped);
    wrapped.hidden = options.length < 2;
    return made;
  };
  const viewsOf = (a) => chart.views.map((one, index) => ({ ...one, index })).filter((one) => one.axis === null || one.axis === a);
  const optionsOf = (a) => viewsOf(a).map((one) => [one.label, one.label]);
  const axes = chart.x.map((one, a) => [one.label, String(a)]).filter(([, a]) => viewsOf(Number(a)).length);
  const pair = chart.square && chart.views.length > 1;
  const axis = own("against", axes, () => {
    fill(view, `${chart.name} show`, optionsOf(Number(axis.value)));
    view.parentElement.hidden = view.options.length < 2;
    draw();
  });
  const view = own("show", optionsOf(Number(axis.value)), () => draw());
  const [first, second, ...others] = pair ? optionsOf(0) : [];
  const beside = pair ? own("beside", [second, first, ...others], () => draw()) : null;

  function draw() {
    const a = Number(axis.value);
    const numbered = (select) => viewsOf(a).find((one) => one.label === select.value).index;
    const v = numbered(view);
    const w = pair ? numbered(beside) : v;
    const xOf = (one) => (one.x.length > 1 ? one.x[a] : one.x[0]);
    const inView = (which) => chart.series.filter((one) => one.view === which && xOf(one).some((value) => value !== null));
    // A figure, or a view of one, that does not know the quantity that was asked for shows the error.
    const asked = (chart.choices ?? []).indexOf(quantity.value);
    const q = inView(v).some((one) => one.chosen?.[asked]?.some((value) => value !== null)) ? asked : -1;
    const valued = (which, place) => inView(which).filter((one) => q < 0 || one.chosen)
      .map((one) => ({ ...one, x: xOf(one), y: q < 0 ? one.y : one.chosen[q], error: q < 0 ? one.error : undefined, place }));
    const viewed = [...valued(v, ""), ...(pair ? valued(w, "2") : [])];
    const narrow = plot.clientWidth < 620;
    const xType = reach(viewed.map((one) => one.x)) > 20 && !chart.square ? "log" : chart.x[a].type;
    const middle = halfway(viewed.flatMap((one) => one.x), xType);  // labels lean towards it
    const named = new Set();
    const traces = viewed.map((one) => {
      const first = !named.has(one.name);
      named.add(one.name);
      return {
        type: "scatter", mode: narrow ? one.mode.replace("+text", "") : one.mode, text: one.x.map(() => `  ${plain(one.name)}  `), textposition: one.x.map((value) => (value > middle ? "middle left" : "middle right")), textfont: { size: 11 }, cliponaxis: false, name: plain(one.name), legendgroup: one.name, showlegend: first, visible: hidden.has(one.name) ? "legendonly" : true, xaxis: `x${one.place}`, yaxis: `y${one.place}`, x: xType === "log" ? one.x.map((value) => (value > 0 ? value : null)) : one.x, y: one.y,
        line: { color: ink(one.colour), dash: one.dash, width: one.width ?? 1.8, shape: one.shape ?? "linear" },
        marker: { color: ink(one.colour), symbol: one.symbol, size: chart.square ? 5 : 8, opacity: chart.square ? 0.65 : 1 },
        error_y: one.error ? { type: "data", array: one.error, visible: true, thickness: 1, width: 3, color: ink(one.colour) } : undefined,
        hovertemplate: `${plain(one.name)}${one.note ? `, ${plain(one.note)}` : ""}<br>%{x:.4g}: %{y:.4g}<extra></extra>`,
      };
    });
    if (!chart.square && !narrow) plot.style.height = `max(27rem, ${19 * named.size + 110}px)`;  // a legend that need not scroll
    const grid = { gridcolor: look("--grid"), zerolinecolor: look("--grid"), linecolor: look("--axis"), exponentformat: "power", automargin: true };
    const axisOf = (type, values) => ({ ...grid, type, ...(type === "log" && ticks(values)) });
    const suits = q >= 0 && chart.choices[q] === "cosine" ? "linear" : chart.y_type;
    const yType = { logarithmic: "log", linear: "linear" }[chart.square ? "" : scale.value] ?? suits;
    const yTitle = q < 0 ? chart.views[v].y : chart.choices[q];
    const x = { ...axisOf(xType, traces.flatMap((trace) => trace.x)), title: { text: chart.x[a].label } };
    const y = { ...axisOf(yType, traces.flatMap((trace) => trace.y)), title: { text: plain(yTitle) } };
    const equal = chart.square && chart.views[v].y !== "T(x)";
    const caption = (which, place) => ({ text: plain(chart.views[which].label).replace(", knowing", narrow ? "<br>knowing" : ", knowing"), align: "left", xref: `x${place} domain`, yref: `y${place} domain`, x: 0, y: 1, xanchor: "left", yanchor: "bottom", showarrow: false });
    const paired = pair && {
      grid: narrow ? { rows: 2, columns: 1, pattern: "independent" } : { rows: 1, columns: 2, pattern: "independent" },
      xaxis2: { ...x, matches: "x" }, yaxis2: { ...y, title: { text: narrow ? plain(yTitle) : "" }, matches: "y" },
    };
    Plotly.react(plot, traces, {
      xaxis: x, yaxis: { ...y, ...(equal && { scaleanchor: "x" }) }, ...paired,
      annotations: [caption(v, ""), ...(pair ? [caption(w, "2")] : [])],
      margin: { l: 60, r: 10, t: narrow ? 48 : 34, b: 50 }, font: { family: "system-ui, sans-serif", size: 13, color: look("--ink") },
      paper_bgcolor: look("--paper"), plot_bgcolor: look("--paper"), hovermode: "closest",
      legend: { itemsizing: "constant", tracegroupgap: 0, ...(narrow ? { orientation: "h", yref: "container", y: 0, yanchor: "bottom", font: { size: 11 } } : { x: 1.02, y: 1 }) },
    }, {
      responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"],
      toImageButtonOptions: { format: "svg", filename: chart.name },
    });
  }
  draw();
  figures.push(draw);
  plot.on("plotly_legendclick", ({ curveNumber, data }) => {
    const name = data[curveNumber].legendgroup;
    hide([name], !hidden.has(name));
    return false;
  });
  plot.on("plotly_legenddoubleclick", ({ curveNumber, data }) => {
    const name = data[curveNumber].legendgroup;
    const others = unique(data.map((trace) => trace.legendgroup)).filter((one) => one !== name);
    const alone = others.every((one) => hidden.has(one));
    hide([name], false);
    hide(others, !alone);
    return false;
  });
}

// How much further the longest curve goes than the shortest: far apart, they need a logarithmic axis.
function reach(curves) {
  const ends = curves.map((x) => Math.max(...x)).filter((end) => end > 0);
  return curves.some((x) => x.length > 1) ? Math.max(...ends) / Math.min(...ends) : 1;
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
  if (decades < 0.5) return {};
  return { dtick: decades > 8 ? Math.ceil(decades / 8) : decades > 1.5 ? 1 : "D2" };
}

if (document.getElementById("data")) results();
document.querySelectorAll("table.sortable").forEach(sortable);
// A figure is drawn when it comes near the window: a page of many opens at once.
const watcher = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
  watcher.unobserve(entry.target);
  figure(charts.find((chart) => chart.frame === entry.target));
}), { rootMargin: "600px" });
charts.forEach(({ frame }) => watcher.observe(frame));
