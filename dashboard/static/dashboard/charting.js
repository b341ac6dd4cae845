/** What all charts by TradingView's Lightweight Charts share: Indian time, the page's colours, no logo (it is attributed in words). */
import { colours, onColoursChange } from "./colours.js";

const IST_MS = 19_800_000;
export const library = window.LightweightCharts;

export const chartTime = (ms) => (ms + IST_MS) / 1000; // the library writes UTC
export const timeOf = (time) => time * 1000 - IST_MS;

/** Make a chart in a box; `recolour` is called after the colour scheme has changed, for what the chart does not know itself. */
export function newChart(box, { timeScale = {}, recolour = () => {}, ...options } = {}) {
  const chart = library.createChart(box, {
    autoSize: true,
    layout: { attributionLogo: false, background: { color: "transparent" }, fontSize: 11 }, // the logo needs an inline style
    timeScale: { timeVisible: true, secondsVisible: false, ...timeScale },
    crosshair: { mode: library.CrosshairMode.Normal },
    handleScroll: { vertTouchDrag: false }, // a finger that goes up or down scrolls the panel
    localization: { locale: "en-IN" },
    ...options,
  });
  const colour = () => chart.applyOptions({
    layout: { textColor: colours.dim },
    grid: { vertLines: { color: colours.line }, horzLines: { color: colours.line } },
    rightPriceScale: { borderColor: colours.line },
    timeScale: { borderColor: colours.line },
  });
  colour();
  onColoursChange(() => {
    colour();
    recolour();
  });
  return chart;
}
