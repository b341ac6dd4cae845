/** One figure of an option chain through the day, beside the spot: a point a minute, the newest one moves. Times are shown in IST.
 *
 * The past comes by REST, the newest minute by the chain's own pushes. The element has `drawn()`, as the price chart's: for tests.
 */
import { chartTime, library, newChart, timeOf } from "./charting.js";
import { colours } from "./colours.js";
import * as format from "./format.js";

const MINUTE_MS = 60_000;
const inPercent = (value) => `${format.percent(value)} %`;
const price = format.number;
const ratio = (value) => format.number(value, 3);
/** By figure: its lines, each [field of the aggregate, colour, words]; how values are written, prices with so many decimals; the least range of its scale, as a part of the value. */
export const FIGURES = {
  pcr: { lines: [["pcr_oi", "accent", "by OI"], ["pcr_volume", "warn", "by volume"]], text: ratio, least: 0.01 },
  straddle: { lines: [["straddle", "accent", "Straddle"]], text: price, least: 0.01 },
  pain: { lines: [["max_pain", "warn", "Max pain"]], text: price, least: 0.002, withSpot: true },
  interest: { lines: [["call_oi", "call", "Calls"], ["put_oi", "put", "Puts"]], text: format.short, least: 0.05 },
  volatility: { lines: [["atm_iv", "accent", "ATM IV"]], text: inPercent, least: 0.02 },
};
const SPOT = ["spot", "dim", "Spot"];

/** A range of values, widened to a part of the value, so that no two lines of a scale have the same label. Pure. */
export function widened({ minValue, maxValue }, part) {
  const more = Math.max(0, Math.max(Math.abs(minValue), Math.abs(maxValue)) * part - (maxValue - minValue)) / 2;
  return { minValue: minValue - more, maxValue: maxValue + more };
}

export class DayChart {
  /**
   * @param {HTMLElement} box focusable @param {HTMLElement} legend a list, where one minute is told
   * @param {(text: string) => void} say shows a note in its place, "" none @param {() => number} nowMs market time, ms UTC
   */
  constructor(box, legend, say, nowMs) {
    Object.assign(this, { box, legend, say, nowMs, figure: "pcr", lines: [], pointed: null, decimals: 2 });
    this.chart = newChart(box, { timeScale: { rightOffset: 2, minBarSpacing: 0.2 }, recolour: () => this.show(this.figure) });
    this.chart.subscribeCrosshairMove(({ time }) => this.point(time === undefined ? null : timeOf(time)));
    box.addEventListener("keydown", (event) => this.pressed(event));
    box.addEventListener("blur", () => this.unpoint());
    box.drawn = () => Object.fromEntries(this.lines.map(({ field, series }) => [field, series.data()]));
    new ResizeObserver(([{ contentRect }]) => {
      if (contentRect.width && !this.width) this.chart.timeScale().fitContent(); // it was hidden
      this.width = contentRect.width;
    }).observe(box);
    this.forget();
    this.show(this.figure);
  }

  /** Forget all, as for another chain. */
  forget() {
    this.minutes = new Map(); // start of the minute, ms UTC → aggregate
    this.stored = null; // how many REST has; null: not known yet
    this.followed = true; // by a rule; minutes of other chains are never stored
    this.draw();
  }

  /** Take a day's past: [{minute, …aggregate}…], minute in ms UTC. Minutes that the page has seen itself stay. @param {boolean} followed by a rule */
  takeHistory(rows, followed = true) {
    this.followed = followed;
    for (const row of rows) this.minutes.set(row.minute, row.minute === this.newest ? this.minutes.get(row.minute) : row);
    this.stored = rows.length;
    this.draw();
  }

  /** Take the chain as it is now. @param {number} marketMs ms UTC */
  take(aggregate, marketMs) {
    const minute = Math.floor(marketMs / MINUTE_MS) * MINUTE_MS;
    if (minute < this.newest) return;
    this.minutes.set(minute, aggregate);
    if (format.day(minute) !== format.day(this.newest)) return this.draw();
    this.newest = minute;
    for (const { field, series } of this.lines) if (aggregate[field] != null) series.update({ time: chartTime(minute), value: aggregate[field] });
    this.note();
    this.tell();
    return undefined;
  }

