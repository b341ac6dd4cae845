/** The watchlist and the chart's interval as this browser remembers them, and what the watchlist begins with.
 *
 * Instruments are remembered by our own id, never by key: brokers give keys of expired contracts to new ones. The symbol beside it
 * tells an id of another database apart.
 */
import { expiries, instrument, instruments, latest } from "./api.js";

const PLACE = "tradingok.watchlist.v1";
const INTERVAL_PLACE = "tradingok.interval.v1";
const INDICES = 6;
const UNDERLYINGS = ["NIFTY", "BANKNIFTY"];
const OPTIONS_EACH_SIDE = 1;
const STRIKE_WINDOW = 0.01; // of the price, so that few rows are asked for

const stamp = (row) => [row.id, row.isin || row.trading_symbol];

function keep(place, text) {
  try {
    localStorage.setItem(place, text);
  } catch {
    // storage is full or forbidden: it lasts as long as the page
  }
}

export const remember = (rows) => keep(PLACE, JSON.stringify(rows.map(stamp)));
export const rememberInterval = (interval) => keep(INTERVAL_PLACE, interval);

/** The interval that was chosen last; null where none was. */
export function interval() {
  try {
    return localStorage.getItem(INTERVAL_PLACE);
  } catch {
    return null;
  }
}

function remembered() {
  try {
    return JSON.parse(localStorage.getItem(PLACE));
  } catch {
    return null;
  }
}

/** REST instruments to begin with, in order: the remembered ones that still exist, or the default list. */
export async function watchlist() {
  const stamps = remembered();
  if (!Array.isArray(stamps)) return defaults();
  const rows = await Promise.all(stamps.map(([id]) => instrument(`id:${id}`)));
  const same = rows.filter((row, at) => row?.active && stamp(row)[1] === stamps[at][1]);
  return same.length || !stamps.length ? same : defaults();
}

/** Indices, near futures and options at the money, out of what the server follows. */
async function defaults() {
  const subscribed = (filter) => instruments({ subscribed: true, ...filter });
  const indices = (await subscribed({ instrument_type: "INDEX" })).sort((a, b) => rank(a) - rank(b)).slice(0, INDICES);
  const futures = await Promise.all(UNDERLYINGS.map((underlying) => subscribed({ instrument_type: "FUT", underlying })));
  const options = await Promise.all(futures.map((rows, at) => nearTheMoney(UNDERLYINGS[at], nearest(rows))));
  return [...indices, ...futures.map(nearest).filter(Boolean), ...options.flat()];
}

const rank = (index) => (UNDERLYINGS.indexOf(index.trading_symbol) + 1) || UNDERLYINGS.length + 1;

const nearest = (rows) => [...rows].sort((a, b) => a.expiry_ms - b.expiry_ms)[0];

/** Calls and puts of the nearest expiry around the last price of the underlying (its future's, where the index has none). */
async function nearTheMoney(underlying, future) {
  const price = future && (await priceOf(future));
  const expiry = price && (await expiries(underlying)).find((listed) => listed.strikes)?.expiry;
  if (!expiry) return [];
  const window = price * STRIKE_WINDOW;
  const rows = await instruments({ subscribed: true, underlying, expiry, strike_min: price - window, strike_max: price + window, limit: 200 });
  const strikes = [...new Set(rows.map((row) => row.strike_price))].sort((a, b) => Math.abs(a - price) - Math.abs(b - price)).slice(0, 1 + 2 * OPTIONS_EACH_SIDE);
  return rows.filter((row) => strikes.includes(row.strike_price)).sort((a, b) => a.strike_price - b.strike_price || a.instrument_type.localeCompare(b.instrument_type));
}

/** The underlying's last price, else the future's; undefined where neither has traded. */
async function priceOf(future) {
  const spot = future.underlying_key && (await instrument(future.underlying_key));
  const quotes = await latest([future, spot].filter(Boolean).map((row) => `id:${row.id}`));
  return (spot && quotes.get(spot.id)?.last_price) ?? quotes.get(future.id)?.last_price;
}
