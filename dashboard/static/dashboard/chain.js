/** The view of one option chain: what is chosen, its table, its head line and its charts. */
import { chainFacts, chainHistory, chains, expiries, instrument, latest } from "./api.js";
import { COLUMNS, NAMES } from "./chaincolumns.js";
import { ChainFigures, ending } from "./chainfigures.js";
import { ChainRows } from "./chainrows.js";
import { ChainTable } from "./chaintable.js";
import { DayChart } from "./daychart.js";
import * as format from "./format.js";
import { OiChart } from "./oichart.js";
import { chainColumns, rememberChainColumns } from "./remembered.js";
import { channelOf } from "./route.js";

const ENDS_MS = 15_000;
const OTHER_MONTH = /^@m/;
const WORDS = { "@w0": "Nearest", "@w1": "Next", "@m0": "Month", "@m1": "Next month" };
const GOOD = ["live", "quiet"]; // states that leave prices as good as they can be

const option = (value, text) => Object.assign(document.createElement("option"), { value, textContent: text });
const shortDay = (date) => format.day(Date.parse(`${date}T00:00:00+05:30`));

/** What the choice of an expiry offers: words, which move on at expiry, and days. Pure. @param {{expiry: string, kind: string, words: string[]}[]} listed */
export function expiryChoices(listed) {
  const words = listed.flatMap(({ expiry, kind, words: own }) => own.map((word) => [word, `${WORDS[word] ?? word} · ${shortDay(expiry).slice(0, -5)} · ${kind}`]));
  return { words: words.sort(([a], [b]) => (a[1] === b[1] ? Number(a.slice(2)) - Number(b.slice(2)) : a[1] < b[1] ? 1 : -1)), days: listed.map(({ expiry, kind }) => [expiry, `${shortDay(expiry)} · ${kind}`]) };
}

export class ChainView {
  /**
   * @param {HTMLElement} section @param {HTMLElement} charts @param {ReturnType<typeof import("./tradingok.js").connect>} feed
   * @param {{onRoute: (route: object) => void, onChoose: (side: object) => void, nowMs: () => number}} events another chain was chosen, a
   *   side was; market time as far as it is known, ms UTC
   */
  constructor(section, charts, feed, { onRoute, onChoose, nowMs }) {
    Object.assign(this, { section, charts, feed, onRoute, nowMs, route: null, facts: null, close: null, decimals: 2, frame: 0, pending: new Set() });
    this.at = (id) => section.querySelector(`#chain-${id}`);
    this.chain = new ChainRows();
    this.figures = new ChainFigures(this.at("figures"));
    this.table = new ChainTable(section.querySelector("#strikes"), this.at("table"), onChoose);
    this.oi = new OiChart(charts.querySelector("#oi-chart"), charts.querySelector("#oi-legend"));
    this.day = new DayChart(charts.querySelector("#day-chart"), charts.querySelector("#day-legend"), (text) => write(charts.querySelector("#day-note"), text), nowMs);
    this.loading = new AbortController();
    this.listenToChoices();
    setInterval(() => this.tellEnd(), ENDS_MS);
  }

  listenToChoices() {
    const choose = (change) => this.onRoute({ ...this.route, ...change });
    this.at("underlying").addEventListener("change", ({ target: { value: underlying } }) => choose({ underlying, expiry: OTHER_MONTH.test(this.route.expiry) ? this.route.expiry : "@w0" }));
    this.at("expiry").addEventListener("change", ({ target: { value: expiry } }) => choose({ expiry }));
    this.at("strikes").addEventListener("change", ({ target: { value: strikes } }) => choose({ strikes }));
    this.at("center").addEventListener("click", () => this.table.center());
    this.at("show").addEventListener("click", ({ target }) => target.setAttribute("aria-pressed", document.body.classList.toggle("charts")));
    this.charts.querySelector("#oi-what").addEventListener("change", ({ target }) => this.oi.show(target.value));
    this.charts.querySelector("#day-what").addEventListener("change", ({ target }) => this.day.show(target.value));
    this.listenToColumns();
  }

