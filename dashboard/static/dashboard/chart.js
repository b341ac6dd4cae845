/** Candles of one instrument with TradingView's Lightweight Charts. Times are shown in IST.
 *
 * The newest candles come by the channel `ohlc:<interval>:id:<n>`: a snapshot, then each change, the forming candle included; after
 * a lost connection a snapshot again. Older ones come by REST, a page each time one scrolls there, and again where a gap was healed.
 * Draws at animation frames, and then only what has changed.
 *
 * The element has `drawn()`: what the library draws now, {candles, volumes, gaps, marks}. It is for tests and for the console.
 */
import { candles, gaps } from "./api.js";
import { Candles, LENGTH_MS, gapSteps, row } from "./candles.js";
import { chartTime, library, newChart, timeOf } from "./charting.js";
import { colours } from "./colours.js";
import { decimalsOf, number } from "./format.js";
import { Legend } from "./legend.js";

const DAY_MS = 86_400_000;
/** Newest candles that the channel keeps right, and older ones of a page. */
const TAIL = 300;
const PAGE = 500;
const RIGHT = 4; // empty steps right of the newest candle
/** Candles left of the visible ones, below which older ones are loaded. */
const AHEAD = 30;
const RETRY_MS = 3000;
const VOLUME_SHARE = { top: 0.82, bottom: 0 };

export class Chart {
  /**
   * @param {HTMLElement} box where it is drawn @param {HTMLElement} legend where a candle is told in words
   * @param {(text: string) => void} say shows a note in its place, "" none
   * @param {{subscribeChannels: Function, unsubscribeChannels: Function}} feed of tradingok.js; `take`, `gap` and `refused` are to be given its events
   */
  constructor(box, legend, say, feed) {
    Object.assign(this, { box, say, feed, instrument: null, interval: null, frame: 0 });
    this.legend = new Legend(legend);
    this.chart = newChart(box, { timeScale: { rightOffset: RIGHT }, recolour: () => this.drawSoon("all") });
    const whole = { priceLineVisible: false, lastValueVisible: false, autoscaleInfoProvider: () => ({ priceRange: { minValue: 0, maxValue: 1 } }) };
    this.bands = this.chart.addSeries(library.HistogramSeries, { priceScaleId: "gaps", base: 0, ...whole });
    this.bands.priceScale().applyOptions({ scaleMargins: { top: 0, bottom: 0 } });
    this.volumes = this.chart.addSeries(library.HistogramSeries, { priceScaleId: "", priceFormat: { type: "volume" }, lastValueVisible: false, priceLineVisible: false });
    this.volumes.priceScale().applyOptions({ scaleMargins: VOLUME_SHARE });
    this.prices = this.chart.addSeries(library.CandlestickSeries, { borderVisible: true });
    this.marks = library.createSeriesMarkers(this.prices, []);
    this.chart.subscribeCrosshairMove(({ time }) => this.point(time === undefined ? null : timeOf(time)));
    this.chart.timeScale().subscribeVisibleLogicalRangeChange((range) => range && range.from < AHEAD && this.loadOlder());
    box.addEventListener("keydown", (event) => this.pressed(event));
    box.addEventListener("blur", () => this.unpoint());
    box.drawn = () => ({ candles: this.prices.data(), volumes: this.volumes.data(), gaps: this.bands.data(), marks: this.marks.markers() });
    this.forget();
  }

  /** Show an instrument, or another interval of it; null: none. What was under way is dropped. */
  show(instrument, interval) {
    if (this.channel) this.feed.unsubscribeChannels([this.channel]);
    this.forget();
    Object.assign(this, { instrument, interval });
    this.channel = instrument && `ohlc:${interval}:id:${instrument.id}`;
    if (!instrument) return;
    const decimals = decimalsOf(instrument.tick_size);
    this.prices.applyOptions({ priceFormat: { type: "custom", formatter: (price) => number(price, decimals), minMove: 10 ** -decimals } });
    this.volumes.applyOptions({ visible: instrument.instrument_type !== "INDEX" });
    this.chart.applyOptions({ timeScale: { timeVisible: LENGTH_MS[interval] < DAY_MS } });
    this.legend.show(instrument, interval);
    this.say("Loading candles…");
    this.feed.subscribeChannels([this.channel], TAIL);
  }

  /** Forget all candles and gaps, and end what loads them. */
  forget() {
    this.loading?.abort();
    this.loading = new AbortController();
    this.candles = new Candles(TAIL);
    this.gaps = new Map(); // by their id
    this.gapOf = new Map(); // drawn step → its gap
    this.changed = new Set(); // starts that are to be drawn; "all" for all
    this.drawnStarts = new Set();
    this.lastStart = -Infinity; // of the candles that are drawn
    this.pointed = null;
    this.older = null; // where the next older page is; null: not begun, or no more
    this.loadingOlder = false;
    this.begun = false;
    this.drawSoon("all");
  }

