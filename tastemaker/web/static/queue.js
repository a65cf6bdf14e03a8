// Votes on their way: kept by the browser until the server says that it has them.
//
// An entry is {key, id, again, answer, seconds, viewport}. Entries are sent in the order in which
// they were made; sending one twice changes nothing, so whatever may have been lost is sent again.

const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 4000;
const AT_ONCE = 40;

export class Queue {
  #address; #prefix; #told; #list = []; #busy = false; #timer = 0; #wait = FIRST_WAIT_MS; #count = 0;

  // told(kind, entry, result): kind is "stored", "refused", "waiting" or "empty".
  constructor(address, name, told) {
    this.#address = address;
    this.#prefix = `tastemaker:${name}:`;
    this.#told = told;
    this.#list = this.#kept();
    addEventListener("online", () => this.#soon(0));
    addEventListener("pagehide", () => this.#send());
  }

  get length() { return this.#list.length; }
  ids() { return this.#list.map((entry) => entry.id); }
  hasUndo() { return this.#list.some((entry) => entry.again > 0); }

  add(entry) {
    this.#count += 1;
    const number = String(this.#count).padStart(6, "0");
    entry.key = `${Date.now().toString(36)}-${number}-${Math.random().toString(36).slice(2, 8)}`;
    this.#list.push(entry);
    this.#save(entry);
    this.#soon(0);
  }

  // Take an entry out that was never sent; false when it may have arrived.
  withdraw(id, again) {
    const entry = this.#list.findLast((one) => one.id === id && one.again === again && one.answer);
    if (!entry || entry.tried) return false;
    this.#remove(entry);
    return true;
  }

  async flushed(timeoutMs = Infinity) {
    const until = performance.now() + timeoutMs;
    this.#soon(0);
    while (this.#list.length && performance.now() < until) await new Promise((r) => setTimeout(r, 30));
    return this.#list.length === 0;
  }

  #soon(wait) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#send(), wait);
  }

  async #send() {
    if (this.#busy || !this.#list.length) return;
    this.#busy = true;
    const batch = this.#list.slice(0, AT_ONCE);
    for (const entry of batch) entry.tried = true;
    try {
      const answer = await fetch(this.#address, {
        method: "POST",
        keepalive: true,
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ entries: batch.map(({ tried, ...entry }) => entry) }),
        signal: AbortSignal.timeout(8000),
      });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const { results } = await answer.json();
      const found = new Map(results.map((result) => [result.key, result]));
      for (const entry of batch) {
        const result = found.get(entry.key);
        if (!result) continue;
        this.#remove(entry);
        this.#told(result.error ? "refused" : "stored", entry, result);
      }
      this.#wait = FIRST_WAIT_MS;
      if (this.#list.length) this.#soon(0); else this.#told("empty");
    } catch (error) {
      this.#told("waiting", null, error);
      this.#soon(this.#wait);
      this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT_MS);
    } finally {
      this.#busy = false;
    }
    if (this.#list.length && this.#wait === FIRST_WAIT_MS) this.#soon(0);
  }

  #remove(entry) {
    this.#list = this.#list.filter((one) => one !== entry);
    try { localStorage.removeItem(this.#prefix + entry.key); } catch { /* no storage: nothing there */ }
  }

  #save(entry) {
    try { localStorage.setItem(this.#prefix + entry.key, JSON.stringify(entry)); }
    catch { /* without storage the queue lives as long as the page */ }
  }

  #kept() {
    try {
      const keys = Object.keys(localStorage).filter((key) => key.startsWith(this.#prefix)).sort();
      return keys.map((key) => ({ ...JSON.parse(localStorage.getItem(key)), tried: true }));
    } catch { return []; }
  }
}
