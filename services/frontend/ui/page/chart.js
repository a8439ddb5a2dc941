// A curve or two over the last two minutes, with the newest value in words.

import { element, say, svg } from "./dom.js";

const MIN_SPAN_MS = 30_000;
const MAX_SPAN_MS = 120_000;
const HEIGHT = 74;
const TOP = 6;
const BOTTOM = 70;
// Points further apart are not joined.
const GAP_MS = 1600;

export class Chart {
  // title, keys: names of the curves; read(point): their values, or null; say(values): [value, unit];
  // tick(value): text at the grid; isFilled: the first curve has an area.
  constructor(parent, { title, keys, read, words, tick, isFilled = false }) {
    Object.assign(this, { title, read, words, tick, isFilled, points: [] });
    this.number = element("span");
    this.unit = element("small");
    this.drawing = svg("svg", { role: "img" });
    const legend = element("div", { class: "keys", "aria-hidden": "true" });
    legend.append(...keys.map((key) => element("span", {}, element("i"), key)));
    const caption = element("figcaption", {}, element("h2", {}, title), keys.length > 1 ? legend : "");
    const value = element("p", { class: "value" }, this.number, this.unit);
    parent.append(element("figure", { class: "card chart" }, caption, value, this.drawing));
    this.hovered = null;
    this.drawing.addEventListener("pointermove", (event) => this.hover(event.offsetX));
    this.drawing.addEventListener("pointerleave", () => this.hover(null));
    new ResizeObserver(() => this.draw()).observe(this.drawing);
  }

  update(points) {
    this.points = points;
    this.draw();
  }

  hover(x) {
    this.hovered = x;
    this.draw();
  }

  draw() {
    const width = this.drawing.clientWidth;
    if (!width || !this.points.length) return;
    const end = this.points.at(-1).time;
    const span = Math.min(MAX_SPAN_MS, Math.max(MIN_SPAN_MS, end - this.points[0].time));
    const x = (point) => ((point.time - end + span) / span) * width;
    const seen = this.points.filter((point) => point.time > end - span && this.read(point) !== null);
    const most = niceCeiling(Math.max(0, ...seen.flatMap((point) => this.read(point))));
    const y = (value) => BOTTOM - (value / most) * (BOTTOM - TOP);
    const shapes = [...this.gridLines(width, most, y), ...this.curves(seen, x, y)];
    const chosen = this.hovered === null ? seen.at(-1) : nearest(seen, x, this.hovered);
    if (chosen && this.hovered !== null) {
      shapes.push(svg("line", { class: "cursor", x1: x(chosen), x2: x(chosen), y1: 0, y2: BOTTOM }));
    }
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.drawing.replaceChildren(...shapes);
    const [value, unit] = chosen ? this.words(this.read(chosen)) : ["–", ""];
    say(this.number, value);
    say(this.unit, this.hovered !== null && chosen ? `${unit}, ${((end - chosen.time) / 1000).toFixed(0)} s ago` : unit);
    this.drawing.setAttribute("aria-label", `${this.title}: ${value} ${unit}; below ${this.tick(most)} of late`);
  }

  gridLines(width, most, y) {
    return [0, most].flatMap((value) => {
      const line = svg("line", { class: "grid", x1: 0, x2: width, y1: y(value), y2: y(value) });
      return value ? [line, svg("text", { x: 0, y: y(value) + 12 }, this.tick(value))] : [line];
    });
  }

  curves(points, x, y) {
    if (!points.length) return [];
    const shapes = [];
    const number = this.read(points[0]).length;
    for (let each = number - 1; each >= 0; each--) {
      const runs = joined(points).map((run) => run.map((point) => `${x(point).toFixed(1)} ${y(this.read(point)[each]).toFixed(1)}`));
      if (!each && this.isFilled) {
        const areas = joined(points).map((run, index) => `M${x(run[0]).toFixed(1)} ${BOTTOM}L${runs[index].join("L")}L${x(run.at(-1)).toFixed(1)} ${BOTTOM}Z`);
        shapes.push(svg("path", { class: "area", d: areas.join("") }));
      }
      // A single point is a line of no length, which is drawn as a dot.
      const line = runs.map((run) => `M${run[0]}L${run.join("L")}`).join("");
      shapes.push(svg("path", { class: each ? "curve second" : "curve", d: line }));
    }
    return shapes;
  }
}

function joined(points) {
  const runs = [];
  for (const point of points) {
    const before = runs.at(-1)?.at(-1);
    if (before && point.time - before.time < GAP_MS) runs.at(-1).push(point);
    else runs.push([point]);
  }
  return runs;
}

function nearest(points, x, place) {
  return points.reduce((best, point) => (best && Math.abs(x(best) - place) < Math.abs(x(point) - place) ? best : point), null);
}

// The least of 1, 2, 5, 10, 20 … that is not less.
function niceCeiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((step) => step * power >= value * 0.999);
}