  listenToColumns() {
    const menu = this.at("columns");
    menu.querySelector("ul").replaceChildren(...[...NAMES].reverse().map(columnChoice));
    const boxes = [...menu.querySelectorAll("input")];
    const choose = (names) => {
      rememberChainColumns(names);
      this.table.choose(names);
    };
    menu.addEventListener("toggle", () => boxes.forEach((box) => { box.checked = this.table.columns.includes(box.value); }));
    menu.addEventListener("change", () => choose(boxes.filter((box) => box.checked).map((box) => box.value)));
    menu.querySelector("button").addEventListener("click", () => {
      choose(null);
      menu.open = false;
    });
    menu.addEventListener("keydown", ({ key }) => key === "Escape" && menu.open && (menu.open = false, menu.querySelector("summary").focus()));
    document.addEventListener("pointerdown", ({ target }) => menu.contains(target) || (menu.open = false));
    this.table.choose(chainColumns()?.filter((name) => NAMES.includes(name)) ?? null);
  }

  /** Show a chain; null: none, and nothing is followed. What was under way is dropped. */
  open(route) {
    const channel = route && channelOf(route);
    if (channel === this.channel) return;
    if (this.channel) this.feed.unsubscribeChannels([this.channel]);
    const same = route && this.route && route.underlying === this.route.underlying && route.expiry === this.route.expiry;
    Object.assign(this, { route, channel });
    if (!same) this.forget();
    this.lacks(channel, null);
    this.centered = false;
    if (!route) return;
    this.say(same ? "" : "Loading the chain…");
    this.showChoices();
    this.feed.subscribeChannels([channel]);
    if (!same) this.loadUnderlyings(this.loading.signal);
  }

  forget() {
    this.loading.abort();
    this.loading = new AbortController();
    this.chain.forget();
    Object.assign(this, { facts: null, close: null });
    this.pending.clear();
    this.table.clear();
    this.day.forget();
    this.figures.draw({}, null, this.decimals);
    this.oi.draw(this.chain);
    this.tellEnd();
    this.tellFeed();
  }

