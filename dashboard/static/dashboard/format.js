/** Numbers and times as an Indian trader reads them. Pure: text out, nothing kept. Unknown is "–". */
const NONE = "–";
const MINUS = "−";
const formatters = new Map();

function grouped(decimals) {
  if (!formatters.has(decimals)) {
    formatters.set(decimals, new Intl.NumberFormat("en-IN", { minimumFractionDigits: decimals, maximumFractionDigits: decimals, signDisplay: "negative" })); // no −0.00
  }
  return formatters.get(decimals);
}

const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

/** 1234567.891 → "12,34,567.89". */
export const number = (value, decimals = 2) => (known(value) ? grouped(decimals).format(value).replace("-", MINUS) : NONE);

/** 1234567 → "12,34,567". */
export const whole = (value) => number(value, 0);

/** 12.3 → "+12.30", -1 → "−1.00". */
export function signed(value, decimals = 2) {
  if (!known(value)) return NONE;
  return (value > 0 ? "+" : "") + number(value, decimals);
}

/** A fraction in percent: 0.108 → "10.80". */
export const percent = (fraction, decimals = 2) => (known(fraction) ? number(fraction * 100, decimals) : NONE);

/** 9876543 → "98.77 L", 123456789 → "12.35 Cr": lakhs and crores. */
export function short(value) {
  if (!known(value)) return NONE;
  if (Math.abs(value) >= 1e7) return `${number(value / 1e7)} Cr`;
  if (Math.abs(value) >= 1e5) return `${number(value / 1e5)} L`;
  return whole(value);
}

/** A count that fits a column: whole, and in crores from 100 crores on. */
export const count = (value) => (Math.abs(value) >= 1e9 ? short(value) : whole(value));

/** How many decimals prices of this tick size need: 0.05 → 2, 0.0025 → 4. */
export function decimalsOf(tickSize) {
  if (!known(tickSize) || tickSize <= 0) return 2;
  return Math.max(2, Math.min(4, (String(tickSize).split(".")[1] ?? "").length));
}

const clockFormat = new Intl.DateTimeFormat("en-GB", { timeZone: "Asia/Kolkata", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const dateFormat = new Intl.DateTimeFormat("en-GB", { timeZone: "Asia/Kolkata", day: "2-digit", month: "short", year: "numeric" });

/** ms UTC → "14:03:59" in India. */
export const clock = (ms) => (known(ms) && ms > 0 ? clockFormat.format(ms) : NONE);

/** ms UTC → "24 Nov 2026" in India. */
export const day = (ms) => (known(ms) ? dateFormat.format(ms) : NONE);

/** A duration: 340 → "0.3 s", 75000 → "1 min 15 s". */
export function age(ms) {
  if (!known(ms)) return NONE;
  const seconds = ms / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}
