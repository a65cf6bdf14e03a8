// The pictures of a collection: filters, verdicts, and what another limit would keep.

import { $, Grid, ask, counted, damage, isPressing, isTyping, later, options, send, settings } from "./grid.js";

const { base } = settings();
const CARD = 168;
let facts = { total: 0, numbers: [], addresses: [], curations: [] };
let down = true, sweep = null, open = null;

const grid = new Grid($("scroller"), {
  perRow: (width) => Math.max(2, Math.floor(width / CARD)),
  rowHeight: (width) => Math.round(width / Math.max(2, Math.floor(width / CARD))) + 18,
  fetch: (offset, limit) => ask(`${base}/rows?${new URLSearchParams({ ...wanted(), offset, limit })}`, $("problem")),
  paint: card,
  none: "No picture fits these filters.",
  told: (total) => { $("told").textContent = `${counted(total)} of ${counted(facts.total)} pictures`; },
});

function wanted() {
  const [verdict, rule] = $("verdict").value.split("|");
  return {
    q: $("q").value, sql: $("sql").value, sort: $("sort").value, down, curation: $("curation").value || -1,
    verdict: verdict ?? "", rule: rule ?? "", marked: $("marked").value,
  };
}

function card(cell, item, index) {
  if (cell.shows === item.id + index + item.mark) return;
  cell.shows = item.id + index + item.mark;
  const image = new Image();
  image.decoding = "async"; image.alt = item.text || item.name; image.src = `${base}/t/${item.id}`;
  const label = document.createElement("span");
  label.textContent = item.value == null ? (item.text || item.name) : `${item.value}`;
  cell.title = `${item.name}${item.rule ? `\ndropped: ${item.rule}` : ""}`;
  cell.classList.toggle("dropped", item.kept === false);
  cell.classList.toggle("kept", item.kept === true);
  cell.classList.toggle("keep", item.mark === "keep");
  cell.classList.toggle("reject", item.mark === "reject");
  cell.replaceChildren(image, label, ...badge(item.mark));
  cell.onclick = () => { grid.cursor = index; grid.go(index); detail(item.id); };
}

function badge(mark) {
  if (!mark) return [];
  const text = document.createElement("i");
  text.textContent = mark === "keep" ? "✓ keep" : "✕ reject";
  return [text];
}

// A mark by hand; the same once more takes it back.
async function mark(value) {
  const item = grid.item(grid.cursor);
  if (!item) return;
  const before = item.mark;
  item.mark = before === value ? null : value;
  grid.repaint(); press(item.mark);
  try {
    await send(`${base}/mark`, { picture: item.id, mark: item.mark });
  } catch (error) {
    item.mark = before;
    grid.repaint(); press(before);
    $("problem").textContent = error.message; $("problem").hidden = false;
  }
}

function press(mark) {
  for (const button of $("detail").querySelectorAll("[data-mark]")) button.setAttribute("aria-pressed", button.dataset.mark === mark);
}

async function detail(id) {
  open = id;
  const told = await ask(`${base}/one/${id}?curation=${$("curation").value || -1}`, $("problem"));
  if (!told || open !== id) return;
  const box = $("detail");
  const image = new Image();
  image.src = `${base}/p/${id}`; image.alt = told.captions?.[0] ?? "";
  const rows = [
    ["File", told.path], ["Size", `${told.h} × ${told.w} ${told.format}`], ["Source", told.source],
    ["Captions", (told.captions ?? []).join("\n")], ["Tags", (told.tags ?? []).join(", ")],
    ...(told.attributes ?? []).map(({ name, value }) => [name, value]),
    ...(told.verdict ? [["Verdict", told.verdict.kept ? "kept" : `dropped by ${told.verdict.rule}: ${told.verdict.reason}, ${told.verdict.got}, limit ${told.verdict.limit}`]] : []),
    ...(told.error ? [["Error", told.error]] : []),
    ...Object.entries(told.measured ?? {}).map(([name, value]) => [name, typeof value === "number" ? Number(value.toPrecision(6)) : String(value)]),
  ].filter(([, value]) => value !== "" && value != null);
  const list = document.createElement("dl");
  for (const [name, value] of rows) {
    const dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = name; dd.textContent = value;
    list.append(dt, dd);
  }
  const close = document.createElement("button");
  close.textContent = "✕"; close.setAttribute("aria-label", "Close"); close.onclick = shut;
  const marks = document.createElement("p");
  marks.className = "row";
  for (const [value, text, key] of [["keep", "Keep", "k"], ["reject", "Reject", "r"]]) {
    const button = document.createElement("button"), hint = document.createElement("kbd");
    hint.textContent = key; button.append(text, hint); button.dataset.mark = value; button.onclick = () => mark(value);
    marks.append(button);
  }
  box.replaceChildren(close, image, marks, list);
  press(grid.item(grid.cursor)?.mark ?? null);
  box.hidden = false;
}

function shut() { open = null; $("detail").hidden = true; $("scroller").focus(); }

// --- what if -------------------------------------------------------------------------------------