  /** Take a push of `market:chain`. */
  take(message) {
    if (message.channel !== this.channel) return;
    const { expiry } = this.chain;
    const taken = this.chain.take(message);
    if (!taken) return;
    if (taken.snapshot) this.pending = null;
    else taken.changed.forEach((strike) => this.pending?.add(strike));
    if (expiry === null) this.load(); // now it is known that there is such a chain
    else if (expiry !== this.chain.expiry) this.rolled();
    this.day.take(this.chain.aggregate, this.chain.marketMs);
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  /** The chain's word means the next expiry from here on. */
  rolled() {
    this.loading.abort();
    this.loading = new AbortController();
    this.facts = null;
    this.centered = false;
    this.day.forget();
    this.load();
  }

  /** The connection has come back: minutes may be missing, and the day may be another one. */
  reconnected() {
    this.lacks(this.channel, null); // it is told anew
    if (this.chain.expiry) this.load();
  }

  /** The server has refused the channel. */
  refused(channel, reason) {
    if (channel !== this.channel) return;
    this.say(reason);
    if (this.underlyings?.includes(this.route.underlying)) this.loadExpiries(this.loading.signal);
  }

  /** Say of how many of a channel's instruments nothing comes, in the server's words; null: of all of them something does. */
  lacks(channel, reason) {
    if (channel === this.channel) write(this.at("missing"), reason ? `No data for ${reason} ` : "");
  }

  /** What may be expected of the prices now: a state of status.js, its word and its reason. */
  feedIs(state, word, reason) {
    this.feedState = [state, word, reason];
    this.tellFeed();
  }

  draw() {
    this.frame = 0;
    const { chain } = this;
    this.say(chain.strikes.length ? "" : "No strikes are listed.");
    this.table.draw(chain, this.pending);
    this.pending = new Set();
    this.figures.draw(chain.aggregate, this.close, this.decimals);
    this.oi.draw(chain);
    this.tellFeed();
    this.tellEnd();
    this.tellCover();
    if (this.centered) return;
    this.centered = true;
    this.table.center();
  }

  // What REST knows

  async load() {
    const { signal } = this.loading;
    this.loadExpiries(signal);
    this.loadHistory(signal);
    this.loadTick(signal);
    try {
      const facts = await chainFacts(this.route, signal);
      if (signal.aborted) return;
      this.facts = facts;
      this.tellEnd();
      const [quote] = facts.underlying_key ? (await latest([facts.underlying_key])).values() : [];
      if (signal.aborted) return;
      this.close = quote?.previous_close ?? null;
      this.figures.draw(this.chain.aggregate, this.close, this.decimals);
    } catch {
      // the chain is shown without; a lost connection asks again
    }
  }

  /** Prices have the decimals that the tick size of the chain's options needs: four for currencies. */
  async loadTick(signal) {
    const [[, , side] = []] = this.chain.sides();
    const listed = side && (await instrument(`id:${side.instrument}`).catch(() => null));
    const decimals = format.decimalsOf(listed?.tick_size);
    if (!listed || signal.aborted || decimals === this.decimals) return;
    this.table.decimals = this.decimals = decimals;
    this.day.write(decimals);
    this.pending = null;
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  async loadHistory(signal) {
    const { underlying } = this.route;
    const rows = await chainHistory(this.route, signal).catch(() => null);
    const ruled = rows?.length === 0 ? await chains(signal).catch(() => null) : null;
    if (!rows || signal.aborted) return;
    this.day.takeHistory(rows, ruled?.some((each) => each.underlying === underlying && each.expiry === this.chain.expiry));
  }

  /** Offer the underlyings whose chains the rules follow. */
  async loadUnderlyings(signal) {
    const followed = await chains(signal).catch(() => null);
    if (!followed || signal.aborted) return;
    this.underlyings = [...new Set(followed.map(({ underlying }) => underlying))];
    this.showChoices();
  }

  /** Offer all living expiries. */
  async loadExpiries(signal) {
    const { underlying } = this.route;
    const listed = await expiries(underlying).catch(() => null);
    if (!listed || signal.aborted) return;
    this.expiries = { underlying, ...expiryChoices(listed.filter(({ strikes }) => strikes)) };
    this.showChoices();
  }

  showChoices() {
    const { underlying, expiry, strikes } = this.route;
    const names = [...new Set([...(this.underlyings ?? []), underlying])];
    fill(this.at("underlying"), names.map((name) => option(name, name)), underlying);
    const { words = [], days = [] } = this.expiries?.underlying === underlying ? this.expiries : {};
    const groups = [["Moves on at expiry", words], ["This day", days]].filter(([, choices]) => choices.length).map(([label, choices]) => {
      const group = Object.assign(document.createElement("optgroup"), { label });
      group.append(...choices.map(([value, text]) => option(value, text)));
      return group;
    });
    const known = [...words, ...days].some(([value]) => value === expiry);
    fill(this.at("expiry"), known ? groups : [option(expiry, expiry), ...groups], expiry);
    for (const radio of this.at("strikes").elements) if (radio.type === "radio") radio.checked = radio.value === strikes;
  }

  // Words

  say(text) {
    write(this.at("note"), text);
  }

  tellEnd() {
    write(this.at("ends"), this.facts ? ending(this.facts.ends, Math.max(this.nowMs(), this.chain.marketMs)) : "");
    const title = this.chain.expiry ? `Option chain of ${this.route.underlying}, expiry ${shortDay(this.chain.expiry)}` : "Option chain";
    write(this.table.caption, title);
  }

  /** Say what totals, PCR and max pain are over, where it is not the whole chain. */
  tellCover() {
    const { options, options_known: known } = this.chain.aggregate;
    const more = this.route.strikes === "all" ? "" : " All has all of them followed.";
    write(this.at("cover"), known < options ? `Totals, PCR and max pain are over the ${known} of ${options} options that are followed.${more}` : "");
  }

  tellFeed() {
    const [state, word, reason] = this.feedState ?? ["reconnecting", "Connecting", ""];
    const good = GOOD.includes(state);
    const at = this.chain.marketMs ? `as of ${format.clock(this.chain.marketMs)}` : "";
    const text = [state === "live" ? "" : word, at].filter(Boolean).join(" · ");
    write(this.at("feed"), text);
    if (this.at("feed").title !== reason) this.at("feed").title = reason;
    const data = good ? "" : state;
    if (this.section.dataset.feed !== data) this.section.dataset.feed = data;
  }
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Replace what a select offers, where it is something else; and choose. */
function fill(select, children, value) {
  const fresh = document.createElement("select");
  fresh.append(...children);
  if (fresh.innerHTML !== select.innerHTML) select.replaceChildren(...fresh.childNodes);
  select.value = value;
}

function columnChoice(name) {
  const item = document.createElement("li");
  const label = document.createElement("label");
  label.append(Object.assign(document.createElement("input"), { type: "checkbox", value: name }), ` ${COLUMNS[name].title}`);
  item.append(label);
  return item;
}
