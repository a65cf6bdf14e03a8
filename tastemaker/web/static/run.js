// A run as it goes on: steps, curves, samples, events; asked for again every few seconds.

import { $, ask, counted, damage, settings } from "./grid.js";

const { base } = settings();
const W = 460, H = 190, LEFT = 58, BOTTOM = 22, TOP = 8, RIGHT = 10;
const SVG = "http://www.w3.org/2000/svg";
const painted = new Map(), unfolded = new Set();
let stamp = "", curves = [];

const make = (name, attributes = {}, text = "") => {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
};
const html = (name, text = "", className = "") => {
  const element = document.createElement(name);
  element.textContent = text; element.className = className;
  return element;
};
const word = (value) => (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5) ? value.toExponential(1) : Number(value.toPrecision(3)).toString());

// --- curves --------------------------------------------------------------------------------------

// `validation/loss_t450` is one line of the family `validation/loss`, at one level of noise.
const family = (name) => name.match(/^(.*)_t(\d+)$/);

// Training first, then what is measured on pictures held out; the loss before all others.
function rank({ name }) {
  const [group, own] = name.includes("/") ? name.split("/") : ["", name];
  const groups = ["", "validation", "stable"], owns = ["loss", "accuracy", "margin", "mse", "auto_beta"];
  const place = (list, value) => (list.includes(value) ? list.indexOf(value) : list.length);
  return place(groups, group) * 100 + place(owns, own);
}

