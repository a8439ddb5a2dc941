// What goes on, as the frontend tells it, and the connection to the frontend.

import { BlockMap } from "./block_map.js";

const RETRY_MS = 1000;
const MAX_NAMES = 4096;
const MAX_POINTS = 240;

export class Feed {
  // Every listener is called with (feed, update) after an update has been taken in, or (feed, null) when the
  // connection has come or gone.
  constructor(url, listeners) {
    this.url = url;
    this.listeners = listeners;
    // null: not known yet; so it is with the scheduler.
    this.isConnected = null;
    this.scheduler = { address: "", up: null, epoch: 0 };
    this.frontend = {};
    this.pools = new Map();
    this.requests = [];
    this.points = [];
    // "executor/owner" → request id, also of those that have ended.
    this.names = new Map();
  }

  connect() {
    const source = new EventSource(this.url);
    source.onopen = () => this.setConnected(true);
    source.onmessage = (message) => this.take(JSON.parse(message.data));
    source.onerror = () => {
      this.setConnected(false);
      // The browser tries again by itself unless it was refused.
      if (source.readyState === EventSource.CLOSED) setTimeout(() => this.connect(), RETRY_MS);
    };
  }

  // Who owns blocks of an executor by this number.
  name(executor, owner) {
    return this.names.get(`${executor}/${owner}`) ?? null;
  }

  setConnected(isConnected) {
    this.isConnected = isConnected;
    this.tell(null);
  }

  take(update) {
    this.scheduler = update.scheduler;
    this.frontend = update.frontend;
    this.requests = update.requests;
    if (update.whole) {
      this.pools.clear();
      this.points = [];
    }
    this.points = [...this.points, ...update.points].slice(-MAX_POINTS);
    if (update.executors !== null) this.takeExecutors(update.executors);
    for (const request of update.requests) this.remember(request);
    this.tell(update);
  }

  takeExecutors(executors) {
    const pools = new Map();
    for (const executor of executors) {
      const known = executor.whole ? null : this.pools.get(executor.name);
      const map = known?.map ?? new BlockMap(executor.num_blocks);
      pools.set(executor.name, { executor, map, changed: map.apply(executor.runs), isNew: !known });
    }
    this.pools = pools;
  }

  remember(request) {
    if (!request.owner) return;
    const key = `${request.executor}/${request.owner}`;
    this.names.delete(key);
    this.names.set(key, request.request_id);
    if (this.names.size > MAX_NAMES) this.names.delete(this.names.keys().next().value);
  }

  tell(update) {
    for (const listener of this.listeners) listener(this, update);
  }
}
