/** Which view the address names: `#watchlist`, or an option chain as in `#chain/NIFTY/@w0/atm10`. Pure. */
const EXPIRY = /^(@[wm]\d{1,2}|\d{4}-\d\d-\d\d)$/;
const STRIKES = /^(all|atm[1-9]\d{0,2})$/;
export const WATCHLIST = { view: "watchlist" };
export const FIRST_CHAIN = { view: "chain", underlying: "NIFTY", expiry: "@w0", strikes: "atm10" };

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return "";
  }
}

/**
 * Read an address. What it leaves out, or what is no such word, is taken from `chain`.
 * @param {string} hash location.hash @param {typeof FIRST_CHAIN} chain the chain looked at last
 * @returns {{view: string, underlying?: string, expiry?: string, strikes?: string} | null} null: it names no view
 */
export function routeOf(hash, chain = FIRST_CHAIN) {
  const [view, underlying, expiry, strikes] = hash.slice(1).split("/").map(decoded);
  if (view === "watchlist") return WATCHLIST;
  if (view !== "chain") return null;
  if (!underlying) return chain;
  return {
    view,
    underlying: underlying.toUpperCase(),
    expiry: EXPIRY.test(expiry) ? expiry : FIRST_CHAIN.expiry,
    strikes: STRIKES.test(strikes) ? strikes : chain.strikes,
  };
}

/** The address of a route, as `routeOf` reads it. */
export const hashOf = ({ view, underlying, expiry, strikes }) => (view === "chain" ? `#chain/${encodeURIComponent(underlying)}/${expiry}/${strikes}` : "#watchlist");

/** The WebSocket channel of a chain's route. */
export const channelOf = ({ underlying, expiry, strikes }) => `chain:${underlying}:${expiry}:${strikes}`;
