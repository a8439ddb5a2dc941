// Faults, recoveries and other events, the latest first.

import { element } from "./dom.js";
import { clock } from "./format.js";

const MAX_EVENTS = 64;
const WORDS = { fault: "fault", recovery: "recovery", change: "change" };

export class Events {
  constructor(list) {
    this.list = list;
  }

  update(update) {
    if (update.whole) this.list.replaceChildren();
    for (const event of update.events) this.add(event);
  }

  add({ level, text, time }) {
    const when = element("time", { datetime: new Date(time).toISOString() }, clock(time));
    this.list.prepend(element("li", { class: level }, when, element("b", {}, WORDS[level]), element("span", {}, text)));
    while (this.list.childElementCount > MAX_EVENTS) this.list.lastElementChild.remove();
  }
}
