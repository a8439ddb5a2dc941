// The table of requests that run and wait. A row that is pointed at, or has the focus, marks its blocks in the maps.

import { element, say } from "./dom.js";
import { count, plural, seconds } from "./format.js";

const MAX_ROWS = 40;

export class Requests {
  // mark({executor, owner} or null): called when a row is chosen, or none any more.
  constructor(body, note, colours, mark) {
    Object.assign(this, { body, note, colours, mark, rows: new Map(), chosen: null });
  }

  update(feed) {
    const open = feed.requests.filter((request) => request.state !== "ended");
    const statistics = [...feed.pools.values()].map((pool) => pool.executor);
    const running = statistics.reduce((sum, each) => sum + each.num_running, 0);
    const waiting = open.filter((request) => !request.executor).length + statistics.reduce((sum, each) => sum + each.num_waiting, 0);
    say(this.note, `${count(running)} running, ${count(waiting)} waiting`);
    const rows = new Map();
    for (const request of open.slice(0, MAX_ROWS)) {
      const key = `${request.executor}/${request.owner}/${request.request_id}`;
      const row = this.rows.get(key) ?? this.makeRow(request);
      row.fill(request);
      rows.set(key, row);
    }
    const isSame = [...rows.keys()].join() === [...this.rows.keys()].join() && this.body.childElementCount;
    this.rows = rows;
    if (!isSame) {
      this.body.replaceChildren(...[...rows.values()].map((row) => row.root));
      if (open.length > MAX_ROWS) this.body.append(this.remark(`and ${plural(open.length - MAX_ROWS, "other")}`));
      if (!open.length) this.body.append(this.remark("No request is open."));
    }
    if (this.chosen && !rows.has(this.chosen)) this.choose(null, null);
  }

  remark(text) {
    return element("tr", {}, element("td", { colspan: "7", class: "empty" }, text));
  }

  choose(key, request) {
    this.chosen = key;
    this.mark(request && request.owner ? { executor: request.executor, owner: request.owner } : null);
  }

  makeRow(first) {
    const key = `${first.executor}/${first.owner}/${first.request_id}`;
    const swatch = element("i", { "aria-hidden": "true" });
    const name = element("button", { type: "button", class: "name", title: first.request_id }, swatch, element("span", {}, first.request_id));
    const bars = ["", "computed", "generated"].map((kind) => element("i", { class: kind || null }));
    const meter = element("div", { class: "meter", "aria-hidden": "true" }, ...bars);
    const [state, prompt, cached, generated, age] = Array.from({ length: 5 }, () => element("td"));
    for (const cell of [prompt, cached, generated, age]) cell.className = "number";
    const root = element("tr", {}, element("td", {}, name), state, element("td", {}, meter), prompt, cached, generated, age);
    for (const event of ["pointerenter", "focusin"]) root.addEventListener(event, () => this.choose(key, first));
    for (const event of ["pointerleave", "focusout"]) root.addEventListener(event, () => this.choose(null, null));

    const fill = (request) => {
      swatch.style.background = request.owner ? this.colours().held(request.owner) : "";
      say(state, request.state);
      say(prompt, count(request.num_prompt));
      say(cached, count(request.num_cached));
      say(generated, count(request.num_generated));
      say(age, seconds(request.age_ms));
      // The cached part of the prompt, then what is computed of it, then the answer.
      const whole = Math.max(1, request.num_prompt + request.num_generated);
      const computed = request.state === "generation" ? request.num_prompt : Math.min(request.num_computed, request.num_prompt);
      const ends = [request.num_cached, Math.max(computed, request.num_cached), whole];
      const starts = [0, request.num_cached, request.num_generated ? request.num_prompt : whole];
      bars.forEach((bar, at) => {
        bar.style.left = `${(100 * starts[at]) / whole}%`;
        bar.style.width = `${(100 * Math.max(0, ends[at] - starts[at])) / whole}%`;
      });
    };
    return { root, fill };
  }
}
