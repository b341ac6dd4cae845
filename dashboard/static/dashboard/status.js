/** What the page may be trusted with now: connection badge with the age of the newest data, segments, clock. */
import * as format from "./format.js";

const FEED = {
  live: "Live", quiet: "No trading now", stale: "Stale", reconnecting: "Reconnecting", token_expired: "Token expired", closed: "Feed stopped",
};
const SEGMENT = {
  PRE_OPEN_START: "pre-open", PRE_OPEN_END: "pre-open ended", NORMAL_OPEN: "open",
  NORMAL_CLOSE: "closed", CLOSING_START: "closing session", CLOSING_END: "closed",
};
const FIRST = ["NSE_EQ", "NSE_FO", "NSE_INDEX", "BSE_EQ", "BSE_FO", "BSE_INDEX", "MCX_FO"]; // a phone shows four
const rank = (segment) => FIRST.indexOf(segment) + 1 || FIRST.length + 1;
const REFUSED = { 4101: "Signed out", 4103: "Not allowed", 4104: "Too many pages open", 4105: "Page out of date" };

export class Status {
  /**
   * @param {HTMLElement} header holds #badge, #badge-text, #age, #clock, #segments
   * @param {(state: string, word: string, reason: string) => void} onState when one of them has changed
   */
  constructor(header, onState) {
    this.onState = onState;
    for (const id of ["badge", "badge-text", "age", "clock", "segments"]) this[id] = header.querySelector(`#${id}`);
    this.feed = null;
    this.connection = { state: "connecting" };
    this.dataAt = null;
    this.clockAhead = 0;
    this.texts = new Map();
    setInterval(() => this.draw(), 500);
  }

  /** Server's time now, ms UTC, as far as the last message tells. */
  serverMs() {
    return Date.now() + this.clockAhead;
  }

  /** A tick has come. */
  ticked() {
    this.dataAt = performance.now();
  }

  serverTime(ms) {
    this.clockAhead = ms - Date.now();
  }

  /** `feed` of hello, or feed:status. */
  feedChanged(feed) {
    this.feed = feed;
    if (feed.age_ms != null) this.dataAt = Math.max(this.dataAt ?? -Infinity, performance.now() - feed.age_ms);
    this.draw();
  }

  connectionChanged(connection) {
    this.connection = connection;
    this.draw();
  }

  /** Segment → the broker's status name; all of them. */
  marketChanged(segments) {
    const chips = Object.entries(segments).sort(([a], [b]) => rank(a) - rank(b) || a.localeCompare(b)).map(([segment, status]) => {
      const chip = document.createElement("li");
      chip.dataset.status = SEGMENT[status] ?? status.toLowerCase();
      chip.textContent = `${segment.replace("_", " ")} ${SEGMENT[status] ?? status.toLowerCase()}`;
      return chip;
    });
    this.segments.replaceChildren(...chips);
  }

  /** The state shown, its word and its reason. A lost connection to the server outweighs what the feed last said. */
  state() {
    if (this.isFinal()) return ["closed", REFUSED[this.connection.code] ?? "Disconnected", "Prices no longer come: reload the page."];
    if (this.connection.code === 4104) return ["reconnecting", REFUSED[4104], "All connections of this user are taken; the page tries again each half minute."];
    if (this.connection.state !== "open") return ["reconnecting", "Reconnecting", "No connection to the server; the page tries again by itself."];
    if (!this.feed) return ["reconnecting", "Connecting", ""];
    const since = this.feed.since_ms ? `since ${format.clock(this.feed.since_ms)}` : "";
    return [this.feed.state, FEED[this.feed.state] ?? this.feed.state, [since, this.feed.detail, this.feed.scope !== "all" ? this.feed.scope : ""].filter(Boolean).join(" · ")];
  }

  /** Whether the server has ended the connection for good. */
  isFinal() {
    return this.connection.state === "closed";
  }

  draw() {
    const [state, word, reason] = this.state();
    if (this.badge.dataset.state !== state || this.badge.title !== reason || this.texts.get(this["badge-text"]) !== word) this.onState(state, word, reason);
    if (this.badge.dataset.state !== state) this.badge.dataset.state = state;
    if (this.badge.title !== reason) this.badge.title = reason;
    this.write(this["badge-text"], word);
    this.write(this.age, this.dataAt === null ? "no data yet" : `data ${format.age(performance.now() - this.dataAt)} old`);
    this.write(this.clock, `${format.clock(this.serverMs())} IST`);
  }

  write(element, text) {
    if (this.texts.get(element) === text) return;
    this.texts.set(element, text);
    element.textContent = text;
  }
}
