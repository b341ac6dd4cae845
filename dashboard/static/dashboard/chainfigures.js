/** The head line of an option chain: what it says as a whole. */
import * as format from "./format.js";
import { strikeText } from "./chaintable.js";

const DAY_MS = 86_400_000;
const HOUR_MS = 3_600_000;
const MINUTE_MS = 60_000;
const strike = (value) => (value == null ? "–" : strikeText(value));
const crores = (value) => (value == null ? "–" : format.short(value));
const part = (value, whole) => (value == null || !whole ? null : value / whole);
const signedShort = (value) => (value == null ? "" : (value > 0 ? "+" : "") + format.short(value));
const points = (fraction) => (fraction == null ? "–" : format.signed(fraction * 100));

/** By name: [what is shown large, what is shown small]; of an aggregate, the spot's previous close, and how many decimals prices have. */
const FIGURES = {
  spot: ({ spot }, close, decimals) => [format.number(spot, decimals), spot == null || close == null ? "" : `${format.signed(spot - close, decimals)} (${format.signed((100 * (spot - close)) / close)} %)`],
  forward: ({ forward, spot }, close, decimals) => [format.number(forward, decimals), forward == null || spot == null ? "" : `${format.signed(forward - spot, decimals)} to spot`],
  money: ({ atm_iv: iv, atm_strike: at }) => [iv == null ? "–" : `${format.percent(iv)} %`, at == null ? "" : `at ${strike(at)}`],
  straddle: ({ straddle, atm_strike: at }, close, decimals) => [format.number(straddle, decimals), part(straddle, at) === null ? "" : `±${format.percent(part(straddle, at))} %`],
  pcr: ({ pcr_oi: interest, pcr_volume: volume }) => [format.number(interest), volume == null ? "" : `${format.number(volume)} by volume`],
  pain: ({ max_pain: pain, spot }, close, decimals) => [strike(pain), pain == null || spot == null ? "" : `${format.signed(pain - spot, decimals > 2 ? decimals : 0)} to spot`],
  calls: ({ call_oi: interest, call_oi_change_close: change }) => [crores(interest), signedShort(change)],
  puts: ({ put_oi: interest, put_oi_change_close: change }) => [crores(interest), signedShort(change)],
  skew: ({ iv_skew: skew }) => [points(skew), "put − call, 25 Δ"],
  gamma: ({ gamma_exposure: exposure }) => [crores(exposure), "INR per 1 %"],
};

/** How long until trading ends: "4 d 3 h", "3 h 20 min", "12 min"; "" where it has ended. Pure. */
export function remaining(ms) {
  if (ms <= 0) return "";
  const days = Math.floor(ms / DAY_MS);
  const hours = Math.floor((ms % DAY_MS) / HOUR_MS);
  const minutes = Math.floor((ms % HOUR_MS) / MINUTE_MS);
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : `${minutes} min`;
}

const weekday = new Intl.DateTimeFormat("en-GB", { timeZone: "Asia/Kolkata", weekday: "short", day: "2-digit", month: "short" });

/** "Ends Tue 24 Nov 15:40 · 1 d 14 h left". Pure. @param {number} ends ms UTC @param {number} nowMs market time */
export function ending(ends, nowMs) {
  const left = remaining(ends - nowMs);
  return `${left ? "Ends" : "Ended"} ${weekday.format(ends).replace(",", "")} ${format.clock(ends).slice(0, 5)}${left ? ` · ${left} left` : ""}`;
}

export class ChainFigures {
  /** @param {HTMLElement} box with an element [data-figure=…] for each figure, in it a dd and a dd.small */
  constructor(box) {
    this.fields = [...box.querySelectorAll("[data-figure]")].map((element) => ({ element, name: element.dataset.figure, parts: [...element.querySelectorAll("dd")], texts: [] }));
  }

  /** Show an aggregate. @param {number | null} close of the spot, the day before · INR @param {number} decimals of prices */
  draw(aggregate, close, decimals) {
    for (const { element, name, parts, texts } of this.fields) {
      FIGURES[name](aggregate, close, decimals).forEach((text, at) => {
        if (texts[at] !== text) parts[at].textContent = texts[at] = text;
      });
      if (name === "spot" && close != null) element.dataset.direction = aggregate.spot > close ? "up" : aggregate.spot < close ? "down" : "flat";
    }
  }
}
