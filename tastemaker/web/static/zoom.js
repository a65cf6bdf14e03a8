// Zoom that is locked on both pictures: the same place of each, at the same scale.

export class Zoom {
  #stage; #on = false; #x = 50; #y = 50; #scale = 3; #drag = null;

  constructor(stage) {
    this.#stage = stage;
    stage.addEventListener("pointermove", (event) => this.#move(event));
    stage.addEventListener("pointerdown", (event) => { this.#drag = { x: event.clientX, y: event.clientY }; });
    addEventListener("pointerup", () => { this.#drag = null; });
    stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
  }

  get on() { return this.#on; }

  toggle(on = !this.#on) {
    this.#on = on;
    this.#stage.classList.toggle("zoomed", on);
    this.apply();
  }

  apply() {
    for (const image of this.#stage.querySelectorAll(".pair.on img")) {
      image.style.transform = this.#on ? `scale(${this.#scale})` : "";
      image.style.transformOrigin = `${this.#x}% ${this.#y}%`;
    }
  }

  #move(event) {
    if (!this.#on) return;
    const box = event.target.closest?.(".side")?.getBoundingClientRect();
    if (!box) return;
    if (event.pointerType === "mouse") {
      this.#x = 100 * (event.clientX - box.left) / box.width;
      this.#y = 100 * (event.clientY - box.top) / box.height;
    } else if (this.#drag) {
      this.#x -= 100 * (event.clientX - this.#drag.x) / box.width / (this.#scale - 1);
      this.#y -= 100 * (event.clientY - this.#drag.y) / box.height / (this.#scale - 1);
      this.#drag = { x: event.clientX, y: event.clientY };
    }
    this.#x = Math.max(0, Math.min(100, this.#x));
    this.#y = Math.max(0, Math.min(100, this.#y));
    this.apply();
  }

  #wheel(event) {
    if (!this.#on) return;
    event.preventDefault();
    this.#scale = Math.max(1.5, Math.min(12, this.#scale * (event.deltaY < 0 ? 1.15 : 1 / 1.15)));
    this.apply();
  }
}
