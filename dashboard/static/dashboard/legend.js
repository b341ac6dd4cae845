/** One candle in words: time, open, high, low, close, volume, open interest, how it came to be; or why there is none. */
import * as format from "./format.js";

const STATE = { live: "forming", closed: "from ticks", confirmed: "confirmed by the exchange", backfilled: "filled in later" };
const TIMES = ["", "once", "twice"];
const CAUSE = {
  disconnected: "the connection to the broker was lost",
  stale: "no data came though the market was open",
  stopped: "the feed was not running",
  silent: "nothing came for this instrument",
  missing: "the broker has trades here that did not come",
};
const HEAL = { open: "not filled in yet", impossible: "cannot be filled in" };

/** How a candle came to be: "confirmed by the exchange, revised once". */
export function how({ state, revision }) {
  const revised = revision > 0 ? `, revised ${TIMES[revision] ?? `${revision} times`}` : "";
  return (STATE[state] ?? state) + revised;
}

/** Why there is nothing: "No data 10:57:54–10:59:58: the feed was not running; not filled in yet". */
export function why({ from, to, cause, heal_state: healState, heal_detail: detail }) {
  const span = `${format.clock(from)}–${to == null ? "now" : format.clock(to)}`;
  return `No data ${span}: ${CAUSE[cause] ?? cause}; ${HEAL[healState] ?? healState}${detail ? ` (${detail})` : ""}`;
}

/** "24 Nov 2026 10:58", a day's candle "24 Nov 2026", in India. */
export const when = (start, daily) => (daily ? format.day(start) : `${format.day(start)} ${format.clock(start).slice(0, 5)}`);

export class Legend {
  /** @param {HTMLElement} box with an element [data-candle=…] for each of time, open, high, low, close, volume, openInterest, how */
  constructor(box) {
    this.box = box;
    this.fields = Object.fromEntries([...box.querySelectorAll("[data-candle]")].map((element) => [element.dataset.candle, element]));
    this.texts = {};
  }

  /** Tell of an instrument's candles from here on. */
  show(instrument, interval) {
    this.decimals = format.decimalsOf(instrument.tick_size);
    this.traded = instrument.instrument_type !== "INDEX";
    this.daily = ["1d", "1w", "1M"].includes(interval);
    this.tell(undefined);
  }

  /** Tell of the candle that began at `start`, of the gap there, or of nothing. */
  tell(start, candle, gap) {
    this.box.dataset.state = candle?.state ?? (gap ? "gap" : "");
    this.write("time", start === undefined ? "" : when(start, this.daily));
    for (const name of ["open", "high", "low", "close"]) this.write(name, candle ? format.number(candle[name], this.decimals) : "–");
    this.write("volume", candle && this.traded ? format.short(candle.volume) : "–");
    this.write("openInterest", candle ? format.short(candle.openInterest) : "–");
    this.write("how", [candle && how(candle), gap && why(gap)].filter(Boolean).join(" · "));
  }

  /** Say in place of how the candle came to be that something failed; until the next candle is told. */
  warn(text) {
    this.write("how", text);
  }

  /** Whether a screen reader is to read each change: only while one goes from candle to candle by keyboard. */
  announce(on) {
    this.box.setAttribute("aria-live", on ? "polite" : "off");
  }

  write(name, text) {
    if (this.texts[name] === text) return;
    this.texts[name] = text;
    this.fields[name].textContent = text;
  }
}
