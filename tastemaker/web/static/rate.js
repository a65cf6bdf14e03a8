// The page of one rater. A pair is swapped in only when both of its pictures are decoded, in one
// frame; the next ones are made ready meanwhile.

import { Queue } from "./queue.js";
import { Zoom } from "./zoom.js";

const AHEAD = 5; // pairs that are loaded and decoded before they are needed
const BATCH = 8;
const UNDO_DEPTH = 20;
const KEYS = {
  ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right", ArrowDown: "tie", 0: "tie",
  ArrowUp: "both_bad", x: "both_bad", s: "skip", z: "undo", Backspace: "undo", " ": "zoom", f: "zoom",
  "?": "help", h: "help", Escape: "close",
};

const $ = (id) => document.getElementById(id);
const settings = JSON.parse($("settings").textContent);
const stage = $("stage"), body = document.body;
const zoom = new Zoom(stage);
const queue = new Queue(`${settings.base}/votes`, settings.base.slice(3), onQueue);

let upcoming = [];          // pairs that were fetched and not shown
let past = [];              // answered pairs, newest last
let current = null;
let waitingKeys = [];       // presses that came while nothing was to be seen; only without a minimum view
let progress = { done: 0, today: 0, target: null };
let loading = false, finished = false, session = { votes: 0, acts: 0, since: performance.now(), told: 0 };
const seen = new Set();
const renamed = new Map(); // a pair's id -> its id since its answer was taken back

// --- pairs -------------------------------------------------------------------------------------

function made(told) {
  const element = document.createElement("div");
  element.className = "pair";
  const sides = ["left", "right"].map((place, number) => {
    const side = document.createElement("figure");
    side.className = "side";
    side.dataset.answer = place;
    const image = new Image();
    image.alt = number ? "Second picture" : "First picture";
    image.decoding = "sync";
    image.draggable = false;
    image.src = told[place];
    side.append(image);
    return { side, image };
  });
  element.append(...sides.map((one) => one.side));
  stage.append(element);
  const pair = { ...told, again: 0, element, sides, broken: false, isReady: false };
  pair.ready = ready(pair);
  return pair;
}

async function ready(pair) {
  const found = await Promise.all(pair.sides.map(({ side, image }) => decoded(side, image)));
  pair.broken = found.includes(false);
  pair.isReady = true;
}

async function decoded(side, image, tries = 4) {
  for (let attempt = 0; attempt < tries; attempt += 1) {
    try { await image.decode(); return true; } catch { /* the server may be away for a moment */ }
    await new Promise((wait) => setTimeout(wait, 300 * 2 ** attempt));
    image.src = `${image.src.split("?")[0]}?${attempt}`;
  }
  side.classList.add("gone");
  return false;
}

async function fetchMore() {
  if (loading || upcoming.length >= AHEAD || (finished && !current)) return;
  loading = true;
  // A pair whose answer was taken back must not come in again as a new one.
  if (queue.hasUndo()) await queue.flushed();
  const known = new Set([...upcoming.map((p) => p.id), ...queue.ids()]);
  if (current) known.add(current.id);
  for (const id of [...known]) if (renamed.has(id)) known.add(renamed.get(id));
  let wait = 0;
  const isSettled = queue.length === 0, acts = session.acts;
  try {
    const answer = await fetch(`${settings.base}/next?count=${BATCH}&known=${[...known].join(",")}`);
    if (answer.status === 404) return gone();
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const told = await answer.json();
    // While answers are on their way the page knows better than the server.
    if (!session.acts || (isSettled && acts === session.acts)) progress = told.progress;
    progress.target = told.progress.target;
    const fresh = told.pairs.filter((pair) => !seen.has(pair.id));
    fresh.forEach((pair) => seen.add(pair.id));
    upcoming.push(...fresh.map(made));
    finished = told.pairs.length === 0;
    if (!fresh.length && !finished) wait = 400;
    online(true);
  } catch {
    online(false);
    wait = 1000;
  } finally { loading = false; }
  paintProgress();
  if (!current) advance();
  if (wait) setTimeout(fetchMore, wait); else if (upcoming.length < AHEAD && !finished) fetchMore();
}

async function advance() {
  const next = upcoming[0];
  if (!next) {
    state(finished && !queue.length ? "done" : "loading");
    if (finished) done();
    return;
  }
  if (!next.isReady) { state("loading"); await next.ready; if (current || upcoming[0] !== next) return; }
  upcoming.shift();
  show(next);
}

function show(pair) {
  current = pair;
  for (const other of stage.querySelectorAll(".pair.on")) other.classList.remove("on");
  pair.element.classList.add("on");
  $("question").textContent = pair.question;
  $("prompt").textContent = pair.prompt;
  $("prompt").hidden = !pair.prompt;
  zoom.apply();
  pair.since = performance.now();
  body.dataset.pair = pair.id;
  state("ready");
  if (pair.broken) toast("One of these pictures cannot be shown: skip this pair.");
  fetchMore();
  if (waitingKeys.length) answer(waitingKeys.shift());
}

// --- answers -----------------------------------------------------------------------------------

