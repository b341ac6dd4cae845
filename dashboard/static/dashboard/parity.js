/** One line about the day's minutes of an instrument: how many the exchange has confirmed, and how well ticks alone had done. */
import { parity } from "./api.js";
import { day, whole } from "./format.js";

const EVERY_MS = 30_000;
/** Of fewer minutes a percentage says nothing: the counts are told. */
const FEW = 20;

/** The line's text; "" where there is nothing to tell. @param {object | null} row of REST's parity @param {number} nowMs ms UTC */
export function parityText(row, nowMs) {
  const all = row ? row.confirmed + row.closed + row.backfilled + row.missing : 0;
  if (!all) return "";
  const parts = [`${whole(row.confirmed)} of ${whole(all)} minutes confirmed by the exchange`];
  if (row.backfilled) parts.push(`${whole(row.backfilled)} filled in later`);
  if (row.closed) parts.push(`${whole(row.closed)} from ticks only`);
  if (row.missing) parts.push(`${whole(row.missing)} missing`);
  const when = day(row.day) === day(nowMs) ? "Today" : day(row.day);
  const right = row.compared < FEW ? `${row.prices_equal} of ${row.compared}` : `${Math.round((100 * row.prices_equal) / row.compared)} % of those`;
  return `${when}: ${parts.join(", ")}${row.compared ? `; ${right} built from ticks had the same four prices` : ""}`;
}

export class Parity {
  /** @param {HTMLElement} line hidden while nothing is known @param {() => number} nowMs ms UTC */
  constructor(line, nowMs) {
    this.line = line;
    this.nowMs = nowMs;
    this.instrument = null;
    setInterval(() => this.read(), EVERY_MS);
  }

  /** Tell of an instrument; null: of none. */
  show(instrument) {
    this.instrument = instrument;
    this.line.hidden = true;
    this.read();
  }

  async read() {
    const { instrument } = this;
    if (!instrument || document.hidden) return;
    const row = await parity(`id:${instrument.id}`).catch(() => null);
    if (instrument !== this.instrument) return;
    this.line.textContent = parityText(row, this.nowMs());
    this.line.hidden = !this.line.textContent;
  }
}
