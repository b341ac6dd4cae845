/** The table of an option chain: strikes in the middle, calls left, puts right. It touches only cells whose text has changed.
 *
 * Only the last price of a side can be focused: one stop of the Tab key for the whole table, the arrows move in it.
 */
import { callOrder, COLUMNS, fitting, putOrder, widthOf } from "./chaincolumns.js";
import * as format from "./format.js";

const FLASH_MS = 350;
const SIDES = { call: "CE", put: "PE" };
const stillness = matchMedia("(prefers-reduced-motion: reduce)");

function made(tag, className = "", text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

/** "25,000", "512.5": a strike has decimals only where it needs them. */
export const strikeText = (strike) => format.number(strike, Number.isInteger(strike) ? 0 : format.decimalsOf(strike));

export class ChainTable {
  /**
   * @param {HTMLTableElement} table empty @param {HTMLElement} scroller around it
   * @param {(side: object, strike: number, name: "call" | "put") => void} onChoose a side was clicked, or Enter pressed on it
   */
  constructor(table, scroller, onChoose) {
    Object.assign(this, { table, scroller, onChoose, chosen: null, columns: [], chain: null, most: null, decimals: 2 });
    this.rows = new Map(); // strike → {element, strike, marks, sides}
    this.flashing = new Map();
    this.stop = null;
    this.caption = table.createCaption();
    this.caption.className = "unseen";
    this.head = table.createTHead();
    this.body = table.createTBody();
    this.line = made("tr", "money");
    this.line.append(made("td"));
    this.line.firstElementChild.append(made("span"));
    this.body.addEventListener("click", (event) => this.clicked(event));
    this.body.addEventListener("keydown", (event) => this.pressed(event));
    this.body.addEventListener("focusin", ({ target }) => this.stopAt(target));
    new ResizeObserver(() => this.fit()).observe(scroller);
  }

  /** Show these columns; null: those that fit. */
  choose(names) {
    this.chosen = names;
    this.fit();
  }

  fit() {
    const width = this.scroller.clientWidth;
    const columns = this.chosen ?? fitting(width);
    this.width = width;
    if (width && columns.join() !== this.columns.join()) {
      this.columns = callOrder(columns);
      this.build();
    } else this.size();
  }

  /** Make the table anew, as for other columns. */
  build() {
    this.order = { call: callOrder(this.columns), put: putOrder(this.columns) };
    const group = made("tr");
    const names = made("tr");
    const sideHead = (name, label) => Object.assign(made("th", name, label), { scope: "colgroup", colSpan: this.columns.length });
    group.append(sideHead("call", "Calls"), Object.assign(made("th", "strike", "Strike"), { scope: "col", rowSpan: 2 }), sideHead("put", "Puts"));
    for (const name of Object.keys(this.order)) for (const column of this.order[name]) names.append(headCell(name, column));
    this.head.replaceChildren(group, names);
    this.line.firstElementChild.colSpan = 2 * this.columns.length + 1;
    this.size();
    const held = this.body.contains(document.activeElement) ? document.activeElement.closest("td") : null;
    const strike = Number(held?.parentElement.dataset.strike);
    this.rows.clear();
    this.body.replaceChildren();
    this.most = null;
    if (this.chain) this.draw(this.chain);
    if (held) this.goTo(this.rows.get(strike), held.dataset.side);
  }

  size() {
    const columns = [...(this.order?.call ?? []), null, ...(this.order?.put ?? [])];
    this.table.querySelector("colgroup")?.remove();
    const group = made("colgroup");
    for (const column of columns) {
      const element = made("col");
      element.style.width = `${widthOf(column, this.width)}px`;
      group.append(element);
    }
    this.caption.after(group);
  }

  /** Draw what is told of a chain. @param {Set<number> | null} changed strikes that differ since the last time; null: all */
  draw(chain, changed = null) {
    this.chain = chain;
    if (!this.columns.length) return;
    const now = performance.now();
    this.place(chain);
    for (const strike of chain.strikes) if (!changed || changed.has(strike) || !this.rows.get(strike).drawn) this.drawRow(this.rows.get(strike), chain.rows.get(strike), now);
    this.mark(chain);
    const most = chain.most("open_interest") || 1;
    if (most !== this.most) this.table.style.setProperty("--most", (this.most = most));
  }

  /** Bring rows into order: those that stay are not touched. */
  place(chain) {
    for (const [strike, row] of this.rows) if (!chain.rows.has(strike)) {
      row.element.remove();
      this.rows.delete(strike);
    }
    let after = null;
    for (const strike of chain.strikes) {
      let row = this.rows.get(strike);
      if (!row) this.rows.set(strike, (row = this.newRow(strike)));
      const next = after ? after.nextElementSibling : this.body.firstElementChild;
      const expected = next === this.line ? next.nextElementSibling : next;
      if (expected !== row.element) this.body.insertBefore(row.element, expected);
      after = row.element;
    }
    this.keepOneTabStop();
  }

  newRow(strike) {
    const element = made("tr");
    element.dataset.strike = strike;
    const head = Object.assign(made("th", "strike"), { scope: "row" });
    const marks = made("small");
    head.append(strikeText(strike), marks);
    const sides = {};
    for (const name of Object.keys(SIDES)) sides[name] = { cells: this.order[name].map((column) => sideCell(name, column)), texts: [], price: null, known: null };
    element.append(...sides.call.cells, head, ...sides.put.cells);
    return { element, strike, marks, sides, drawn: false, texts: {} };
  }

  drawRow(row, told, now) {
    row.drawn = true;
    for (const name of Object.keys(SIDES)) this.drawSide(row, name, told[name], now);
  }

  drawSide(row, name, told, now) {
    const side = row.sides[name];
    side.known = told;
    const value = told ?? { last_price: null };
    this.order[name].forEach((column, at) => {
      const { text, way, ours } = COLUMNS[column];
      const shown = told ? text(value, this.decimals) : "";
      const cell = side.cells[at];
      if (shown !== side.texts[at]) {
        side.texts[at] = shown;
        (column === "last" ? cell.firstElementChild : cell).textContent = shown;
        if (column === "interest") cell.style.setProperty("--units", value.open_interest ?? 0);
      }
      if (way) setData(cell, "way", told && way(value) ? (way(value) > 0 ? "up" : "down") : "");
      if (ours) markComputed(cell, Boolean(told?.computed));
    });
    setData(row.element, name, told?.moneyness ?? "");
    const button = side.cells[this.order[name].indexOf("last")].firstElementChild;
    if (button.disabled !== !told) button.disabled = !told;
    if (side.price !== null && value.last_price !== null && value.last_price !== side.price && !stillness.matches) this.flash(button, value.last_price > side.price ? "up" : "down", now);
    side.price = value.last_price;
  }

  flash(button, way, now) {
    setData(button, "flash", way);
    this.flashing.set(button, now + FLASH_MS);
    this.timer ||= setTimeout(() => this.endFlashes(), FLASH_MS);
  }

  endFlashes() {
    this.timer = 0;
    const now = performance.now();
    for (const [button, end] of this.flashing) if (end <= now + 10) {
      setData(button, "flash", "");
      this.flashing.delete(button);
    }
    if (this.flashing.size) this.timer = setTimeout(() => this.endFlashes(), FLASH_MS / 4);
  }

  /** Mark the strikes at the money and of max pain, and draw the line of the price between strikes. */
  mark(chain) {
    const { atm_strike: money, max_pain: pain, spot, forward } = chain.aggregate;
    for (const row of this.rows.values()) {
      const marks = [row.strike === money && "ATM", row.strike === pain && "Max pain"].filter(Boolean).join(" · ");
      if (row.texts.marks === marks) continue;
      row.marks.textContent = row.texts.marks = marks;
      setData(row.element, "money", row.strike === money ? "at" : "");
    }
    const below = chain.below(spot ?? forward);
    if (below === null) return this.line.remove();
    const text = [spot != null && `Spot ${format.number(spot, this.decimals)}`, forward != null && `Forward ${format.number(forward, this.decimals)}`].filter(Boolean).join("  ·  ");
    const next = this.rows.get(chain.strikes[below])?.element ?? null;
    if (!this.line.isConnected || this.line.nextElementSibling !== next) this.body.insertBefore(this.line, next);
    if (this.lineText !== text) this.line.firstElementChild.firstElementChild.textContent = this.lineText = text;
    return undefined;
  }

  /** Bring the money into the middle. */
  center() {
    const element = this.rows.get(this.chain?.aggregate.atm_strike)?.element;
    if (!element) return;
    const room = this.scroller.clientHeight - this.head.offsetHeight;
    this.scroller.scrollTop = element.offsetTop - this.head.offsetHeight - (room - element.offsetHeight) / 2;
  }

  /** Forget all, as for another chain. */
  clear() {
    this.chain = null;
    this.rows.clear();
    this.flashing.clear();
    this.body.replaceChildren();
  }

  // Keyboard and pointer

  keepOneTabStop() {
    if (this.stop?.isConnected) return;
    const row = this.rows.get(this.chain.aggregate.atm_strike) ?? this.rows.get(this.chain.strikes[0]);
    const first = row?.element.querySelector("button");
    if (first) this.stopAt(first);
  }

  stopAt(button) {
    if (button === this.stop || button.tagName !== "BUTTON") return;
    if (this.stop) this.stop.tabIndex = -1;
    this.stop = button;
    button.tabIndex = 0;
  }

  clicked({ target }) {
    const cell = target.closest("td[data-side]");
    if (cell) this.chooseCell(cell);
  }

  chooseCell(cell) {
    const row = this.rows.get(Number(cell.parentElement.dataset.strike));
    const name = cell.dataset.side;
    if (row?.sides[name].known) this.onChoose(row.sides[name].known, row.strike, name);
  }

  goTo(row, name) {
    row?.sides[name].cells[this.order[name].indexOf("last")].firstElementChild.focus();
  }

  pressed(event) {
    if (event.target.tagName !== "BUTTON" || event.ctrlKey || event.metaKey || event.altKey) return;
    const cell = event.target.closest("td");
    const rows = [...this.rows.values()].sort((a, b) => a.strike - b.strike);
    const at = rows.findIndex(({ element }) => element === cell.parentElement);
    const { side } = cell.dataset;
    const keys = {
      ArrowDown: () => this.goTo(rows[Math.min(rows.length - 1, at + 1)], side), ArrowUp: () => this.goTo(rows[Math.max(0, at - 1)], side),
      ArrowLeft: () => this.goTo(rows[at], "call"), ArrowRight: () => this.goTo(rows[at], "put"),
      Home: () => this.goTo(rows[0], side), End: () => this.goTo(rows.at(-1), side),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  }
}

function headCell(name, column) {
  const { label, title } = COLUMNS[column];
  const cell = Object.assign(made("th", `${name} ${column}`), { scope: "col", title });
  cell.append(made("span", "unseen", name === "call" ? "Call " : "Put "), label);
  return cell;
}

function sideCell(name, column) {
  const cell = made("td", `${name} ${column}`);
  cell.dataset.side = name;
  cell.dataset.column = column;
  if (column !== "last") return cell;
  const button = Object.assign(made("button"), { type: "button", tabIndex: -1, title: "Add to the watchlist and show its chart" });
  cell.append(button);
  return cell;
}

function setData(element, name, value) {
  if ((element.dataset[name] ?? "") !== value) element.dataset[name] = value;
}

function markComputed(cell, computed) {
  if (cell.hasAttribute("data-computed") === computed) return;
  cell.toggleAttribute("data-computed", computed);
  if (computed) cell.title = "Computed here: the broker sent none";
  else cell.removeAttribute("title");
}
