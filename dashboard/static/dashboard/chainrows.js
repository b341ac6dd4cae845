/** What a page knows of one option chain: its strikes, and the figures of the whole. Pure: no network, nothing drawn. */
export class ChainRows {
  constructor() {
    this.forget();
  }

  forget() {
    this.rows = new Map(); // strike → {strike, call, put}; a side that is not listed is null
    this.strikes = []; // ascending
    this.columns = [];
    this.aggregate = {};
    this.expiry = null; // YYYY-MM-DD
    this.marketMs = 0; // market time of what is told, ms UTC
  }

  /**
   * Take a push of `market:chain`. A snapshot, which has columns, replaces all; before the first there is nothing to change.
   * @returns {{snapshot: boolean, changed: Set<number>} | null} null: it changed nothing
   */
  take(message) {
    const snapshot = Boolean(message.columns);
    if (!snapshot && !this.columns.length) return null;
    if (snapshot) {
      this.forget();
      this.columns = message.columns;
    }
    Object.assign(this, { aggregate: message.aggregate, expiry: message.expiry, marketMs: message.market_ms });
    for (const [strike, call, put] of message.rows) this.rows.set(strike, { strike, call: this.side(call), put: this.side(put) });
    if (snapshot) this.strikes = [...this.rows.keys()].sort((a, b) => a - b);
    return { snapshot, changed: new Set(message.rows.map(([strike]) => strike)) };
  }

  side(values) {
    return values && Object.fromEntries(this.columns.map((name, at) => [name, values[at]]));
  }

  /** The sides of all strikes: [[row, "call" | "put", side]…]. */
  sides() {
    return [...this.rows.values()].flatMap((row) => ["call", "put"].filter((name) => row[name]).map((name) => [row, name, row[name]]));
  }

  /** The greatest absolute value of a column; 0 where nothing is known. */
  most(column) {
    return this.sides().reduce((most, [, , side]) => Math.max(most, Math.abs(side[column] ?? 0)), 0);
  }

  /** The strike at which one side has the most of a column; null where nothing is known. */
  peak(name, column) {
    let best = null;
    for (const row of this.rows.values()) if ((row[name]?.[column] ?? 0) > (best?.[name][column] ?? 0)) best = row;
    return best && best.strike;
  }

  /** How many strikes lie below a price; null where the price lies outside of them, or is not known. */
  below(price) {
    if (price == null || !this.strikes.length || price < this.strikes[0] || price > this.strikes.at(-1)) return null;
    return this.strikes.filter((strike) => strike < price).length;
  }
}
