// The states of a pool's blocks. A state is owner * 8 + kind; runs of equal states come as triples of int32.

export const FREE = 0;
export const CACHED = 1;
export const HELD = 2;
export const REUSED = 3;
export const SHARED = 4;

export class BlockMap {
  constructor(numBlocks) {
    this.states = new Int32Array(numBlocks);
  }

  get length() {
    return this.states.length;
  }

  kind(block) {
    return this.states[block] & 7;
  }

  owner(block) {
    return this.states[block] >> 3;
  }

  // Takes runs over, in base64; returns them as [first, number] pairs.
  apply(encoded) {
    const bytes = Uint8Array.from(atob(encoded), (each) => each.charCodeAt(0));
    const runs = new DataView(bytes.buffer);
    const changed = [];
    for (let at = 0; at < bytes.length; at += 12) {
      const first = runs.getInt32(at, true);
      const number = runs.getInt32(at + 4, true);
      this.states.fill(runs.getInt32(at + 8, true), first, first + number);
      changed.push([first, number]);
    }
    return changed;
  }

  // Numbers of blocks by owner: those it holds, and of these those found in the cache or shared.
  holders() {
    const found = new Map();
    for (let block = 0; block < this.length; block++) {
      const kind = this.kind(block);
      if (kind < HELD) continue;
      const row = found.get(this.owner(block)) ?? { held: 0, reused: 0, shared: 0 };
      row.held += 1;
      row.reused += kind === REUSED;
      row.shared += kind === SHARED;
      found.set(this.owner(block), row);
    }
    return found;
  }
}
