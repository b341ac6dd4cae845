/** Open interest by strike as bars, calls left of puts at each strike. SVG; it touches only bars that have changed. */
import * as format from "./format.js";
import { strikeText } from "./chaintable.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const HEIGHT = 250;
const PAD = { left: 46, right: 6, top: 14, bottom: 20 };
const LABEL_WIDTH = 46;
/** By what is drawn: its column, and the words of its summary; the last where nothing is known. */
export const INTEREST = {
  open_interest: ["Most open calls at", "most open puts at", "No open interest is known."],
  oi_change_close: ["Most calls added at", "most puts added at", "No change against the previous close is known."],
  oi_change_day: ["Most calls added today at", "most puts added today at", "No change since the day's start is known."],
};

/** Round steps that divide a range into about four: [0, 50000, 100000 …]. Pure. */
export function steps(low, high) {
  const raw = (high - low) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) found.push(value);
  return found;
}

/** 12500000 → "1.25 Cr", 500000 → "5 L", 42000 → "42 k": for an axis. Pure. */
export function axisText(value) {
  const [unit, word] = [[1e7, " Cr"], [1e5, " L"], [1e3, " k"]].find(([size]) => Math.abs(value) >= size) ?? [1, ""];
  return format.number(value / unit, 2).replace(/\.?0+$/, "") + word;
}

/** What the bars say in words. Pure. */
export function summary(chain, column) {
  if (!chain.strikes.length) return "";
  const [calls, puts, nothing] = INTEREST[column];
  if (chain.sides().every(([, , side]) => side[column] == null)) return nothing;
  const [call, put] = ["call", "put"].map((name) => chain.peak(name, column));
  return `${calls} ${call === null ? "–" : strikeText(call)}, ${puts} ${put === null ? "–" : strikeText(put)}`;
}