function answer(choice) {
  if ((choice === "tie" && !settings.ties) || (choice === "both_bad" && !settings.bothBad)) return;
  if (!current) {
    if (!settings.minViewMs && !finished && waitingKeys.length < 100) waitingKeys.push(choice);
    return;
  }
  const looked = performance.now() - current.since;
  if (looked < settings.minViewMs && choice !== "skip") {
    toast("That was quicker than one can look: not counted", 900);
    return;
  }
  const pair = current;
  current = null;
  pair.answer = choice;
  session.acts += 1;
  queue.add({
    id: pair.id, again: pair.again, answer: choice,
    seconds: Math.min(86400, Math.round(looked) / 1000), viewport: `${innerWidth}x${innerHeight}`,
  });
  past.push(pair);
  while (past.length > UNDO_DEPTH) past.shift().element.remove();
  if (choice !== "skip") { progress.done += 1; progress.today += 1; session.votes += 1; }
  paintProgress();
  advance();
  breakHint();
}

function undo() {
  // The server would refuse more, and with it every answer that waits behind.
  if (!past.length || past.at(-1).again >= settings.mostAgain) { toast("Nothing more to take back on this page"); return; }
  const pair = past.pop();
  waitingKeys = [];
  session.acts += 1;
  if (current) upcoming.unshift(current);
  current = null;
  finished = false;
  if (!queue.withdraw(pair.id, pair.again)) {
    pair.again += 1;
    queue.add({ id: pair.id, again: pair.again, answer: null, seconds: null, viewport: "" });
  }
  if (pair.answer !== "skip") { progress.done -= 1; progress.today -= 1; session.votes -= 1; }
  paintProgress();
  toast(`Taken back: it was ${NAMES[pair.answer]}`, 1500);
  upcoming.unshift(pair);
  advance();
}

const NAMES = { left: "the first", right: "the second", tie: "the same", both_bad: "both bad", skip: "skipped" };

function onQueue(kind, entry, result) {
  if (kind === "stored") {
    online(true);
    if (result.id !== entry.id) {
      seen.add(result.id);
      renamed.set(entry.id, result.id);
      for (const pair of upcoming.filter((one) => one.id === result.id)) pair.element.remove();
      upcoming = upcoming.filter((one) => one.id !== result.id);
    }
  } else if (kind === "refused") {
    toast(`An answer was not taken: ${result.error}`, 6000);
  } else if (kind === "waiting") {
    online(false);
  } else if (finished && !current && !upcoming.length) {
    state("done");
  }
  body.dataset.unsent = queue.length;
}

// --- around it ---------------------------------------------------------------------------------

function state(name) { body.dataset.state = name; }

function online(is) { $("net").hidden = is; }

function paintProgress() {
  const { done: count, target, today } = progress;
  body.dataset.unsent = queue.length;
  $("count").textContent = target ? `${count.toLocaleString("en")} of ${target.toLocaleString("en")}` : `${count} · ${today} today`;
  const bar = document.querySelector(".progress");
  bar.hidden = !target;
  bar.setAttribute("aria-valuenow", count);
  bar.setAttribute("aria-valuemax", target ?? count);
  bar.firstElementChild.style.width = target ? `${Math.min(100, 100 * count / target)}%` : "0";
}

function done() {
  $("question").textContent = "That was the last pair. Thank you!";
  $("prompt").hidden = false;
  $("prompt").textContent = "You can close this page, or take the last answer back.";
  for (const other of stage.querySelectorAll(".pair.on")) other.classList.remove("on");
  delete body.dataset.pair;
}

function gone() {
  state("done");
  $("question").textContent = "This link opens nothing any more";
}

function breakHint() {
  const minutes = (performance.now() - session.since) / 60000;
  if (minutes - session.told >= settings.breakMinutes) {
    session.told = minutes;
    toast(`${Math.round(minutes)} minutes and ${session.votes} answers: a short break keeps them good.`, 8000);
  }
}

let toastTimer = 0;
function toast(text, ms = 3000) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { $("toast").hidden = true; }, ms);
}

function sheet(open) {
  if (!open && !$("sheet").hidden && current) current.since = performance.now();
  $("sheet").hidden = !open;
  if (open) $("sheet").querySelector(".paper").focus(); else document.activeElement?.blur();
}

function act(name) {
  if (name === "undo") undo();
  else if (name === "zoom") zoom.toggle();
  else if (name === "help") sheet($("sheet").hidden);
  else if (name === "close") { if (zoom.on) zoom.toggle(false); sheet(false); }
  else answer(name);
}

document.addEventListener("keydown", (event) => {
  const name = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  const target = event.target;
  if (!name || event.ctrlKey || event.metaKey || event.altKey || target.matches("input, textarea, select")) return;
  if (!$("sheet").hidden) {
    if (name === "close" || name === "help") { event.preventDefault(); sheet(false); }
    return;
  }
  event.preventDefault();
  if (!event.repeat) act(name);
});

stage.addEventListener("click", (event) => {
  const side = event.target.closest(".side");
  // A finger that moves a zoomed picture chooses nothing.
  if (side && !(zoom.on && event.pointerType === "touch")) answer(side.dataset.answer);
});
$("answers").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  button.blur();
  act(button.dataset.answer ?? button.dataset.act);
});
$("help").addEventListener("click", () => sheet(true));
$("start").addEventListener("click", () => {
  sheet(false);
  try { localStorage.setItem(`tastemaker-told:${settings.base}`, "1"); } catch { /* shown again */ }
});
addEventListener("beforeunload", (event) => { if (queue.length) event.preventDefault(); });

async function begin() {
  let isTold = false;
  try { isTold = localStorage.getItem(`tastemaker-told:${settings.base}`) === "1"; } catch { /* no storage */ }
  if (!isTold) sheet(true);
  // Answers of an earlier visit go first, so that their pairs do not come again.
  await queue.flushed(3000);
  fetchMore();
}
begin();
