// One executor's blocks as a picture. The pointer or the arrow keys choose a block, and a line says whose it is.

import { CACHED, FREE, HELD, REUSED, SHARED } from "./block_map.js";
import { element, say } from "./dom.js";
import { count } from "./format.js";

const MAX_HEIGHT = 300;
const MAX_SIDE = 20;
// Pixels, from which squares are rounded and marked.
const MARKED_SIDE = 8;

export class MapView {
  constructor(name, feed) {
    this.name = name;
    this.feed = feed;
    this.map = null;
    this.highlighted = null;
    this.isAlone = false;
    this.chosen = null;
    this.title = element("h3", {}, name);
    this.note = element("p", { class: "note" });
    this.canvas = element("canvas", { tabindex: "0", role: "img", "aria-describedby": `readout-${name}` });
    this.readout = element("p", { class: "readout", id: `readout-${name}`, "aria-live": "polite" });
    this.rows = element("tbody");
    const heads = ["request", "blocks held", "found in the cache", "shared"];
    const row = element("tr", {}, ...heads.map((text, at) => element("th", { scope: "col", class: at ? "number" : null }, text)));
    this.table = element("details", {}, element("summary", {}, "As a table"), element("table", {}, element("thead", {}, row), this.rows));
    const head = element("div", { class: "head" }, this.title, element("div", {}, this.note, this.readout));
    this.root = element("div", { class: "pool" }, head, this.canvas, this.table);
    this.canvas.addEventListener("pointermove", (event) => this.choose(this.blockAt(event.offsetX, event.offsetY)));
    this.canvas.addEventListener("pointerleave", () => this.choose(null));
    this.canvas.addEventListener("blur", () => this.choose(null));
    this.canvas.addEventListener("keydown", (event) => this.onKey(event));
    this.table.addEventListener("toggle", () => this.fillTable());
    new ResizeObserver(() => this.layOut()).observe(this.root);
  }

  update(pool, colours) {
    const { executor, map, changed, isNew } = pool;
    const isOther = this.map !== map || isNew || this.colours !== colours;
    Object.assign(this, { map, colours, executor });
    if (isOther) this.layOut();
    else for (const [first, number] of changed) this.draw(first, first + number);
    const blocks = `${count(executor.num_blocks)} blocks of ${executor.block_size} tokens`;
    const parts = [`${count(executor.num_held)} held`, `${count(executor.num_cached)} cached`, `${count(executor.num_free)} free`];
    say(this.note, `${blocks}: ${parts.join(", ")}`);
    this.canvas.setAttribute("aria-label", `Block map of executor ${this.name}: ${parts.join(", ")}`);
    this.title.replaceChildren(this.name, executor.is_draining ? element("span", { class: "badge" }, "draining") : "");
    this.explain();
    this.fillTable();
  }

  // Marks the blocks of one owner; null: of none. All others' may be faint.
  highlight(owner, isAlone) {
    if (owner === this.highlighted && isAlone === this.isAlone) return;
    Object.assign(this, { highlighted: owner, isAlone });
    if (this.map) this.draw(0, this.map.length);
  }

  layOut() {
    const width = this.root.clientWidth;
    if (!this.map || !width) return;
    const number = this.map.length;
    let side = MAX_SIDE;
    while (side > 1 && Math.ceil(number / Math.floor(width / side)) * side > MAX_HEIGHT) side -= 1;
    // More than fit at a pixel each are drawn larger and shown smaller.
    this.columns = Math.max(Math.floor(width / side), side === 1 ? Math.ceil(Math.sqrt((number * width) / MAX_HEIGHT)) : 1);
    this.rowCount = Math.ceil(number / this.columns);
    this.side = side;
    this.scale = side > 1 ? Math.max(1, Math.round(devicePixelRatio)) : 1;
    this.canvas.width = this.columns * side * this.scale;
    this.canvas.height = this.rowCount * side * this.scale;
    this.canvas.style.width = `${Math.min(width, this.columns * side)}px`;
    this.draw(0, number);
  }

  draw(first, end) {
    const pen = this.canvas.getContext("2d");
    const side = this.side * this.scale;
    const gap = this.side >= 12 ? 2 * this.scale : this.side >= 4 ? this.scale : 0;
    for (let block = first; block < end; block++) {
      const x = (block % this.columns) * side;
      const y = Math.floor(block / this.columns) * side;
      pen.clearRect(x, y, side, side);
      this.drawBlock(pen, block, x, y, side - gap);
    }
  }

