// A list of any length of which only what can be seen exists: rows of one height, fetched by pages.

const PAGE = 100;
const KEPT_PAGES = 40;
const TALLEST = 12_000_000; // browsers lose count of pixels somewhere above; then scrolling is scaled

export class Grid {
  #pages = new Map(); #rows = new Map(); #total = 0; #turn = 0; #top = 0; #own = false; #begun = false; #asked = new Set();

  // parts: {perRow(width), rowHeight(width), fetch(offset, limit) -> {total, rows}, paint(cell, item, index), told(total)}
  constructor(scroller, parts) {
    this.scroller = scroller;
    this.parts = parts;
    this.cursor = -1;
    this.space = document.createElement("div");
    this.space.className = "space";
    this.none = document.createElement("p");
    this.none.className = "none"; this.none.hidden = true; this.none.textContent = parts.none ?? "Nothing fits.";
    scroller.replaceChildren(this.space, this.none);
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    scroller.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    new ResizeObserver(() => this.layout()).observe(scroller);
  }

  get total() { return this.#total; }
  item(index) { return this.#pages.get(Math.floor(index / PAGE))?.[index % PAGE]; }

  // Everything anew: another filter or order.
  async reload(keepPlace = false) {
    this.#turn += 1;
    this.#begun = true;
    this.#pages.clear(); this.#asked.clear();
    if (!keepPlace) { this.#top = 0; this.cursor = -1; this.scroller.scrollTop = 0; }
    await this.#load(keepPlace ? Math.floor(this.#firstIndex() / PAGE) : 0);
    this.layout();
  }

  layout() {
    const width = this.scroller.clientWidth;
    if (!width || !this.#begun) return;
    this.perRow = Math.max(1, this.parts.perRow(width));
    this.rowHeight = this.parts.rowHeight(width);
    this.height = Math.ceil(this.#total / this.perRow) * this.rowHeight;
    this.shown = Math.min(this.height, TALLEST);
    this.space.style.height = `${this.shown}px`;
    this.scroller.style.setProperty("--per-row", this.perRow);
    this.none.hidden = this.#total > 0;
    for (const row of this.#rows.values()) row.remove();
    this.#rows.clear();
    this.#paint();
  }

  // The item with the cursor stays in sight; presses come faster than pictures.
  move(step) {
    if (!this.#total) return;
    const start = this.cursor < 0 ? this.#firstIndex() - step : this.cursor;
    this.go(Math.max(0, Math.min(this.#total - 1, start + step)));
  }

  go(index) {
    this.cursor = index;
    const top = Math.floor(index / this.perRow) * this.rowHeight;
    const view = this.scroller.clientHeight;
    if (top < this.#top) this.#scrollTo(top);
    else if (top + this.rowHeight > this.#top + view) this.#scrollTo(top + this.rowHeight - view);
    this.#paint();
  }

  repaint() { for (const row of this.#rows.values()) this.#fill(row); }

  #room() { return Math.max(0, this.height - this.scroller.clientHeight); }
  #ratio() {
    const own = this.shown - this.scroller.clientHeight;
    return own > 0 ? this.#room() / own : 1;
  }
  #firstIndex() { return Math.floor(this.#top / (this.rowHeight || 1)) * (this.perRow || 1); }

  #scrollTo(top) {
    this.#top = Math.max(0, Math.min(this.#room(), top));
    this.#own = true;
    this.scroller.scrollTop = this.#top / this.#ratio();
    this.#paint();
  }

  #scrolled() {
    if (this.#own) { this.#own = false; return; }
    this.#top = this.scroller.scrollTop * this.#ratio();
    this.#paint();
  }

  // Where scrolling is scaled the wheel still moves by what it says.
  #wheel(event) {
    if (this.shown === this.height || event.ctrlKey) return;
    event.preventDefault();
    const unit = event.deltaMode === 1 ? 20 : event.deltaMode === 2 ? this.scroller.clientHeight : 1;
    this.#scrollTo(this.#top + event.deltaY * unit);
  }

  #paint() {
    if (!this.rowHeight) return;
    const view = this.scroller.clientHeight;
    const first = Math.max(0, Math.floor(this.#top / this.rowHeight) - 1);
    const last = Math.min(Math.ceil(this.#total / this.perRow), Math.ceil((this.#top + view) / this.rowHeight) + 1);
    for (const [number, row] of this.#rows) if (number < first || number >= last) { row.remove(); this.#rows.delete(number); }
    const offset = this.scroller.scrollTop - this.#top;
    for (let number = first; number < last; number += 1) {
      let row = this.#rows.get(number);
      if (!row) {
        row = document.createElement("div");
        row.className = "line";
        row.number = number;
        row.style.height = `${this.rowHeight}px`;
        this.space.append(row);
        this.#rows.set(number, row);
        this.#fill(row);
      }
      row.style.transform = `translateY(${number * this.rowHeight + offset}px)`;
      for (const cell of row.children) cell.classList.toggle("cursor", cell.index === this.cursor);
    }
    for (const page of new Set([first * this.perRow, last * this.perRow - 1].map((i) => Math.floor(Math.max(0, i) / PAGE)))) this.#load(page);
  }

  #fill(row) {
    const start = row.number * this.perRow;
    const count = Math.min(this.perRow, this.#total - start);
    while (row.children.length > count) row.lastChild.remove();
    while (row.children.length < count) { const cell = document.createElement("div"); cell.className = "cell"; row.append(cell); }
    [...row.children].forEach((cell, number) => {
      cell.index = start + number;
      const item = this.item(cell.index);
      cell.classList.toggle("waiting", !item);
      cell.classList.toggle("cursor", cell.index === this.cursor);
      if (item) this.parts.paint(cell, item, cell.index);
    });
  }

  async #load(page) {
    const offset = page * PAGE;
    if (this.#asked.has(page) || (this.#pages.size && offset >= this.#total)) return;
    this.#asked.add(page);
    const turn = this.#turn;
    const told = await this.parts.fetch(offset, PAGE);
    if (turn !== this.#turn) return;
    if (!told) { this.#asked.delete(page); return; }
    this.#pages.set(page, told.rows);
    if (this.#pages.size > KEPT_PAGES) {
      const far = [...this.#pages.keys()].sort((a, b) => Math.abs(b - page) - Math.abs(a - page))[0];
      this.#pages.delete(far); this.#asked.delete(far);
    }
    if (told.total !== this.#total || !told.total) { this.#total = told.total; this.parts.told?.(told.total); this.layout(); }
    else this.repaint();
  }
}

export const $ = (id) => document.getElementById(id);
export const settings = () => JSON.parse($("settings").textContent);

// JSON from the server, or null after its reason was shown; a newer call makes an older one silent.
export async function ask(address, problem, signal) {
  try {
    const answer = await fetch(address, { signal });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error ?? `status ${answer.status}`);
    if (problem) problem.hidden = true;
    return told;
  } catch (error) {
    if (error.name !== "AbortError" && problem) { problem.textContent = error.message; problem.hidden = false; }
    return null;
  }
}

export async function send(address, value) {
  const answer = await fetch(address, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value),
  });
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error ?? `status ${answer.status}`);
  return told;
}

export function later(work, ms = 250) {
  let timer = 0;
  return () => { clearTimeout(timer); timer = setTimeout(work, ms); };
}

export function options(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value, false, String(value) === String(chosen))));
}

export const counted = (number) => number.toLocaleString("en");
// A button that has the focus is pressed by these keys; they mean nothing else then.
export const isPressing = (event) => ["Enter", " "].includes(event.key) && event.target.closest("button, a, summary") !== null;
// What could not be read stays in sight, whatever else goes wrong or well.
export function damage(problems) { $("damage").textContent = problems.join(" "); $("damage").hidden = !problems.length; }
export const isTyping = (target) => target.matches("input:not([type=range]), textarea, select");