  /** Take a push of `market:ohlc`, with the id of whose key it names. Before the snapshot there may be some of an earlier subscription. */
  take(message, id) {
    if (!this.instrument || id !== this.instrument.id || message.interval !== this.interval) return;
    if (message.snapshot) this.begin(message.candles.map(row));
    else if (this.begun) {
      const candle = row(message);
      if (this.older && candle.start < this.candles.oldest) return; // in a page that is still to be loaded
      this.candles.take(candle);
      this.drawSoon(candle.start);
    }
  }

  begin(rows) {
    const again = this.begun && rows.length > 0 && this.candles.rows.length > 0;
    const { oldest } = this.candles;
    this.candles.snapshot(rows);
    this.drawSoon("all");
    if (again) this.reread(oldest, this.candles.first); // it may have missed changes of those before the snapshot
    else this.older = { instrument: `id:${this.instrument.id}`, interval: this.interval, order: "newest", limit: PAGE, ...(rows.length && { to: rows[0].start }) };
    this.begun = true;
    this.readGaps(this.candles.oldest, undefined);
    if (!again) {
      this.draw();
      this.chart.timeScale().scrollToPosition(RIGHT, false);
    }
  }

  /** The server has refused the channel. */
  refused(channel, reason) {
    if (channel === this.channel) this.say(`No candles: ${reason}`);
  }

  /** Take a push of `gap`, with the ids of whom it concerns (none given: all), or a row of REST's. A healed one is gone from the chart, and its candles are read again. */
  gap(told, ids) {
    if (!this.instrument || (ids && !ids.includes(this.instrument.id))) return;
    if (told.heal_state === "healed") this.gaps.delete(told.gap);
    else this.gaps.set(told.gap, told);
    if (told.event && told.candles_healed && this.begun) this.reread(told.from - LENGTH_MS[this.interval] + 1, told.to ?? Infinity);
    this.drawSoon("gaps");
  }

  async readGaps(from, to) {
    if (from >= (to ?? Infinity)) return;
    const { signal } = this.loading;
    const found = await gaps(`id:${this.instrument.id}`, from, to, signal).catch(() => []); // the chart does without
    if (!signal.aborted) found.forEach((told) => this.gap(told));
  }

  /** Load the page before the oldest candle, if there is one. */
  async loadOlder() {
    if (this.loadingOlder || !this.older) return;
    this.loadingOlder = true;
    const { signal } = this.loading;
    try {
      const { candles: found, next } = await candles(this.older, signal);
      if (signal.aborted) return;
      const { oldest } = this.candles;
      const rows = found.map(row).reverse();
      this.candles.replace(-Infinity, oldest, rows);
      this.older = next;
      this.say(this.candles.rows.length ? "" : "No candles yet: they are drawn as trades come.");
      this.drawSoon("all");
      this.readGaps(this.candles.oldest, oldest);
    } catch (error) {
      if (signal.aborted) return;
      this.legend.warn(`Older candles cannot be loaded: ${error.message}`);
      await new Promise((resolve) => { setTimeout(resolve, RETRY_MS); });
      if (!signal.aborted) this.drawSoon("gaps"); // tries again, where there is nothing yet
    }
    if (!signal.aborted) this.loadingOlder = false;
  }

  /** Read candles of [from, to) again as far as they are REST's and on the chart. */
  async reread(from, to) {
    const { signal } = this.loading;
    const begin = Math.max(from, this.candles.oldest);
    const end = Math.min(to, this.candles.channelFrom);
    if (begin >= end) return;
    try {
      let page = { instrument: `id:${this.instrument.id}`, interval: this.interval, order: "oldest", from: begin, to: end, limit: 4 * PAGE };
      const found = [];
      while (page) {
        const answer = await candles(page, signal);
        found.push(...answer.candles.map(row));
        page = answer.next;
      }
      if (signal.aborted) return;
      this.candles.replace(begin, end, found);
      this.drawSoon("all");
    } catch (error) {
      if (!signal.aborted) this.legend.warn(`Candles cannot be read again: ${error.message}`);
    }
  }

  // Drawing

