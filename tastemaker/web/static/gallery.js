// Prompts by models: rows of pictures that began with the same noise, sorted by what differs.

import { $, Grid, ask, counted, damage, isPressing, isTyping, later, options, send, settings } from "./grid.js";

const { base } = settings();
const HEAD = 42;
const ORDERS = {
  prompt: "prompt", gain: "most better in the second", loss: "most worse in the second",
  apart: "largest difference", people: "people prefer the second", disagreement: "people against score",
};
let facts = { models: [], scorers: [], categories: [], voted: [], total: 0 };
let open = -1; // index of the row that is shown side by side
let column = 0; // which model the marks are for

const chosen = () => ({ a: Number($("a").value || 0), b: Number($("b").value || 0) });
const address = (kind, item, model) =>
  `${base}/${kind}?m=${model}&i=${item.index}&p=${encodeURIComponent(item.prompt_id)}`;

const grid = new Grid($("scroller"), {
  perRow: () => 1,
  rowHeight: (width) => HEAD + Math.min(320, Math.max(72, (width - 24 - 6 * (facts.models.length - 1)) / Math.max(1, facts.models.length))) + 8,
  async fetch(offset, limit) {
    const query = new URLSearchParams({ ...wanted(), offset, limit });
    return ask(`${base}/rows?${query}`, $("problem"));
  },
  paint: row,
  none: "No prompt fits these filters.",
  told: (total) => { $("told").textContent = `${counted(total)} of ${counted(facts.total)} rows`; },
});

function wanted() {
  const { a, b } = chosen();
  return {
    by: $("by").value || "prompt", scorer: $("scorer").value, a, b, q: $("q").value,
    category: $("category").value, marked: $("marked").value,
  };
}

function row(cell, item, index) {
  const head = document.createElement("p");
  head.className = "prompt";
  const text = document.createElement("b");
  text.textContent = item.prompt || item.prompt_id;
  text.title = `${item.prompt_id}${item.index ? `, number ${item.index}` : ""}${item.seed ? `, seed ${item.seed}` : ""}`;
  head.append(text, note(item));
  const strip = document.createElement("div");
  strip.className = "strip";
  item.there.forEach((there, model) => {
    const figure = document.createElement("figure");
    figure.dataset.model = model;
    if (there) {
      const image = new Image();
      image.loading = "eager"; image.decoding = "async"; image.alt = facts.models[model];
      image.src = address("t", item, model);
      figure.append(image);
    } else figure.classList.add("gone");
    paintFigure(figure, item, model);
    strip.append(figure);
  });
  cell.replaceChildren(head, strip);
  cell.onclick = (event) => {
    const figure = event.target.closest("figure");
    grid.cursor = index;
    if (figure) column = Number(figure.dataset.model);
    show(index);
  };
}

function paintFigure(figure, item, model) {
  figure.classList.toggle("keep", item.marks[model] === "keep");
  figure.classList.toggle("reject", item.marks[model] === "reject");
  let label = figure.querySelector("figcaption");
  const score = item.scores?.[model];
  const words = [score == null ? "" : score.toFixed(3), { keep: "✓", reject: "✕" }[item.marks[model]] ?? ""].filter(Boolean).join(" ");
  if (!label && words) { label = document.createElement("figcaption"); figure.append(label); }
  if (label) { label.textContent = words; label.hidden = !words; }
}

function note(item) {
  const { a, b } = chosen();
  const parts = [];
  if (item.gain != null && a !== b) parts.push(`score ${item.gain >= 0 ? "+" : "−"}${Math.abs(item.gain).toFixed(3)}`);
  if (item.people != null) parts.push(`people ${item.people > 0 ? "for the second" : item.people < 0 ? "for the first" : "undecided"} (${(item.people > 0 ? "+" : "") + item.people.toFixed(2)})`);
  if (item.disagreement > 0) parts.push("they disagree");
  if (!item.same) parts.push(item.seed ? "not the same noise" : "");
  const span = document.createElement("span");
  span.className = "soft";
  span.textContent = parts.filter(Boolean).join(" · ");
  return span;
}

// --- side by side --------------------------------------------------------------------------------

async function show(index) {
  const item = grid.item(index);
  if (!item) return;
  open = index;
  const { a, b } = chosen();
  const others = facts.models.map((_, model) => model).filter((model) => model !== column && item.there[model]);
  const left = a !== b && item.there[a] ? a : column;
  const right = a !== b && item.there[b] ? b : (others[0] ?? column);
  if ($("beside").hidden) { $("beside").hidden = false; $("beside").focus(); }
  $("beside-prompt").textContent = item.prompt || item.prompt_id;
  $("beside-note").textContent = note(item).textContent;
  $("under").src = address("p", item, right);
  $("over").src = address("p", item, left);
  $("name-a").textContent = `${facts.models[left]} ${sign(item, left)}`;
  $("name-b").textContent = `${facts.models[right]} ${sign(item, right)}`;
  $("beside").dataset.left = left; $("beside").dataset.right = right;
  $("beside").dataset.prompt = item.prompt_id;
  cut(edge);
}

