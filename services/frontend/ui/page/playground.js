// Sends a prompt, shows the tokens as they come, and the blocks that the request has.

import { complete } from "./completion.js";
import { byId, element, say } from "./dom.js";
import { count, duration, plural } from "./format.js";

const EXAMPLE = "def fibonacci(n):\n    ";
const MAX_SQUARES = 512;

export class Playground {
  // mark({executor, owner} or null): called when the place of the request's blocks is known.
  constructor(mark) {
    this.mark = mark;
    this.form = byId("playground");
    this.answer = byId("answer");
    this.note = byId("answer-note");
    this.prompt = byId("prompt");
    this.prompt.value = EXAMPLE;
    this.blockSize = 0;
    this.requestId = null;
    this.usage = null;
    this.running = null;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    byId("stop").addEventListener("click", () => this.running?.abort());
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
  }

  // Finds the request among those that are told of.
  update(feed) {
    this.blockSize = [...feed.pools.values()][0]?.executor.block_size ?? this.blockSize;
    const own = this.requestId && feed.requests.findLast((request) => request.request_id.startsWith(this.requestId));
    if (own?.owner) this.mark({ executor: own.executor, owner: own.owner });
  }

  async run() {
    const began = performance.now();
    this.running = new AbortController();
    this.requestId = `playground-${crypto.getRandomValues(new Uint32Array(1))[0].toString(16)}`;
    this.usage = null;
    this.mark(null);
    this.setBusy(true);
    this.answer.replaceChildren(element("b", { class: "given" }, this.prompt.value));
    this.answer.hidden = false;
    say(this.note, "waiting");
    let first = null;
    let ending = "stopped";
    try {
      for await (const chunk of complete(this.body(), this.requestId, this.running.signal)) {
        first ??= performance.now() - began;
        const [choice] = chunk.choices;
        if (choice?.text) this.append(choice.text);
        if (choice?.finish_reason) ending = choice.finish_reason;
        if (chunk.usage) this.showUsage(chunk.usage, first, performance.now() - began);
      }
      this.end(ending);
    } catch (error) {
      if (error.name === "AbortError") this.end("stopped");
      else this.fail(error.message);
    } finally {
      this.setBusy(false);
    }
  }

  body() {
    const seed = byId("seed").value;
    return {
      prompt: this.prompt.value,
      max_tokens: Number(byId("max-tokens").value),
      temperature: Number(byId("temperature").value),
      top_p: Number(byId("top-p").value),
      ignore_eos: byId("ignore-eos").checked,
      ...(seed === "" ? {} : { seed: Number(seed) }),
    };
  }

  append(text) {
    const { scrollTop, scrollHeight, clientHeight } = this.answer;
    this.answer.append(element("span", {}, text));
    if (scrollHeight - scrollTop - clientHeight < 30) this.answer.scrollTop = this.answer.scrollHeight;
  }

  showUsage(usage, first, now) {
    this.usage = usage;
    const generated = usage.completion_tokens;
    const pace = generated > 1 ? `, ${count((1000 * (generated - 1)) / Math.max(1, now - first))} tokens/s` : "";
    this.figures = `${plural(generated, "token")}, first after ${duration(first)}${pace}`;
    say(this.note, this.figures);
    this.drawStrip();
  }

  end(ending) {
    say(this.note, this.figures && this.usage ? `${this.figures}; ended by ${ending}` : `ended by ${ending}`);
  }

  fail(message) {
    this.answer.append(element("p", { class: "wrong" }, message));
    say(this.note, "failed");
  }

  setBusy(isBusy) {
    byId("generate").disabled = isBusy;
    byId("stop").disabled = !isBusy;
  }

  // A square for every block: found in the cache, computed of the prompt, or filled with the answer.
  drawStrip() {
    const size = this.blockSize;
    if (!size) return;
    const prompt = this.usage.prompt_tokens;
    const cached = this.usage.prompt_tokens_details.cached_tokens;
    const end = prompt + this.usage.completion_tokens;
    const squares = [];
    for (let first = 0; first < end && squares.length < MAX_SQUARES; first += size) {
      const parts = [["found", 0, cached], ["prompt", cached, prompt], ["", prompt, end]];
      const fills = parts.map(([kind, from, to]) => {
        const tokens = Math.max(0, Math.min(to, first + size) - Math.max(from, first));
        const fill = element("b", { class: kind || null });
        fill.style.width = `${(100 * tokens) / size}%`;
        return tokens ? fill : "";
      });
      squares.push(element("i", {}, ...fills));
    }
    byId("own").hidden = false;
    byId("strip").replaceChildren(...squares);
    const share = prompt ? ` (${count((100 * cached) / prompt)} %)` : "";
    const words = `${count(cached)} of ${plural(prompt, "prompt token")}${share} found in the cache, ${plural(Math.ceil(end / size), "block")} in all`;
    byId("strip").setAttribute("aria-label", words);
    say(byId("strip-note"), words);
  }
}