async function whatIf() {
  const column = $("column").value;
  sweep = null;
  $("slider").hidden = true;
  if (!column) return;
  $("told").textContent = "…";
  const query = new URLSearchParams({ column, curation: $("curation").value || -1 });
  const told = await ask(`${base}/what-if?${query}`, $("problem"));
  $("told").textContent = `${counted(grid.total)} of ${counted(facts.total)} pictures`;
  if (!told || $("column").value !== column) return;
  sweep = told;
  const points = told.points, most = Math.max(1, ...points.map((p) => p.kept)), last = points.length - 1;
  const bars = told.histogram.heights, tallest = Math.max(1, ...bars);
  const line = points.map((p, i) => `${i ? "L" : "M"}${(400 * i / last).toFixed(1)} ${(58 - 56 * p.kept / most).toFixed(1)}`).join("");
  const area = bars.map((n, i) => `<rect x="${400 * i / bars.length}" y="${60 - 56 * n / tallest}" width="${400 / bars.length - 1}" height="${56 * n / tallest}"/>`).join("");
  // Numbers only, nothing that anybody wrote.
  $("sweep").innerHTML = `<g class="bars">${area}</g><path d="${line}"/>`;
  $("limit").max = last;
  const today = told.today ?? (told.side === "least" ? points[0].limit : points[last].limit);
  $("limit").value = points.reduce((best, p, i) => (Math.abs(p.limit - today) < Math.abs(points[best].limit - today) ? i : best), 0);
  $("slider").hidden = false;
  outcome();
}

function outcome() {
  if (!sweep) return;
  const point = sweep.points[Number($("limit").value)];
  const change = [point.gained ? `+${counted(point.gained)}` : "", point.lost ? `−${counted(point.lost)}` : ""].filter(Boolean).join(" ");
  const today = sweep.today == null ? "no limit" : Number(sweep.today.toPrecision(4));
  $("outcome").textContent = `${sweep.column} at ${sweep.side} ${Number(point.limit.toPrecision(4))}: `
    + `${counted(point.kept)} of ${counted(sweep.count)} kept${change ? ` (${change})` : ""}. Today: ${today}, ${counted(sweep.now)} kept.`;
}

// The pictures next to the limit are the ones to look at.
const near = later(() => {
  if (!sweep) return;
  const name = sweep.column.replace(".", "_");
  const limit = sweep.points[Number($("limit").value)].limit;
  if (!facts.numbers.includes(name)) return;
  $("sql").value = sweep.side === "least" ? `${name} >= ${limit}` : `${name} <= ${limit}`;
  $("sort").value = name;
  setDown(sweep.side !== "least");
  grid.reload();
}, 350);

function setDown(is) {
  down = is;
  $("down").textContent = is ? "↓" : "↑";
  $("down").title = is ? "Largest first" : "Smallest first";
  $("down").setAttribute("aria-label", $("down").title);
}

function verdicts() {
  const one = facts.curations[Number($("curation").value)];
  const pairs = [["", "all pictures"]];
  if (one) {
    pairs.push(["kept|", `kept (${counted(one.kept)})`], ["dropped|", "dropped"]);
    for (const { rule, count } of one.rules) pairs.push([`dropped|${rule}`, `dropped by ${rule} (${counted(count)})`]);
  }
  options($("verdict"), pairs, "");
  $("verdict").disabled = !one;
}

// --- keys and wishes -----------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  if (isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey || event.target.type === "range" || isPressing(event)) return;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -grid.perRow, ArrowDown: grid.perRow, PageUp: -4 * grid.perRow, PageDown: 4 * grid.perRow }[event.key];
  if (step) { grid.move(step); if (open) { const item = grid.item(grid.cursor); if (item) detail(item.id); } }
  else if (event.key === "Home") grid.go(0);
  else if (event.key === "End") grid.go(grid.total - 1);
  else if (event.key === "Enter" || event.key === " ") { const item = grid.item(grid.cursor); if (item) detail(item.id); }
  else if (event.key === "Escape" && open) shut();
  else if (event.key === "k") mark("keep");
  else if (event.key === "r" || event.key === "x") mark("reject");
  else return;
  event.preventDefault();
});

const again = later(() => grid.reload());
for (const id of ["q", "sql"]) $(id).addEventListener("input", again);
for (const id of ["verdict", "sort", "marked"]) $(id).addEventListener("change", () => grid.reload());
$("curation").addEventListener("change", () => { verdicts(); grid.reload(); whatIf(); });
$("down").onclick = () => { setDown(!down); grid.reload(); };
$("more").onclick = () => {
  const is = $("panel").hidden;
  $("panel").hidden = !is;
  $("more").setAttribute("aria-expanded", is);
};
$("column").addEventListener("change", whatIf);
$("limit").addEventListener("input", () => { outcome(); near(); });
$("tools").addEventListener("submit", (event) => event.preventDefault());

async function begin() {
  const first = grid.reload();
  const told = await ask(`${base}/facts`, $("problem"));
  await first;
  if (!told) return;
  facts = told;
  damage(told.problems);
  options($("sort"), [["", "as collected"], ...facts.numbers.map((name) => [name, name])], "");
  options($("curation"), [[-1, "none"], ...facts.curations.map((one, number) => [number, one.name])], facts.curations.length ? 0 : -1);
  options($("column"), [["", "choose a column"], ...facts.addresses.map((name) => [name, name])], "");
  verdicts();
  if (facts.curations.length) await grid.reload();
  $("told").textContent = `${counted(grid.total)} of ${counted(facts.total)} pictures`;
  document.body.dataset.state = "ready";
}
begin();
