/** The style sheet's colours for what draws by script. Read once, and again when the colour scheme changes. */
const NAMES = ["up", "down", "flash-up", "flash-down", "text", "dim", "line", "panel", "accent", "warn", "filled-up", "filled-down", "gap-open", "gap-lost", "call", "put"];
const listeners = [];

/** @type {Record<string, string>} */
export const colours = {};

function read() {
  const style = getComputedStyle(document.documentElement);
  for (const name of NAMES) colours[name] = style.getPropertyValue(`--${name}`).trim();
}

/** Call `listener` after each change of the colour scheme. */
export const onColoursChange = (listener) => listeners.push(listener);

read();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  read();
  listeners.forEach((listener) => listener());
});
