/** The watchlist's table. It draws only rows that are seen, and of them only cells whose text has changed, ten times a second at the most;
 * it knows nothing of the network. */
import * as format from "./format.js";
import { Sparkline } from "./sparkline.js";

const NUMBER_COLUMNS = {
  last: ({ quote, decimals }) => format.number(quote.last_price, decimals),
  change: ({ quote, decimals }) => format.signed(change(quote), decimals),
  percent: ({ quote }) => format.signed(changePercent(quote)),
  bid: ({ quote, decimals }) => format.number(quote.bid_price, decimals),
  bidQuantity: ({ quote }) => format.whole(quote.bid_quantity),
  ask: ({ quote, decimals }) => format.number(quote.ask_price, decimals),
  askQuantity: ({ quote }) => format.whole(quote.ask_quantity),
  volume: ({ quote }) => format.count(quote.volume),
  openInterest: ({ quote }) => format.count(quote.open_interest),
  volatility: ({ quote }) => format.percent(quote.implied_volatility),
  time: ({ quote }) => format.clock(quote.last_trade_ms),
};
const DRAW_MS = 100;
const FLASH_MS = 350;
/** A flash is a colour that is set and taken away: fading it would paint the whole table sixty times a second. */
const stillness = matchMedia("(prefers-reduced-motion: reduce)");

/** Rupees against the previous close; null where either is unknown. */
export const change = (quote) => (quote?.last_price == null || quote.previous_close == null ? null : quote.last_price - quote.previous_close);

/** The same in percent. */
export function changePercent(quote) {
  const difference = change(quote);
  return difference === null || !quote.previous_close ? null : (difference / quote.previous_close) * 100;
}

export class Watchlist {
  /**
   * @param {HTMLTableElement} table with a tbody
   * @param {{onSelect: (id: number | null) => void, onRemove: (id: number) => void}} events
   */
  constructor(table, events) {
    this.body = table.tBodies[0];
    this.events = events;
    this.rows = new Map();
    this.dirty = new Set();
    this.flashing = new Map();
    this.timer = 0;
    this.selected = null;
    this.seen = new IntersectionObserver((entries) => this.look(entries), { root: table.parentElement, rootMargin: "50%" });
    this.body.addEventListener("click", (event) => this.clicked(event));
    this.body.addEventListener("keydown", (event) => this.pressed(event));
  }

  /** Add a row for a REST instrument; one that is there already stays as it is. */
  add(instrument) {
    if (this.rows.has(instrument.id)) return;
    const element = rowElement(instrument);
    const row = { instrument, element, cells: {}, texts: {}, quote: null, shownPrice: null, decimals: format.decimalsOf(instrument.tick_size) };
    for (const cell of element.querySelectorAll("[data-cell]")) row.cells[cell.dataset.cell] = cell;
    row.sparkline = new Sparkline(element.querySelector("canvas"));
    this.rows.set(instrument.id, row);
    this.body.append(element);
    this.seen.observe(element);
    this.keepOneTabStop();
  }

  remove(id) {
    const row = this.rows.get(id);
    if (!row) return;
    const neighbour = row.element.nextElementSibling ?? row.element.previousElementSibling;
    const hadFocus = row.element.contains(document.activeElement);
    this.seen.unobserve(row.element);
    row.element.remove();
    this.rows.delete(id);
    this.dirty.delete(id);
    this.flashing.delete(row);
    if (this.selected === id) this.select(neighbour ? Number(neighbour.dataset.id) : null);
    this.keepOneTabStop();
    if (hadFocus) neighbour?.focus();
  }

  /** Take a row's newest quote; it is drawn soon. */
  update(id, quote) {
    const row = this.rows.get(id);
    if (!row) return;
    row.quote = quote;
    row.sparkline.add(quote.last_price, quote.previous_close);
    this.dirty.add(id);
    this.drawSoon();
  }

  /** Say why nothing comes for a row; "" when something does. */
  refuse(id, reason) {
    const row = this.rows.get(id);
    if (row) row.element.querySelector(".segment").textContent = reason || segmentOf(row.instrument);
  }

