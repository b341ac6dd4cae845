/** Watchlist, chart's interval, view and option chain as this browser remembers them, and what the watchlist begins with.
 *
 * Instruments are remembered by our own id, never by key: brokers give keys of expired contracts to new ones. The symbol beside it
 * tells an id of another database apart.
 */
import { expiries, instrument, instruments, instrumentsById, latest } from "./api.js";
import { FIRST_CHAIN, hashOf, routeOf } from "./route.js";

const PLACE = "tradingok.watchlist.v1";
const INTERVAL_PLACE = "tradingok.interval.v1";
const VIEW_PLACE = "tradingok.view.v1";
const CHAIN_PLACE = "tradingok.chain.v1";
const COLUMNS_PLACE = "tradingok.chain-columns.v1";
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

function kept(place) {
  try {
    return localStorage.getItem(place);
  } catch {
    return null;
  }
}

function keptList(place) {
  try {
    const list = JSON.parse(kept(place));
    return Array.isArray(list) ? list : null;
  } catch {
    return null;
  }
}

/** The interval that was chosen last; null where none was. */
export const interval = () => kept(INTERVAL_PLACE);

/** The option chain that was looked at last, as a route. */
export const lastChain = () => routeOf(kept(CHAIN_PLACE) ?? "") ?? FIRST_CHAIN;

/** The view that was looked at last, as a route; null where none was. */
export const lastView = () => routeOf(kept(VIEW_PLACE) ?? "", lastChain());

export function rememberView(route) {
  keep(VIEW_PLACE, `#${route.view}`);
  if (route.view === "chain") keep(CHAIN_PLACE, hashOf(route));
}

/** Columns that were chosen for option chains; null: those that fit. */
export const chainColumns = () => keptList(COLUMNS_PLACE);
export const rememberChainColumns = (names) => keep(COLUMNS_PLACE, JSON.stringify(names));

/** REST instruments to begin with, in order: the remembered ones that still exist, or the default list. */
export async function watchlist() {
  const stamps = keptList(PLACE);
  if (!stamps) return defaults();
  const listed = await instrumentsById(stamps.map(([id]) => id));
  const same = stamps.filter(([id, symbol]) => listed.has(id) && stamp(listed.get(id))[1] === symbol).map(([id]) => listed.get(id));
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
