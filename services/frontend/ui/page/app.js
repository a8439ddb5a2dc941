// The live page: what the frontend tells goes to each part of it.

import { Chart } from "./chart.js";
import { Colours, onThemeChange } from "./colours.js";
import { byId, say } from "./dom.js";
import { Events } from "./events.js";
import { Feed } from "./feed.js";
import { count, duration } from "./format.js";
import { Maps } from "./map_view.js";
import { Playground } from "./playground.js";
import { Requests } from "./requests.js";

const latencyWords = ([half]) => {
  const [value, unit] = duration(half).split(" ");
  return [value, `${unit}, median`];
};
const CHARTS = [
  {
    title: "Throughput",
    keys: ["generated", "prompt"],
    read: (point) => [point.generated, point.context],
    words: ([generated]) => [count(generated), "tokens/s"],
    tick: count,
    isFilled: true,
  },
  {
    title: "Requests",
    keys: ["running", "waiting"],
    read: (point) => [point.running, point.waiting],
    words: ([running, waiting]) => [count(running), waiting ? `running, ${count(waiting)} waiting` : "running"],
    tick: count,
    isFilled: true,
  },
  { title: "Time to first token", keys: ["median", "95 %"], read: (point) => point.ttft, words: latencyWords, tick: duration },
  { title: "Inter-token latency", keys: ["median", "95 %"], read: (point) => point.itl, words: latencyWords, tick: duration },
];

function start() {
  let colours = new Colours();
  let own = null;
  const feed = new Feed("events", [update]);
  const charts = CHARTS.map((chart) => new Chart(byId("charts"), chart));
  const maps = new Maps(byId("maps"), feed, colours);
  const requests = new Requests(byId("requests"), byId("requests-note"), () => colours, (place) => maps.highlight(place ?? own, place !== null));
  const events = new Events(byId("events"));
  const playground = new Playground((place) => {
    own = place;
    maps.highlight(own, false);
  });

  function update(_, update) {
    showHead(feed);
    if (update) {
      events.update(update);
      for (const chart of charts) chart.update(feed.points);
      requests.update(feed);
      playground.update(feed);
    }
    maps.update();
  }

  onThemeChange(() => {
    colours = maps.colours = new Colours();
    maps.update();
  });
  feed.connect();
}

function showHead(feed) {
  const { scheduler, frontend, pools } = feed;
  const [word, look] = status(feed);
  say(byId("status"), word);
  byId("status").className = `pill ${look}`;
  say(byId("model"), frontend.model ?? "");
  say(byId("epoch"), scheduler.epoch ? String(scheduler.epoch) : "–");
  say(byId("executors"), count(pools.size));
  say(byId("streams"), count(frontend.streams ?? 0));
  say(byId("first-token"), frontend.first_token_ms ? duration(frontend.first_token_ms) : "–");
}

function status({ isConnected, scheduler, frontend, pools }) {
  if (isConnected === null) return ["connecting", ""];
  if (!isConnected) return ["no connection to this frontend", "bad"];
  if (scheduler.up === null) return ["connecting", ""];
  if (!scheduler.up) return ["the scheduler is gone", "bad"];
  if (!pools.size) return ["no executor is attached", "bad"];
  if (frontend.reason) return [frontend.reason, "bad"];
  return ["serving", "good"];
}

start();