  /** Rows have come into sight, or left it. */
  look(entries) {
    for (const { target, isIntersecting } of entries) {
      const row = this.rows.get(Number(target.dataset.id));
      if (row) row.seen = isIntersecting;
    }
    this.drawSoon();
  }

  drawSoon() {
    this.timer ||= setTimeout(() => requestAnimationFrame((now) => this.draw(now)), DRAW_MS);
  }

  draw(now) {
    this.timer = 0;
    for (const [row, end] of this.flashing) if (end <= now) this.flash(row, null);
    for (const id of this.dirty) {
      const row = this.rows.get(id);
      if (!row.seen && row.shownPrice !== null) continue; // it is drawn when it comes into sight
      this.drawRow(row, now);
      this.dirty.delete(id);
    }
    if (this.flashing.size) this.drawSoon();
  }

  drawRow(row, now) {
    for (const [name, textOf] of Object.entries(NUMBER_COLUMNS)) {
      const text = textOf(row);
      if (text !== row.texts[name]) row.cells[name].textContent = row.texts[name] = text;
    }
    const direction = Math.sign(change(row.quote) ?? 0);
    if (direction !== row.direction) {
      row.direction = direction;
      row.element.dataset.direction = direction > 0 ? "up" : direction < 0 ? "down" : "flat";
    }
    const price = row.quote.last_price;
    if (row.shownPrice !== null && price !== row.shownPrice && !stillness.matches) this.flash(row, price > row.shownPrice ? "up" : "down", now + FLASH_MS);
    row.shownPrice = price;
    row.sparkline.draw();
  }

  /** Colour a price until `end`; null ends it. */
  flash(row, direction, end) {
    if (direction) this.flashing.set(row, end);
    else this.flashing.delete(row);
    row.cells.last.dataset.flash = direction ?? "";
  }

  /** Draw all sparklines anew, as after a change of colours. */
  redraw() {
    for (const row of this.rows.values()) row.sparkline.draw(true);
  }

  select(id) {
    this.rows.get(this.selected)?.element.setAttribute("aria-selected", "false");
    this.selected = this.rows.has(id) ? id : null;
    this.rows.get(this.selected)?.element.setAttribute("aria-selected", "true");
    this.keepOneTabStop();
    this.events.onSelect(this.selected);
  }

  /** Rows are one stop of the Tab key; the arrows move between them. */
  keepOneTabStop() {
    const stop = this.rows.get(this.selected)?.element ?? this.body.firstElementChild;
    for (const row of this.rows.values()) row.element.tabIndex = row.element === stop ? 0 : -1;
  }

  clicked(event) {
    const element = event.target.closest("tr");
    if (!element) return;
    const id = Number(element.dataset.id);
    if (event.target.closest("button")) this.events.onRemove(id);
    else this.select(id);
  }

  pressed(event) {
    const element = event.target.closest("tr");
    if (!element || event.target.closest("button")) return;
    const targets = {
      ArrowDown: element.nextElementSibling, ArrowUp: element.previousElementSibling,
      Home: this.body.firstElementChild, End: this.body.lastElementChild,
      Enter: element, " ": element,
    };
    if (event.key === "Delete") this.events.onRemove(Number(element.dataset.id));
    else if (targets[event.key]) {
      targets[event.key].focus();
      this.select(Number(targets[event.key].dataset.id));
    } else return;
    event.preventDefault();
  }
}

const segmentOf = ({ segment }) => segment.replace("_", " ");

function rowElement(instrument) {
  const element = document.getElementById("row").content.firstElementChild.cloneNode(true);
  element.dataset.id = instrument.id;
  element.dataset.type = instrument.instrument_type;
  element.querySelector(".symbol").textContent = instrument.trading_symbol;
  element.querySelector(".symbol").title = `${instrument.name || instrument.trading_symbol} · ${instrument.key}`;
  element.querySelector(".segment").textContent = segmentOf(instrument);
  element.querySelector("button").setAttribute("aria-label", `Remove ${instrument.trading_symbol}`);
  return element;
}