  /** Show another figure of FIGURES. */
  show(figure) {
    this.figure = figure;
    for (const { series } of this.lines) this.chart.removeSeries(series);
    const { lines, text, least, withSpot } = FIGURES[figure];
    const autoscaleInfoProvider = (own) => {
      const info = own();
      return info?.priceRange ? { ...info, priceRange: widened(info.priceRange, least) } : info;
    };
    const priceFormat = { type: "custom", formatter: (value) => text(value, this.decimals), minMove: 0.0001 };
    this.lines = [SPOT, ...lines].map(([field, colour, words], at) => {
      const isSpot = at === 0;
      const own = isSpot && !withSpot ? { priceScaleId: "spot" } : { autoscaleInfoProvider };
      const series = this.chart.addSeries(library.LineSeries, { color: colours[colour], lineWidth: isSpot ? 1 : 2, lineStyle: isSpot ? library.LineStyle.Dashed : library.LineStyle.Solid, priceLineVisible: false, lastValueVisible: !isSpot, priceFormat, ...own });
      return { field, colour, words, series, text: isSpot ? price : text };
    });
    this.legend.replaceChildren(...this.lines.map(({ colour, words }) => legendItem(colour, words)).slice(1), legendItem("dim", "Spot"));
    this.draw();
  }

  /** Write prices with so many decimals. */
  write(decimals) {
    this.decimals = decimals;
    this.show(this.figure);
  }

  /** Draw the newest day; others are forgotten. */
  draw() {
    this.newest = Math.max(-Infinity, ...this.minutes.keys());
    for (const minute of this.minutes.keys()) if (format.day(minute) !== format.day(this.newest)) this.minutes.delete(minute);
    const rows = [...this.minutes].sort(([a], [b]) => a - b);
    for (const { field, series } of this.lines) series.setData(rows.filter(([, row]) => row[field] != null).map(([minute, row]) => ({ time: chartTime(minute), value: row[field] })));
    this.chart.timeScale().fitContent();
    this.note();
    this.tell();
  }

  note() {
    const day = format.day(this.newest);
    const isToday = day === format.day(this.nowMs()) || !this.minutes.size;
    if (!isToday) this.say(day);
    else if (this.stored === 0 && !this.followed) this.say("No history: no rule follows this chain.");
    else this.say(this.stored === 0 && this.minutes.size < 2 ? "No history stored yet for today: the lines begin here." : "");
  }

  // What is pointed at

  point(minute) {
    this.pointed = minute;
    this.tell();
  }

  unpoint() {
    this.chart.clearCrosshairPosition();
    this.legend.setAttribute("aria-live", "off");
    this.point(null);
  }

  /** Tell the pointed minute, or the newest one. */
  tell() {
    const minute = this.pointed ?? this.newest;
    const row = this.minutes.get(minute);
    [...this.lines.slice(1), this.lines[0]].filter(Boolean).forEach(({ field, text }, at) => {
      const shown = row ? text(row[field], this.decimals) : "–";
      const value = this.legend.children[at].querySelector("b");
      if (value.textContent !== shown) value.textContent = shown;
    });
    const when = row ? format.clock(minute).slice(0, 5) : "";
    if (this.legend.dataset.time !== when) this.legend.dataset.time = when;
  }

  /** Arrows go from minute to minute. */
  pressed(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || !this.minutes.size || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.legend.setAttribute("aria-live", "polite");
    const minutes = [...this.minutes.keys()].sort((a, b) => a - b);
    const at = this.pointed === null ? minutes.length : minutes.indexOf(this.pointed);
    const minute = minutes[Math.max(0, Math.min(minutes.length - 1, at + by))];
    const { field, series } = this.lines[1];
    this.chart.setCrosshairPosition(this.minutes.get(minute)[field] ?? 0, chartTime(minute), series);
    this.point(minute);
  }
}

function legendItem(colour, words) {
  const item = document.createElement("li");
  item.dataset.colour = colour;
  item.append(`${words} `, document.createElement("b"));
  return item;
}
