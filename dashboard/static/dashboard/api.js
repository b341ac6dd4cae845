/** What the page asks the REST API. Each function returns plain rows; errors are thrown with the server's own words. */
const BATCH = 250;

export class ApiError extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

async function get(path, query = {}, signal = undefined) {
  const url = new URL(path, location.origin);
  for (const [name, value] of Object.entries(query)) if (value !== undefined && value !== null) url.searchParams.set(name, value);
  const response = await fetch(url, { headers: { Accept: "application/json" }, credentials: "same-origin", signal });
  if (response.ok) return response.json();
  const problem = await response.json().catch(() => ({}));
  throw new ApiError(response.status, response.status === 401 ? "You are signed out: reload the page." : (problem.detail ?? problem.title ?? response.statusText));
}

const rows = (answer) => (Array.isArray(answer) ? answer : answer.results ?? []);

/** Instruments as a trader types them: "nifty 25000 ce". */
export const search = async (q, signal) => rows(await get("/api/marketdata/instruments/search/", { q, limit: 20 }, signal));

async function orNothing(nothing, asking) {
  try {
    return await asking;
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return nothing;
    throw error;
  }
}

/** One instrument by "id:5" or by key; null where there is none. */
export const instrument = (name) => orNothing(null, get(`/api/marketdata/instruments/${encodeURIComponent(name)}/`));

/** Instruments by filter: {subscribed, instrument_type, underlying, …}; the first page. */
export const instruments = async (filter) => rows(await get("/api/marketdata/instruments/", filter));

/** Living instruments by their ids, asked for BATCH at a time: addresses may not be of any length. */
export async function instrumentsById(ids) {
  const names = ids.map((id) => `id:${id}`);
  const batches = Array.from({ length: Math.ceil(names.length / BATCH) }, (_, at) => names.slice(at * BATCH, (at + 1) * BATCH).join(","));
  const found = await Promise.all(batches.map((batch) => instruments({ instruments: batch, limit: BATCH })));
  return new Map(found.flat().map((row) => [row.id, row]));
}

/** Living expiries of an underlying, nearest first: [{expiry: "2026-11-24", strikes: 80, …}…]. */
export const expiries = async (underlying) => rows(await orNothing([], get(`/api/marketdata/underlyings/${encodeURIComponent(underlying)}/expiries/`)));

/** Latest quotes by instrument id. */
export async function latest(names) {
  if (!names.length) return new Map();
  const answer = rows(await get("/api/marketdata/ticks/latest/", { instruments: names.join(",") }));
  return new Map(answer.filter((item) => item.quote).map((item) => [item.instrument, item.quote]));
}

/** A page of candles as `row` of candles.js takes them, and the address of the next page (null: there is none).
 *
 * `page` is such an address, or the query of the first page: {instrument, interval, from, to, order, limit}, times in ms UTC. */
export async function candles(page, signal) {
  const { results, next } = await (typeof page === "string" ? get(`/api/marketdata/ohlc/${new URL(page).search}`, {}, signal) : get("/api/marketdata/ohlc/", page, signal));
  return { candles: results, next };
}

/** Gaps that concern an instrument and began from `from` to before `to` (ms UTC; not given: to now): [{gap, from, to, cause, heal_state, heal_detail, instruments}…]. */
export const gaps = async (instrument, from, to, signal) => rows(await get("/api/marketdata/gaps/", { instrument, from, to, limit: 1000 }, signal));

/** How the newest day's minutes of an instrument came to be: {day, confirmed, closed, backfilled, missing, compared, prices_equal, …}; null where nobody knows. */
export const parity = async (name, signal) => rows(await orNothing([], get("/api/marketdata/parity/", { instrument: name }, signal)))[0] ?? null;

/** Option chains that the rules follow: [{underlying, expiry, kind, words, ends, options, followed}…]. */
export const chains = async (signal) => rows(await get("/api/marketdata/chain/", {}, signal));

const chainPath = ({ underlying }) => `/api/marketdata/chain/${encodeURIComponent(underlying)}/`;

/** What a chain is, beside its prices: {underlying_key, segment, expiry, kind, ends, …}; `ends` in ms UTC. */
export const chainFacts = ({ underlying, expiry }, signal) => get(chainPath({ underlying }), { expiry, strikes: "atm1" }, signal);

/** The figures of a chain's stored minutes of the present day: [{minute, spot, straddle, …}…], oldest first, minute in ms UTC. */
export const chainHistory = async ({ underlying, expiry }, signal) => rows(await get(`${chainPath({ underlying })}history/`, { expiry, limit: 1000 }, signal));