const sign = (item, model) => ({ keep: "✓ kept", reject: "✕ rejected" })[item.marks[model]] ?? "";
let edge = 50;
function cut(percent) {
  edge = Math.max(0, Math.min(100, percent));
  $("cut").style.clipPath = `inset(0 ${100 - edge}% 0 0)`;
  $("edge").style.left = `${edge}%`;
}

function close() { open = -1; $("beside").hidden = true; $("scroller").focus(); }

async function mark(value) {
  const index = open >= 0 ? open : grid.cursor;
  const item = grid.item(index);
  if (!item) return;
  // Side by side the mark is for the picture with more room.
  const model = open >= 0 ? Number(edge >= 50 ? $("beside").dataset.left : $("beside").dataset.right) : column;
  if (!item.there[model]) return;
  const before = item.marks[model];
  item.marks[model] = before === value ? null : value;
  grid.repaint();
  if (open >= 0) show(open);
  try {
    await send(`${base}/mark`, { model: facts.models[model], prompt_id: item.prompt_id, index: item.index, mark: item.marks[model] });
  } catch (error) {
    item.marks[model] = before;
    grid.repaint();
    $("problem").textContent = error.message; $("problem").hidden = false;
  }
}

function step(by) {
  if (Number.isFinite(by)) grid.move(by); else grid.go(by < 0 ? 0 : grid.total - 1);
  if (open >= 0) { open = grid.cursor; show(open); }
}
const flicker = () => cut(edge > 50 ? 0 : 100);

document.addEventListener("keydown", (event) => {
  if (isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey || isPressing(event)) return;
  const wide = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const steps = { ArrowUp: -1, ArrowDown: 1, PageUp: -5, PageDown: 5, Home: -Infinity, End: Infinity }[event.key];
  if (steps !== undefined) step(steps);
  else if (wide && open >= 0) cut(edge + 5 * wide);
  else if (wide) { column = Math.max(0, Math.min(facts.models.length - 1, column + wide)); paintColumn(); }
  else if (event.key === " " && open >= 0) flicker();
  else if ((event.key === "Enter" || event.key === " ") && grid.cursor >= 0) show(grid.cursor);
  else if (event.key === "Escape" && open >= 0) close();
  else if (event.key === "k") mark("keep");
  else if (event.key === "r" || event.key === "x") mark("reject");
  else return;
  event.preventDefault();
});

$("overlay").addEventListener("pointermove", (event) => {
  if (event.pointerType === "touch" || event.buttons || event.pointerType === "mouse") {
    const box = $("overlay").getBoundingClientRect();
    cut(100 * (event.clientX - box.left) / box.width);
  }
});
const acts = { before: () => step(-1), after: () => step(1), flicker, keep: () => mark("keep"), reject: () => mark("reject") };
for (const button of $("beside").querySelectorAll("[data-act]")) button.onclick = () => { acts[button.dataset.act](); $("beside").focus(); };
$("beside-close").onclick = close;
$("beside").addEventListener("click", (event) => { if (event.target === $("beside")) close(); });
for (const kind of ["csv", "jsonl"]) $(`export-${kind}`).onclick = () => { location.href = `${base}/marks.${kind}`; };

function paintColumn() {
  [...$("heads").children].forEach((head, model) => head.classList.toggle("chosen", model === column));
}

const again = later(() => grid.reload());
$("q").addEventListener("input", again);
for (const id of ["category", "a", "b", "scorer", "by", "marked"]) $(id).addEventListener("change", () => grid.reload());
$("tools").addEventListener("submit", (event) => event.preventDefault());

async function begin() {
  const told = await ask(`${base}/facts`, $("problem"));
  if (!told) return;
  facts = told;
  damage(told.problems);
  if (!facts.models.length) {
    $("tools").hidden = $("heads").hidden = true;
    const empty = document.createElement("p");
    empty.className = "none"; empty.textContent = "No generated pictures here yet.";
    $("scroller").replaceChildren(empty);
    document.body.dataset.state = "ready";
    return;
  }
  const models = facts.models.map((name, number) => [number, name]);
  options($("a"), models, 0);
  options($("b"), models, Math.min(1, models.length - 1));
  options($("scorer"), facts.scorers.map(({ name, lower }) => [name, lower ? `${name} (less is better)` : name]), facts.scorers[0]?.name);
  options($("category"), [["", "all"], ...facts.categories.map((name) => [name, name])], "");
  const possible = Object.entries(ORDERS).filter(([name]) => name === "prompt"
    || (["gain", "loss", "apart"].includes(name) && facts.scorers.length)
    || (name === "people" && facts.voted.length) || (facts.voted.length && facts.scorers.length));
  options($("by"), possible, "prompt");
  $("scorer-label").hidden = !facts.scorers.length;
  $("category-label").hidden = !facts.categories.length;
  $("heads").style.setProperty("--models", facts.models.length);
  $("scroller").style.setProperty("--models", facts.models.length);
  $("heads").replaceChildren(...facts.models.map((name) => { const b = document.createElement("b"); b.textContent = name; return b; }));
  paintColumn();
  await grid.reload();
  document.body.dataset.state = "ready";
}
begin();
