// Who rates: names, links, and how far each one is.

import { $, ask, counted, send, settings } from "./grid.js";

const told = settings();

function paint({ raters, votes, from }) {
  $("sum").textContent = votes ? `${counted(votes)} answers by ${from} ${from === 1 ? "rater" : "raters"}` : "No answers yet.";
  $("raters").hidden = $("raters-title").hidden = !raters.length;
  $("raters").tBodies[0].replaceChildren(...raters.map((rater) => {
    const row = document.createElement("tr");
    const link = document.createElement("a");
    link.href = rater.link;
    link.textContent = told.kind === "study" ? new URL(rater.link, location.href).href : `go on as ${rater.name}`;
    const meter = document.createElement("div");
    meter.className = "meter";
    const bar = document.createElement("i");
    bar.style.width = rater.target ? `${Math.min(100, 100 * rater.done / rater.target)}%` : "0";
    meter.append(bar);
    const cells = [rater.name, rater.target ? `${counted(rater.done)} of ${counted(rater.target)}` : counted(rater.done), rater.target ? meter : "",
      rater.skipped, rater.seconds == null ? "" : `${rater.seconds.toFixed(1)} s`, link];
    row.append(...cells.map((value) => { const cell = document.createElement("td"); cell.append(value); return cell; }));
    return row;
  }));
}

$("enter").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const { link } = await send(`${told.base}/enter`, { name: $("name").value });
    if (told.kind !== "study") { location.href = link; return; }
    $("name").value = "";
    refresh();
  } catch (error) { $("problem").textContent = error.message; $("problem").hidden = false; }
});

async function refresh() {
  const state = await ask(`${told.base}/state`, null);
  if (state) paint(state);
}
paint(told);
setInterval(refresh, 5000);