function node(name, attributes = {}) {
  const element = document.createElementNS(NAMESPACE, name);
  set(element, attributes);
  return element;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

export class OiChart {
  /** @param {HTMLElement} box focusable @param {HTMLElement} legend where a strike is told in words */
  constructor(box, legend) {
    Object.assign(this, { box, legend, column: "open_interest", chain: null, pointed: null, bars: new Map(), width: 0 });
    this.svg = node("svg", { "aria-hidden": "true" });
    this.grid = node("g", { class: "grid" });
    this.barsGroup = node("g");
    this.labels = node("g", { class: "labels" });
    this.spot = node("line", { class: "spot" });
    this.cursor = node("rect", { class: "cursor" });
    this.svg.append(this.cursor, this.grid, this.barsGroup, this.spot, this.labels);
    box.append(this.svg);
    box.addEventListener("pointermove", (event) => this.point(this.strikeAt(event.clientX - box.getBoundingClientRect().left)));
    box.addEventListener("pointerleave", () => this.point(null));
    box.addEventListener("blur", () => this.announce(false));
    box.addEventListener("keydown", (event) => this.pressed(event));
    new ResizeObserver(([{ contentRect }]) => {
      this.width = contentRect.width;
      this.draw(this.chain);
    }).observe(box);
  }

  /** Draw another column of INTEREST. */
  show(column) {
    this.column = column;
    this.draw(this.chain);
  }

  draw(chain) {
    this.chain = chain;
    if (!this.width) return;
    set(this.svg, { width: this.width, height: HEIGHT, viewBox: `0 0 ${this.width} ${HEIGHT}` });
    const strikes = chain?.strikes ?? [];
    const values = strikes.map((strike) => ["call", "put"].map((name) => chain.rows.get(strike)[name]?.[this.column] ?? 0));
    const low = Math.min(0, ...values.flat());
    const high = Math.max(0, ...values.flat());
    this.slot = (this.width - PAD.left - PAD.right) / (strikes.length || 1);
    this.y = (value) => HEIGHT - PAD.bottom - ((value - low) / (high - low || 1)) * (HEIGHT - PAD.top - PAD.bottom);
    this.drawBars(strikes, values);
    this.drawAxes(strikes, high > low ? steps(low, high) : []);
    this.drawSpot(chain, strikes);
    this.tell();
  }

  left(at) {
    return PAD.left + at * this.slot;
  }

  drawBars(strikes, values) {
    const wide = Math.min(14, Math.max(1, this.slot * 0.4));
    const known = new Set();
    strikes.forEach((strike, at) => values[at].forEach((value, side) => {
      const key = `${strike}/${side}`;
      known.add(key);
      if (!this.bars.has(key)) this.bars.set(key, this.barsGroup.appendChild(node("rect", { class: side ? "put" : "call" })));
      const middle = this.left(at) + this.slot / 2;
      const top = this.y(Math.max(0, value));
      set(this.bars.get(key), { x: (side ? middle : middle - wide).toFixed(1), y: top.toFixed(1), width: wide.toFixed(1), height: (this.y(Math.min(0, value)) - top).toFixed(1) });
    }));
    for (const [key, bar] of this.bars) if (!known.has(key)) {
      bar.remove();
      this.bars.delete(key);
    }
  }

  drawAxes(strikes, values) {
    const text = JSON.stringify([this.width, strikes, values, this.y(0)]);
    if (text === this.axes) return;
    this.axes = text;
    this.grid.replaceChildren(...values.map((value) => node("line", { x1: PAD.left, x2: this.width - PAD.right, y1: this.y(value), y2: this.y(value), class: value === 0 ? "zero" : "" })));
    const every = Math.max(1, Math.ceil(LABEL_WIDTH / this.slot));
    const money = Math.max(0, strikes.indexOf(this.chain?.aggregate.atm_strike));
    const names = strikes.map((strike, at) => [strike, at]).filter(([, at]) => (at - money) % every === 0 && this.left(at) + this.slot / 2 + LABEL_WIDTH / 2 < this.width + PAD.right);
    this.labels.replaceChildren(
      ...values.map((value) => label(axisText(value), PAD.left - 5, this.y(value) + 3.5, "end")),
      ...names.map(([strike, at]) => label(strikeText(strike), this.left(at) + this.slot / 2, HEIGHT - 5, "middle")),
    );
  }

  drawSpot(chain, strikes) {
    const price = chain?.aggregate.spot ?? chain?.aggregate.forward;
    const below = chain?.below(price);
    set(this.spot, { visibility: below == null ? "hidden" : "visible" });
    if (below == null) return;
    const [before, after] = [strikes[Math.max(0, below - 1)], strikes[below]];
    const part = after > before ? (price - before) / (after - before) : 0;
    const x = (this.left(Math.max(0, below - 1) + part) + this.slot / 2).toFixed(1);
    set(this.spot, { x1: x, x2: x, y1: PAD.top - 6, y2: HEIGHT - PAD.bottom });
  }

  // What is pointed at

  strikeAt(x) {
    const at = Math.floor((x - PAD.left) / this.slot);
    return this.chain?.strikes[at] ?? null;
  }

  point(strike) {
    if (strike === this.pointed) return;
    this.pointed = strike;
    this.tell();
  }

  announce(on) {
    this.legend.setAttribute("aria-live", on ? "polite" : "off");
    if (!on) this.point(null);
  }

  tell() {
    const row = this.chain?.rows.get(this.pointed);
    const at = row ? this.chain.strikes.indexOf(this.pointed) : -1;
    set(this.cursor, { visibility: row ? "visible" : "hidden", x: this.left(Math.max(0, at)), y: PAD.top - 6, width: Math.max(0, this.slot), height: HEIGHT - PAD.top - PAD.bottom + 6 });
    const text = row
      ? `${strikeText(row.strike)}: calls ${format.short(row.call?.[this.column])}, puts ${format.short(row.put?.[this.column])}`
      : this.chain ? summary(this.chain, this.column) : "";
    if (this.legend.textContent !== text) this.legend.textContent = text;
  }

  pressed(event) {
    const { strikes } = this.chain ?? { strikes: [] };
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || !strikes.length || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.announce(true);
    const from = this.pointed === null ? strikes.indexOf(this.chain.aggregate.atm_strike) - by : strikes.indexOf(this.pointed);
    this.point(strikes[Math.max(0, Math.min(strikes.length - 1, from + by))]);
  }
}

function label(text, x, y, anchor) {
  const element = node("text", { x, y, "text-anchor": anchor });
  element.textContent = text;
  return element;
}