  drawSoon(what) {
    this.changed.add(what);
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const starts = [...this.changed];
    this.changed.clear();
    const { rows } = this.candles;
    const found = starts.map((start) => this.candles.at(start)).filter(Boolean).sort((a, b) => a.start - b.start);
    const last = this.lastStart;
    const all = starts.includes("all") || found.some(({ start }) => start < last && !this.drawnStarts.has(start));
    if (all) {
      this.prices.setData(rows.map(pricePoint));
      this.volumes.setData(rows.map(volumePoint));
      this.drawnStarts = new Set(rows.map(({ start }) => start));
    } else {
      for (const candle of found) {
        const past = candle.start < this.lastStart;
        this.prices.update(pricePoint(candle), past);
        this.volumes.update(volumePoint(candle), past);
        this.drawnStarts.add(candle.start);
        if (!past) this.lastStart = candle.start;
      }
    }
    this.lastStart = rows.at(-1)?.start ?? -Infinity;
    if (all || starts.includes("gaps") || found.some(({ state, start }) => state !== "live" || start > last)) this.drawGaps();
    if (all || found.some(({ revision }) => revision > 0)) this.drawMarks();
    if (rows.length) this.drawLast(rows.at(-1));
    else if (this.begun) this.loadOlder();
    this.tell();
  }

  drawLast({ open, close }) {
    this.say("");
    const way = close < open ? "down" : "up"; // a hollow candle's own colour is the panel's
    if (this.prices.options().priceLineColor !== colours[way]) this.prices.applyOptions({ priceLineColor: colours[way] });
  }

  drawGaps() {
    this.gapOf.clear();
    for (const gap of this.gaps.values()) for (const start of gapSteps(this.candles, this.interval, gap)) this.gapOf.set(start, gap);
    const points = [...this.gapOf].sort(([a], [b]) => a - b).map(([start, gap]) => ({ time: chartTime(start), value: 1, color: gap.heal_state === "open" ? colours["gap-open"] : colours["gap-lost"] }));
    const text = JSON.stringify(points);
    if (text === this.gapsText) return;
    this.gapsText = text;
    this.bands.setData(points);
  }

  drawMarks() {
    const revised = this.candles.rows.filter(({ revision }) => revision > 0);
    this.marks.setMarkers(revised.map(({ start }) => ({ time: chartTime(start), position: "belowBar", shape: "circle", size: 0.5, color: colours.warn })));
  }

  // What is pointed at

  point(start) {
    this.pointed = start;
    this.tell();
  }

  unpoint() {
    this.chart.clearCrosshairPosition();
    this.legend.announce(false);
    this.point(null);
  }

  tell() {
    const start = this.pointed ?? this.candles.rows.at(-1)?.start;
    this.legend.tell(start, this.candles.at(start), this.gapOf.get(start));
  }

  /** Arrows go from candle to candle (and into gaps), + and − zoom, Home and End go to the ends. */
  pressed(event) {
    const keys = { ArrowLeft: () => this.step(-1), ArrowRight: () => this.step(1), Home: () => this.toOldest(), End: () => this.toNewest(), "+": () => this.zoom(0.8), "=": () => this.zoom(0.8), "-": () => this.zoom(1.25) };
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  }

  step(by) {
    const starts = [...new Set([...this.candles.rows.map(({ start }) => start), ...this.gapOf.keys()])].sort((a, b) => a - b);
    if (!starts.length) return;
    const from = this.pointed === null ? starts.length : starts.findIndex((start) => start >= this.pointed);
    const at = Math.max(0, Math.min(starts.length - 1, (from < 0 ? starts.length : from) + by));
    const range = this.chart.timeScale().getVisibleLogicalRange();
    const shift = Math.min(0, at - Math.ceil(range.from)) + Math.max(0, at - Math.floor(range.to));
    if (shift) this.chart.timeScale().setVisibleLogicalRange({ from: range.from + shift, to: range.to + shift });
    this.legend.announce(true);
    const near = this.candles.at(starts[at]) ?? this.candles.rows[Math.max(0, this.candles.position(starts[at]) - 1)];
    this.chart.setCrosshairPosition(near.close, chartTime(starts[at]), this.prices);
    this.point(starts[at]);
  }

  toOldest() {
    const range = this.chart.timeScale().getVisibleLogicalRange();
    if (range) this.chart.timeScale().setVisibleLogicalRange({ from: 0, to: range.to - range.from });
  }

  toNewest() {
    this.chart.timeScale().scrollToRealTime();
    this.unpoint();
  }

  zoom(factor) {
    const range = this.chart.timeScale().getVisibleLogicalRange();
    if (range) this.chart.timeScale().setVisibleLogicalRange({ from: range.to - (range.to - range.from) * factor, to: range.to });
  }
}

/** Confirmed: a full body. From ticks (forming or closed): a hollow one. Back-filled: in colours of its own. */
function pricePoint({ start, open, high, low, close, state }) {
  const way = `${state === "backfilled" ? "filled-" : ""}${close < open ? "down" : "up"}`;
  const body = state === "live" || state === "closed" ? colours.panel : colours[way];
  return { time: chartTime(start), open, high, low, close, color: body, borderColor: colours[way], wickColor: colours[way] };
}

const volumePoint = ({ start, open, close, volume }) => ({ time: chartTime(start), value: volume, color: colours[close < open ? "flash-down" : "flash-up"] });
