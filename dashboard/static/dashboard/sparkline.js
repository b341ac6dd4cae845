/** The last minutes of one price as a line of a few pixels. */
import { colours } from "./colours.js";

const POINTS = 90;
const STEP_MS = 1000;
/** CSS pixels. Known beforehand: asking the canvas would force a layout for each row of each frame. */
const WIDTH = 72;
const HEIGHT = 20;

export class Sparkline {
  /** @param {HTMLCanvasElement} canvas of WIDTH × HEIGHT in the style sheet */
  constructor(canvas) {
    this.canvas = canvas;
    this.prices = [];
    this.addedAt = 0;
    this.changed = false;
    this.rising = true;
  }

  /** Take a price; within a second the newest replaces the one before, and the oldest go. */
  add(price, previousClose) {
    if (price == null) return;
    const now = performance.now();
    this.rising = previousClose == null || price >= previousClose;
    if (this.prices.length && now - this.addedAt < STEP_MS) {
      this.prices[this.prices.length - 1] = price;
      return;
    }
    this.addedAt = now;
    this.prices.push(price);
    if (this.prices.length > POINTS) this.prices.shift();
    this.changed = true;
  }

  /** Draw when a point has come since the last time, or when told to. */
  draw(always = false) {
    if (!(this.changed || always) || this.prices.length < 2) return;
    this.changed = false;
    const ratio = devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(WIDTH * ratio)) {
      this.canvas.width = Math.round(WIDTH * ratio);
      this.canvas.height = Math.round(HEIGHT * ratio);
    }
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, WIDTH, HEIGHT);
    const low = Math.min(...this.prices);
    const range = Math.max(...this.prices) - low;
    context.beginPath();
    this.prices.forEach((price, at) => {
      const x = 1 + (at / (this.prices.length - 1)) * (WIDTH - 2);
      const y = range ? HEIGHT - 2 - ((price - low) / range) * (HEIGHT - 4) : HEIGHT / 2;
      context.lineTo(x, y);
    });
    context.strokeStyle = this.rising ? colours.up : colours.down;
    context.lineWidth = 1.25;
    context.stroke();
  }
}
