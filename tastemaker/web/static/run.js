// A run as it goes on: steps, curves, samples, events; asked for again every few seconds.

import { $, ask, counted, settings } from "./grid.js";

const { base } = settings();
const W = 460, H = 190, LEFT = 48, BOTTOM = 22, TOP = 8, RIGHT = 10;
const SVG = "http://www.w3.org/2000/svg";
let last = "";

const make = (name, attributes = {}, text = "") => {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
};
const word = (value) => (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5) ? value.toExponential(1) : Number(value.toPrecision(3)).toString());

function chart(curve, isLog) {
  const figure = document.createElement("figure");
  const title = document.createElement("figcaption");
  const value = curve.y.at(-1);
  title.textContent = `${curve.step}: ${curve.name}`;
  const now = document.createElement("b");
  now.textContent = word(value);
  title.append(now);
  const positive = curve.y.filter((y) => y > 0);
  const log = isLog && positive.length === curve.y.length;
  const scale = (y) => (log ? Math.log10(y) : y);
  const ys = curve.y.map(scale);
  let low = Math.min(...ys), high = Math.max(...ys);
  if (low === high) { low -= Math.abs(low) * 0.1 || 1; high += Math.abs(high) * 0.1 || 1; }
  const first = curve.x[0], end = curve.x.at(-1), width = end - first || 1;
  const px = (x) => LEFT + (W - LEFT - RIGHT) * (x - first) / width;
  const py = (y) => TOP + (H - TOP - BOTTOM) * (1 - (y - low) / (high - low));
  const svg = make("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${curve.name}, now ${word(value)}` });
  for (const share of [0, 0.5, 1]) {
    const y = low + share * (high - low);
    svg.append(make("line", { x1: LEFT, x2: W - RIGHT, y1: py(y), y2: py(y), class: "rule" }));
    svg.append(make("text", { x: LEFT - 6, y: py(y) + 4, "text-anchor": "end" }, word(log ? 10 ** y : y)));
  }
  for (const [x, anchor] of [[first, "start"], [end, "end"]]) svg.append(make("text", { x: px(x), y: H - 5, "text-anchor": anchor }, counted(x)));
  svg.append(make("text", { x: (W + LEFT) / 2, y: H - 5, "text-anchor": "middle" }, "images"));
  if (ys.length === 1) svg.append(make("circle", { cx: px(first), cy: py(ys[0]), r: 3, class: "dot" }));
  svg.append(make("path", { d: ys.map((y, i) => `${i ? "L" : "M"}${px(curve.x[i]).toFixed(1)} ${py(y).toFixed(1)}`).join(""), class: "curve" }));
  figure.append(title, svg);
  return figure;
}

function paint(state) {
  $("status").textContent = `${state.status}, ${state.done} of ${state.of} steps`;
  $("status").dataset.status = state.status;
  $("steps").replaceChildren(...state.steps.map((step) => {
    const item = document.createElement("li");
    item.dataset.status = step.status;
    const name = document.createElement("b"), what = document.createElement("span");
    name.textContent = step.name;
    const counts = Object.entries(step.counts).slice(0, 3).map(([key, n]) => `${counted(n)} ${key}`).join(", ");
    what.textContent = [step.stage === step.name ? "" : step.stage, counts || step.status].filter(Boolean).join(" · ");
    item.append(name, what);
    return item;
  }));
  $("curves-part").hidden = !state.curves.length;
  $("curves").replaceChildren(...state.curves.map((curve) => chart(curve, $("log").checked)));
  $("samples-part").hidden = !state.samples.length;
  $("samples").replaceChildren(...state.samples.flatMap((set) => {
    const head = document.createElement("h3"), strip = document.createElement("div");
    head.textContent = `${set.name}: ${counted(set.count)}`;
    strip.className = "film";
    strip.append(...set.latest.map(({ number, prompt }) => {
      const image = new Image();
      image.loading = "lazy"; image.src = `${base}/t/${set.step}/${number}`; image.alt = image.title = prompt;
      return image;
    }));
    return [head, strip];
  }));
  $("events-part").hidden = !state.events.length;
  $("events").replaceChildren(...state.events.map(({ time, step, kind, ...rest }) => {
    const row = document.createElement("tr");
    const more = Object.entries(rest).map(([k, v]) => `${k} ${typeof v === "object" ? JSON.stringify(v) : v}`).join(", ");
    const cells = [new Date(time * 1000).toLocaleTimeString(), step ?? "", kind, more.length > 240 ? `${more.slice(0, 240)}…` : more];
    row.append(...cells.map((text) => { const cell = document.createElement("td"); cell.textContent = text; return cell; }));
    return row;
  }));
  $("nothing").hidden = Boolean(state.steps.length || state.events.length);
}

async function refresh() {
  const state = await ask(`${base}/state`, null);
  if (!state) return;
  const text = JSON.stringify(state);
  if (text !== last) { last = text; paint(state); }
  document.body.dataset.state = "ready";
}
$("log").onchange = () => { last = ""; refresh(); };
refresh();
setInterval(() => { if (!document.hidden) refresh(); }, 2500);
