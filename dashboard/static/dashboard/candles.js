/** The candles of one chart, and its gaps on the same steps of time. Pure: no network, nothing drawn.
 *
 * Law: the newest `size` candles are the channel's, which tells every change of them; what is older is REST's. So nothing has
 * to be weighed: a candle is replaced by whoever owns it.
 */
const MINUTE_MS = 60_000;
const DAY_MS = 86_400_000;
const IST_MS = 19_800_000;
const MOST_SLOTS = 5000; // of one gap

/** Interval → its length in ms, at the most. */
export const LENGTH_MS = {
  "1m": MINUTE_MS, "3m": 3 * MINUTE_MS, "5m": 5 * MINUTE_MS, "10m": 10 * MINUTE_MS, "15m": 15 * MINUTE_MS, "30m": 30 * MINUTE_MS,
  "1h": 60 * MINUTE_MS, "2h": 120 * MINUTE_MS, "4h": 240 * MINUTE_MS, "1d": DAY_MS, "1w": 7 * DAY_MS, "1M": 31 * DAY_MS,
};

/** What the server tells of a candle → {start, open, high, low, close, volume, openInterest, state, revision}; start in ms UTC. */
export function row({ candle: [start, open, high, low, close, volume, openInterest], state, revision }) {
  return { start, open, high, low, close, volume, openInterest, state, revision };
}

export class Candles {
  /** @param {number} size how many of the newest the channel keeps right */
  constructor(size) {
    this.size = size;
    this.first = Infinity; // start of the oldest candle that the channel has told
    this.rows = []; // oldest first
  }

  /** From here on candles are the channel's, ms UTC. */
  get channelFrom() {
    return Math.max(this.first, this.rows[this.rows.length - this.size]?.start ?? -Infinity);
  }

  get oldest() {
    return this.rows[0]?.start ?? Infinity;
  }

  /** Where the first candle stands that begins at `start` or later. */
  position(start) {
    let low = 0;
    let high = this.rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rows[middle].start < start) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  at(start) {
    const found = this.rows[this.position(start)];
    return found?.start === start ? found : undefined;
  }

  /** Take the channel's snapshot: it replaces everything from its first candle on; an empty one everything. */
  snapshot(rows) {
    this.first = rows[0]?.start ?? Infinity;
    this.rows = [...this.rows.slice(0, rows.length && this.position(this.first)), ...rows];
  }

  /** Take one candle of the channel. */
  take(candle) {
    this.first = Math.min(this.first, candle.start);
    const at = this.position(candle.start);
    this.rows.splice(at, this.rows[at]?.start === candle.start ? 1 : 0, candle);
  }

  /** Take all that REST has of [from, to): it replaces what was there, except for what is the channel's. */
  replace(from, to, rows) {
    const end = Math.min(to, this.channelFrom);
    const kept = this.rows.slice(this.position(end));
    this.rows = [...this.rows.slice(0, this.position(from)), ...rows.filter(({ start }) => start >= from && start < end), ...kept];
  }
}

const dayOf = (ms) => Math.floor((ms + IST_MS) / DAY_MS);
const timeOfDay = (ms) => (ms + IST_MS) % DAY_MS;
const weekend = (day) => [2, 3].includes(day % 7); // 1970-01-01, day 0, was a Thursday

/** The steps of time that lie in a gap and may lack something: [start…], in ms UTC.
 *
 * A minute that is confirmed or back-filled lacks nothing. A longer step may, though all minutes that it has are confirmed; but not by
 * a gap of less than a minute, behind which the broker's bars of the minutes before and in it still come.
 *
 * Steps are counted as the candles are that the chart has. In a gap over several days those outside of the hours that the candles
 * have shown are left out, as are weekends without candles: nothing was missed there.
 * @param {Candles} candles of the chart @param {string} interval theirs @param {{from: number, to: number | null}} gap market time, ms UTC
 */
export function gapSteps(candles, interval, { from, to }) {
  const { rows } = candles;
  const length = LENGTH_MS[interval];
  if (!rows.length) return [];
  const end = Math.min(to ?? Infinity, rows.at(-1).start + length);
  const mayLack = (start) => (interval !== "1m" && end - from >= MINUTE_MS) || !["confirmed", "backfilled"].includes(candles.at(start)?.state);
  if (length >= DAY_MS) return rows.slice(candles.position(from - length + 1), candles.position(end)).map(({ start }) => start).filter(mayLack);
  const phase = rows.at(-1).start % length;
  const first = Math.max(Math.floor((from - phase) / length) * length + phase, candles.oldest);
  const steps = [];
  for (let start = first; start < end && steps.length < MOST_SLOTS; start += length) steps.push(start);
  const open = dayOf(from) === dayOf(end - 1) ? steps : withinHours(steps, rows);
  return open.filter(mayLack);
}

function withinHours(steps, rows) {
  let low = DAY_MS;
  let high = 0;
  const traded = new Set(); // there are special Saturdays, and Sundays with Muhurat trading
  for (const { start } of rows) {
    traded.add(dayOf(start));
    low = Math.min(low, timeOfDay(start));
    high = Math.max(high, timeOfDay(start));
  }
  return steps.filter((start) => timeOfDay(start) >= low && timeOfDay(start) <= high && (traded.has(dayOf(start)) || !weekend(dayOf(start))));
}