  drawBlock(pen, block, x, y, size) {
    const { colours } = this;
    const kind = this.map.kind(block);
    const owner = this.map.owner(block);
    const isMarked = this.highlighted !== null && owner === this.highlighted;
    const isLarge = this.side >= MARKED_SIDE;
    pen.globalAlpha = this.isAlone && !isMarked ? 0.3 : 1;
    pen.fillStyle = kind === FREE ? colours.free : kind === CACHED ? colours.cached : colours.held(owner);
    if (!isLarge) {
      pen.fillRect(x, y, size, size);
      if (kind === REUSED || isMarked) this.tint(pen, x, y, size, isMarked ? colours.ink : colours.card);
    } else {
      square(pen, x, y, size);
      if (kind === REUSED) this.dot(pen, x, y, size, colours.card);
      if (kind === SHARED) this.dot(pen, x, y, size, colours.ink);
      if (isMarked) this.ring(pen, x, y, size, colours.ink);
    }
    if (block === this.chosen) this.ring(pen, x, y, size, colours.accent);
    pen.globalAlpha = 1;
  }

  tint(pen, x, y, size, colour) {
    pen.globalAlpha = 0.4;
    pen.fillStyle = colour;
    pen.fillRect(x, y, size, size);
  }

  dot(pen, x, y, size, colour) {
    pen.fillStyle = colour;
    square(pen, x + size * 0.3, y + size * 0.3, size * 0.4);
  }

  ring(pen, x, y, size, colour) {
    const width = Math.max(1.5, size / 9);
    pen.globalAlpha = 1;
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.beginPath();
    pen.roundRect(x + width / 2, y + width / 2, size - width, size - width, size / 6);
    pen.stroke();
  }

  blockAt(x, y) {
    const shrink = this.canvas.clientWidth / (this.columns * this.side);
    const column = Math.floor(x / shrink / this.side);
    const block = Math.floor(y / shrink / this.side) * this.columns + column;
    return column >= 0 && column < this.columns && block >= 0 && block < this.map.length ? block : null;
  }

  onKey(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns };
    const ends = { Home: 0, End: this.map.length - 1 };
    const to = event.key in steps ? (this.chosen ?? -steps[event.key]) + steps[event.key] : ends[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to >= 0 && to < this.map.length) this.choose(to);
  }

  choose(block) {
    const before = this.chosen;
    if (block === before) return;
    this.chosen = block;
    for (const each of [before, block]) if (each !== null) this.draw(each, each + 1);
    this.explain();
  }

  explain() {
    const words = {
      [FREE]: (by) => (by ? `free; last held by ${by}` : "free"),
      [CACHED]: (by) => (by ? `cached; left by ${by}` : "cached"),
      [HELD]: (by) => `held by ${by}`,
      [REUSED]: (by) => `held by ${by}, which found it in the cache`,
      [SHARED]: (by) => `shared by several, the latest is ${by}`,
    };
    const isChosen = this.chosen !== null && this.chosen < this.map.length;
    this.note.hidden = isChosen;
    if (!isChosen) {
      say(this.readout, "");
      return;
    }
    const owner = this.map.owner(this.chosen);
    const by = owner ? this.feed.name(this.name, owner) ?? `request ${owner} of this executor` : "";
    say(this.readout, `Block ${count(this.chosen)}: ${words[this.map.kind(this.chosen)](by)}`);
  }

  fillTable() {
    if (!this.table.open || !this.map) return;
    const rows = [...this.map.holders()].map(([owner, row]) => {
      const name = this.feed.name(this.name, owner) ?? `request ${owner}`;
      const numbers = [row.held, row.reused, row.shared].map((each) => element("td", { class: "number" }, count(each)));
      return element("tr", {}, element("td", {}, name), ...numbers);
    });
    const none = element("tr", {}, element("td", { colspan: "4" }, "No block is held."));
    this.rows.replaceChildren(...(rows.length ? rows : [none]));
  }
}

function square(pen, x, y, size) {
  pen.beginPath();
  pen.roundRect(x, y, size, size, size / 6);
  pen.fill();
}

// The maps of all executors, in the order of their names.
export class Maps {
  constructor(parent, feed, colours) {
    Object.assign(this, { parent, feed, colours, views: new Map(), empty: parent.firstElementChild });
  }

  update() {
    const names = [...this.feed.pools.keys()].sort();
    if (names.join() !== [...this.views.keys()].join()) {
      this.views = new Map(names.map((name) => [name, this.views.get(name) ?? new MapView(name, this.feed)]));
      this.parent.replaceChildren(...(names.length ? [...this.views.values()].map((view) => view.root) : [this.empty]));
    }
    for (const [name, view] of this.views) view.update(this.feed.pools.get(name), this.colours);
    this.parent.classList.toggle("stale", !this.feed.scheduler.up || !this.feed.isConnected);
  }

  // Marks the blocks that a request has, or has left: {executor, owner}, or null; alone: all others are faint.
  highlight(place, isAlone) {
    for (const [name, view] of this.views) view.highlight(place?.executor === name ? place.owner : null, isAlone);
  }
}
