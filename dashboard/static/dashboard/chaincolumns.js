/** The columns of an option chain: what each shows of a side, and which of them fit. Pure. */
import * as format from "./format.js";

const FEW = { null: 0.7, last: 0.85 }; // parts of the usual width on a phone, by column; FEW_ELSE of the others: a price of four digits has room
const FEW_ELSE = 0.8;
const NARROW = 700;

const signedMany = (value) => (value > 0 ? "+" : "") + format.short(value);
const price = (value, decimals) => format.number(value, Math.abs(value) >= 10_000 ? 1 : decimals); // what is long enough already loses decimals
const change = (value, decimals) => format.signed(value, Math.abs(value) >= 1000 ? 0 : decimals);
const percent = (value) => format.signed(value, Math.abs(value) >= 1000 ? 0 : 1);

/** By name: label, title, width in CSS pixels, text of a side, whose prices have so many decimals; `way`: what colours it up or down; `ours`: may be computed here. */
export const COLUMNS = {
  rho: { label: "Rho", title: "Rho: INR for 1 % of interest", width: 48, text: (side, decimals) => format.number(side.rho, decimals), ours: true },
  vega: { label: "Vega", title: "Vega: INR for 1 % of volatility", width: 48, text: (side, decimals) => format.number(side.vega, decimals), ours: true },
  theta: { label: "Theta", title: "Theta: INR a calendar day", width: 54, text: (side, decimals) => format.number(side.theta, decimals), ours: true },
  gamma: { label: "Gamma", title: "Gamma: delta for one rupee", width: 60, text: (side) => format.number(side.gamma, 5), ours: true },
  delta: { label: "Delta", title: "Delta", width: 45, text: (side) => format.number(side.delta), ours: true },
  volatility: { label: "IV", title: "Implied volatility, percent", width: 42, text: (side) => format.percent(side.implied_volatility, 1), ours: true },
  volume: { label: "Volume", title: "Units traded today", width: 61, text: (side) => format.short(side.volume) },
  interestDay: { label: "OI day", title: "Open interest against the day's start, units", width: 62, text: (side) => signedMany(side.oi_change_day), way: (side) => side.oi_change_day },
  interestClose: { label: "OI chg", title: "Open interest against the previous close, units", width: 61, text: (side) => signedMany(side.oi_change_close), way: (side) => side.oi_change_close },
  interest: { label: "OI", title: "Open interest, units", width: 62, text: (side) => format.short(side.open_interest) },
  bidQuantity: { label: "Bid qty", title: "Quantity at the best bid", width: 56, text: (side) => format.short(side.bid_quantity) },
  bid: { label: "Bid", title: "Best bid, INR", width: 56, text: (side, decimals) => price(side.bid_price, decimals) },
  ask: { label: "Ask", title: "Best ask, INR", width: 56, text: (side, decimals) => price(side.ask_price, decimals) },
  askQuantity: { label: "Ask qty", title: "Quantity at the best ask", width: 56, text: (side) => format.short(side.ask_quantity) },
  percent: { label: "Chg %", title: "Last price against the previous close, percent", width: 54, text: (side) => percent(side.change_percent), way: (side) => side.change },
  change: { label: "Chg", title: "Last price against the previous close, INR", width: 57, text: (side, decimals) => change(side.change, decimals), way: (side) => side.change },
  last: { label: "LTP", title: "Last price, INR", width: 60, text: (side, decimals) => price(side.last_price, decimals) },
};
export const NAMES = Object.keys(COLUMNS); // of a call's side, from the edge to the strike

const IMPORTANCE = ["last", "interest", "interestClose", "volatility", "change", "bid ask", "volume", "delta", "theta", "percent", "interestDay", "gamma", "vega", "bidQuantity askQuantity", "rho"];
const BOOK = ["bidQuantity", "bid", "ask", "askQuantity"];
const STRIKE_WIDTH = 78;

/** Columns of a call's side, from the edge to the strike. */
export const callOrder = (names) => NAMES.filter((name) => names.includes(name));

/** Columns of a put's side, from the strike to the edge: the mirror of the call's, but a book is always read from bid to ask. */
export function putOrder(names) {
  const mirrored = callOrder(names).reverse();
  const book = BOOK.filter((name) => names.includes(name));
  return mirrored.map((name) => (BOOK.includes(name) ? book.shift() : name));
}

/** How wide a column is in a table of this width, CSS pixels; `null`: the strike's. */
export const widthOf = (name, width) => (name === null ? STRIKE_WIDTH : COLUMNS[name].width) * (width < NARROW ? FEW[name] ?? FEW_ELSE : 1);

/** The most important columns that fit into a table of this width. */
export function fitting(width) {
  let left = (width - widthOf(null, width)) / 2;
  const found = [];
  for (const names of IMPORTANCE.map((each) => each.split(" "))) {
    for (const name of names) left -= widthOf(name, width);
    if (left < 0) break;
    found.push(...names);
  }
  return callOrder(found);
}
