/** The chosen instrument: its quote in full, the five best levels, greeks and the chart. */
import { Chart } from "./chart.js";
import * as format from "./format.js";
import { Parity } from "./parity.js";
import { interval, rememberInterval } from "./remembered.js";
import { change, changePercent } from "./watchlist.js";

const LEVELS = 5;
const FIELDS = {
  last: (quote, decimals) => format.number(quote.last_price, decimals),
  change: (quote, decimals) => `${format.signed(change(quote), decimals)} (${format.signed(changePercent(quote))} %)`,
  open: (quote, decimals) => format.number(quote.day_open, decimals),
  high: (quote, decimals) => format.number(quote.day_high, decimals),
  low: (quote, decimals) => format.number(quote.day_low, decimals),
  previousClose: (quote, decimals) => format.number(quote.previous_close, decimals),
  average: (quote, decimals) => format.number(quote.average_traded_price, decimals),
  volume: (quote) => format.short(quote.volume),
  openInterest: (quote) => format.short(quote.open_interest),
  lastQuantity: (quote) => format.whole(quote.last_quantity),
  volatility: (quote) => (quote.implied_volatility == null ? format.percent(null) : `${format.percent(quote.implied_volatility)} %`),
  delta: (quote) => format.number(quote.delta, 4),
  gamma: (quote) => format.number(quote.gamma, 6),
  theta: (quote, decimals) => format.number(quote.theta, decimals),
  vega: (quote, decimals) => format.number(quote.vega, decimals),
  rho: (quote, decimals) => format.number(quote.rho, decimals),
  totalBuy: (quote) => format.short(quote.total_buy_quantity),
  totalSell: (quote) => format.short(quote.total_sell_quantity),
};

export class Detail {
  /**
   * @param {HTMLElement} panel the panel @param {ReturnType<typeof import("./tradingok.js").connect>} feed
   * @param {() => number} marketMs market time, ms UTC @param {() => void} onClose after it was closed
   */
  constructor(panel, feed, marketMs, onClose) {
    this.panel = panel;
    this.texts = new Map();
    this.fields = [...panel.querySelectorAll("[data-field]")];
    this.ladder = [...panel.querySelectorAll("#depth tbody tr")].map((row) => ({ cells: [...row.cells], bars: [...row.querySelectorAll("progress")] }));
    this.chart = new Chart(panel.querySelector("#chart"), panel.querySelector("#legend"), (text) => this.write(panel.querySelector("#chart-note"), text), feed);
    this.parity = new Parity(panel.querySelector("#parity"), marketMs);
    this.instrument = null;
    this.quote = null;
    this.frame = 0;
    this.intervals = panel.querySelector("#intervals");
    const chosen = [...this.intervals.elements].find(({ value }) => value === interval());
    if (chosen) chosen.checked = true;
    this.intervals.addEventListener("change", ({ target }) => {
      rememberInterval(target.value);
      this.chart.show(this.instrument, target.value);
    });
    panel.querySelector("#widen").addEventListener("click", ({ target }) => target.setAttribute("aria-pressed", document.body.classList.toggle("wide")));
    panel.querySelector("#close-detail").addEventListener("click", onClose);
    panel.addEventListener("keydown", (event) => event.key === "Escape" && onClose());
  }

  /** Show an instrument with what is known of it; null hides the panel. */
  show(instrument, quote) {
    this.instrument = instrument;
    this.quote = quote ?? {};
    this.panel.hidden = instrument === null;
    document.body.classList.toggle("with-detail", instrument !== null);
    this.parity.show(instrument);
    this.chart.show(instrument, this.intervals.querySelector(":checked").value);
    if (instrument === null) return;
    this.decimals = format.decimalsOf(instrument.tick_size);
    this.write(this.panel.querySelector("#detail-title"), instrument.trading_symbol);
    this.write(this.panel.querySelector("#detail-about"), about(instrument));
    this.panel.querySelector("#greeks").hidden = !["CE", "PE"].includes(instrument.instrument_type);
    this.panel.dataset.type = instrument.instrument_type;
    this.draw();
  }

  /** Take the shown instrument's newest quote; it is drawn with the next frame. */
  update(quote) {
    this.quote = quote;
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.frame = 0;
    if (this.instrument === null) return;
    for (const element of this.fields) this.write(element, FIELDS[element.dataset.field](this.quote, this.decimals));
    const difference = change(this.quote) ?? 0;
    this.panel.dataset.direction = difference > 0 ? "up" : difference < 0 ? "down" : "flat";
    this.drawDepth(this.quote.depth ?? []);
  }

  /** Levels are [bid price, bid quantity, ask price, ask quantity], best first. */
  drawDepth(depth) {
    const most = Math.max(1, ...depth.slice(0, LEVELS).flatMap((level) => [level[1] ?? 0, level[3] ?? 0]));
    this.ladder.forEach(({ cells, bars }, at) => {
      const [bid, bidQuantity, ask, askQuantity] = depth[at] ?? [null, null, null, null];
      [format.whole(bidQuantity), format.number(bid, this.decimals), format.number(ask, this.decimals), format.whole(askQuantity)].forEach((text, column) =>
        this.write(cells[column].firstElementChild, text),
      );
      [bidQuantity, askQuantity].forEach((quantity, side) => {
        const share = (quantity ?? 0) / most;
        if (bars[side].value !== share) bars[side].value = share;
      });
    });
  }

  write(element, text) {
    if (this.texts.get(element) === text) return;
    this.texts.set(element, text);
    element.textContent = text;
  }
}

function about(instrument) {
  const parts = [instrument.name, instrument.key];
  if (instrument.lot_size > 1) parts.push(`lot ${format.whole(instrument.lot_size)}`);
  return parts.filter((part) => part && part !== instrument.trading_symbol).join(" · ");
}
