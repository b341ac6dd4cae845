/** The search box: a combobox over the REST search. Enter or a click adds; the list stays open to add more. */
import { search } from "./api.js";
import * as format from "./format.js";

const PAUSE_MS = 150;

export class SearchBox {
  /** @param {HTMLInputElement} input; @param {HTMLElement} list; @param {(instrument: object) => void} onChoose */
  constructor(input, list, onChoose) {
    Object.assign(this, { input, list, onChoose, found: [], foundFor: "", at: -1, timer: 0, request: null });
    input.addEventListener("input", () => this.later());
    input.addEventListener("keydown", (event) => this.pressed(event));
    input.addEventListener("blur", () => this.close());
    list.addEventListener("mousedown", (event) => this.clicked(event));
    document.addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.target.closest("input, textarea, select")) return;
      event.preventDefault();
      input.focus();
    });
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), PAUSE_MS);
  }

  async ask() {
    clearTimeout(this.timer);
    this.request?.abort();
    this.request = new AbortController();
    const { signal } = this.request;
    const q = this.input.value.trim();
    if (!q) return this.close();
    try {
      const found = await search(q, signal);
      if (signal.aborted) return undefined;
      this.foundFor = q;
      this.open(found, found.length ? "" : `Nothing is called “${q}”.`);
    } catch (error) {
      if (error.name !== "AbortError") this.open([], error.message);
    }
    return undefined;
  }

  open(found, note) {
    this.found = found;
    this.list.replaceChildren(...(note ? [noteElement(note)] : found.map(optionElement)));
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    this.move(found.length ? 0 : -1);
  }

  close() {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }

  move(at) {
    this.list.children[this.at]?.setAttribute("aria-selected", "false");
    this.at = at;
    const option = at >= 0 ? this.list.children[at] : null;
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) this.input.setAttribute("aria-activedescendant", option.id);
  }

  /** Take what Enter means: a list that answers older text is asked for anew first. */
  async chooseTyped() {
    if (this.foundFor !== this.input.value.trim()) await this.ask();
    if (!this.list.hidden && this.foundFor === this.input.value.trim()) this.choose(this.at);
  }

  choose(at) {
    const instrument = this.found[at];
    if (!instrument) return;
    this.onChoose(instrument);
    this.input.value = "";
    this.close();
  }

  pressed(event) {
    const count = this.found.length;
    if (event.key === "Escape") {
      this.input.value = "";
      this.close();
    } else if (event.key === "Enter") this.chooseTyped();
    else if (this.list.hidden || !count) return;
    else if (event.key === "ArrowDown") this.move((this.at + 1) % count);
    else if (event.key === "ArrowUp") this.move((this.at - 1 + count) % count);
    else return;
    event.preventDefault();
  }

  clicked(event) {
    event.preventDefault(); // the input keeps the focus
    const option = event.target.closest("[role=option]");
    if (option) this.choose([...this.list.children].indexOf(option));
  }
}

function optionElement(instrument, at) {
  const element = document.createElement("li");
  element.id = `found-${at}`;
  element.role = "option";
  const symbol = document.createElement("span");
  symbol.textContent = instrument.trading_symbol;
  const about = document.createElement("small");
  about.textContent = [instrument.segment.replace("_", " "), instrument.expiry_ms ? format.day(instrument.expiry_ms) : instrument.name].filter(Boolean).join(" · ");
  element.append(symbol, about);
  return element;
}

function noteElement(text) {
  const element = document.createElement("li");
  element.className = "note";
  element.textContent = text;
  return element;
}