// lines: [{label, x, y}], drawn over each other on common axes.
function chart(name, lines, isLog) {
  const figure = html("figure"), title = html("figcaption", name);
  const value = lines.at(-1).y.at(-1);
  title.append(html("b", lines.length === 1 ? word(value) : `t ${lines[0].label} to ${lines.at(-1).label}`));
  const every = lines.flatMap((line) => line.y), log = isLog && every.every((y) => y > 0);
  const scale = (y) => (log ? Math.log10(y) : y);
  const bounds = (values) => values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
  let [low, high] = bounds(every.map(scale));
  if (low === high) { low -= Math.abs(low) * 0.1 || 1; high += Math.abs(high) * 0.1 || 1; }
  const [first, end] = bounds(lines.flatMap((line) => line.x)), width = end - first || 1;
  const px = (x) => LEFT + (W - LEFT - RIGHT) * (x - first) / width;
  const py = (y) => TOP + (H - TOP - BOTTOM) * (1 - (y - low) / (high - low));
  const svg = make("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${name}, now ${word(value)}` });
  for (const share of [0, 0.5, 1]) {
    const y = low + share * (high - low);
    svg.append(make("line", { x1: LEFT, x2: W - RIGHT, y1: py(y), y2: py(y), class: "rule" }));
    svg.append(make("text", { x: LEFT - 6, y: py(y) + 4, "text-anchor": "end" }, word(log ? 10 ** y : y)));
  }
  for (const [x, anchor] of first === end ? [[first, "start"]] : [[first, "start"], [end, "end"]]) svg.append(make("text", { x: px(x), y: H - 5, "text-anchor": anchor }, counted(x)));
  svg.append(make("text", { x: (W + LEFT) / 2, y: H - 5, "text-anchor": "middle" }, "images"));
  lines.forEach(({ x, y }, number) => {
    if (y.length === 1) svg.append(make("circle", { cx: px(x[0]), cy: py(scale(y[0])), r: 3, class: "dot" }));
    const path = make("path", { d: y.map((v, i) => `${i ? "L" : "M"}${px(x[i]).toFixed(1)} ${py(scale(v)).toFixed(1)}`).join(""), class: "curve" });
    if (lines.length > 1) path.style.stroke = `color-mix(in srgb, var(--accent) ${Math.round(100 * number / (lines.length - 1))}%, var(--before))`;
    svg.append(path);
  });
  figure.append(title, svg);
  return figure;
}

function charts(figures) {
  const box = html("div", "", "charts");
  box.append(...figures);
  return box;
}

// By level of noise there are ten lines for every curve; and what is measured on the same pictures
// each time tells less than what was held out. Both are drawn when somebody asks.
function fold(step, families, stable) {
  const count = families.size + stable.length;
  const details = html("details"), summary = html("summary", `By level of noise, and more: ${count} ${count === 1 ? "chart" : "charts"}`);
  details.append(summary);
  const fill = () => {
    if (!details.open) { unfolded.delete(step); return; }
    unfolded.add(step);
    if (details.children.length > 1) return;
    const is = $("log").checked;
    details.append(charts([
      ...[...families].map(([name, lines]) => chart(name, lines.sort((a, b) => a.label - b.label), is)),
      ...stable.map((curve) => chart(curve.name, [curve], is)),
    ]));
  };
  details.ontoggle = fill;
  details.open = unfolded.has(step);
  return details;
}

function paintCurves() {
  $("curves-part").hidden = !curves.length;
  const steps = [...new Set(curves.map((curve) => curve.step))].reverse();
  $("curves").replaceChildren(...steps.flatMap((step) => {
    const own = curves.filter((curve) => curve.step === step), families = new Map();
    for (const curve of own) {
      const [, name, t] = family(curve.name) ?? [];
      if (name) families.set(name, [...(families.get(name) ?? []), { ...curve, label: Number(t) }]);
    }
    const plain = own.filter((curve) => !family(curve.name)).sort((a, b) => rank(a) - rank(b));
    const stable = plain.filter((curve) => curve.name.startsWith("stable/"));
    const main = plain.filter((curve) => !stable.includes(curve)).map((curve) => chart(curve.name, [curve], $("log").checked));
    return [html("h3", step), charts(main), ...(families.size || stable.length ? [fold(step, families, stable)] : [])];
  }));
}

// --- the rest ------------------------------------------------------------------------------------

function paintSteps(steps) {
  $("steps").replaceChildren(...steps.map((step) => {
    const item = html("li");
    item.dataset.status = step.status;
    const counts = Object.entries(step.counts).filter(([, n]) => n).slice(0, 3).map(([key, n]) => `${counted(n)} ${key}`).join(", ");
    item.append(html("b", step.name), html("span", [step.stage === step.name ? "" : step.stage, counts || step.status].filter(Boolean).join(" · ")));
    return item;
  }));
}

function paintSamples(sets) {
  $("samples-part").hidden = !sets.length;
  $("samples").replaceChildren(...sets.flatMap((set) => {
    const strip = html("div", "", "film");
    strip.append(...set.latest.map(({ number, prompt }) => {
      const image = new Image();
      image.loading = "lazy"; image.src = `${base}/t/${set.key}/${number}`; image.alt = image.title = prompt;
      return image;
    }));
    return [html("h3", `${set.name}: ${counted(set.count)}`), strip];
  }));
}

const spoken = (value) => (typeof value === "number" && !Number.isInteger(value) ? word(value)
  : Array.isArray(value) ? value.map(spoken).join(" ") : value && typeof value === "object" ? listed(value) : String(value));
const listed = (values) => Object.entries(values).map(([k, v]) => `${k} ${spoken(v)}`).join(", ");

function paintEvents(events) {
  $("events-part").hidden = !events.length;
  $("events").replaceChildren(...events.map(({ time, step, kind, key, ...rest }) => {
    const row = html("tr"), more = listed(rest);
    const cells = [Number.isFinite(time) ? new Date(time * 1000).toLocaleTimeString() : "", step ?? "", kind ?? "", more.length > 240 ? `${more.slice(0, 240)}…` : more];
    row.append(...cells.map((text) => html("td", text)));
    return row;
  }));
}

// What has not changed is left alone, so that pictures do not flicker.
function part(name, value, paint) {
  const text = JSON.stringify(value);
  if (painted.get(name) === text) return;
  painted.set(name, text);
  paint(value);
}

async function refresh() {
  const state = await ask(`${base}/state?known=${stamp}`, null);
  if (!state) return;
  if (state.stamp !== stamp) {
    stamp = state.stamp;
    $("status").textContent = `${state.status}, ${state.done} of ${state.of} steps`;
    $("status").dataset.status = state.status;
    damage(state.problems);
    part("steps", state.steps, paintSteps);
    part("curves", state.curves, (told) => { curves = told; paintCurves(); });
    part("samples", state.samples, paintSamples);
    part("events", state.events, paintEvents);
    $("nothing").hidden = Boolean(state.steps.length || state.events.length);
  }
  document.body.dataset.state = "ready";
}
$("log").onchange = paintCurves;
refresh();
setInterval(() => { if (!document.hidden) refresh(); }, 2500);
