/** Candles of one instrument with TradingView's Lightweight Charts, and its forming candle from live quotes. Times are shown in IST. */
import { candles } from "./api.js";
import { number, decimalsOf } from "./format.js";
import { colours, onColoursChange } from "./colours.js";

const IST_MS = 19_800_000;
const MINUTE_MS = 60_000;
const OPEN_MS = { MCX: 9 * 60 * MINUTE_MS, other: (9 * 60 + 15) * MINUTE_MS };
/** Interval → its length and how far back the chart begins, in ms. */
const INTERVALS = {
  "1m": [MINUTE_MS, 6 * 60 * MINUTE_MS],
  "5m": [5 * MINUTE_MS, 2 * 24 * 60 * MINUTE_MS],
  "15m": [15 * MINUTE_MS, 7 * 24 * 60 * MINUTE_MS],
  "1h": [60 * MINUTE_MS, 30 * 24 * 60 * MINUTE_MS],
};
const VOLUME_SHARE = { top: 0.82, bottom: 0 };
const library = window.LightweightCharts;

/** Start of the candle that a time falls into, ms UTC: counted from the session's open, as the server counts. */
function candleStart(ms, length, exchange) {
  const open = OPEN_MS[exchange] ?? OPEN_MS.other;
  const day = Math.floor((ms + IST_MS) / 86_400_000) * 86_400_000 - IST_MS;
  return Math.max(day + open + Math.floor((ms - day - open) / length) * length, day);
}

const chartTime = (ms) => (ms + IST_MS) / 1000; // the library writes UTC

export class Chart {
  /** @param {HTMLElement} box where it is drawn; @param {(text: string) => void} say shows a note in its place, "" none */
  constructor(box, say) {
    this.say = say;
    this.interval = "1m";
    this.instrument = null;
    this.loading = null;
    this.bar = null;
    this.chart = library.createChart(box, {
      autoSize: true,
      layout: { attributionLogo: false, background: { color: "transparent" }, fontSize: 11 }, // attributed in words on the page: the logo needs an inline style
      timeScale: { timeVisible: true, secondsVisible: false, rightOffset: 4 },
      localization: { locale: "en-IN" },
    });
    this.prices = this.chart.addSeries(library.CandlestickSeries, { borderVisible: false });
    this.volumes = this.chart.addSeries(library.HistogramSeries, { priceScaleId: "", priceFormat: { type: "volume" }, lastValueVisible: false, priceLineVisible: false });
    this.volumes.priceScale().applyOptions({ scaleMargins: VOLUME_SHARE });
    this.colour();
    onColoursChange(() => this.colour());
  }

  colour() {
    this.chart.applyOptions({
      layout: { textColor: colours.dim },
      grid: { vertLines: { color: colours.line }, horzLines: { color: colours.line } },
      rightPriceScale: { borderColor: colours.line },
      timeScale: { borderColor: colours.line },
    });
    this.prices.applyOptions({ upColor: colours.up, downColor: colours.down, wickUpColor: colours.up, wickDownColor: colours.down });
    this.volumes.applyOptions({ color: colours["flash-up"] });
  }

  /** Show an instrument, or another interval of it. A load that was under way is dropped. */
  async show(instrument, interval, nowMs) {
    this.loading?.abort();
    this.loading = new AbortController();
    this.instrument = instrument;
    this.interval = interval;
    this.bar = null;
    this.prices.setData([]);
    this.volumes.setData([]);
    const decimals = decimalsOf(instrument.tick_size);
    this.prices.applyOptions({ priceFormat: { type: "custom", formatter: (price) => number(price, decimals), minMove: 10 ** -decimals } });
    this.volumes.applyOptions({ visible: instrument.instrument_type !== "INDEX" });
    this.say("Loading candles…");
    try {
      const { signal } = this.loading;
      const past = await candles(`id:${instrument.id}`, interval, nowMs - INTERVALS[interval][1], nowMs + MINUTE_MS, signal);
      if (!signal.aborted) this.fill(past);
    } catch (error) {
      if (error.name !== "AbortError") this.say(`No candles: ${error.message}`);
    }
  }

  fill(bars) {
    const live = this.bar;
    this.prices.setData(bars.map((bar) => ({ time: chartTime(bar.start), open: bar.open, high: bar.high, low: bar.low, close: bar.close })));
    this.volumes.setData(bars.map((bar) => ({ time: chartTime(bar.start), value: bar.volume })));
    this.bar = bars.at(-1) ?? null;
    if (live && this.bar && live.start === this.bar.start) this.draw(joined(this.bar, live));
    else if (live && live.start > (this.bar?.start ?? 0)) this.draw(live);
    this.say(this.bar ? "" : "No candles yet: they are drawn as trades come.");
    this.chart.timeScale().scrollToRealTime();
  }

  /** Take a live quote: it moves the forming candle or begins the next. */
  update(quote) {
    const ms = quote.last_trade_ms || quote.broker_ms;
    if (!this.instrument || quote.last_price == null || !ms) return;
    const start = candleStart(ms, INTERVALS[this.interval][0], this.instrument.exchange);
    const price = quote.last_price;
    if (this.bar && start < this.bar.start) return;
    const point = { start, open: price, high: price, low: price, close: price, volume: 0, dayVolume: quote.volume ?? 0 };
    const bar = this.bar?.start === start ? joined(this.bar, point) : point;
    this.say("");
    this.draw(bar);
  }

  draw(bar) {
    this.bar = bar;
    const time = chartTime(bar.start);
    this.prices.update({ time, open: bar.open, high: bar.high, low: bar.low, close: bar.close });
    this.volumes.update({ time, value: bar.volume });
  }
}

/** A forming candle and what came after it in the same interval. Volume grows by what the day's volume has grown. */
function joined(bar, next) {
  const grown = bar.dayVolume === undefined || next.dayVolume === undefined ? 0 : Math.max(0, next.dayVolume - bar.dayVolume);
  return {
    start: bar.start,
    open: bar.open,
    high: Math.max(bar.high, next.high),
    low: Math.min(bar.low, next.low),
    close: next.close,
    volume: bar.volume + grown,
    dayVolume: next.dayVolume ?? bar.dayVolume,
  };
}
