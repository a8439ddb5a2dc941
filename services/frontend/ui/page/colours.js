// Colours for canvases, from the style sheet; a request keeps its colour for life.

// Neighbours in number are far apart in hue.
const GOLDEN_ANGLE = 137.508;

export class Colours {
  constructor() {
    const style = getComputedStyle(document.documentElement);
    const named = (name) => style.getPropertyValue(`--${name}`).trim();
    this.free = named("free");
    this.cached = named("cached");
    this.card = named("card");
    this.ink = named("ink");
    this.accent = named("accent");
    this.lightness = named("held-l");
    this.chroma = named("held-c");
  }

  held(owner) {
    return `oklch(${this.lightness} ${this.chroma} ${(250 + owner * GOLDEN_ANGLE) % 360})`;
  }
}

// Calls back when the reader changes between light and dark.
export function onThemeChange(callback) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", callback);
}
